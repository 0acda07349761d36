"""`generate`: run chains into a directory that survives whatever interrupts it."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from lattice_ml.chains.blocks import blocks, check
from lattice_ml.chains.engine import BLOCK_BYTES
from lattice_ml.chains.failures import voice_doubt
from lattice_ml.jobs.job import Job
from lattice_ml.runtime import memory
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.printable import shape_label
from lattice_ml.runtime.processes import team
from lattice_ml.runtime.session import Interrupted, Progress, Watch, provenance, watching
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.storage.config_file import write_config
from lattice_ml.storage.ensemble import EnsembleOnDisk, open_ensemble
from lattice_ml.storage.run import Run, StorageError, open_run

__all__ = ["Interrupted", "generate", "starting_fields"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHOWN = ("acceptance", "swap_acceptance")  # of the histories, while a run goes on


@ordinary()
def generate(
    job: Job,
    out: str | os.PathLike[str],
    *,
    time_limit: float | None = None,
    block_configs: int | None = None,
    split: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> EnsembleOnDisk:
    """Produce the ensemble that `job` describes in directory `out`, or continue it.

    Where JAX has several processes all of them call this, and each runs and writes its share of
    the chains; `out` must be on a file system that they share.

    Args:
        job: a `Job`, or what `read_job` makes of a TOML file.
        out: a new or empty directory, or one that an equal job began.
        time_limit: seconds after which no new block is started.
        block_configs: configurations per chain in one shard; chosen from the size by default.
            The configurations do not depend on it.
        split: devices over which each lattice is spread, 1 or an even divisor of its first extent;
            the configurations do not depend on it either.
        on_progress: called during warm-up and after every block.

    Returns:
        The complete ensemble.

    Raises:
        StorageError: `out` holds something else or an altered shard, or the config differs.
        Interrupted: SIGINT, SIGTERM or the time limit; call again to go on.
        ValueError: settings that make no sense, or a lattice that cannot be split so.
        RunError: the dynamics diverged, or a chain does not move.
        PeerError: another process failed.
        OSError: the file system refuses.
    """
    settings, processes = job.chain, team()
    check(job.sampler, job.lattice, settings, split)
    voice_doubt(job.sampler)
    _check_memory(job)

    def warm(done: int, sampler: Sampler, watch: Watch) -> None:
        on_progress(Progress("warm-up", done, settings.n_thermalise, sampler.tuned()))
        watch.agree(processes)
        if watch.caught:  # not at a time limit, which a long warm-up would never get past
            watch.stop(" during the warm-up: nothing was kept yet; the same command starts again")

    begun = any(Path(out).glob("shards/*.h5"))  # then the chains go on from there
    start = "hot" if begun else starting_fields(settings.start)
    run = open_run(out, job.config, provenance=provenance("generate"), team=processes)
    with run, watching(time_limit) as watch, _saying_what_is_safe(run, settings.n_configs):
        processes.first(lambda: write_config(run.directory, job.config))
        state = run.state()
        parts = blocks(
            jax.random.key(job.seed),
            job.sampler,
            job.lattice,
            settings,
            start=start,
            dtype=job.output.dtype,
            split=split,
            save_configs=job.output.save_configs,
            resume=(run.n_done, state, run.tuned) if state is not None else None,
            block_configs=block_configs,
            on_warm_up=lambda done, sampler: warm(done, sampler, watch),
        )
        for part in parts:
            if not run.n_done:
                run.record(**part.tuned)
            own = slice(part.chains.start, part.chains.stop)
            history = {name: values[:, own] for name, values in part.history.items()}
            run.append(part.trajectory, part.cfgs, history, part.state, chains=part.chains)
            shown = {name: float(x.mean()) for name, x in part.history.items() if name in _SHOWN}
            done, details = (run.n_done, settings.n_configs), shown | part.tuned
            on_progress(Progress("production", *done, details, part.history["magnetisation"]))
            del part, history  # the next block needs their memory
            if run.n_done < settings.n_configs and watch.agree(processes):
                run.finish()
                watch.stop(
                    f": {run.n_done} of {settings.n_configs} configurations per chain are "
                    f"safe in {run.directory}; the same command goes on from there"
                )
        run.finish()
    return open_ensemble(out)


def _check_memory(job: Job) -> None:
    """Refuse a job whose fields the host cannot hold, before it takes the time to find out.

    Counted is what every run needs at least: the state on its way to the devices and back; a block
    and its file; and where the devices are the host's cores, the state and two blocks once more.
    """
    n_chains = -(-job.chain.n_chains // jax.process_count())
    state = n_chains * job.lattice.volume * np.dtype(job.output.dtype).itemsize
    block = min(max(state, BLOCK_BYTES), job.chain.n_configs * state) * job.output.save_configs
    on_cores = state + 2 * block if jax.default_backend() == "cpu" else 0
    what = f"{n_chains:,} chains of {shape_label(job.lattice.shape)}"
    remedy = "fewer chains, a smaller lattice or --output.dtype float32 take less"
    memory.require(2 * (state + block) + on_cores, what, remedy)


@contextmanager
def _saying_what_is_safe(run: Run, n_configs: int) -> Iterator[None]:
    """Add to an error of the file system what it left and what to do."""
    try:
        yield
    except OSError as error:
        remedy = "free or find space" if error.errno in _FULL else "mend that"
        raise OSError(
            error.errno,
            f"{error.strerror}: {run.n_done} of {n_configs} configurations per chain are safe in "
            f"{run.directory}; {remedy}, and the same command goes on from there",
            error.filename,
        ) from error


def starting_fields(start: str) -> str | np.ndarray:
    """Resolve chain.start: hot, cold, or the last configurations of an ensemble."""
    if start in ("hot", "cold"):
        return start
    try:
        ensemble = open_ensemble(start)
    except StorageError as error:
        said = "chain.start must be hot, cold or the path of an ensemble"
        raise StorageError(f"{said}: {error}") from error
    return np.asarray(ensemble.cfgs[-ensemble.n_chains :])
