"""`generate`: run chains into a directory that survives whatever interrupts it."""

import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from lattice_ml import chain
from lattice_ml.config import Job
from lattice_ml.ensemble import Ensemble, open_ensemble
from lattice_ml.storage import Run, StorageError, open_run

__all__ = ["Interrupted", "Progress", "generate"]


class Interrupted(Exception):
    """A signal or the time limit ended the run; what is committed stays and the run can go on."""

    def __init__(self, message: str, signum: int | None) -> None:
        super().__init__(message)
        self.signum = signum


@dataclass(frozen=True)
class Progress:
    """What `generate` reports after every block."""

    phase: str  # "warm-up" or "production"
    done: int  # trajectories or configurations per chain
    total: int
    details: Mapping[str, float]
    magnetisation: np.ndarray | None = None  # (n, n_chains) of this block


def generate(
    job: Job,
    out: str | os.PathLike[str],
    *,
    time_limit: float | None = None,
    block_configs: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Ensemble:
    """Produce the ensemble that `job` describes in directory `out`, or continue it.

    Args:
        job: from `config.parse`.
        out: a new or empty directory, or one that an equal job began.
        time_limit: seconds after which no new block is started.
        block_configs: configurations per chain in one shard; chosen from the size by default.
            The configurations do not depend on it.
        on_progress: called during warm-up and after every block.

    Returns:
        The complete ensemble.

    Raises:
        StorageError: `out` holds something else or an altered shard, or the config differs.
        Interrupted: SIGINT, SIGTERM or the time limit; call again to go on.
        RunError: the dynamics diverged.
        OSError: the file system refuses.
    """
    deadline = time.monotonic() + time_limit if time_limit else float("inf")
    settings = job.chain
    begun = any(Path(out).glob("shards/*.h5"))  # then the chains go on from there
    start = "hot" if begun else _start(settings.start)
    run = open_run(out, job.config, provenance=_provenance(job))
    with run, _signals() as caught:
        _write_config(run.directory, job.config)
        state = run.state()
        parts = chain.blocks(
            jax.random.key(job.seed),
            job.sampler,
            job.lattice,
            n_chains=settings.n_chains,
            n_configs=settings.n_configs,
            n_thermalise=settings.n_thermalise,
            thin=settings.thin,
            start=start,
            dtype=job.output.dtype,
            save_configs=job.output.save_configs,
            resume=(run.n_done, state, run.tuned) if state is not None else None,
            block_configs=block_configs,
            on_warm_up=lambda done, sampler: _warm(done, sampler, job, caught, on_progress),
        )
        for part in parts:
            _commit(run, part)
            acceptance = float(part.history["acceptance"].mean())
            on_progress(
                Progress(
                    "production",
                    run.n_done,
                    settings.n_configs,
                    {"acceptance": acceptance} | part.tuned,
                    part.history["magnetisation"],
                )
            )
            if run.n_done < settings.n_configs and (caught or time.monotonic() > deadline):
                run.finish()
                why = signal.Signals(caught[0]).name if caught else "time limit"
                raise Interrupted(
                    f"{why}: {run.n_done} of {settings.n_configs} configurations per chain are "
                    f"safe in {run.directory}; the same command goes on from there",
                    caught[0] if caught else None,
                )
        run.finish()
    return open_ensemble(out)


def _commit(run: Run, part: chain.Block) -> None:
    if not run.n_done:
        run.record(**part.tuned)
    run.append(part.trajectory, part.cfgs, part.history, part.state)


def _warm(
    done: int,
    sampler: Any,
    job: Job,
    caught: list[int],
    on_progress: Callable[[Progress], None],
) -> None:
    on_progress(Progress("warm-up", done, job.chain.n_thermalise, sampler.tuned()))
    if caught:
        raise Interrupted(
            f"{signal.Signals(caught[0]).name} during the warm-up: nothing was kept yet; the same "
            "command starts again",
            caught[0],
        )


def _start(start: str) -> str | np.ndarray:
    """Resolve chain.start: hot, cold, or the last configurations of an ensemble."""
    if start in ("hot", "cold"):
        return start
    try:
        ensemble = open_ensemble(start)
    except StorageError as error:
        raise StorageError(
            f"chain.start must be hot, cold or the path of an ensemble: {error}"
        ) from error
    return np.asarray(ensemble.cfgs[-ensemble.n_chains :])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a block is finished and committed; a second one kills."""
    caught: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signum, before[signum])

    try:
        before = {int(s): signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are the caller's business
        before = {}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _provenance(job: Job) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "command": "generate",
        "versions": {name: version(name) for name in ("lattice-ml", "jax", "jaxlib", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": device.platform,
        "device": device.device_kind,
        "n_devices": jax.device_count(),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the source tree that this package runs from, if it is one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """The resolved config beside the output, as TOML that `generate` reads."""
    lines = [f"seed = {config['seed']}"]
    for section, table in config.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    (directory / "config.toml").write_text("\n".join(lines) + "\n")
