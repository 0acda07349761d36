"""The sections of a config: dataclasses, or built from what their kind takes.

Which keys `[action]`, `[sampler]` and `[model]` take follows from their `kind`, the action's
`convention` and the model's `denoiser`: the keys are the parameters of that convention, the fields
of that sampler, or what the constructor of that network takes.
"""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lattice_ml import conventions, samplers
from lattice_ml.arguments import ConfigError, Fields, unknown, word

__all__ = [
    "NAMES",
    "ChainSection",
    "LatticeSection",
    "OutputSection",
    "SamplingSection",
    "TrainingSection",
    "check_values",
    "section_type",
]

NAMES = (
    *("seed", "lattice", "action", "sampler", "chain", "output"),
    *("model", "training", "sampling"),
)


@dataclasses.dataclass(frozen=True)
class LatticeSection:
    """Where the field lives.

    Args:
        shape: extents of a periodic lattice in 1 to 4 dimensions.
    """

    shape: tuple[int, ...]


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
class TrainingSection:
    """How a model is trained; a key with several values has one per stage (lattice size).

    Args:
        n_steps: gradient steps of denoising.
        batch_size: fields per step.
        learning_rate: of Adam, at its largest.
        clip: largest norm of a gradient.
        ema: decay per step of the averaged weights, which the model keeps.
        validation: share of the chains held out.
        augment: apply random symmetries of the lattice and of the action to the fields.
        fine_tune: after denoising, minimise the variance of log w over the model's own samples.
        fine_tune_steps: gradient steps of fine-tuning.
        fine_tune_batch: samples per step.
        fine_tune_learning_rate: of Adam, at its largest.
        flow_steps: steps of the probability flow while fine-tuning; auto from the volume.
        checkpoint_every: seconds between checkpoints; a run goes on from any to the same weights.
        pool_bytes: how much of an ensemble is in memory at once.
    """

    n_steps: tuple[int, ...] = (2000,)
    batch_size: tuple[int, ...] = (128,)
    learning_rate: tuple[float, ...] = (3e-3,)
    clip: float = 1.0
    ema: float = 0.999
    validation: float = 0.1
    augment: bool = True
    fine_tune: bool = False
    fine_tune_steps: tuple[int, ...] = (200,)
    fine_tune_batch: tuple[int, ...] = (64,)
    fine_tune_learning_rate: tuple[float, ...] = (2e-3,)
    flow_steps: tuple[int, ...] | Literal["auto"] = "auto"
    checkpoint_every: float = 30.0
    pool_bytes: int = 1 << 28

    def of_stage(self, index: int, n_stages: int) -> dict[str, Any]:
        """The numbers of one stage, where a key holds one value or one per stage.

        Raises:
            ConfigError: another number of values.
        """
        numbers: dict[str, Any] = {}
        for key, value in vars(self).items():
            numbers[key] = value
            if isinstance(value, tuple):
                if len(value) not in (1, n_stages):
                    raise ConfigError(
                        f"training.{key} must be one value or one per stage, got {len(value)} "
                        f"values for {n_stages} lattice shapes"
                    )
                numbers[key] = value[index if len(value) > 1 else 0]
        return numbers


@dataclasses.dataclass(frozen=True)
class SamplingSection:
    """How samples are drawn.

    Args:
        method: ode has an exact density, path has weights, sde and pc (with a corrector) neither.
        n_steps: of the integration; auto from the volume.
        scheme: of the ode.
        schedule: of the noise, for sde and pc.
        batch_size: samples drawn together; auto from the volume and the device.
        n_probes: of the estimated density of networks without an exact one; its weights, and all
            that is made of them, are approximate.
        n_updates: of every sample by HMC, where that corrects.
        snapshots: fields kept along the way, for a film of the first samples before they are
            corrected; those of an ode come from Heun's scheme in x, close to its samples.
    """

    method: Literal["ode", "sde", "pc", "path"] = "ode"
    n_steps: int | Literal["auto"] = "auto"
    scheme: Literal["rk3", "heun"] = "rk3"
    schedule: Literal["power", "exploding", "geometric", "preserving"] = "power"
    batch_size: int | Literal["auto"] = "auto"
    n_probes: int = 0
    n_updates: int = 2
    snapshots: int = 0


