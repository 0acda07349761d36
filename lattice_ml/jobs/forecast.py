"""What a run would take of devices, memory, disk and time, without running it.

`forecasts` is behind `generate --dry-run`.  Devices and layout are those of the engine; memory is
what XLA counts for the compiled programs, and the blocks on the host; files have the bytes that
they have when they are made of zeros; seconds follow from a short calibration
(`jobs/calibration.py`), which takes as long whatever the size of the job.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from lattice_ml.chains.blocks import block_spans, check, warm_up_step
from lattice_ml.jobs.calibration import Calibration, calibrate
from lattice_ml.jobs.job import Job
from lattice_ml.runtime import memory
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.session import provenance
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.storage import files, seals, shards
from lattice_ml.storage import run as storage
from lattice_ml.storage.config_file import as_toml
from lattice_ml.storage.manifests import Entry

__all__ = ["Devices", "Disk", "Forecast", "Memory", "Seconds", "forecasts"]

_LENGTHS = ("trajectory_length", "n_steps", "step_size")
_INDEXED = 256  # shards, from which on the size of the index is extrapolated


@dataclass(frozen=True)
class Devices:
    """Where the chains live."""

    platform: str
    kind: str
    n_devices: int  # that take part, of all processes
    n_processes: int
    mesh: Mapping[str, int]  # devices by axis
    groups: int  # of chains, on a device
    group: int  # chains that are advanced together
    layout: str  # of a group, "lanes" or "merged"
    idle: int  # places in groups that no chain of the run takes


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    state: int  # of a device: fields, keys, couplings
    blocks: int  # of a device: one is computed while the one before is stored
    temporaries: int  # of a device
    device: int  # all of it
    device_limit: int | None
    process: int  # peak of the host, that of its own devices included where they are its cores
    process_limit: int


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    n_shards: int
    shard: int  # the largest
    total: int  # of the complete ensemble, what there is already included
    to_write: int
    per_config: float
    free: int


@dataclass(frozen=True)
class Seconds:
    """Wall clock; `low` and `high` of the total go with the least and the most `forces`."""

    setup: float  # starts and compilation, which the cache may save
    warm_up: float
    production: float
    total: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What one job would take."""

    directory: str
    n_configs: int  # per chain
    n_done: int  # of them, on disk
    block_configs: int  # per chain and shard
    sampler: str
    tuned: dict[str, float]  # by the calibration, or by the warm-up of the run that was begun
    forces: tuple[int, int, int]  # per trajectory: least and most in the calibration, and assumed
    calibrated: int  # trajectories of the calibration's warm-up
    shared: bool  # it was that of an earlier job
    part: str  # of the job that was calibrated; empty where it was all of it
    devices: Devices
    memory: Memory
    disk: Disk
    seconds: Seconds


def forecasts(
    jobs: Iterable[tuple[Job, str | os.PathLike[str]]], split: int = 1
) -> Iterator[Forecast]:
    """Forecast jobs and their directories; jobs that share their programs share a calibration.

    Where JAX has several processes all of them call this.

    Raises:
        StorageError: a directory that `generate` would refuse.
        RunError, ValueError: as `generate`.
    """
    known: dict[str, Calibration] = {}
    for job, out in jobs:
        manifest = storage.look(out, job.config)
        check(job.sampler, job.lattice, job.chain, split)  # as `generate` does
        state = shards.read_state(Path(out), manifest) if manifest else None
        begun = (state, manifest["tuned"]) if manifest and state else None
        tables = {name: job.config[name] for name in ("lattice", "chain", "output")}
        programs = json.dumps(tables) + str(jax.tree.structure(job.sampler))
        shape = programs + str(manifest is None)
        shared = shape in known
        if not shared:
            known[shape] = calibrate(job, begun, split)
        yield _forecast(job, Path(out), manifest, known[shape], shared)


def _forecast(
    job: Job, out: Path, manifest: Section | None, calibration: Calibration, shared: bool
) -> Forecast:
    tuning, program = calibration.tuning, calibration.program
    entries = list(manifest["shards"]) if manifest else []
    n_done, n_configs = shards.n_configs(entries), job.chain.n_configs
    sampler = _settled(job, manifest, tuning.sampler, shared)
    forces = int(sampler.forces)
    known = sampler is not tuning.sampler or not tuning.n_trajectories
    low, high = (forces, forces) if known else tuning.forces
    spans = block_spans(program, n_done, n_configs, job.chain.thin * forces)
    longest = max((n for _, n in spans), default=0)
    engine = program.engine
    own = {n: calibration.shard(n, len(engine.chains)) for n in {n for _, n in spans}}
    disk = _disk(job, out, manifest, spans, calibration, sampler.tuned())

    scale = forces / int(tuning.sampler.forces)
    per_trajectory = calibration.per_config * scale / job.chain.thin
    warm_up = 0.0 if manifest else _warm_up(job, calibration, per_trajectory)
    left = sum(n for _, n in spans)
    computing = len(spans) * calibration.per_block + scale * calibration.per_config * left
    storing = sum(own[n][1] for _, n in spans)
    cores = len(engine.mesh.local_devices) if jax.default_backend() == "cpu" else math.inf
    # A core that stores a block does not compute; a GPU goes on meanwhile.
    production = max(computing + storing / cores, storing)
    setup = calibration.setup if spans and not shared else 0.0
    spread = warm_up + production
    return Forecast(
        directory=str(out),
        n_configs=n_configs,
        n_done=n_done,
        block_configs=longest,
        sampler=job.config["sampler"]["kind"],
        tuned=sampler.tuned(),
        forces=(min(low, forces), max(high, forces), forces),
        calibrated=0 if known else tuning.n_trajectories,
        shared=shared,
        part=calibration.part,
        devices=_devices(calibration),
        memory=_memory(calibration, longest, own[longest][0] if own else 0),
        disk=disk,
        seconds=Seconds(
            setup=setup,
            warm_up=warm_up,
            production=production,
            total=setup + spread,
            low=setup + spread * min(1.0, low / forces),
            high=setup + spread * max(1.0, high / forces),
        ),
    )


