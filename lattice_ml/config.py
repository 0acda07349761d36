"""From a TOML file and the command line to the objects that do the work.

The file is flattened to arguments and put before the user's own, so one parser types and checks
both and the later one wins.  Which keys `[action]` and `[sampler]` take follows from their `kind`
(a name in `actions.__all__` or `samplers.__all__`) and from the action's `convention`: the keys
are the parameters of that convention, or the fields of that sampler.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from lattice_ml import conventions, samplers
from lattice_ml.lattice import Lattice

__all__ = [
    "SECTIONS",
    "ConfigError",
    "Job",
    "options",
    "parse",
    "parse_sections",
    "read_arguments",
    "split_file",
]

SECTIONS = ("seed", "lattice", "action", "sampler", "chain", "output")
_TYRO = (tyro.conf.FlagConversionOff,)  # booleans are written True or False


class ConfigError(ValueError):
    """The config or the command line asks for something that does not exist or cannot be."""


@dataclasses.dataclass(frozen=True)
class ChainSection:
    """Chains and what is kept of them.

    Args:
        n_chains: independent chains.
        n_thermalise: trajectories per chain before the first is kept.
        n_configs: configurations kept per chain.
        thin: trajectories between kept configurations.
        start: hot, cold, or the path of an ensemble.
    """

    n_chains: int = 64
    n_thermalise: int = 500
    n_configs: int = 1000
    thin: int = 1
    start: str = "hot"


@dataclasses.dataclass(frozen=True)
class OutputSection:
    """What is written.

    Args:
        dtype: of dynamics and files; energies are summed accurately in either.
        save_configs: without it only histories are kept.
    """

    dtype: Literal["float32", "float64"] = "float32"
    save_configs: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """A resolved config and the objects it describes."""

    config: dict[str, Any]
    lattice: Lattice
    sampler: Any
    chain: ChainSection
    output: OutputSection
    seed: int


def read_arguments(file: str | Path) -> list[str]:
    """Flatten a TOML file to command-line arguments, e.g. `--lattice.shape 32 32`.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        with open(file, "rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read the config {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    return [word for key, value in _flatten(table) for word in (f"--{key}", *_words(value))]


def parse(
    arguments: Sequence[str], *, file: str | Path | None = None, options: type | None = None
) -> Job:
    """Build a job from dotted arguments; the later of two equal keys wins.

    Args:
        arguments: as `read_arguments` gives them, followed by the user's own.
        file: named in the messages about keys that came from it.
        options: a dataclass of further keys that the arguments may hold and a job ignores.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a wrong type or value.
    """
    return _build(parse_sections(arguments, SECTIONS, file=file, options=options))


def parse_sections(
    arguments: Sequence[str],
    names: Sequence[str],
    *,
    file: str | Path | None = None,
    options: type | None = None,
) -> Any:
    """Type the named sections (and `options`): an object with one attribute per section."""
    fields = _fields(arguments, names, options)
    _check_keys(arguments, fields, file, options)
    schema = dataclasses.make_dataclass("Config", fields, kw_only=True)
    return _run_parser(schema, arguments)


def options(
    arguments: Sequence[str], kind: type, file: str | Path, names: Sequence[str] = SECTIONS
) -> Any:
    """The options of a verb, from arguments that hold config keys as well."""
    parsed = parse_sections(arguments, names, file=file, options=kind)
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})


def split_file(
    arguments: Sequence[str], verb: str, options: type, names: Sequence[str] = SECTIONS
) -> tuple[str, list[str]]:
    """The file that comes first, and all arguments: those of a TOML before the user's own.

    `--help` prints every key with its default and exits.
    """
    if arguments and not arguments[0].startswith("-"):
        file, rest = arguments[0], list(arguments[1:])
        words = [*(read_arguments(file) if file.endswith(".toml") else []), *rest]
    else:
        file, rest, words = "FILE", list(arguments), list(arguments)
    if {"-h", "--help"} & set(rest):
        asked = [word for word in words if word not in ("-h", "--help")]
        schema = dataclasses.make_dataclass("Config", _fields(asked, names, options), kw_only=True)
        tyro.cli(schema, args=["--help"], prog=f"lattice-ml {verb} {file}", config=_TYRO)
    if file == "FILE":
        raise ConfigError(f"usage: lattice-ml {verb} FILE [--section.key VALUE ...]; no file given")
    return file, words


def _build(parsed: Any) -> Job:
    """Check values and make the objects."""
    config = dataclasses.asdict(parsed)
    config["lattice"]["shape"] = list(config["lattice"]["shape"])
    try:
        lattice = Lattice(parsed.lattice.shape)
        action = conventions.from_config(config["action"], lattice.ndim)
        kind, settings = config["sampler"]["kind"], dict(config["sampler"])
        settings.pop("kind")
        sampler = getattr(samplers, kind)(action, **settings)
        sampler.check()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name in ("n_chains", "n_configs", "thin"):
        _at_least(f"chain.{name}", config["chain"][name], 1)
    _at_least("chain.n_thermalise", config["chain"]["n_thermalise"], 0)
    _at_least("seed", config["seed"], 0)
    return Job(config, lattice, sampler, parsed.chain, parsed.output, parsed.seed)


def _fields(
    arguments: Sequence[str], names: Sequence[str], options: type | None
) -> list[tuple[str, Any, Any]]:
    """Fields of the whole schema: the seed, the named sections, and a verb's options."""
    makers = {
        "lattice": lambda: _section("Lattice", [("shape", tuple[int, ...], ...)]),
        "action": lambda: _action_section(arguments),
        "sampler": lambda: _sampler_section(arguments),
        "chain": lambda: ChainSection,
        "output": lambda: OutputSection,
    }
    sections = {name: makers[name]() for name in names if name != "seed"}
    fields = [(name, kind, _default(kind)) for name, kind in sections.items()]
    if "seed" in names:
        fields.insert(0, ("seed", int, dataclasses.field(default=1)))
    for field in dataclasses.fields(options) if options else ():
        given = field.default is not dataclasses.MISSING
        default = dataclasses.field(default=field.default) if given else dataclasses.field()
        fields.append((field.name, field.type, default))
    return fields


