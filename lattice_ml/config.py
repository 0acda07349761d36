"""From a TOML file and the command line to the objects that do the work.

The file is flattened to arguments and put before the user's own, so one parser types and checks
both and the later one wins.  Which keys `[action]` and `[sampler]` take follows from their `kind`
(a name in `actions.__all__` or `samplers.__all__`) and from the action's `convention`: the keys
are the parameters of that convention, or the fields of that sampler.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lattice_ml import conventions, samplers
from lattice_ml.arguments import (
    ConfigError,
    Fields,
    check_keys,
    print_help,
    read_arguments,
    type_arguments,
    unknown,
    word,
)
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
class LatticeSection:
    """Where the field lives.

    Args:
        shape: extents of a periodic lattice in 1 to 4 dimensions.
    """

    shape: tuple[int, ...]


SECTION_TYPES = {"lattice": LatticeSection, "chain": ChainSection, "output": OutputSection}


@dataclasses.dataclass(frozen=True)
class Job:
    """A resolved config and the objects it describes."""

    config: dict[str, Any]
    lattice: Lattice
    sampler: Any
    chain: ChainSection
    output: OutputSection
    seed: int


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
    extra = [field.name for field in dataclasses.fields(options)] if options else []
    check_keys(fields, arguments, file, not_in_file=extra)
    return type_arguments(fields, arguments)


def options(
    arguments: Sequence[str],
    kind: type,
    file: str | Path | None = None,
    names: Sequence[str] = SECTIONS,
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
        asked = [given for given in words if given not in ("-h", "--help")]
        print_help(_fields(asked, names, options), f"lattice-ml {verb} {file}")
    if file == "FILE":
        raise ConfigError(f"usage: lattice-ml {verb} FILE [--section.key VALUE ...]; no file given")
    return file, words


def _build(parsed: Any) -> Job:
    """Check values and make the objects."""
    config = {k: v for k, v in dataclasses.asdict(parsed).items() if k in SECTIONS}
    config["lattice"]["shape"] = list(config["lattice"]["shape"])
    for key, value in config["action"].items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"action.{key} must be a finite number, got {value}")
    try:
        lattice = Lattice(parsed.lattice.shape)
        action = conventions.from_config(config["action"], lattice.ndim)
        settings = dict(config["sampler"])
        sampler = samplers.KINDS[settings.pop("kind")](action, **settings)
        sampler.check()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name in ("n_chains", "n_configs", "thin"):
        _at_least(f"chain.{name}", config["chain"][name], 1)
    _at_least("chain.n_thermalise", config["chain"]["n_thermalise"], 0)
    _at_least("seed", config["seed"], 0)
    return Job(config, lattice, sampler, parsed.chain, parsed.output, parsed.seed)


def _fields(arguments: Sequence[str], names: Sequence[str], options: type | None) -> Fields:
    """Fields of the whole schema: the seed, the named sections, and a verb's options."""
    sections = {
        name: SECTION_TYPES[name] if name in SECTION_TYPES else _dependent(name, arguments)
        for name in names
        if name != "seed"
    }
    fields: Fields = [(name, kind, _default(kind)) for name, kind in sections.items()]
    if "seed" in names:
        fields.insert(0, ("seed", int, dataclasses.field(default=1)))
    for field in dataclasses.fields(options) if options else ():
        default: Any = dataclasses.field()
        if field.default is not dataclasses.MISSING:
            default = dataclasses.field(default=field.default)
        fields.append((field.name, field.type, default))
    return fields


def _dependent(section: str, arguments: Sequence[str]) -> type:
    """The sections whose keys follow from their kind: the fields of the class it names."""
    kinds: dict[str, Mapping[str, Any]] = {
        "action": conventions.KINDS,
        "sampler": samplers.KINDS,
    }
    known, default = kinds[section], {"action": "Phi4", "sampler": "HMC"}[section]
    kind = word(arguments, f"{section}.kind", default)
    if kind not in known:
        raise ConfigError(unknown(f"{section}.kind", kind, known))
    keys: Fields = [("kind", str, kind)]
    if kind == "Phi4":
        name = word(arguments, "action.convention", "kappa")
        if name not in conventions.CONVENTIONS:
            raise ConfigError(unknown("action.convention", name, conventions.CONVENTIONS))
        couplings = conventions.CONVENTIONS[name].keys
        keys += [("convention", str, name), *((key, float, ...) for key in couplings)]
    else:
        keys += [
            (f.name, f.type, ... if f.default is dataclasses.MISSING else f.default)
            for f in dataclasses.fields(known[kind])
            if f.name not in ("action", "ndim")  # given by the other sections
        ]
    return _section(section.title(), keys)


def _section(name: str, fields: Fields) -> type:
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


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} must be at least {least}, got {value}")
