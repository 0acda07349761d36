"""The sections of a config: dataclasses, or built from what their kind takes.

Which keys `[action]`, `[sampler]` and `[model]` take follows from their `kind`, the action's
`convention` and the model's `denoiser`: the keys are the parameters of that convention, the fields
of that sampler, or what the constructor of that network takes.  Which `[training]` and `[sampling]`
there are follows from `model.kind`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from lattice_ml.actions import conventions
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.models.kinds import chosen_kind
from lattice_ml.runtime.arguments import WORD, Fields, chosen, parameters, unknown, word, words
from lattice_ml.runtime.json import Section, flattened
from lattice_ml.runtime.values import ConfigError
from lattice_ml.samplers import kinds
from lattice_ml.samplers.cycle import merged

__all__ = ["NAMES", "LatticeSection", "OutputSettings", "check_values", "section_type"]

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
class OutputSettings:
    """What is written.

    Args:
        dtype: of dynamics and files; energies are summed accurately in either.
        save_configs: without it only histories are kept.
    """

    dtype: Literal["float32", "float64"] = "float32"
    save_configs: bool = True


_FIXED = {"lattice": LatticeSection, "chain": ChainSettings, "output": OutputSettings}

_LEAST = {  # value: keys for which it is the smallest
    0: "seed chain.n_thermalise training.n_steps training.fine_tune_steps training.decay "
    "training.checkpoint_every training.snapshots training.kl_steps model.couplings "
    "model.base_couplings model.degree sampling.n_probes sampling.snapshots",
    1: "chain.n_chains chain.n_configs chain.thin training.batch_size training.flow_steps "
    "training.pool_bytes training.n_gibbs training.n_samples model.n_hidden model.channels "
    "model.hidden model.coupling_hidden model.base_hidden sampling.n_steps sampling.batch_size "
    "sampling.n_updates",
    2: "training.fine_tune_batch",
}
_AT_LEAST = {key: least for least, keys in _LEAST.items() for key in keys.split()}
_BETWEEN = {  # key: low <= value < high
    "training.learning_rate": (0, math.inf),
    "training.fine_tune_learning_rate": (0, math.inf),
    "training.clip": (0, math.inf),
    "training.ema": (0, 1),
    "training.memory": (0, 1),
    "training.validation": (0, 1),
    "model.initial": (0, 1),
}


def section_type(name: str, arguments: Sequence[str]) -> type:
    """The dataclass of a section; of some it depends on the kinds that the arguments name.

    Raises:
        ConfigError: a kind, convention or denoiser that does not exist.
    """
    if name in _FIXED:
        return _FIXED[name]
    if name in ("model", "training", "sampling"):
        of_kind = chosen_kind(arguments)
        if name != "model":
            return of_kind.training if name == "training" else of_kind.sampling
        keys = of_kind.model_fields(arguments)
    else:
        keys = {"action": _action, "sampler": _sampler}[name](arguments)
    fields = [
        (key, kind, dataclasses.field() if default is ... else dataclasses.field(default=default))
        for key, kind, default in keys
    ]
    return dataclasses.make_dataclass(name.title(), fields, kw_only=True, frozen=True)


def check_values(config: Section) -> None:
    """Refuse numbers that make no sense, in a config of nested sections.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    for key, value in flattened(config):
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [number for number in values if not isinstance(number, str | bool | None)]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"{key} must be a finite number, got {number}")
            if isinstance(number, int) and number >= WORD:
                raise ConfigError(f"{key} must be below 2^63, got {number}")
            if key in _AT_LEAST and number < _AT_LEAST[key]:
                raise ConfigError(f"{key} must be at least {_AT_LEAST[key]}, got {number}")
            low, high = _BETWEEN.get(key, (-math.inf, math.inf))
            if not low <= number < high:
                raise ConfigError(f"{key} must be in [{low}, {high}), got {number}")


def _action(arguments: Sequence[str]) -> Fields:
    """The couplings of the convention, or the fields of another action."""
    kinds = {**conventions.KINDS, conventions.NONE: None}
    kind, known = chosen("action.kind", "Phi4", kinds, arguments)
    if known is None:
        return [("kind", str, kind)]
    if not known.conventions:
        return [("kind", str, kind), *parameters(known.cls, "ndim")]
    name, convention = chosen("action.convention", "kappa", known.conventions, arguments)
    couplings: Fields = [(key, float, ...) for key in convention.keys]
    return [("kind", str, kind), ("convention", str, name), *couplings]


def _sampler(arguments: Sequence[str]) -> Fields:
    """The settings of a sampler, or of all parts of a cycle."""
    kind = word(arguments, "sampler.kind", kinds.AUTO)
    defaults: Section = {}
    if kind == kinds.AUTO:
        extents = [int(n) for n in words(arguments, "lattice.shape") if n.isdigit()]
        barrier = _barrier(arguments, len(extents))
        kind, defaults = kinds.automatic(word(arguments, "action.kind", "Phi4"), extents, barrier)
    tables = []
    for name in kinds.parts(kind):
        if name not in kinds.KINDS:
            raise ConfigError(unknown("sampler.kind", name, (kinds.AUTO, *kinds.KINDS)))
        sampler = kinds.KINDS[name]
        known = parameters(sampler, "action")
        typed = {key: (sampler.config_types.get(key, t), default) for key, t, default in known}
        tables.append((name, typed))
    settings = merged(tables).items()
    fields = [(key, t, defaults.get(key, default)) for key, (t, default) in settings]
    return [("kind", str, kind), *fields]


def _barrier(arguments: Sequence[str], ndim: int) -> float:
    """The barrier of a site, from words; 0 of words that make no phi^4, which are refused later."""
    convention = word(arguments, "action.convention", "kappa")
    try:
        keys = conventions.CONVENTIONS[convention].keys
        values = {key: float(word(arguments, f"action.{key}", "")) for key in keys}
        return conventions.action(convention, ndim, **values).barrier
    except (KeyError, ValueError):
        return 0.0
