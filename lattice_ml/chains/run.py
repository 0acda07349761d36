"""Running Markov chains: warm-up, production block by block, and everything in memory.

`run` is for notebooks and tests; `generate` writes what `blocks` yields to disk.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np

from lattice_ml.chains.engine import Engine, Program
from lattice_ml.chains.failures import RunError, Watch, voice_doubt
from lattice_ml.chains.settings import check_counts, dtype_name, starting_fields
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.split import plan
from lattice_ml.runtime.jax_modes import ordinary

__all__ = [
    "Block",
    "Chains",
    "RunError",
    "block_spans",
    "blocks",
    "check",
    "programs",
    "restored",
    "run",
    "tune",
    "warm_up_step",
    "warming",
]


_BLOCKS = 10**6  # and shards of a run
_CHUNKS = 100  # of the warm-up; the tuner learns after each
_SMALL = 1 << 24  # bytes that a call may clear without being felt: a program takes longer


class Block(NamedTuple):
    """Consecutive kept configurations of all chains, and the state to go on from."""

    first: int  # index of the first configuration
    trajectory: np.ndarray  # (n,) trajectories since the start, at each configuration
    cfgs: np.ndarray | None  # (n, len(chains), *L)
    history: dict[str, np.ndarray]  # (n, n_chains) each, float64
    state: dict[str, np.ndarray]  # (len(chains), ...) each
    tuned: dict[str, float]  # what the warm-up fixed
    chains: range  # of this process; all of them where it is alone


@dataclass(frozen=True)
class Chains:
    """Configurations and histories in memory, read like an ensemble on disk."""

    action: Any
    shape: tuple[int, ...]
    thin: int
    cfgs: np.ndarray  # (n_configs * n_chains, *L), all chains of one configuration together
    histories: dict[str, np.ndarray]  # (n_chains, n_configs)
    tuned: dict[str, float]
    temperature: float = field(default=1.0, kw_only=True)  # alpha of exp(-S/alpha)
    kind: str = field(default="", kw_only=True)  # of the sampler, such as HMC+Wolff

    @property
    def n_chains(self) -> int:
        return len(next(iter(self.histories.values())))

    @property
    def n_configs(self) -> int:
        return int(next(iter(self.histories.values())).shape[1])

    @property
    def history(self) -> tuple[str, ...]:
        return tuple(self.histories)

    def series(self, name: str) -> np.ndarray:
        """History `name`, `(n_chains, n_configs)`."""
        return self.histories[name]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first sample, configurations), as an ensemble on disk yields them."""
        yield 0, self.cfgs


