"""What a job is: records of objects and settings, from which its config follows.

A job is built in Python, `Job(Lattice((8, 8)), HMC(action("kappa", 2, kappa=0.2, lam=0.1)))`, or
from a TOML file and a command line (`jobs/config.py`).  Equal jobs have equal configs and write
equal directories, whichever way they came about.  The config is what a manifest keeps: tables of
JSON values with every key of every section, by which a run that is to go on is known.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lattice_ml.actions import conventions
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs.sections import OutputSettings, check_values
from lattice_ml.models.kinds import KINDS, chosen_kind
from lattice_ml.models.model import Model
from lattice_ml.runtime.arguments import as_arguments, unknown
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.values import ConfigError, Record, as_value, table
from lattice_ml.samplers import kinds
from lattice_ml.samplers.cycle import Cycle, merged
from lattice_ml.samplers.sampler import Sampler

__all__ = ["Job", "SamplingJob", "TrainingJob"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What `generate` does.

    Args:
        lattice: where the field lives.
        sampler: of an action that a config can name, as `action` makes it.
        chain: how many chains, and what is kept of them.
        output: what is written.
        seed: of all random numbers.

    Raises:
        ValueError: numbers that make no sense, an action or a sampler that no config can name.
    """

    lattice: Lattice
    sampler: Sampler
    chain: ChainSettings = dataclasses.field(default_factory=ChainSettings)
    output: OutputSettings = dataclasses.field(default_factory=OutputSettings)
    seed: int = 1

    def __post_init__(self) -> None:
        check_values(self.config)

    @cached_property
    def config(self) -> Section:
        """The resolved config."""
        return {
            "seed": as_value("seed", self.seed, int),
            "lattice": {"shape": list(self.lattice.shape)},
            "action": conventions.section(self.sampler.action, self.lattice.ndim),
            "sampler": _sampler_table(self.sampler),
            "chain": table("chain", self.chain),
            "output": table("output", self.output),
        }


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """What `train` does.

    Args:
        model: keys of `[model]`, such as `{"denoiser": "convnet", "channels": 8}`; those left out
            have their defaults.
        training: how it is trained: the record of the model's kind, `TrainingSection` or
            `RBMTrainingSection`; by default with its defaults.
        seed: of all random numbers.
        sampling: how `sample` draws where it is not told otherwise, likewise.
        expected: sections `lattice` and `action` that the data must agree with, where given.

    Raises:
        ValueError: unknown keys or kinds, numbers that make no sense.
    """

    model: Section = dataclasses.field(default_factory=dict)
    training: Any = None
    seed: int = 1
    sampling: Any = None
    expected: Mapping[str, Section] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _model_table(self.model))
        kind = self.model["kind"]
        row = KINDS[kind]
        for name, record in (("training", row.training), ("sampling", row.sampling)):
            if (given := vars(self)[name]) is None:
                object.__setattr__(self, name, record())
            elif not isinstance(given, record):
                raise ConfigError(f"{name} of a {kind} must be {record.__name__}, got {given!r}")
        check_values(self.config)

    @cached_property
    def config(self) -> Section:
        """The resolved config."""
        return {
            "seed": as_value("seed", self.seed, int),
            "model": self.model,
            "training": table("training", self.training),
            "sampling": table("sampling", self.sampling),
            **self.expected,
        }


@dataclasses.dataclass(frozen=True)
class SamplingJob:
    """What `sample` does with a model.

    Args:
        lattice: of the samples.
        action: whose samples they are to be; None where it is not known, as of images.
        sampling: how they are drawn: the record of the model's kind, `SamplingSection` or
            `RBMSamplingSection`.
        output: what is written.
        seed: of all random numbers.

    Raises:
        ValueError: numbers that make no sense, an action that no config can name.
    """

    lattice: Lattice
    action: Any
    sampling: Any
    output: OutputSettings = dataclasses.field(default_factory=OutputSettings)
    seed: int = 1

    def __post_init__(self) -> None:
        check_values(self.config)

    @classmethod
    def of(cls, model: Model, sampling: Record | None = None, seed: int = 1) -> "SamplingJob":
        """Samples on the lattice and at the couplings that a model learned last.

        Args:
            model: from `train` or `open_model`.
            sampling: as the model's config has it by default.
            seed: of all random numbers.

        Raises:
            ValueError: it learned several couplings there.
        """
        last, *others = model.stages[-1].actions
        if any(other != last for other in others):
            raise ValueError(
                f"{model.directory} learned {len(others) + 1} actions on its last lattice: say "
                f"which, by SamplingJob(lattice, action, ...)"
            )
        lattice = Lattice(tuple(model.stages[-1].shape))
        action = conventions.from_config(last, lattice.ndim)
        record = KINDS[model.kind].sampling
        return cls(lattice, action, sampling or record(**model.defaults["sampling"]), seed=seed)

    @cached_property
    def config(self) -> Section:
        """The resolved config."""
        return {
            "seed": as_value("seed", self.seed, int),
            "lattice": {"shape": list(self.lattice.shape)},
            "action": conventions.section(self.action, self.lattice.ndim),
            "sampling": table("sampling", self.sampling),
            "output": table("output", self.output),
        }


def _sampler_table(sampler: Sampler) -> Section:
    """The `[sampler]` section of a sampler: the inverse of `kinds.build`.

    Raises:
        ConfigError: a kind that no config can name.
    """
    parts = sampler.parts if isinstance(sampler, Cycle) else (sampler,)
    names = [type(part).__name__ for part in parts]
    for name, part in zip(names, parts, strict=True):
        if kinds.KINDS.get(name) is not type(part):
            raise ConfigError(f"a job is for the samplers of {', '.join(kinds.KINDS)}, got {name}")
    tables = [table("sampler", part, "action", named=part.config_types) for part in parts]
    return {"kind": "+".join(names), **merged(zip(names, tables, strict=True))}


def _model_table(given: Section) -> Section:
    """The `[model]` section with the keys that are left out, checked."""
    arguments = as_arguments({"model": given})
    fields = chosen_kind(arguments).model_fields(arguments)
    for key in given:
        if f"model.{key}" not in (known := [f"model.{name}" for name, *_ in fields]):
            raise ConfigError(unknown("key", f"model.{key}", known))
    values = {name: given.get(name, default) for name, _, default in fields}
    return {name: as_value(f"model.{name}", values[name], kind) for name, kind, _ in fields}
