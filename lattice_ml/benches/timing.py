"""Samples with the seconds that they took: chains of a sampler, draws of a model, and both.

Rates are medians over repeats, which are parts of one run after its first, so that neither the
warm-up nor compilation is in them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import numpy as np

from lattice_ml.actions import Action
from lattice_ml.analysis.measurement import estimate_derived
from lattice_ml.benches.record import Number
from lattice_ml.chains import blocks as chains
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs.latent import LatentUnits
from lattice_ml.models.drawer import Drawer
from lattice_ml.observables import DERIVED, measure_configurations
from lattice_ml.runtime.session import compile_times
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.statistics import Estimate

__all__ = [
    *("REPEATS", "Samples", "clock", "compiled_apart"),
    *("timed_chains", "timed_draws", "timed_steps"),
]

REPEATS = 8

Found = TypeVar("Found")


@dataclass(frozen=True)
class Samples:
    """Histories, weights and rate of what a sampler or a model made."""

    lattice: Lattice  # where the fields live
    # `(n_chains, n_configs)` each, by the names of `observables.PRIMARIES`
    series: Mapping[str, np.ndarray]
    per_second: Number  # updates of single chains, or draws, with what is measured of them
    thin: int = 1  # updates between configurations
    log_weights: np.ndarray | None = None  # `(n_chains, n_configs)`, or None
    tuned: Mapping[str, float] | None = None  # what a warm-up fixed
    # the last of every chain `(n_chains, *L)`, or all that were drawn
    fields: np.ndarray | None = None

    def estimate(self, name: str, *, weights: bool = True) -> Estimate:
        """One of `observables.DERIVED` of the samples.

        Raises:
            ValueError: it is not defined on them.
        """
        logs = self.log_weights if weights else None
        found = estimate_derived(DERIVED[name], self.series, self.lattice, logs, self.thin)
        if found is None:
            raise ValueError(f"{name} is not defined on these samples")
        return found


def clock() -> float:
    """Seconds of this process on a CPU, as if it had it alone; those of the wall elsewhere."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def timed_chains(
    key: jax.Array,
    sampler: Sampler,
    lattice: Lattice,
    *,
    n_chains: int,
    n_configs: int,
    n_thermalise: int,
    thin: int = 1,
    start: str | np.ndarray = "hot",
) -> Samples:
    """Run chains as `chains.run` does, in float32 and without keeping configurations.

    Raises:
        ValueError: too few configurations to time.
    """
    times, parts = [], []
    for part in chains.blocks(
        key,
        sampler,
        lattice,
        ChainSettings(n_chains, n_thermalise, n_configs, thin),
        start=start,
        save_configs=False,
        block_configs=max(1, n_configs // (REPEATS + 1)),
    ):
        times.append(clock())
        parts.append(part)
    whole = len(parts[0].trajectory)  # what is left over is too short to be timed
    pairs = zip(parts[1:], np.diff(times), strict=True)
    seconds = [s for part, s in pairs if len(part.trajectory) == whole]
    if not seconds:
        raise ValueError(f"a rate needs at least 2 blocks of configurations, got {n_configs=}")
    return Samples(
        lattice,
        {name: np.concatenate([p.history[name] for p in parts]).T for name in parts[0].history},
        Number.median([n_chains * thin * whole / s for s in seconds]),
        thin,
        tuned=parts[-1].tuned,
        fields=parts[-1].state["phi"],
    )


def timed_draws(drawer: Drawer, action: Action, n_samples: int) -> Samples:
    """Draw samples of a model, one chain of independent draws, with log w where it has a density.

    At least `n_samples`, in whole batches; measuring the fields, and so the action that weights
    need, is in the time.
    """
    count = -(-n_samples // (REPEATS * drawer.batch_size))
    measure_configurations(action, drawer.draw(0, count).fields)  # compiles
    drawn, measured, rates = [], [], []
    for repeat in range(REPEATS):
        begin = clock()
        drawn.append(drawer.draw(repeat * count, count))
        measured.append(measure_configurations(action, drawn[-1].fields))
        rates.append(count * drawer.batch_size / (clock() - begin))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *drawn)
    series = {name: np.concatenate([part[name] for part in measured]) for name in measured[0]}
    logs = None if drawer.unweighted else whole.log_weights(series["action"])[None]
    return Samples(
        Lattice(drawer.shape),
        {name: values[None] for name, values in series.items()},
        Number.median(rates),
        log_weights=logs,
        fields=whole.fields,
    )


def timed_steps(units: LatentUnits, n_steps: int) -> Samples:
    """Chains that propose samples of a model: at least `n_steps` of all walkers, in equal parts.

    A step is one update of a chain; measuring its fields is in the time.
    """
    count = -(-n_steps // REPEATS)
    made = units.make(0, count, {})  # warms up
    units = replace(units, tuned=made.tuned)
    made = units.make(0, count, made.states[0])  # the same steps; compiles what goes on
    parts, rates = [], []
    for repeat in range(1, REPEATS + 1):
        begin = clock()
        made = units.make(repeat * count, count, made.states[-1])
        rates.append(count * units.chains / (clock() - begin))
        parts.append(made.history)
    return Samples(
        Lattice(units.drawer.shape),
        {name: np.concatenate([part[name] for part in parts]).T for name in parts[0]},
        Number.median(rates),
        tuned=units.tuned,
        fields=made.cfgs[-1],
    )


def compiled_apart(work: Callable[[], Found]) -> tuple[Found, float]:
    """What `work` returns, and the seconds it took without those of compilation."""
    begin = time.perf_counter()
    with compile_times() as compiling:
        found = work()
        return found, time.perf_counter() - begin - compiling()
