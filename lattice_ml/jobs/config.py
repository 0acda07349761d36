"""From a TOML file and the command line to the objects that do the work.

The file is flattened to arguments and put before the user's own, so one parser types and checks
both and the later one wins.  One file may serve several verbs: each reads its own sections
(`jobs/sections.py`) and leaves those of the others alone.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lattice_ml.actions import conventions
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import sections
from lattice_ml.jobs.sections import OutputSection
from lattice_ml.models.sections import KINDS
from lattice_ml.runtime.arguments import (
    ConfigError,
    Fields,
    check_keys,
    given_keys,
    print_help,
    read_file,
    type_arguments,
)
from lattice_ml.samplers import kinds
from lattice_ml.samplers.sampler import Sampler

__all__ = [
    "SECTIONS",
    "TRAINING",
    "ConfigError",
    "Job",
    "Names",
    "SamplingJob",
    "TrainingJob",
    "options",
    "parse",
    "parse_sampling",
    "parse_sections",
    "parse_training",
    "read_arguments",
    "sampling_names",
    "split_file",
    "training_names",
]

SECTIONS = ("seed", "lattice", "action", "sampler", "chain", "output")
TRAINING = ("seed", "model", "training", "sampling")
Names = Sequence[str | tuple[str, type]]  # of sections, one whose type is known with it
_AGREEING = ("lattice", "action")  # what a training config may say, and the data must agree with


@dataclasses.dataclass(frozen=True)
class Job:
    """A resolved config and the objects it describes."""

    config: dict[str, Any]
    lattice: Lattice
    sampler: Sampler
    chain: ChainSettings
    output: OutputSection
    seed: int


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """A resolved config of `train`; `model` and `training` have the keys of that kind."""

    config: dict[str, Any]
    model: dict[str, Any]
    training: Any
    seed: int


@dataclasses.dataclass(frozen=True)
class SamplingJob:
    """A resolved config of `sample` and the objects it describes; no action where none is known."""

    config: dict[str, Any]
    lattice: Lattice
    action: Any | None
    sampling: Any
    output: OutputSection
    seed: int


def read_arguments(file: str | Path, names: Names = SECTIONS) -> list[str]:
    """The sections of a TOML file that a verb reads, as command-line arguments.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    return read_file(file, skip=set(sections.NAMES) - set(names) - set(_AGREEING))


def parse(
    arguments: Sequence[str], *, file: str | Path | None = None, options: type | None = None
) -> Job:
    """Build a job of `generate` from dotted arguments; the later of two equal keys wins.

    Args:
        arguments: as `read_arguments` gives them, followed by the user's own.
        file: named in the messages about keys that came from it.
        options: a dataclass of further keys that the arguments may hold and a job ignores.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a wrong type or value.
    """
    parsed = parse_sections(arguments, SECTIONS, file=file, options=options)
    config = _resolved(parsed)
    lattice, action = _theory(config)
    if action is None:
        raise ConfigError("action.kind = none cannot be sampled: name an action")
    if config["sampler"]["kind"] == kinds.AUTO:
        barrier = getattr(action, "barrier", 0.0)
        kind, _ = kinds.automatic(config["action"]["kind"], lattice.shape, barrier)
        config["sampler"]["kind"] = kind
    try:
        settings = dict(config["sampler"])
        kind = settings.pop("kind")
        sampler = kinds.build(kind, action, settings, config["action"], lattice.ndim)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Job(config, lattice, sampler, parsed.chain, parsed.output, parsed.seed)


def parse_training(
    arguments: Sequence[str], *, file: str | Path | None = None, options: type | None = None
) -> TrainingJob:
    """Build a job of `train`, as `parse` does for `generate`."""
    names = training_names(arguments)
    parsed = parse_sections(arguments, names, file=file, options=options)
    config = _resolved(parsed)
    return TrainingJob(config, config["model"], parsed.training, parsed.seed)


def training_names(arguments: Sequence[str]) -> tuple[str, ...]:
    """The sections of `train`: the lattice and the action only where the arguments name them."""
    given = {key.partition(".")[0] for key in given_keys(arguments)}
    return (*TRAINING, *(name for name in _AGREEING if name in given))


