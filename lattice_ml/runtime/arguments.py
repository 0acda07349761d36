"""Arguments: a TOML file flattened to them, keys checked against a schema, words typed by tyro.

A schema is a list of (name, type, default) as `dataclasses.make_dataclass` takes it; a section is
a field whose type is a dataclass.  Knows nothing of physics; `jobs/config.py` says which keys
exist.

The arguments of a table end with `--`, after which only a key may follow: a stray word that a user
puts behind the file does not lengthen the last list in it.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_args

import tyro

from lattice_ml.runtime.json import Section, flattened
from lattice_ml.runtime.values import ConfigError, Record, describe

__all__ = [
    *("WORD", "ConfigError", "Fields", "as_arguments", "check_keys", "chosen", "given_keys"),
    *("of_file", "parameters", "print_help", "read_file", "read_toml", "seconds"),
    *("type_arguments", "unknown", "word", "words"),
]

WORD = 1 << 63  # whole numbers of a machine are below it

Fields = list[tuple[str, Any, object]]  # name, type, default or ... where there is none
_TYRO = (tyro.conf.FlagConversionOff,)  # booleans are written True or False; see `_complete`
T = TypeVar("T")
_END = "--"  # of the values of a key
_LONGEST = 10**9  # seconds, some thirty years


def read_file(file: str | Path, skip: Collection[str] = ()) -> list[str]:
    """Flatten a TOML file to command-line arguments, e.g. `--lattice.shape 32 32`.

    Tables whose names are in `skip` are left out.
    """
    return as_arguments({k: value for k, value in read_toml(file).items() if k not in skip})


def read_toml(file: str | Path, what: str = "the config") -> dict[str, Any]:
    """The tables of a TOML file, with the byte order mark that some editors write or without.

    Raises:
        ConfigError: saying that `what` cannot be read, or is not TOML.
    """
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
        return tomllib.loads(text.replace("\r\n", "\n"))
    except OSError as error:
        raise ConfigError(f"cannot read {what} {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML, which is UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is not a config: its values are nested too deep") from error


def as_arguments(table: Section) -> list[str]:
    """Command-line arguments of nested tables, ended so that no word behind them is one of theirs.

    Raises:
        ConfigError: what no words can say: tables in a list, keys and values that look like keys.
    """
    flat = list(flattened(table))
    for key, value in flat:
        if any(isinstance(item, Mapping) for item in _listed(value)):
            raise ConfigError(f"{key} must be one table, [{key}], got a list of {len(value)}")
        if any(isinstance(item, list) for item in _listed(value)):
            raise ConfigError(f"{key} must be a list of values, got a list of lists, {value}")
        if not key or any(mark in key for mark in "= \t\n") or key.startswith("-"):
            raise ConfigError(f"a key consists of letters, figures, . _ and -, got {key!r}")
    seen: dict[str, str] = {}
    for key, _ in flat:
        if (other := seen.setdefault(key.replace("-", "_"), key)) is not key:
            raise ConfigError(f"{other} and {key} are one key, given twice")
    words = _spelt({key: [*map(str, _listed(value))] for key, value in flat})
    return [*words, *[_END] * bool(flat)]


def type_arguments(fields: Fields, arguments: Sequence[str]) -> SimpleNamespace:
    """Type the arguments: an object with one attribute per field of the schema.

    Raises:
        ConfigError: the first required key that is missing, or a value of the wrong type.
    """
    schema = _schema(fields)
    arguments = _complete(schema, arguments)
    for key, words in _group(arguments).items():
        if "" in words:
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(f"{key} must not be empty: say {option} VALUE, or leave it out")
    try:
        typed = _parse(schema, arguments)
    except SystemExit as stop:
        raise ConfigError(_explain(schema, arguments)) from stop
    for name, value in flattened(dataclasses.asdict(typed)):
        for number in _listed(value):
            if isinstance(number, int) and not -WORD <= number < WORD:
                raise ConfigError(f"{name} must be below 2^63 in size, got {number}")
    return SimpleNamespace(**vars(typed))


def print_help(fields: Fields, prog: str) -> None:
    """Print every key with its type and default, and exit."""
    tyro.cli(_schema(fields), args=["--help"], prog=prog, config=_TYRO)


def check_keys(fields: Fields, arguments: Sequence[str], where: str) -> None:
    """Refuse unknown keys.

    Raises:
        ConfigError: naming the first, `where` it stands, and the nearest valid one.
    """
    known = list(_leaves(_schema(fields)))
    for key in given_keys(arguments):
        if key not in known:
            raise ConfigError(unknown(f"key {where}", key, known))


def given_keys(arguments: Sequence[str]) -> list[str]:
    """The dotted keys that the arguments set, e.g. `lattice.shape`."""
    return list(_group(arguments))


def of_file(arguments: Sequence[str]) -> list[str]:
    """The arguments of a table, which come first and end with `--`."""
    return list(arguments[: list(arguments).index(_END)]) if _END in arguments else []


def seconds(text: str, key: str = "--time-limit") -> float:
    """`90s`, `30m`, `3h`, `1h30m` or a plain number of seconds.

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not match or not any(int(part or 0) for part in match.groups()):
        raise ConfigError(f"{key} must look like 90s, 30m, 3h or 1h30m, got {text!r}")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + rest
    if total > _LONGEST:
        raise ConfigError(f"{key} must be at most {_LONGEST} seconds, got {text}")
    return float(total)


