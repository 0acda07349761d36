"""Values of a config against the types of its keys: refused in one sentence, or as JSON has them.

A record is a dataclass whose fields are the keys of a section; the annotations say what is allowed:
`int`, `float`, `bool`, `str`, names by `Literal`, lists by `tuple[int, ...]`, and unions of these.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin

import numpy as np

__all__ = ["ConfigError", "Record", "as_value", "describe", "table"]

_JSON = (str, bool, int, float, list, tuple, type(None))
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


class ConfigError(ValueError):
    """The config or the command line asks for something that does not exist or cannot be."""


class Record(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def table(
    section: str, record: Record, *without: str, named: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a record as a section of a config has them.

    Fields that belong to other sections are left out (`without`), and objects that a config knows
    by their names stand by these (`named`).

    Raises:
        ConfigError: a value that the field's type does not allow.
    """
    kinds = {f.name: f.type for f in dataclasses.fields(record) if f.name not in without}
    return {
        name: str(value) if name in named else as_value(f"{section}.{name}", value, kinds[name])
        for name, value in ((name, vars(record)[name]) for name in kinds)
    }


def as_value(key: str, value: object, kind: object) -> Any:
    """A value as JSON has it: lists for tuples, and 1.0 where a number may have decimals.

    Raises:
        ConfigError: naming the key, and what its type allows.
    """
    if not isinstance(value, _JSON):  # of NumPy or JAX
        value = np.asarray(value).tolist()
    if not _fits(value, kind):
        raise ConfigError(f"{key} must be {describe(kind)}, got {value}")
    return _plain(value, kind)


def describe(kind: object) -> str:
    """What a type allows, in words."""
    if kind in (tuple[int, ...], tuple[float, ...]):
        return "whole numbers" if kind == tuple[int, ...] else "numbers"
    if kind in _NAMES:
        return _NAMES[kind]
    parts = [part for part in get_args(kind) if part is not type(None)]
    return " or ".join(part if isinstance(part, str) else describe(part) for part in parts)


def _fits(value: object, kind: object) -> bool:
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    if kind in (int, float):
        allowed = (int, float) if kind is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _plain(value: object, kind: object) -> object:
    if isinstance(value, list | tuple):
        kinds = [part for part in (kind, *get_args(kind)) if get_origin(part) is tuple]
        return [_plain(item, get_args(kinds[0])[0]) for item in value]
    decimals = kind is float or float in get_args(kind)
    return float(value) if decimals and type(value) is int else value
