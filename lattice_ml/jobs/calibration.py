"""A short run of a job's real programs on its real lattice, for what they take of time and memory.

The programs are those that `generate` compiles, and XLA says what they need of a device.  The
warm-up is that of the real tuner, cut to some seconds; where all of it fits its settings are
exactly those of the run.  Nothing is written but JAX's cache of compiled programs.

Of a job with so many sites that a few trajectories take minutes, or that no memory here holds, a
part is measured, fewer chains or a smaller lattice, and what grows with the sites is multiplied.
"""

import hashlib
import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from lattice_ml.chains.blocks import programs, warming
from lattice_ml.chains.engine import Engine
from lattice_ml.chains.program import Program
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.split import plan
from lattice_ml.jobs.generate import starting_fields
from lattice_ml.jobs.job import Job
from lattice_ml.runtime import memory
from lattice_ml.runtime.devices import return_freed_memory
from lattice_ml.runtime.printable import shape_label
from lattice_ml.samplers.sampler import Sampler, State
from lattice_ml.storage import files

__all__ = ["Begun", "Calibration", "calibrate"]

Begun = tuple[dict[str, np.ndarray], dict[str, float]]  # state and settings that a run goes on from

_SECONDS = 3.0  # of warm-up, and half as many of production
_FEWEST = 20  # trajectories of a warm-up that says something
_TURNS = 8  # of measurements of production, of which the fastest counts
_GROWTH = 3  # later trajectories are longer than the first
_SITES = 1 << 24  # of all chains, beyond which a part of them is measured
_FORCES = 1 << 30  # on sites: some seconds
_PATIENCE = 1 << 6  # as many times as long a single trajectory may be
_IMAGE = 1 << 28  # bytes of a file, beyond which a smaller one is made
_OVERHEAD = 1 << 15  # bytes of a file beside its rows, and ...
_PER_CHUNK = 64  # ... for each of their chunks of a MiB
_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of what the system counts


@dataclass(frozen=True)
class Tuning:
    """A warm-up, cut where it would take too long."""

    sampler: Sampler  # with the settings that it ended at
    state: State
    n_trajectories: int
    forces: tuple[int, int]  # per trajectory, least and most over the second half
    seconds: float  # of a step of the warm-up at its end
    step: int  # trajectories in that
    total: float  # seconds


