"""From a TOML file and the command line to the jobs that they describe.

The file is flattened to arguments and put before the user's own, so one parser types and checks
both and the later one wins.  One file may serve several verbs: each reads its own sections
(`jobs/sections.py`) and leaves those of the others alone.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from lattice_ml.actions import conventions
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import sections
from lattice_ml.jobs.job import Job, SamplingJob, TrainingJob
from lattice_ml.models.kinds import DEFAULT, KINDS
from lattice_ml.runtime.arguments import (
    Fields,
    check_keys,
    given_keys,
    of_file,
    print_help,
    read_file,
    type_arguments,
)
from lattice_ml.runtime.values import ConfigError, table
from lattice_ml.samplers import kinds

__all__ = [
    *("SECTIONS", "TRAINING", "ConfigError", "Names", "job_of", "options_of", "parse"),
    *("parse_sampling", "parse_sections", "parse_training", "read_arguments", "read_job"),
    *("sampling_job_of", "sampling_names", "split_file", "training_job_of", "training_names"),
]

SECTIONS = ("seed", "lattice", "action", "sampler", "chain", "output")
TRAINING = ("seed", "model", "training", "sampling")
Names = Sequence[str | tuple[str, type]]  # of sections, one whose type is known with it
Options = TypeVar("Options")
_AGREEING = ("lattice", "action")  # what a training config may say, and the data must agree with


def read_job(file: str | Path, *words: str) -> Job:
    """The job of a TOML file, changed by words as on the command line: `"--chain.thin", "2"`.

    Raises:
        ConfigError: no such file, an unknown key (with the nearest valid one), a wrong value.
    """
    return parse([*read_arguments(file), *words], file=file)


def read_arguments(file: str | Path, names: Names = SECTIONS) -> list[str]:
    """The sections of a TOML file that a verb reads, as command-line arguments."""
    return read_file(file, skip=set(sections.NAMES) - set(names) - set(_AGREEING))


def parse(arguments: Sequence[str], *, file: str | Path | None = None) -> Job:
    """Build a job of `generate` from dotted arguments; the later of two equal keys wins.

    Those of a file come first, as `read_arguments` gives them, and messages name it.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a wrong type or value.
    """
    return job_of(parse_sections(arguments, SECTIONS, file=file))


def parse_training(arguments: Sequence[str], *, file: str | Path | None = None) -> TrainingJob:
    """Build a job of `train`, as `parse` does for `generate`."""
    return training_job_of(parse_sections(arguments, training_names(arguments), file=file))


def parse_sampling(arguments: Sequence[str], *, kind: str = DEFAULT) -> SamplingJob:
    """Build a job of `sample` for a kind of model, as `parse` does for `generate`."""
    return sampling_job_of(parse_sections(arguments, sampling_names(kind)))


def training_names(arguments: Sequence[str]) -> tuple[str, ...]:
    """The sections of `train`: the lattice and the action only where the arguments name them."""
    given = {key.partition(".")[0] for key in given_keys(arguments)}
    return (*TRAINING, *(name for name in _AGREEING if name in given))


def sampling_names(kind: str = DEFAULT) -> Names:
    """The sections of `sample` for a kind of model."""
    return ("seed", "lattice", "action", ("sampling", KINDS[kind].sampling), "output")


def parse_sections(
    arguments: Sequence[str],
    names: Names,
    *,
    file: str | Path | None = None,
    options: type | None = None,
) -> SimpleNamespace:
    """Type the named sections and the options of a verb: one attribute per section and option.

    Args:
        arguments: those of a file first, where there is one.
        names: of sections.
        file: named in the messages about keys that came from it.
        options: a dataclass of further keys that may stand behind those of the file.
    """
    fields = _fields(arguments, names, options)
    if file and (in_file := of_file(arguments)):
        check_keys(_fields(arguments, names, None), in_file, f"in {file}")
    check_keys(fields, arguments, "on the command line")
    return type_arguments(fields, arguments)


def job_of(parsed: SimpleNamespace) -> Job:
    """The job of `generate` that typed sections describe."""
    settings = table("sampler", parsed.sampler)
    try:
        lattice = Lattice(parsed.lattice.shape)
        section = table("action", parsed.action)
        sections.check_values({"action": section, "sampler": settings})
        action = conventions.from_config(section, lattice.ndim)
        if action is None:
            raise ConfigError("action.kind = none cannot be sampled: name an action")
        kind = settings.pop("kind")
        if kind == kinds.AUTO:
            kind, _ = kinds.automatic(section["kind"], lattice.shape, action.barrier)
        sampler = kinds.build(kind, action, settings, section, lattice.ndim)
        return Job(lattice, sampler, parsed.chain, parsed.output, parsed.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def training_job_of(parsed: SimpleNamespace) -> TrainingJob:
    """The job of `train` that typed sections describe."""
    return TrainingJob(
        model=table("model", parsed.model),
        training=parsed.training,
        seed=parsed.seed,
        sampling=parsed.sampling,
        expected={k: table(k, v) for k, v in vars(parsed).items() if k in _AGREEING},
    )


def sampling_job_of(parsed: SimpleNamespace) -> SamplingJob:
    """The job of `sample` that typed sections describe."""
    section = table("action", parsed.action)
    sections.check_values({"action": section})
    try:
        lattice = Lattice(parsed.lattice.shape)
        action = conventions.from_config(section, lattice.ndim)
        return SamplingJob(lattice, action, parsed.sampling, parsed.output, parsed.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def options_of(parsed: SimpleNamespace, kind: type[Options]) -> Options:
    """The options of a verb among typed sections."""
    return kind(**{name: vars(parsed)[name] for name in inspect.signature(kind).parameters})


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


def _fields(arguments: Sequence[str], names: Names, options: type | None) -> Fields:
    """Fields of the whole schema: the seed, the named sections, and a verb's options."""
    types = dict(
        name if isinstance(name, tuple) else (name, sections.section_type(name, arguments))
        for name in names
        if name != "seed"
    )
    fields: Fields = [("seed", int, dataclasses.field(default=1))] if "seed" in names else []
    for name, kind in types.items():  # a section without required keys may be left out
        needed = any(f.default is dataclasses.MISSING for f in dataclasses.fields(kind))
        default = dataclasses.field() if needed else dataclasses.field(default_factory=kind)
        fields.append((name, kind, default))
    of_verb = () if options is None else dataclasses.fields(options)
    return [*fields, *((f.name, f.type, dataclasses.field(default=f.default)) for f in of_verb)]
