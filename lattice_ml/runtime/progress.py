"""How a run tells its user where it is: a live bar on a terminal, plain lines elsewhere."""

import time
from typing import Self

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lattice_ml import statistics
from lattice_ml.runtime import session
from lattice_ml.runtime.printable import say, shown

__all__ = ["Reporter"]

_EVERY = 10.0  # seconds between plain lines
_SHOWN = {  # else all
    "warm-up": ("n_steps", "step_size"),
    "production": ("acceptance", "swap_acceptance"),
}
_RECENT = 4096  # configurations that the running tau_int looks at


class Reporter:
    """Shows `session.Progress` events: phase, rate, time left, details, running tau_int."""

    def __init__(self, title: str) -> None:
        self._title = shown(title)
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[details]}"),
            console=self._console,
            disable=not self._live,
        )
        self._phase, self._task = "", TaskID(0)
        self._series: list[np.ndarray] = []
        self._begin = (time.monotonic(), 0)
        self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()

    def __call__(self, event: session.Progress) -> None:
        """Show one event."""
        now = time.monotonic()
        if event.phase != self._phase:
            self._phase = event.phase
            self._begin = (now, event.done)
            title = f"{escape(self._title)} {event.phase}"
            self._task = self._bar.add_task(title, total=event.total, details="")
        details = self._details(event, now)
        self._bar.update(self._task, completed=event.done, details=details)
        if not self._live and (now - self._spoke > _EVERY or event.done == event.total):
            self._spoke = now
            line = f"{self._title} {event.phase} {event.done}/{event.total} {details}"
            say(line, file=self._console.file)

    def _details(self, event: session.Progress, now: float) -> str:
        begin, done = self._begin
        words = [f"{(event.done - done) / max(now - begin, 1e-9):,.0f}/s"] * (event.done > done)
        names = (name for name in _SHOWN.get(event.phase, event.details) if name in event.details)
        words += [f"{name} {event.details[name]:.3g}" for name in names]
        if event.magnetisation is not None:
            self._series.append(event.magnetisation**2)
            series = np.concatenate(self._series)[-_RECENT:]
            self._series = [series]
            if len(series) >= statistics.MIN_CONFIGS:
                found = statistics.estimate(series.T)
                words.append(f"tau_int(M^2) {found.tau_int:.2g}")
        return ", ".join(words)
