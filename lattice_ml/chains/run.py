"""Chains in memory, for notebooks and tests; `generate` writes the same to disk."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import jax
import numpy as np
from jax.typing import DTypeLike

from lattice_ml.actions import Action
from lattice_ml.chains.blocks import blocks, check, programs, warming
from lattice_ml.chains.engine import Engine
from lattice_ml.chains.failures import voice_doubt
from lattice_ml.chains.settings import ChainSettings, dtype_name, starting_fields
from lattice_ml.fields.lattice import Lattice
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.json import Section
from lattice_ml.samplers.sampler import Sampler

__all__ = ["Chains", "run", "tune"]


@dataclass(frozen=True)
class Chains:
    """Configurations and histories in memory: an `observables.ensemble.Ensemble`."""

    action: Action
    shape: tuple[int, ...]
    thin: int
    cfgs: np.ndarray  # (n_configs * n_chains, *L), all chains of one configuration together
    histories: dict[str, np.ndarray]  # (n_chains, n_configs)
    tuned: dict[str, float]
    _: KW_ONLY
    temperature: float = 1.0  # alpha of exp(-S/alpha)
    kind: str = ""  # of the sampler, such as HMC+Wolff
    log_weight: np.ndarray | None = None  # (n_chains, n_configs), as is the next
    log_prob: np.ndarray | None = None
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    label: str = "the ensemble in memory"
    config: Section = field(default_factory=dict)
    provenance: tuple[Section, ...] = ()
    parent: str | None = None
    seconds: float | None = None

    @property
    def n_chains(self) -> int:
        return len(next(iter(self.histories.values())))

    @property
    def n_configs(self) -> int:
        return int(next(iter(self.histories.values())).shape[1])

    @property
    def history(self) -> tuple[str, ...]:
        return tuple(self.histories)

    @property
    def has_cfgs(self) -> bool:
        return len(self.cfgs) > 0

    def series(self, name: str) -> np.ndarray:
        return self.histories[name]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self.cfgs


@ordinary()
def run(
    key: jax.Array,
    sampler: Sampler,
    lattice: Lattice,
    *,
    n_chains: int,
    n_configs: int,
    n_thermalise: int = 500,
    thin: int = 1,
    start: str | np.ndarray | jax.Array = "hot",
    dtype: DTypeLike = "float32",
    split: int = 1,
) -> Chains:
    """Run `n_chains` chains and keep everything in memory; `generate` writes to disk instead.

    Args:
        key: the only source of randomness, e.g. `jax.random.key(1)`; of threefry.
        sampler: e.g. `HMC(action)`; what is "auto" in it is tuned in the warm-up.
        lattice: where the fields live.
        n_chains: number of independent chains.
        n_configs: configurations kept per chain.
        n_thermalise: trajectories per chain that are not kept.
        thin: trajectories between kept configurations.
        start: "hot", "cold", or fields `(n, *L)` that the chains begin from in turn.
        dtype: of the dynamics and of the fields, "float32" or "float64" (which needs x64), or what
            NumPy calls so.
        split: devices over which each lattice is spread, 1 or an even divisor of its first extent;
            the configurations do not depend on it.

    Returns:
        `cfgs` of shape `(n_configs * n_chains, *L)` and histories `(n_chains, n_configs)`.

    Raises:
        ValueError: an argument that makes no sense, by name.
        RunError: the dynamics diverged.
    """
    settings = ChainSettings(n_chains, n_thermalise, n_configs, thin)
    check(sampler, lattice, settings, split)
    if n_thermalise:  # else the way from the start is what is wanted
        voice_doubt(sampler)
    name = dtype_name(dtype)
    fields = starting_fields(start, name)
    parts = list(blocks(key, sampler, lattice, settings, start=fields, dtype=name, split=split))
    cfgs = np.concatenate([part.cfgs for part in parts if part.cfgs is not None])
    histories = {
        name: np.concatenate([part.history[name] for part in parts]).T for name in parts[0].history
    }
    flat, kind = cfgs.reshape(-1, *lattice.shape), "+".join(sampler.kinds)
    made = sampler.action, lattice.shape, thin, flat, histories, parts[-1].tuned
    return Chains(*made, temperature=float(sampler.temperature), kind=kind)


@ordinary()
def tune(
    key: jax.Array,
    sampler: Sampler,
    lattice: Lattice,
    *,
    n_chains: int,
    n_thermalise: int,
    start: str | np.ndarray = "hot",
    dtype: str = "float32",
) -> Sampler:
    """The sampler with numbers for what is "auto", from a warm-up whose chains are thrown away.

    Args:
        key, sampler, lattice, n_chains, n_thermalise, start, dtype: as of `run`.

    Returns:
        A sampler for `Sampler.step`, or for runs without a warm-up.

    Raises:
        ValueError: an argument that makes no sense, by name.
    """
    settings = ChainSettings(n_chains, n_thermalise, n_configs=1)
    check(sampler, lattice, settings)
    engine = Engine(key, lattice, n_chains, dtype)
    _, warm = programs(engine, settings)
    for _, tuned, _, _ in warming(warm, sampler, engine.start(sampler, start), n_thermalise):
        sampler = tuned
    return sampler