_FIXED = {
    "lattice": LatticeSection,
    "chain": ChainSection,
    "output": OutputSection,
    "training": TrainingSection,
    "sampling": SamplingSection,
}

_AT_LEAST = {
    "seed": 0,
    "chain.n_chains": 1,
    "chain.n_configs": 1,
    "chain.thin": 1,
    "chain.n_thermalise": 0,
    "training.n_steps": 0,
    "training.batch_size": 1,
    "training.fine_tune_steps": 0,
    "training.fine_tune_batch": 2,
    "training.flow_steps": 1,
    "training.checkpoint_every": 0,
    "training.pool_bytes": 1,
    "sampling.n_steps": 1,
    "sampling.batch_size": 1,
    "sampling.n_probes": 0,
    "sampling.n_updates": 1,
    "sampling.snapshots": 0,
}

_BETWEEN = {  # key: low <= value < high
    "training.learning_rate": (0, math.inf),
    "training.fine_tune_learning_rate": (0, math.inf),
    "training.clip": (0, math.inf),
    "training.ema": (0, 1),
    "training.validation": (0, 1),
}


def section_type(name: str, arguments: Sequence[str]) -> type:
    """The dataclass of a section; of some it depends on the kinds that the arguments name.

    Raises:
        ConfigError: a kind, convention or denoiser that does not exist.
    """
    build = {"action": _action, "sampler": _sampler, "model": _model}
    if name in _FIXED:
        return _FIXED[name]
    fields = [
        (key, kind, dataclasses.field() if default is ... else dataclasses.field(default=default))
        for key, kind, default in build[name](arguments)
    ]
    return dataclasses.make_dataclass(name.title(), fields, kw_only=True, frozen=True)


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse numbers that make no sense, in a config of nested sections.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    flat = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    for section, table in config.items():
        if isinstance(table, Mapping):
            flat |= {f"{section}.{key}": value for key, value in table.items()}
    for key, value in flat.items():
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [number for number in values if not isinstance(number, str | bool)]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{key} must be a finite number, got {number}")
            if key in _AT_LEAST and number < _AT_LEAST[key]:
                raise ConfigError(f"{key} must be at least {_AT_LEAST[key]}, got {number}")
            low, high = _BETWEEN.get(key, (-math.inf, math.inf))
            if not low <= number < high:
                raise ConfigError(f"{key} must be in [{low}, {high}), got {number}")


def _action(arguments: Sequence[str]) -> Fields:
    """The couplings of the convention, or the fields of another action."""
    kind, known = _chosen("action.kind", "Phi4", conventions.KINDS, arguments)
    if kind != "Phi4":
        return [("kind", str, kind), *_parameters(known, "ndim")]
    name, convention = _chosen("action.convention", "kappa", conventions.CONVENTIONS, arguments)
    couplings: Fields = [(key, float, ...) for key in convention.keys]
    return [("kind", str, kind), ("convention", str, name), *couplings]


def _sampler(arguments: Sequence[str]) -> Fields:
    kind, known = _chosen("sampler.kind", "HMC", samplers.KINDS, arguments)
    return [("kind", str, kind), *_parameters(known, "action")]


def _model(arguments: Sequence[str]) -> Fields:
    """What all diffusion models take, and what the constructor of the network takes."""
    from lattice_ml.models import networks  # imports Flax, which not every verb needs

    kind, _ = _chosen("model.kind", "Diffusion", {"Diffusion": None}, arguments)
    name, network = _chosen("model.denoiser", "shallow", networks.KINDS, arguments)
    return [
        ("kind", str, kind),
        ("denoiser", str, name),
        ("target", Literal["action", "data"], "action"),
        ("pairs", int, 2),
        ("symmetric", bool, True),
        *_parameters(network, "rngs", "ndim"),
    ]


def _chosen(
    key: str, default: str, known: Mapping[str, Any], arguments: Sequence[str]
) -> tuple[str, Any]:
    """The name that a key has among the arguments, and what it stands for."""
    name = word(arguments, key, default)
    if name not in known:
        raise ConfigError(unknown(key, name, known))
    return name, known[name]


def _parameters(kind: Any, *given: str) -> Fields:
    """Names, types and defaults that a constructor takes, but those given by other sections."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    return [
        (p.name, p.annotation, ... if p.default is p.empty else p.default)
        for p in parameters
        if p.name not in ("self", *given)
    ]
