"""JSON values: what they are, made of what programs hold, and as they will be read back.

What is read is checked where it enters, by `storage.schema` or the shape of a verb's results. From
there on a reader knows the keys of a table, so that its values are not narrowed again at each use.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

__all__ = ["Json", "JsonTable", "Section", "copied", "flattened", "plain", "plain_table"]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
JsonTable = dict[str, Any]  # of JSON values, whose keys and types the reader knows
Section = Mapping[str, Any]  # a table that is only read


@runtime_checkable
class _Listed(Protocol):
    """Arrays and numbers of NumPy and JAX, neither of which is imported here."""

    def tolist(self) -> object: ...


@runtime_checkable
class _Named(Protocol):
    """Named tuples."""

    def _asdict(self) -> dict[str, object]: ...


def plain(value: object) -> Json:
    """JSON values: arrays become lists, named tuples tables, a number that is not finite null.

    Raises:
        TypeError: there is something else.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return plain_table(value)
    if isinstance(value, _Named):
        return plain_table(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, _Listed):
        return plain(value.tolist())
    raise TypeError(f"JSON has no place for {value!r}")


def plain_table(values: Section) -> JsonTable:
    """A table of JSON values, as `plain` makes them."""
    return {key: plain(item) for key, item in values.items()}


def flattened(table: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables with their dotted keys."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def copied(what: str, values: Section) -> JsonTable:
    """A copy that is what will be read back: tuples and arrays become lists.

    Raises:
        TypeError: saying what the values are and what is allowed.
    """
    try:
        copy: JsonTable = json.loads(json.dumps(values, allow_nan=False, default=_listed))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what}: got {error}; allowed are finite numbers, strings, booleans, None, and "
            f"lists and tables of them"
        ) from error
    return copy


def _listed(value: object) -> object:
    """What JSON itself has no place for.

    Raises:
        TypeError: it is no array or number of NumPy or JAX either.
    """
    if isinstance(value, _Listed):
        return value.tolist()
    raise TypeError(f"an object of type {type(value).__name__}")