@ordinary()
def run(
    key: jax.Array,
    sampler: Any,
    lattice: Lattice,
    *,
    n_chains: int,
    n_configs: int,
    n_thermalise: int = 500,
    thin: int = 1,
    start: str | np.ndarray | jax.Array = "hot",
    dtype: Any = "float32",
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
    counts = {"n_configs": n_configs, "n_thermalise": n_thermalise, "thin": thin}
    check(sampler, lattice, n_chains=n_chains, split=split, **counts)
    if n_thermalise:  # else the way from the start is what is wanted
        voice_doubt(sampler)
    name = dtype_name(dtype)
    parts = list(
        blocks(
            key,
            sampler,
            lattice,
            n_chains=n_chains,
            n_configs=n_configs,
            n_thermalise=n_thermalise,
            thin=thin,
            start=starting_fields(start, name),
            dtype=name,
            split=split,
        )
    )
    cfgs = np.concatenate([part.cfgs for part in parts if part.cfgs is not None])
    histories = {
        name: np.concatenate([part.history[name] for part in parts]).T for name in parts[0].history
    }
    flat = cfgs.reshape(-1, *lattice.shape)
    made_by: dict[str, Any] = {"kind": _kind(sampler)}
    made_by["temperature"] = float(getattr(sampler, "temperature", 1.0))
    return Chains(sampler.action, lattice.shape, thin, flat, histories, parts[-1].tuned, **made_by)


def check(sampler: Any, lattice: Lattice, *, n_chains: int, split: int = 1, **counts: int) -> None:
    """Refuse a run that cannot be.

    Raises:
        ValueError: naming a setting, its value and what is allowed.
    """
    check_counts({"n_chains": n_chains, **counts})
    if problem := getattr(sampler, "incomplete", ""):
        raise ValueError(problem)
    getattr(sampler.action, "check", lambda ndim: None)(lattice.ndim)
    if split > 1:
        _check_splits(sampler)
    plan(lattice.shape, n_chains, split)


def blocks(
    key: jax.Array,
    sampler: Any,
    lattice: Lattice,
    *,
    n_chains: int,
    n_configs: int,
    n_thermalise: int,
    thin: int,
    start: str | np.ndarray,
    dtype: str,
    split: int = 1,
    save_configs: bool = True,
    resume: tuple[int, dict[str, np.ndarray], dict[str, float]] | None = None,
    block_configs: int | None = None,
    on_warm_up: Callable[[int, Any], None] = lambda trajectory, sampler: None,
) -> Iterator[Block]:
    """Yield a run block by block; see `run` for the arguments they share.

    Args:
        save_configs: without it blocks carry histories and the state only.
        resume: (configurations done, state, tuned) as the last block gave them.
        block_configs: configurations per block; by default what fits 64 MiB, at most 4096.
        on_warm_up: called with the trajectories done and the sampler as tuned so far.
    """
    counts = {"n_configs": n_configs, "n_thermalise": n_thermalise, "thin": thin}
    check(sampler, lattice, n_chains=n_chains, split=split, **counts)
    engine = Engine(key, lattice, n_chains, dtype, split)
    program, warm = programs(engine, n_configs, n_thermalise, thin, save_configs)
    asked = sampler
    if resume is None:
        done, first = 0, engine.start(asked, start)
        sampler, state = _warmed(warm, asked, first, n_thermalise, on_warm_up)
        tuned = sampler.tuned()
    else:
        done, arrays, tuned = resume
        sampler = restored(asked, tuned)
        state = engine.load(sampler, arrays)
    spans = block_spans(program, done, n_configs, thin * sampler.forces, block_configs)
    watch = Watch(sampler, asked, thermalised=n_thermalise > 0)

    def launch(state: Any, done: int, n: int) -> tuple[Any, Any]:
        first = n_thermalise + done * thin
        state, output = program(sampler, state, first, n, thin)
        return state, (done, first + thin * np.arange(1, n + 1), output)

    if spans:
        state, running = launch(state, *spans[0])
    for position in range(len(spans)):
        (index, trajectory, output), arrays = running, engine.unload(state)
        if position + 1 < len(spans):  # the devices go on while this block is stored
            state, running = launch(state, *spans[position + 1])
        cfgs, history = program.collect(output)
        watch.check(history, trajectory, thin)
        block = Block(index, trajectory, cfgs, history, arrays, tuned, engine.chains)
        del output, cfgs  # the largest arrays: nothing else may hold them
        yield block
        del block


def programs(
    engine: Engine, n_configs: int, n_thermalise: int, thin: int, save_configs: bool
) -> tuple[Program, Program]:
    """The programs of production and of warm-up, which are one where that is as fast."""
    room = 1 << (int(n_configs) - 1).bit_length()  # so that similar lengths share a program
    size = min(engine.buffer_configs(thin, save_configs), room)
    slots = max(size * thin, warm_up_step(n_thermalise))
    program = engine.program(size=size, slots=slots, save=save_configs)
    if program.bytes <= _SMALL:  # one compilation serves both
        return program, program
    return program, engine.program(size=1, slots=warm_up_step(n_thermalise), save=False)


def warm_up_step(n_thermalise: int) -> int:
    """Trajectories after each of which the tuner learns."""
    return max(1, n_thermalise // _CHUNKS)


def block_spans(
    program: Program, done: int, n_configs: int, forces: int, block_configs: int | None = None
) -> list[tuple[int, int]]:
    """(first configuration, number) of the blocks still to do; they end at multiples of a length.

    Args:
        program: of the production.
        done, n_configs: configurations that there are and that are asked for.
        forces: per configuration.
        block_configs: the length; chosen by default.

    Raises:
        ValueError: there are too many for one directory.
    """
    step = min(block_configs or program.engine.block_configs(forces), program.size)
    if (n_configs - done) // step > _BLOCKS:
        raise ValueError(
            f"chain.n_configs must be at most {done + _BLOCKS * step}, which {_BLOCKS} blocks of "
            f"{step} hold, got {n_configs}"
        )
    edges = [done, *range(done - done % step + step, n_configs, step), n_configs]
    return [(a, b - a) for a, b in pairwise(edges) if b > a]


def restored(sampler: Any, tuned: Mapping[str, float]) -> Any:
    """The sampler with what an earlier warm-up has fixed."""
    return getattr(sampler, "retuned", partial(replace, sampler))(**tuned)


def tune(
    key: jax.Array,
    sampler: Any,
    lattice: Lattice,
    *,
    n_chains: int,
    n_thermalise: int,
    start: str | np.ndarray = "hot",
    dtype: str = "float32",
) -> Any:
    """The sampler with what a warm-up fixes; the chains are thrown away. Arguments as of `run`."""
    check(sampler, lattice, n_chains=n_chains, n_thermalise=n_thermalise)
    engine = Engine(key, lattice, n_chains, dtype)
    _, warm = programs(engine, 1, n_thermalise, 1, save_configs=True)
    for _, tuned, _, _ in warming(warm, sampler, engine.start(sampler, start), n_thermalise):
        sampler = tuned
    return sampler


def _warmed(
    program: Program,
    asked: Any,
    state: Any,
    n_thermalise: int,
    on_warm_up: Callable[[int, Any], None],
) -> tuple[Any, Any]:
    """The sampler as tuned and the state after the warm-up, the last quarter of it unchanged."""
    watch, before = Watch(asked, asked, thermalised=False), 0
    for done, sampler, new, history in warming(program, asked, state, n_thermalise):
        if done:
            final = before >= 0.75 * n_thermalise
            watch.check_warm_up(history, done, done - before, final=final)
            on_warm_up(done, sampler)
        before, state = done, new
    return sampler, state


def warming(
    program: Program, sampler: Any, state: Any, n_thermalise: int
) -> Iterator[tuple[int, Any, Any, dict[str, np.ndarray]]]:
    """Thermalise and tune in steps: trajectories done, the sampler as tuned so far, the state.

    The first step does nothing yet.  Each consumes the state of the one before, and yields the
    averages over its trajectories, `(1, n_chains)`, too; what the last yields is frozen.
    """
    engine = program.engine
    tuner = sampler.tuner(engine.lattice, n_thermalise)
    chunk = warm_up_step(n_thermalise)
    done = 0
    yield done, tuner.sampler, state, {}
    while done < n_thermalise:
        n = min(chunk, n_thermalise - done)
        state, output = program(tuner.sampler, state, done, 1, n)
        _, history = program.collect(output)
        done += n
        per_chain = {name: value[0] for name, value in history.items()}
        tuner.update(done, per_chain, partial(engine.fields, state))
        yield done, tuner.sampler, state, history


def _check_splits(sampler: Any) -> None:
    if not getattr(sampler, "splits", False):
        raise ValueError(
            f"{_kind(sampler)} cannot be used with split, because it needs whole lattices: "
            "HMC, Langevin without fourier_mass_squared, MALA and Kramers can, "
            "such as --sampler.kind HMC"
        )


def _kind(sampler: Any) -> str:
    return "+".join(getattr(sampler, "kinds", [type(sampler).__name__]))