def _action_section(arguments: Sequence[str]) -> type:
    """`[action]` takes the parameters of its kind, or of its convention."""
    kind = _last(arguments, "action.kind", "Phi4")
    if kind == "FreeField":
        keys = [("kind", Literal["FreeField"], "FreeField"), ("mass_squared", float, ...)]
    elif kind == "Phi4":
        name = _last(arguments, "action.convention", "kappa")
        if name not in conventions.CONVENTIONS:
            raise ConfigError(_unknown("action.convention", name, conventions.CONVENTIONS))
        couplings = [(key, float, ...) for key in conventions.CONVENTIONS[name].keys]
        keys = [("kind", Literal["Phi4"], "Phi4"), ("convention", str, name), *couplings]
    else:
        raise ConfigError(_unknown("action.kind", kind, ("Phi4", "FreeField")))
    return _section("Action", keys)


def _sampler_section(arguments: Sequence[str]) -> type:
    """`[sampler]` takes the fields of the class that its kind names."""
    kind = _last(arguments, "sampler.kind", "HMC")
    if kind not in samplers.__all__:
        raise ConfigError(_unknown("sampler.kind", kind, samplers.__all__))
    fields = dataclasses.fields(getattr(samplers, kind))
    settings = [(f.name, f.type, f.default) for f in fields if f.name != "action"]
    return _section("Sampler", [("kind", str, kind), *settings])


def _section(name: str, fields: Iterable[tuple[str, Any, Any]]) -> type:
    """A frozen dataclass; a default of ... means that the key is required."""
    entries = [
        (key, kind, dataclasses.field() if default is ... else dataclasses.field(default=default))
        for key, kind, default in fields
    ]
    return dataclasses.make_dataclass(name, entries, kw_only=True, frozen=True)


def _default(kind: type) -> Any:
    """A section without required keys may be left out."""
    needed = any(f.default is dataclasses.MISSING for f in dataclasses.fields(kind))
    return dataclasses.field() if needed else dataclasses.field(default_factory=kind)


def _run_parser(schema: type, arguments: Sequence[str]) -> Any:
    """Type the arguments with tyro; its complaints become one sentence."""
    try:
        return tyro.cli(
            schema,
            args=list(arguments),
            config=_TYRO,
            console_outputs=False,
        )
    except SystemExit as stop:
        raise ConfigError(_explain(schema, arguments)) from stop


def _explain(schema: type, arguments: Sequence[str]) -> str:
    """Find the required key that is missing or the key whose value has the wrong type."""
    given = _group(arguments)
    for section in dataclasses.fields(schema):
        if not dataclasses.is_dataclass(section.type):
            continue
        for field in dataclasses.fields(section.type):
            key = f"{section.name}.{field.name}"
            if key not in given and field.default is dataclasses.MISSING:
                return f"{key} is required and was not given"
    for key, words in given.items():
        section, _, name = key.rpartition(".")
        owner = schema if not section else _type_of(schema, section)
        kind = _type_of(owner, name)
        one = dataclasses.make_dataclass("One", [("value", kind)])
        try:
            tyro.cli(
                one,
                args=["--value", *words],
                config=_TYRO,
                console_outputs=False,
            )
        except SystemExit:
            return f"{key} must be {_describe(kind)}, got {' '.join(words) or 'nothing'}"
    return f"cannot understand {' '.join(arguments)}"


def _check_keys(
    arguments: Sequence[str],
    fields: Iterable[tuple[str, Any, Any]],
    file: str | Path | None,
    options: type | None,
) -> None:
    """Refuse unknown keys, naming the nearest valid one and where the key came from."""
    optional = {field.name for field in dataclasses.fields(options)} if options else set()
    known = []
    for name, kind, _ in fields:
        inner = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        known += [f"{name}.{field.name}" for field in inner] or [name]
    in_file = _group(read_arguments(file)) if str(file).endswith(".toml") else {}
    for key in _group(arguments):
        if key not in known or (key in optional and key in in_file):
            where = f"in {file}" if key in in_file else "on the command line"
            allowed = [k for k in known if not (key in in_file and k in optional)]
            raise ConfigError(_unknown(f"key {where}", key, allowed))


def _unknown(what: str, got: str, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    near = difflib.get_close_matches(got, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    section = got.partition(".")[0] + "."
    shown = [a for a in allowed if a.startswith(section)] or allowed
    return f"unknown {what}: {got}{hint} (allowed: {', '.join(shown)})"


def _group(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Dotted key to its words, the last occurrence winning."""
    grouped: dict[str, list[str]] = {}
    key = None
    for word in arguments:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            grouped[key] = [value] if equals else []
        elif key is None:
            raise ConfigError(f"expected --section.key VALUE, got {word}")
        else:
            grouped[key].append(word)
    return grouped


def _last(arguments: Sequence[str], key: str, default: str) -> str:
    words = _group(arguments).get(key, [default])
    return words[0] if words else default


def _type_of(owner: Any, name: str) -> Any:
    return next(field.type for field in dataclasses.fields(owner) if field.name == name)


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}
    if kind in names:
        return names[kind]
    if kind == tuple[int, ...]:
        return "whole numbers"
    parts = getattr(kind, "__args__", ())
    return " or ".join(
        names.get(part, part if isinstance(part, str) else _describe(part)) for part in parts
    )


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} must be at least {least}, got {value}")


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _words(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]