@dataclass(frozen=True)
class Calibration:
    """What was measured.  Seconds are of all chains together, bytes of one device or the host."""

    program: Program
    tuning: Tuning
    state: Mapping[str, np.ndarray]  # (chains of this process, ...) each, as a shard holds it
    histories: tuple[str, ...]
    setup: float  # seconds until the first trajectory: starts and compilation
    per_block: float  # seconds that a block takes whatever its length
    per_config: float  # seconds per kept configuration
    arguments: int  # bytes of a device: fields, keys, couplings
    block: int  # bytes of a device: the room for what one call returns
    temporaries: int  # bytes of a device
    resident: int  # bytes of the host before any block
    peak: int  # bytes that the host took for compiling
    part: str = ""  # what was measured where all of the job would take too long

    def shard(self, n_configs: int, n_chains: int) -> tuple[int, float]:
        """Bytes of the file of `n_configs` configurations per chain, and seconds to make it."""
        engine, n = self.program.engine, n_configs * n_chains
        row = 8 * (2 + len(self.histories))
        row += engine.lattice.volume * np.dtype(engine.dtype).itemsize * self.program.save
        size = n * row + sum(a.nbytes // len(a) * n_chains for a in self.state.values())
        if size > _IMAGE:
            begin = time.monotonic()
            image = files.shard_image({"chain": np.zeros(_IMAGE // 64, np.int64)}, {})
            hashlib.sha256(image).digest()
            rate = (time.monotonic() - begin) / image.nbytes
            return size + _OVERHEAD + (size >> 20) * _PER_CHUNK, size * rate
        begin = time.monotonic()

        def column(dtype: npt.DTypeLike, *row: int, rows: int = n) -> np.ndarray:
            return np.broadcast_to(np.zeros((), dtype), (rows, *row))

        rows = {f"history/{name}": column(np.float64) for name in self.histories}
        rows |= {"chain": column(np.int64), "trajectory": column(np.int64)}
        if self.program.save:
            rows["cfgs"] = column(engine.dtype, *engine.lattice.shape)
        state = {x: column(a.dtype, *a.shape[1:], rows=n_chains) for x, a in self.state.items()}
        image = files.shard_image(rows, state)
        hashlib.sha256(image).digest()
        return image.nbytes, time.monotonic() - begin


def calibrate(job: Job, begun: Begun | None = None, split: int = 1) -> Calibration:
    """Measure a job, or a part of a large one, on the devices of all processes together.

    A run that was `begun` goes on from there, without a warm-up.
    """
    part = _part(job, split)
    if part is job:
        return _measured(job, begun, split)
    found = _measured(part, begun and ({}, begun[1]), split)
    return _enlarged(found, part, job, split)


def _part(job: Job, split: int) -> Job:
    """As much of a job as some seconds allow: fewer chains, shorter sides, less thinning.

    Raises:
        ValueError: a single trajectory takes too long.
    """
    shape, n_chains = list(job.lattice.shape), job.chain.n_chains
    if n_chains * math.prod(shape) > _SITES:
        least = min(n_chains, jax.device_count())  # so that all devices are busy
        n_chains = max(least, min(n_chains, _SITES // math.prod(shape)))
    first = 1 if split > 1 else 0  # slabs of the first axis keep their length
    while n_chains * math.prod(shape) > _SITES and max(shape[first:], default=0) >= 4:
        longest = shape.index(max(shape[first:]), first)
        shape[longest] //= 2
    lattice, wanted = Lattice(tuple(shape)), job.chain
    forces = int(job.sampler.tuner(lattice, wanted.n_thermalise).sampler.forces)
    each = forces * n_chains * lattice.volume
    if each > _FORCES * _PATIENCE:
        raise ValueError(
            f"a trajectory of {forces:,} forces on {lattice.volume:,} sites of {n_chains:,} chains "
            f"is too long to be tried: make n_steps or trajectory_length smaller"
        )
    thin = min(wanted.thin, max(1, _FORCES // each))
    if (n_chains, lattice, thin) == (wanted.n_chains, job.lattice, wanted.thin):
        return job
    start = wanted.start if lattice == job.lattice or wanted.start == "cold" else "hot"
    run = replace(wanted, n_chains=n_chains, thin=thin, start=start)
    return replace(job, lattice=lattice, chain=run)


def _enlarged(found: Calibration, part: Job, job: Job, split: int) -> Calibration:
    """What was measured of a part, for the whole job."""
    wanted, save = job.chain, job.output.save_configs
    engine = _Outline(job.lattice, wanted.n_chains, job.output.dtype, split)
    program, _ = programs(engine, wanted, save_configs=save)
    small = found.program.engine
    sites, measured = (len(e.slots) * e.lattice.volume for e in (engine, small))
    ratio = sites / measured
    n, shape = len(engine.chains), part.lattice.shape

    def whole(array: np.ndarray) -> np.ndarray:
        """An array of the state in its size, which takes no memory."""
        per_site = array.shape[array.ndim - len(shape) :] == shape
        row = (*array.shape[1 : array.ndim - len(shape)], *job.lattice.shape)
        return np.broadcast_to(np.zeros((), array.dtype), (n, *(row if per_site else ())))

    row = 8 * len(found.histories) + engine.lattice.volume * np.dtype(engine.dtype).itemsize * save
    few, thin = part.chain.n_chains, part.chain.thin
    slots, tuning = program.slots / found.program.slots, found.tuning
    thinned = f", thinned by {thin:,}" * (thin < wanted.thin)
    return replace(
        found,
        program=program,
        tuning=replace(tuning, seconds=tuning.seconds * ratio, total=tuning.total * ratio),
        state={name: whole(array) for name, array in found.state.items()},
        per_config=found.per_config * ratio * wanted.thin / thin,
        arguments=int(found.arguments * ratio),
        block=program.size * len(engine.slots) * row // len(engine.mesh.local_devices),
        temporaries=int(found.temporaries * ratio * max(1, slots)),
        part=f"{few:,} chain{'s' * (few > 1)} of {shape_label(shape)}{thinned}",
    )


class _Outline(Engine):
    """The sizes of an engine, without keys and slots of every chain; it runs nothing."""

    def __init__(self, lattice: Lattice, n_chains: int, dtype: str, split: int) -> None:
        self.lattice, self.n_chains, self.dtype = lattice, n_chains, dtype
        self.layout, self.mesh, self.n_groups = plan(lattice.shape, n_chains, split)
        here = self.n_groups // jax.process_count()
        self.slots: Any = range(here * self.layout.group)
        self.chains = self.share(jax.process_index())


def _measured(job: Job, begun: Begun | None, split: int) -> Calibration:
    """Measure all of a job; without the state of a run that was begun it starts anew."""
    wanted, begin = job.chain, time.monotonic()
    key = jax.random.key(job.seed)
    engine = Engine(key, job.lattice, wanted.n_chains, job.output.dtype, split)
    program, warm = programs(engine, wanted, save_configs=job.output.save_configs)
    if begun is None:
        sampler = job.sampler.tuner(job.lattice, wanted.n_thermalise).sampler
        state = engine.start(job.sampler, starting_fields(wanted.start))
    else:
        sampler = job.sampler.retuned(**begun[1])
        state = engine.load(sampler, begun[0]) if begun[0] else engine.start(sampler, "hot")
    needs = [p.memory(sampler, state) for p in ((program,) if warm is program else (program, warm))]
    setup = time.monotonic() - begin
    return_freed_memory()  # of the compiler: blocks take its place
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    resident = memory.used()["memory"] or peak

    if begun is None and wanted.n_thermalise:
        tuning = _tune(job, warm, sampler, state)
    else:
        forces = int(sampler.forces)
        tuning = Tuning(sampler, state, 0, (forces, forces), 0.0, 1, 0.0)
    sampler, state = tuning.sampler, tuning.state

    def produce(n: int) -> tuple[float, Mapping[str, np.ndarray]]:
        nonlocal state
        begin = time.monotonic()
        state, output = program(sampler, state, wanted.n_thermalise, n, wanted.thin)
        _, history = program.collect(output)
        return time.monotonic() - begin, history

    one, history = min((produce(1) for _ in range(2)), key=lambda found: found[0])
    many = min(program.size, max(2, int(_SECONDS / 4 / one)))
    all_of_them, until = math.inf, time.monotonic() + _SECONDS / 2
    for turn in range(_TURNS):
        if turn and time.monotonic() > until:
            break
        one, all_of_them = min(one, produce(1)[0]), min(all_of_them, produce(many)[0])
    per_config = max(0.0, all_of_them - one) / (many - 1) if many > 1 else min(one, all_of_them)
    return Calibration(
        program=program,
        tuning=tuning,
        state=engine.unload(sampler, state),
        histories=tuple(history),
        setup=setup,
        per_block=max(0.0, one - per_config),
        per_config=per_config,
        arguments=max(need.argument_size_in_bytes for need in needs),
        block=max(need.output_size_in_bytes - need.alias_size_in_bytes for need in needs),
        temporaries=max(need.temp_size_in_bytes for need in needs),
        resident=resident,
        peak=peak,
    )


def _tune(job: Job, warm: Program, sampler: Sampler, state: State) -> Tuning:
    """As much of the warm-up as some seconds allow, at least `_FEWEST` trajectories of it."""
    spare = jax.tree.map(jnp.copy, state)
    times = []
    for _ in range(2):
        begin = time.monotonic()
        spare, output = warm(sampler, spare, 0, 1, 1)
        warm.collect(output)
        times.append(time.monotonic() - begin)
    fits = max(_FEWEST, int(_SECONDS / (_GROWTH * min(times))))
    n = min(job.chain.n_thermalise, fits)

    begin = time.monotonic()
    steps = []  # (trajectories done, forces of the next, seconds so far)
    for step in warming(warm, job.sampler, state, n):
        done, sampler, reached, _ = step
        steps.append((done, int(sampler.forces), time.monotonic() - begin))
        if steps[-1][2] > 2 * _SECONDS and done >= min(n, _FEWEST // 4):
            break
    half = steps[len(steps) // 2 :]
    last = [(b[0] - a[0], b[2] - a[2]) for a, b in pairwise(half)]
    last = last or [(steps[-1][0], steps[-1][2])]
    forces = [step[1] for step in half]
    return Tuning(
        sampler=sampler,
        state=reached,
        n_trajectories=steps[-1][0],
        forces=(min(forces), max(forces)),
        seconds=float(np.median([seconds for _, seconds in last])),
        step=last[0][0],
        total=steps[-1][2],
    )
