"""What JSON that was read must look like, said as rules that compose.

    rule = table({"n_configs": whole(1), "sha256": text("[0-9a-f]{64}")}, {"n_chains": whole(1)})
    rule(values, "shards[0]")

A rule looks at a value and at the key where it stands, and raises `SchemaError` with one sentence
on the first thing that is wrong.  Nothing is converted: what passes is what the reader gets.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping

__all__ = [
    *("Rule", "SchemaError", "anything", "either", "flag", "listed"),
    *("nullable", "number", "table", "text", "whole", "words"),
]

Rule = Callable[[object, str], None]

_LARGEST = 2**63 - 1
_DEPTH = 16  # of tables and lists in what nobody looks at more closely
_SHOWN = 60  # characters of a wrong value


class SchemaError(ValueError):
    """A value that is not what its key needs."""


def whole(low: int = 0, high: int = _LARGEST) -> Rule:
    """A whole number between two others, both allowed."""
    limits = f"of at least {low}" if high == _LARGEST else f"from {low} to {high}"

    def rule(value: object, key: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(key, f"a whole number {limits}", value)

    return rule


def number(low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> Rule:
    """A number between two others, both allowed; NaN and infinity where it need not be finite."""
    limits = f" from {low:g} to {high:g}" if low > -math.inf or high < math.inf else ""

    def rule(value: object, key: str) -> None:
        if (isinstance(value, int | float) and type(value) is not bool) and (
            not finite or (low <= value <= high and abs(value) < math.inf)
        ):
            return
        raise _wrong(key, f"a {'finite ' if finite else ''}number{limits}", value)

    return rule


def flag(value: object, key: str) -> None:
    """True or false."""
    if type(value) is not bool:
        raise _wrong(key, "true or false", value)


def text(pattern: str = "", what: str = "") -> Rule:
    """A string, all of which fits a pattern where one is given."""
    compiled = re.compile(pattern, re.ASCII) if pattern else None

    def rule(value: object, key: str) -> None:
        if type(value) is not str or (compiled and not compiled.fullmatch(value)):
            raise _wrong(key, what or "a text", value)

    return rule


def words(*allowed: str) -> Rule:
    """One of several words."""

    def rule(value: object, key: str) -> None:
        if value not in allowed:
            raise _wrong(key, f"one of {', '.join(allowed)}", value)

    return rule


def nullable(rule: Rule) -> Rule:
    """What a rule allows, or null."""
    return lambda value, key: None if value is None else rule(value, key)


def either(*rules: Rule) -> Rule:
    """What one of several rules allows; where none does the first one says why."""

    def rule(value: object, key: str) -> None:
        for other in rules[1:]:
            try:
                return other(value, key)
            except SchemaError:
                continue
        rules[0](value, key)

    return rule


def listed(rule: Rule, at_least: int = 0, at_most: int = _LARGEST) -> Rule:
    """A list whose members all follow a rule."""

    def check(value: object, key: str) -> None:
        if type(value) is not list or not at_least <= len(value) <= at_most:
            size = f" of {at_least} to {at_most} values" if at_most < _LARGEST else ""
            raise _wrong(key, f"a list{size}", value)
        for index, member in enumerate(value):
            rule(member, f"{key}[{index}]")

    return check


def table(
    needed: Mapping[str, Rule],
    optional: Mapping[str, Rule] | None = None,
    others: Rule | None = None,
) -> Rule:
    """A table with keys that must be there, keys that may, and a rule for others if they may."""
    known = {**needed, **(optional or {})}

    def check(value: object, key: str) -> None:
        if type(value) is not dict:
            raise _wrong(key or "the whole", "a table", value)
        for name in needed:
            if name not in value:
                raise SchemaError(f"{_join(key, name)} is missing")
        for name, member in value.items():
            rule = known.get(name, others)
            if rule is None:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"; is it {near[0]}?" if near else ""
                raise SchemaError(f"{_join(key, _short(name))} is an unknown key{hint}")
            rule(member, _join(key, name))

    return check


def anything(value: object, key: str) -> None:
    """Numbers, words, and lists and tables of them, if not too deep."""
    _check_depth(value, key, _DEPTH)


def _check_depth(value: object, key: str, left: int) -> None:
    if not left:
        raise SchemaError(f"{key[:_SHOWN]}... is nested more than {_DEPTH} deep")
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            _check_depth(value[name], f"{key}.{name}", left - 1)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _wrong(key: str, wanted: str, value: object) -> SchemaError:
    return SchemaError(f"{key} must be {wanted}, got {_short(value)}")


def _short(value: object) -> str:
    """A value in few words, whatever it is."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)} values"
    shown = str(value) if isinstance(value, str) and value.isidentifier() else ascii(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