def sampling_names(kind: str = "Diffusion") -> Names:
    """The sections of `sample` for a kind of model."""
    return ("seed", "lattice", "action", ("sampling", KINDS[kind]["sampling"]), "output")


def parse_sampling(
    arguments: Sequence[str], *, kind: str = "Diffusion", options: type | None = None
) -> SamplingJob:
    """Build a job of `sample` for a kind of model, as `parse` does for `generate`."""
    parsed = parse_sections(arguments, sampling_names(kind), options=options)
    config = _resolved(parsed)
    lattice, action = _theory(config)
    return SamplingJob(config, lattice, action, parsed.sampling, parsed.output, parsed.seed)


def parse_sections(
    arguments: Sequence[str],
    names: Names,
    *,
    file: str | Path | None = None,
    options: type | None = None,
) -> Any:
    """Type the named sections (and `options`): an object with one attribute per section."""
    fields = _fields(arguments, names, options)
    if file:
        in_file = read_arguments(file, names)
        check_keys(_fields(arguments, names, None), in_file, f"in {file}")
    check_keys(fields, arguments, "on the command line")
    return type_arguments(fields, arguments)


def options(
    arguments: Sequence[str],
    kind: type,
    file: str | Path | None = None,
    names: Names = SECTIONS,
) -> Any:
    """The options of a verb, from arguments that hold config keys as well."""
    parsed = parse_sections(arguments, names, file=file, options=kind)
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})


def split_file(
    arguments: Sequence[str],
    verb: str,
    options: type,
    names: Names = SECTIONS,
    *,
    is_config: bool = True,
) -> tuple[str, list[str]]:
    """The file that comes first, and all arguments: those of a config before the user's own.

    Without a config what comes first is what the verb works on, and all arguments are the user's.
    `--help` prints every key with its default and exits.

    Raises:
        ConfigError: no file, one that is no config, or a word behind it that belongs to no key.
    """
    if arguments and not arguments[0].startswith("-"):
        file, rest = arguments[0], list(arguments[1:])
        words = [*(read_arguments(file, names) if is_config else []), *rest]
    else:
        file, rest, words = "FILE", list(arguments), list(arguments)
    if {"-h", "--help"} & set(rest):
        asked = [given for given in words if given not in ("-h", "--help")]
        print_help(_fields(asked, names, options), f"lattice-ml {verb} {file}")
    if file == "FILE":
        raise ConfigError(f"usage: lattice-ml {verb} FILE [--section.key VALUE ...]; no file given")
    return file, words


def _resolved(parsed: Any) -> dict[str, Any]:
    """The sections as nested tables of JSON values, their numbers checked."""
    config = {k: v for k, v in dataclasses.asdict(parsed).items() if k in sections.NAMES}
    for table in config.values():
        if isinstance(table, dict):
            table |= {key: list(v) for key, v in table.items() if isinstance(v, tuple)}
    sections.check_values(config)
    return config


def _theory(config: dict[str, Any]) -> tuple[Lattice, Any]:
    """The lattice and the action that a resolved config names."""
    try:
        lattice = Lattice(tuple(config["lattice"]["shape"]))
        return lattice, conventions.from_config(config["action"], lattice.ndim)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _fields(arguments: Sequence[str], names: Names, options: type | None) -> Fields:
    """Fields of the whole schema: the seed, the named sections, and a verb's options."""
    types = dict(
        name if isinstance(name, tuple) else (name, sections.section_type(name, arguments))
        for name in names
        if name != "seed"
    )
    fields: Fields = [(name, kind, _default(kind)) for name, kind in types.items()]
    if "seed" in names:
        fields.insert(0, ("seed", int, dataclasses.field(default=1)))
    for field in dataclasses.fields(options) if options else ():
        default: Any = dataclasses.field()
        if field.default is not dataclasses.MISSING:
            default = dataclasses.field(default=field.default)
        fields.append((field.name, field.type, default))
    return fields


def _default(kind: type) -> Any:
    """A section without required keys may be left out."""
    needed = any(f.default is dataclasses.MISSING for f in dataclasses.fields(kind))
    return dataclasses.field() if needed else dataclasses.field(default_factory=kind)
