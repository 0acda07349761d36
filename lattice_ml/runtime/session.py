"""What long runs have in common: how they are interrupted, and what is kept of how they ran."""

import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from lattice_ml.runtime import interruptions
from lattice_ml.runtime.interruptions import Interrupted
from lattice_ml.runtime.processes import Team

__all__ = ["Interrupted", "Progress", "Watch", "compile_times", "provenance", "watching"]


@dataclass(frozen=True)
class Progress:
    """What a run reports after every block."""

    phase: str  # such as "warm-up" or "production"
    done: int  # trajectories, configurations per chain, or steps
    total: int
    details: Mapping[str, float]
    magnetisation: np.ndarray | None = None  # (n, n_chains) of this block


@dataclass
class Watch:
    """Signals that arrived, and the time after which no new block is started."""

    deadline: float
    caught: list[int] = field(default_factory=list)

    @property
    def reason(self) -> str | None:
        """Why the run should stop now: a signal's name, the time limit, or None."""
        if self.caught:
            return signal.Signals(self.caught[0]).name
        return "time limit" if time.monotonic() > self.deadline else None

    def agree(self, team: Team) -> str | None:
        """Why all processes should stop now, if one of them should; all must call it."""
        for caught, late in team.gather((self.caught, time.monotonic() > self.deadline)):
            self.caught = self.caught or caught
            self.deadline = -1.0 if late else self.deadline
        return self.reason

    def stop(self, message: str) -> None:
        """Raise `Interrupted`, where there is a reason to."""
        if self.reason is not None:
            raise Interrupted(f"{self.reason}{message}", self.caught[0] if self.caught else None)


@contextmanager
def watching(time_limit: float | None) -> Iterator[Watch]:
    """Collect SIGINT and SIGTERM, so that a block is finished and committed; a second one kills."""
    watch = Watch(float("inf") if time_limit is None else time.monotonic() + time_limit)

    def note(signum: int, frame: FrameType | None) -> None:
        watch.caught.append(signum)
        signal.signal(signum, before[signum])
        interruptions.promise(signum)

    try:
        before = {int(s): signal.signal(s, note) for s in interruptions.SIGNALS}
    except ValueError:  # not the main thread: signals are the caller's business
        before = {}
    try:
        with interruptions.finishing():
            yield watch
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def compile_times() -> Iterator[Callable[[], float]]:
    """Count the seconds that JAX traces and compiles; yields what tells them so far."""
    spans: list[tuple[float, float]] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        begin, end = time.monotonic() - duration_secs, time.monotonic()
        while spans and spans[-1][0] >= begin:  # what was traced on the way
            spans.pop()
        spans.append((begin, end))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield lambda: sum(end - begin for begin, end in spans)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def provenance(command: str) -> dict[str, Any]:
    """Versions, machine and devices that make the numbers."""
    device = jax.devices()[0]
    return {
        "command": command,
        "versions": {name: version(name) for name in ("lattice-ml", "jax", "jaxlib", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": device.platform,
        "device": device.device_kind,
        "n_devices": jax.device_count(),
        "n_processes": jax.process_count(),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the source tree that this package runs from, if it is one."""
    command, here = ["git", "describe", "--always", "--dirty", "--abbrev=12"], Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
