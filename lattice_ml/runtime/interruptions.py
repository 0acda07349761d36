"""Signals that end a process are answered at once, whatever the process is doing.

Python runs a handler between two of its own instructions, and the main thread may be inside an
import, the compiler or a compiled block for minutes.  But the system's handler writes the number of
a signal to a pipe the moment it arrives (`signal.set_wakeup_fd`), and a thread that reads the pipe
can speak and end the process while the main thread is busy elsewhere.

Before there is anything to save the process ends, with a sentence and status 130 or 143.  Within
`finishing` the first signal is only announced: `session.watching` notes it, so that the block is
finished and committed.  A second one ends the process.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGNALS", "Interrupted", "answered", "finishing", "promise"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_SHOW_CURSOR = b"\x1b[?25h"  # which a bar of progress hides


class Interrupted(Exception):
    """A signal or the time limit ended the run; what is committed stays and the run can go on."""

    def __init__(self, message: str, signum: int | None) -> None:
        super().__init__(message)
        self.signum = signum


class _Listener:
    """Who listens, and what the next signal does."""

    def __init__(self, who: str) -> None:  # no dataclass: this is imported before all else
        self.who = who
        self.finishing = False
        self.announced = False


_listeners: list[_Listener] = []  # one at most: signals are the process's


@contextmanager
def answered(who: str) -> Iterator[None]:
    """Answer signals while the context lasts; in the main thread of a process of one's own.

    Args:
        who: speaks, such as `lattice-ml generate`.
    """
    listener = _Listener(who)
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.signal(number, _leave_it_to_the_thread) for number in SIGNALS}
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(listener, read), daemon=True).start()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)  # which ends the thread


@contextmanager
def finishing() -> Iterator[None]:
    """Let the first signal pass with an announcement, because somebody sees to it."""
    for listener in _listeners:
        listener.finishing, listener.announced = True, False
    try:
        yield
    finally:
        for listener in _listeners:
            listener.finishing = False


def promise(signum: int) -> None:
    """Say that the block is being finished, where no thread does."""
    if not _listeners:
        print(_announcement("lattice-ml", signum), file=sys.stderr, flush=True)


def _listen(listener: _Listener, pipe: int) -> None:
    """Answer the signals whose numbers come through a pipe until it is closed."""
    while numbers := os.read(pipe, 64):
        for number in numbers:
            if number in SIGNALS:
                _answer(listener, number)
    os.close(pipe)


def _answer(listener: _Listener, number: int) -> None:
    if listener.finishing and not listener.announced:
        listener.announced = True
        _speak(_announcement(listener.who, number))
        return
    name = signal.Signals(number).name
    if os.isatty(2):
        os.write(2, _SHOW_CURSOR)
    _speak(
        f"{listener.who}: {name}: ended at once; nothing that was kept is lost, and the same "
        f"command goes on from there or begins again"
    )
    os._exit(128 + number)


def _announcement(who: str, number: int) -> str:
    return (
        f"{who}: {signal.Signals(number).name}: finishing this block and keeping it; "
        f"once more ends at once"
    )


def _speak(sentence: str) -> None:
    os.write(2, f"{sentence}\n".encode())


def _leave_it_to_the_thread(signum: int, frame: FrameType | None) -> None:
    pass