def unknown(what: str, got: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what was got, the nearest, what is allowed."""
    allowed = list(allowed)
    _, dot, leaf = got.rpartition(".")  # the right name in a wrong section is the nearest
    near = [name for name in allowed if dot and name.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(got, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    section = got.partition(".")[0] + "."
    shown = [a for a in allowed if a.startswith(section)] or allowed
    return f"unknown {what}: {got}{hint} (allowed: {', '.join(shown)})"


def word(arguments: Sequence[str], key: str, default: str) -> str:
    """The (last) value of a key among the arguments, before anything is typed."""
    found = words(arguments, key)
    return found[0] if found else default


def words(arguments: Sequence[str], key: str) -> list[str]:
    """The (last) words of a key among the arguments; none where it is not given."""
    return _group(arguments).get(key, [])


def chosen(
    key: str, default: str, known: Mapping[str, T], arguments: Sequence[str]
) -> tuple[str, T]:
    """The name that a key has among the arguments, and what it stands for.

    Raises:
        ConfigError: a name that is not known.
    """
    name = word(arguments, key, default)
    if name not in known:
        raise ConfigError(unknown(key, name, known))
    return name, known[name]


def parameters(kind: Any, *given: str) -> Fields:
    """Names, types and defaults that a constructor takes, but those given by other sections."""
    return [
        (p.name, p.annotation, ... if p.default is p.empty else p.default)
        for p in inspect.signature(kind.__init__).parameters.values()
        if p.name not in ("self", *given)
    ]


def _schema(fields: Fields) -> type[Record]:
    return dataclasses.make_dataclass("Config", fields, kw_only=True)


def _parse(schema: type[Record], arguments: Sequence[str]) -> Record:
    """Let tyro type the arguments; its own message is replaced by `_explain`."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return tyro.cli(schema, args=list(arguments), config=_TYRO)


def _complete(schema: type[Record], arguments: Sequence[str]) -> list[str]:
    """Spell switches as tyro does, True for one without a value (`--training.fine-tune`)."""
    kinds = {name: field.type for name, field in _leaves(schema).items()}
    spelt = {}
    for key, words in _group(arguments).items():
        kind = kinds.get(key)
        spelt[key] = _switched(kind, words) or ["True"] * (kind in (bool, bool | None))
    return _spelt(spelt)


def _switched(kind: object, words: Sequence[str]) -> list[str]:
    """`true` and `false`, as in TOML, for what may be a switch; of all else words are words."""
    spelt = {"true": "True", "false": "False"}
    may = kind is bool or bool in get_args(kind)
    return [spelt.get(word, word) if may else word for word in words]


def _explain(schema: type[Record], arguments: Sequence[str]) -> str:
    """Find the required key that is missing or the key whose value has the wrong type."""
    given = _group(arguments)
    for name, field in _leaves(schema).items():
        if name not in given and field.default is field.default_factory is dataclasses.MISSING:
            return f"{name} is required and was not given"
    for name, words in given.items():
        kind = _leaves(schema)[name].type
        one = dataclasses.make_dataclass("One", [("value", kind)])
        try:
            _parse(one, ["--value", *_switched(kind, words)])
        except SystemExit:
            return f"{name} must be {describe(kind)}, got {' '.join(words) or 'nothing'}"
    return f"cannot understand {' '.join(arguments)}"


def _leaves(schema: type[Record], prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Dotted name to field, of all keys that take a value."""
    leaves: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(schema):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            leaves |= _leaves(field.type, f"{prefix}{field.name}.")
        else:
            leaves[prefix + field.name] = field
    return leaves


def _group(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Dotted key to its words, the last occurrence winning."""
    grouped: dict[str, list[str]] = {}
    key, said = None, ""
    for word in arguments:
        if word == _END:
            key, said = None, ""
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            grouped[key] = [value] if equals else []
            if equals:  # says its value, and only that
                key, said = None, f" after {word}"
        elif key is None:
            raise ConfigError(f"expected --section.key VALUE, got {word}{said}")
        else:
            grouped[key].append(word)
    return grouped


def _spelt(grouped: Mapping[str, Sequence[str]]) -> list[str]:
    """The inverse of `_group`; a value that begins as a key does is tied to its own."""
    spelt: list[str] = []
    for key, words in grouped.items():
        if any(word.startswith("--") for word in words):
            if len(words) > 1:
                raise ConfigError(f"the values of {key} must not begin with --, got {words}")
            spelt.append(f"--{key}={words[0]}")
        else:
            spelt += [f"--{key}", *words]
    return spelt


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
