"""The warm-up of a run and its production, block by block, for those who store what it yields."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import as_action
from lattice_ml.chains.engine import Engine
from lattice_ml.chains.failures import Watch
from lattice_ml.chains.program import Output, Program
from lattice_ml.chains.settings import ChainSettings, check_counts
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.split import plan
from lattice_ml.samplers.sampler import Sampler, State

__all__ = ["Block", "block_spans", "blocks", "check", "programs", "warm_up_step", "warming"]

_BLOCKS = 10**6  # and shards of a run
_CHUNKS = 100  # of the warm-up; the tuner learns after each
_SMALL = 1 << 24  # bytes that a call may clear without being felt: a program takes longer
_FEW_SITES = 1 << 13  # of all chains: then more room in a program costs at most 1 ms per call ...
_ROOM, _SLOTS = 64, 256  # ... up to so many configurations and trajectories


_Running = tuple[int, np.ndarray, Output]  # first configuration, trajectories, what will be there


class Block(NamedTuple):
    """Consecutive kept configurations of all chains, and the state to go on from."""

    first: int  # index of the first configuration
    trajectory: np.ndarray  # (n,) trajectories since the start, at each configuration
    cfgs: np.ndarray | None  # (n, len(chains), *L)
    history: dict[str, np.ndarray]  # (n, n_chains) each, float64
    state: dict[str, np.ndarray]  # (len(chains), ...) each
    tuned: dict[str, float]  # what the warm-up fixed
    chains: range  # of this process; all of them where it is alone


def check(sampler: Sampler, lattice: Lattice, settings: ChainSettings, split: int = 1) -> None:
    """Refuse a run that cannot be.

    Raises:
        ValueError: naming a setting, its value and what is allowed.
    """
    check_counts(settings)
    if sampler.incomplete:
        raise ValueError(sampler.incomplete)
    as_action(sampler.action).check(lattice.ndim)
    if split > 1 and not sampler.splits:
        raise ValueError(
            f"{'+'.join(sampler.kinds)} cannot be used with split, because it needs whole lattices:"
            " HMC, Langevin without fourier_mass_squared, MALA and Kramers can, "
            "such as --sampler.kind HMC"
        )
    plan(lattice.shape, settings.n_chains, split)


def blocks(
    key: jax.Array,
    sampler: Sampler,
    lattice: Lattice,
    settings: ChainSettings,
    *,
    start: str | np.ndarray | None = None,
    dtype: str = "float32",
    split: int = 1,
    save_configs: bool = True,
    resume: tuple[int, dict[str, np.ndarray], dict[str, float]] | None = None,
    block_configs: int | None = None,
    on_warm_up: Callable[[int, Sampler], None] = lambda trajectory, sampler: None,
) -> Iterator[Block]:
    """Yield a run block by block; see `run` for the arguments they share.

    Args:
        settings: counts, and the start where none is given.
        save_configs: without it blocks carry histories and the state only.
        resume: (configurations done, state, tuned) as the last block gave them.
        block_configs: configurations per block; by default what fits 64 MiB, at most 4096.
        on_warm_up: called with the trajectories done and the sampler as tuned so far.
    """
    check(sampler, lattice, settings, split)
    n_thermalise, n_configs, thin = settings.n_thermalise, settings.n_configs, settings.thin
    engine = Engine(key, lattice, settings.n_chains, dtype, split)
    program, warm = programs(engine, settings, save_configs=save_configs)
    asked = sampler
    if resume is None:
        done, first = 0, engine.start(asked, settings.start if start is None else start)
        sampler, state = _warmed(warm, asked, first, n_thermalise, on_warm_up)
        tuned = sampler.tuned()
    else:
        done, arrays, tuned = resume
        sampler = asked.retuned(**tuned)
        state = engine.load(sampler, arrays)
    spans = block_spans(program, done, n_configs, thin * sampler.forces, block_configs)
    watch = Watch(sampler, asked, thermalised=n_thermalise > 0)

    def launch(state: State, done: int, n: int) -> tuple[State, _Running]:
        first = n_thermalise + done * thin
        state, output = program(sampler, state, first, n, thin)
        return state, (done, first + thin * np.arange(1, n + 1), output)

    if spans:
        state, running = launch(state, *spans[0])
    for position in range(len(spans)):
        (index, trajectory, output), arrays = running, engine.unload(sampler, state)
        if position + 1 < len(spans):  # the devices go on while this block is stored
            state, running = launch(state, *spans[position + 1])
        cfgs, history = program.collect(output)
        watch.check(history, trajectory, thin)
        block = Block(index, trajectory, cfgs, history, arrays, tuned, engine.chains)
        del output, cfgs  # the largest arrays: nothing else may hold them
        yield block
        del block


def programs(
    engine: Engine, settings: ChainSettings, *, save_configs: bool = True
) -> tuple[Program, Program]:
    """The programs of production and of warm-up, which are one where that is as fast.

    Rooms are powers of two, and where there are few sites not below `_ROOM` and `_SLOTS`, so that
    many settings share a program.  Blocks do not depend on that: none is longer than the run.
    """
    chunk, thin, room = warm_up_step(settings.n_thermalise), settings.thin, settings.n_configs
    small = engine.n_chains * engine.lattice.volume <= _FEW_SITES
    if small and _ROOM * thin <= _SLOTS:
        room = max(_ROOM, room)
    size = min(engine.buffer_configs(thin, save_configs), _power_of_two(room))
    slots = max(size * thin, chunk)
    if small:
        slots = _power_of_two(max(_SLOTS, slots))
    program = Program(engine, size, slots, save_configs)
    if program.bytes <= _SMALL:  # one compilation serves both
        return program, program
    return program, Program(engine, 1, chunk, save=False)


def _power_of_two(n: int) -> int:
    """The next one from `n` on."""
    return 1 << (int(n) - 1).bit_length()


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


def _warmed(
    program: Program,
    asked: Sampler,
    state: State,
    n_thermalise: int,
    on_warm_up: Callable[[int, Sampler], None],
) -> tuple[Sampler, State]:
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
    program: Program, sampler: Sampler, state: State, n_thermalise: int
) -> Iterator[tuple[int, Sampler, State, dict[str, np.ndarray]]]:
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
