"""What memory this process may take, and one sentence where that is too little.

A library in C++ that is refused memory ends the process by abort(), which nothing here can catch,
so what is foreseen is compared with what there is beforehand: what it takes to start (`prepare`),
and the arrays of a job (`require`).  The first comes before NumPy and JAX are imported.

Limits are of different things.  RLIMIT_AS (`ulimit -v`, the `vmem` of batch systems) counts what is
reserved, of which most is never touched; control groups and the machine count what is used.
"""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lattice_ml.runtime.devices import allowed_cpus, c_function, control_groups, read_text

__all__ = ["OutOfMemory", "Room", "in_words", "most", "prepare", "require", "room", "used"]

_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # of 64 MiB each; by default the C library reserves 8 per core
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MB = 10**6
_START = {  # MB until the first program has run: whatever the machine, and per core; measured
    "address space": (750, 60),
    "data": (200, 40),
    "memory": (250, 2),
}


class OutOfMemory(MemoryError):
    """The job needs more memory than there is: the message says how much and what helps."""


class Room(NamedTuple):
    """What a limit leaves to this process."""

    kind: str  # a key of _START
    limit: int  # bytes
    left: int  # of them
    name: str  # how the limit is called


def prepare(root: str | os.PathLike[str] = "/") -> None:
    """Check that there is memory enough to start, and reserve less where reserving is limited.

    Raises:
        OutOfMemory: there is not.
    """
    if "jax" in sys.modules:  # it runs already
        return
    cores = len(allowed_cpus())
    for found in _rooms(Path(root)):
        fixed, per_core = _START[found.kind]
        needed = (fixed + per_core * cores) * _MB
        if found.limit < needed:
            raise OutOfMemory(
                f"JAX and its compiler need about {in_words(needed)} of {found.kind} on "
                f"{cores} core{'s' * (cores > 1)}, and {found.name} is {in_words(found.limit)}; "
                f"raise that limit"
            )
        if found.kind == "address space" and (mallopt := c_function("mallopt")) is not None:
            mallopt(_ARENA_MAX, _ARENAS)


def require(needed: float, what: str, remedy: str, root: str | os.PathLike[str] = "/") -> None:
    """Refuse arrays for `what` that need more bytes than this process may yet take.

    Raises:
        OutOfMemory: saying so, and the `remedy`.
    """
    least = room(root)
    if needed > least.left:
        raise OutOfMemory(
            f"{what} need about {in_words(needed)} of memory, MORE THAN the "
            f"{in_words(max(0, least.left))} there ({least.name}: {in_words(least.limit)}); "
            f"{remedy}"
        )


def room(root: str | os.PathLike[str] = "/") -> Room:
    """The limit that leaves the least to this process."""
    return min(_rooms(Path(root)), key=lambda found: found.left)


def most(root: str | os.PathLike[str] = "/") -> int:
    """Bytes of memory that this process may come to have."""
    return used(root)["memory"] + room(root).left


def used(root: str | os.PathLike[str] = "/") -> dict[str, int]:
    """Bytes that this process has, by what limits count; zeros where the system does not say."""
    words = read_text(Path(root) / "proc/self/statm").split() or ["0"] * 7
    page = resource.getpagesize()
    names = {"address space": 0, "memory": 1, "data": 5}
    return {name: int(words[place]) * page for name, place in names.items()}


def in_words(n: float) -> str:
    """Bytes as a person says them: 3.8 GB."""
    size, unit = next(((s, u) for s, u in _UNITS if s <= n), (1, "bytes"))
    return f"{n / size:.3g} {unit}"


def _rooms(root: Path) -> Iterator[Room]:
    taken = used(root)
    for name, words, kind in (
        (resource.RLIMIT_AS, "the limit of the address space (ulimit -v)", "address space"),
        (resource.RLIMIT_DATA, "the limit of the data segment (ulimit -d)", "data"),
    ):
        limit, _ = resource.getrlimit(name)
        if limit != resource.RLIM_INFINITY:
            yield Room(kind, limit, limit - taken[kind], words)
    for folder, version in control_groups(root, "memory"):
        text = read_text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.isdigit() and int(text) < 1 << 60:  # version 1 says unlimited with a large number
            words = "the limit of the control group"
            yield Room("memory", int(text), int(text) - taken["memory"], words)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Room("memory", there, there - taken["memory"], "this machine's memory")
