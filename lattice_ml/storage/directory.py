"""One directory that a run or a training goes on from after any interruption.

It holds nothing else; one process writes to it at a time; its manifest says what was asked for,
which may not change, and who made what.  `storage/run.py` and `storage/model_run.py` are the two
kinds: they differ in what they keep and in when that is committed.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO, TypeVar

from lattice_ml.runtime import writing
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.runtime.processes import Team
from lattice_ml.storage import files, locks
from lattice_ml.storage.files import StorageError

__all__ = [
    *("Kind", "Writer", "changes", "check_asked_alike", "check_not_foreign", "check_seen"),
    *("flat", "held", "made", "strays"),
]

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What a directory holds.

    Attributes:
        name: what messages call it.
        manifest: the file that says what it is.
        files: those that are replaced in place, the manifest among them.
        begun: what there may be beside the lock before the manifest is.
        shards: the folder of files that are renamed into place, if there is one.
    """

    name: str
    manifest: str
    files: tuple[str, ...]
    begun: tuple[str, ...] = ()
    shards: str | None = None


class Writer:
    """Who writes to a directory, in a `with` statement.

    Attributes:
        directory: which.
        manifest: what its manifest holds.
    """

    def __init__(self, directory: Path, manifest: JsonTable, lock: TextIO | None) -> None:
        """Go on from a checked manifest, with the lock unless another process has it for us."""
        self.directory = directory
        self.manifest = manifest
        self._held = contextlib.ExitStack()
        if lock is not None:
            self._held.callback(locks.release_lock, lock)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Release the lock; what is committed stays."""
        self._held.close()


def held(directory: Path, kind: Kind, begin: Callable[[TextIO], T]) -> T:
    """Lock a directory, made if it is not there, and begin; the lock is kept unless that fails.

    Raises:
        StorageError: the directory holds something else, or another process writes to it.
    """
    check_not_foreign(directory, kind)
    files.make_folder(directory)
    lock = locks.take_lock(directory)
    try:
        for stray in strays(directory, kind):
            stray.unlink()
        return begin(lock)
    except BaseException:
        locks.release_lock(lock)
        raise


def check_asked_alike(team: Team, asked: object) -> None:
    """Refuse processes of one run that were asked for different things; all must call it."""
    for rank, other in enumerate(team.gather(asked)):
        if other != asked:
            raise StorageError(
                f"process {team.rank} was asked for another config than process {rank}: the "
                "processes of a run must get the same command"
            )


def check_seen(*paths: Path) -> None:
    """Refuse to go on where this process does not see what process 0 does."""
    if unseen := [path for path in paths if not path.exists()]:
        raise StorageError(
            f"{socket.gethostname()} does not see {unseen[0]}: the output must be on a file "
            "system that all processes share"
        )


def check_not_foreign(directory: Path, kind: Kind) -> None:
    """Refuse a directory that holds other things than its kind, saying what it holds."""
    if directory.exists() and not directory.is_dir():
        raise StorageError(
            f"{directory} is a file; asked for a new or empty directory, or a {kind.name}"
        )
    if kind.shards and (folder := directory / kind.shards).is_symlink():
        # what is uncommitted there is removed
        raise StorageError(f"{folder} is a link; put the folder itself in its place")
    if not directory.exists() or (directory / kind.manifest).exists():
        return
    ours = {directory / name for name in (locks.LOCK, *kind.begun)} | {*strays(directory, kind)}
    if not ours.issuperset(directory.iterdir()):
        raise StorageError(
            f"{directory} is neither empty nor a {kind.name}: {files.describe_folder(directory)}, "
            f"no {kind.manifest}; choose another directory"
        )


def strays(directory: Path, kind: Kind) -> list[Path]:
    """The temporary files that a process left when it died."""
    found = writing.left_behind(directory, *kind.files)
    return found + (writing.left_behind(directory / kind.shards) if kind.shards else [])


def changes(old: Section, new: Section, free: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """The keys of two configs that differ, with both values; an absent key equals one of None.

    Dotted keys, or sections, that are `free` may differ.
    """
    before, now = flat(old), flat(new)
    for key in sorted(before.keys() | now.keys()):
        may = any(f"{key}.".startswith(f"{prefix}.") for prefix in free)
        if not may and before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)


def flat(table: Section, prefix: str = "") -> JsonTable:
    """{"section.key": value} of nested sections."""
    found: JsonTable = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def made(provenance: Sequence[JsonTable], made_by: Section, key: str, done: int) -> list[JsonTable]:
    """Provenance with who makes what comes now; who committed nothing is forgotten.

    The `key` is what is counted, such as "first_config", of which `done` are committed.
    """
    kept = [entry for entry in provenance if entry[key] < done]
    if kept and kept[-1]["made_by"] == made_by:
        return kept
    return [*kept, {key: done, "made_by": made_by}]
