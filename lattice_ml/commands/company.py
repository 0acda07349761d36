"""A verb that several processes run together: one speaks, and nobody waits for who is lost."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lattice_ml.runtime import processes
from lattice_ml.runtime.interruptions import Interrupted
from lattice_ml.runtime.printable import say, shown
from lattice_ml.runtime.processes import Team

if TYPE_CHECKING:
    from lattice_ml.runtime.session import Progress

__all__ = ["company", "reporter"]


@contextmanager
def company(verb: str, team: Team, heartbeat: str) -> Iterator[Callable[[Path], None]]:
    """Leave together in the end, with exit status 3 where another process is lost.

    Args:
        verb: that is run.
        team: the processes, which have met.
        heartbeat: as it was asked for.

    Yields:
        What is to be called with each directory that is written to.
    """
    from jax.errors import JaxRuntimeError

    lost = ""

    def begin(directory: Path) -> None:
        nonlocal lost
        if team.size > 1:
            lost = (
                f"lattice-ml {verb}: process {team.rank} of {team.size} ends, because another one "
                f"is gone or did not answer for {heartbeat} (--heartbeat). What was committed is "
                f"safe in {directory}; the same command goes on from there"
            )
            processes.explain_aborts(shown(lost))

    try:
        yield begin
    except Interrupted as stop:
        processes.part(team)
        if team.leads:
            raise
        sys.exit(128 + stop.signum if stop.signum else 0)
    except JaxRuntimeError as error:
        if not lost:
            raise
        say(*str(error).split("\n"), lost, file=sys.stderr)
        os._exit(3)  # at its ordinary end it would wait for the lost one
    processes.part(team)


def reporter(team: Team, title: str) -> "AbstractContextManager[Callable[[Progress], None]]":
    """What shows the progress of all; nothing in those that do not speak."""
    from lattice_ml.runtime import progress

    return progress.Reporter(title) if team.leads else nullcontext(lambda event: None)