def _settled(job: Job, manifest: Section | None, calibrated: Sampler, shared: bool) -> Sampler:
    """The sampler with the settings of the run, or its own, or else those of the calibration."""
    if manifest:
        return job.sampler.retuned(**manifest["tuned"])
    if not shared:
        return calibrated
    free = {name for name in _LENGTHS if job.config["sampler"].get(name) == "auto"}
    if "n_steps" in free and len(free) > 1:
        return calibrated
    return job.sampler.tuner(job.lattice, job.chain.n_thermalise).sampler


def _warm_up(job: Job, calibration: Calibration, per_trajectory: float) -> float:
    """Seconds of the whole warm-up, the pauses in which the tuner learns included."""
    tuning, n = calibration.tuning, job.chain.n_thermalise
    if tuning.n_trajectories == n:
        return tuning.total
    pause = max(0.0, tuning.seconds - tuning.step * per_trajectory)
    return math.ceil(n / warm_up_step(n)) * pause + n * per_trajectory


def _devices(calibration: Calibration) -> Devices:
    engine = calibration.program.engine
    mesh, layout = engine.mesh, engine.layout
    device = mesh.devices.flat[0]
    return Devices(
        platform=device.platform,
        kind=device.device_kind,
        n_devices=mesh.size,
        n_processes=jax.process_count(),
        mesh=dict(mesh.shape),
        groups=engine.n_groups // mesh.shape["chains"],
        group=layout.group,
        layout="merged" if layout.merged else "lanes",
        idle=engine.n_groups * layout.group - engine.n_chains,
    )


def _memory(calibration: Calibration, n: int, shard: int) -> Memory:
    """Memory of a run whose longest blocks have `n` configurations and `shard` bytes in a file."""
    engine, save = calibration.program.engine, calibration.program.save
    devices = engine.mesh.local_devices
    blocks = 2 * calibration.block
    cores = len(devices) if devices[0].platform == "cpu" else 0
    held = n * len(engine.slots) * engine.lattice.volume
    held *= np.dtype(engine.dtype).itemsize * save
    padded = len(engine.slots) > len(engine.chains)
    # The state; a block as chains, once more without the idle places; and its file, made in
    # memory that grows, so that in the end the file is there twice.
    state = sum(array.nbytes for array in calibration.state.values())
    host = state + held * (2 if padded else 1) + 2 * shard
    arrays = cores * (blocks + calibration.temporaries) + host
    device = calibration.arguments + blocks + calibration.temporaries
    return Memory(
        state=calibration.arguments,
        blocks=blocks,
        temporaries=calibration.temporaries,
        device=device,
        device_limit=(devices[0].memory_stats() or {}).get("bytes_limit"),
        process=max(calibration.peak, calibration.resident + arrays),
        process_limit=memory.most(),
    )


def _disk(
    job: Job,
    out: Path,
    manifest: Section | None,
    spans: list[tuple[int, int]],
    calibration: Calibration,
    tuned: Mapping[str, float],
) -> Disk:
    """Bytes of all files: the shards, and those that name them."""
    old = list(manifest["shards"]) if manifest else []
    shares = [calibration.program.engine.share(rank) for rank in range(jax.process_count())]
    shares = [share for share in shares if share]
    kinds = {(n, len(share)) for _, n in spans for share in shares}
    sizes = {kind: calibration.shard(*kind)[0] for kind in kinds}
    made = [(first, n, share) for first, n in spans for share in shares]
    new = [files.blank_entry(*shard, sizes[shard[1], len(shard[2])]) for shard in made]
    names = [f"history/{name}" for name in calibration.histories]
    names += ["chain", "trajectory", *["cfgs"] * job.output.save_configs]
    layout = files.columns_of(job.config, names)
    complete = dict(manifest or {"format_version": files.FORMAT_VERSION}) | {
        "config": job.config,
        "parent": None,
        "provenance": [{"first_config": 0, "made_by": provenance("generate")}],
        "tuned": tuned,
        "shards": [*old, *new],
    }
    named = len(seals.image(complete)) + len(as_toml(job.config))
    named += _index(job.config, [*old, *new], layout)
    parts = [entry["bytes"] for entry in [*old, *new]]
    total, written = sum(parts) + named, sum(entry["bytes"] for entry in old)
    return Disk(
        n_shards=len(parts),
        shard=max(parts),
        total=total,
        to_write=total - written,
        per_config=total / (job.chain.n_configs * job.chain.n_chains),
        free=shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free,
    )


def _index(config: Section, entries: list[Entry], layout: files.Columns) -> int:
    """Bytes of `ensemble.h5`, which grows by as much with every shard."""

    def size(n: int) -> int:
        return shards.index_image(config, entries[:n], layout).nbytes

    n, few = len(entries), _INDEXED
    return size(n) if n <= few else size(few) + (size(few) - size(few // 2)) * (n - few) * 2 // few
