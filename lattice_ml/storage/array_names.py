"""Which of the arrays in a file with names: one, or several that are joined.

Some programs write an array per configuration or per replica.  A pattern such as `cfg_*/phi` joins
arrays of one shape along a new first axis, in the order of the numbers in their names: cfg_2 comes
before cfg_10.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np

from lattice_ml.storage.files import StorageError

__all__ = ["Stored", "choose", "joined"]

_NAMED = 8  # arrays in a message


class Stored(Protocol):
    """An array of NumPy or h5py, or several as one; without a shape where there is none."""

    @property
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, key: tuple[slice, ...], /) -> np.ndarray: ...


def choose(file: Path, names: Sequence[str], dataset: str | None) -> list[str]:
    """The name of the array to import, or those that a pattern names in the order of numbers."""
    default = "cfgs" if "cfgs" in names or len(names) != 1 else names[0]
    name = default if dataset is None else dataset
    if name in names:
        return [name]
    if matching := [known for known in names if fnmatchcase(known, name)]:
        return sorted(matching, key=_by_number)
    shown = [*names[:_NAMED], *[f"{len(names) - _NAMED} more"] * (len(names) > _NAMED)]
    allowed = f"name one of {', '.join(shown)}" if names else "it has none"
    raise StorageError(f"{file} has no array {name!r}; {allowed}{_family(names)}")


def joined(file: Path, names: Sequence[str], parts: Sequence[Stored]) -> Stored:
    """The array, or several of one shape and type as one, which is read where it is sliced."""
    if len(parts) == 1:
        return parts[0]
    shape, dtype = parts[0].shape, parts[0].dtype
    for name, part in zip(names, parts, strict=True):
        if (part.shape, part.dtype) != (shape, dtype) or shape is None:
            raise StorageError(
                f"{file}: {names[0]} is {dtype} of shape {shape} and {name} "
                f"{part.dtype} of shape {part.shape}; arrays are joined where they are equal, and "
                f"chains of one ensemble are equally long: cut them, or import each by its name"
            )
    return _Joined(parts, (len(parts), *(shape or ())), dtype)


@dataclass(frozen=True)
class _Joined:
    """Arrays of one shape and type, along a new first axis."""

    parts: Sequence[Stored]
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        first, *rest = key
        return np.stack([part[tuple(rest)] for part in self.parts[first]])


def _family(names: Sequence[str]) -> str:
    """How to join arrays whose names differ by numbers."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    pattern, alike = max(kinds.items(), key=lambda kind: len(kind[1]), default=("", []))
    if len(alike) < 2:
        return ""
    first, *_, last = sorted(alike, key=_by_number)
    return f"; or join {len(alike)} of them, {first} to {last}, with --dataset '{pattern}'"


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts cfg_2 before cfg_10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
