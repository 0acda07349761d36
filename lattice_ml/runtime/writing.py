"""How files are written: whole or not at all, and never through what somebody else has prepared.

A file is written under a temporary name in the folder where it belongs, synchronised, and renamed
into place; another process sees the old file or the complete new one.  In a folder that others may
write to, a link under a name that can be guessed would lead the bytes elsewhere.  So a temporary
file is created anew (O_EXCL, O_NOFOLLOW) under a name with 64 random bits, and the rename replaces
a link that stands in its place instead of following it.  The few files that change in place, locks
and logs, are opened only where they are plain files with one name.

What a killed process leaves is known by its name, `<name>.<16 hex digits>.tmp`.  A writer holds the
system's lock on its temporary file, so those of the dead can be told from those of the living.

Folders are the user's: a link to one, such as to a larger disk, is followed.
"""

import errno
import fcntl
import filecmp
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TextIO

__all__ = [
    *("TEMPORARY", "StorageError", "is_plain", "left_behind", "make_folder", "name_file"),
    *("open_in_place", "replacing", "sweep", "write_once"),
]

TEMPORARY = ".tmp"

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_LONGEST = 200  # bytes of a name that a temporary one begins with


class StorageError(Exception):
    """A directory or file that is not what was asked for."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new, empty temporary file; once written it is synchronised and renamed to `path`.

    Another process sees the old file or the complete new one. If the writing fails, the temporary
    file is removed and the old file stays.
    """
    with _temporary(path) as (descriptor, temporary):
        yield temporary
        if not os.path.samestat(os.fstat(descriptor), os.lstat(temporary)):
            raise StorageError(f"{temporary} was exchanged by somebody else while it was written")
        os.fsync(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # HDF5 opens no file that is locked
        os.replace(temporary, path)
        _sync(path.parent)


def write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that is not replaced; where it is there already, it must be what is written.

    Raises:
        StorageError: it is something else.
    """
    if not os.path.lexists(path):
        with replacing(path) as temporary:
            write(temporary)
        return
    with _temporary(path) as (_, temporary):
        write(temporary)
        if not is_plain(path) or not filecmp.cmp(temporary, path, shallow=False):
            raise StorageError(
                f"{path} exists and is not overwritten: it is not what would be written; remove "
                f"it or name another"
            )
        temporary.unlink()


def open_in_place(path: Path, mode: Literal["a", "a+"]) -> TextIO:
    """Open a file that changes in place, as `open` does; made where missing.

    Raises:
        StorageError: it is a link, has a second name, or is no plain file: what is written to it
            would change something else.
    """

    def opener(name: str, flags: int) -> int:
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise StorageError(_foreign(path)) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise StorageError(_foreign(path))
        return descriptor

    return open(path, mode, encoding="utf-8", opener=opener)


def left_behind(folder: Path, *names: str) -> list[Path]:
    """The temporary files of these names, or of any, that are in a folder; never a link."""
    known = "|".join(map(re.escape, names)) or ".+"
    pattern = re.compile(rf"(?:{known})(\.[0-9a-f]{{16}})?{re.escape(TEMPORARY)}", re.DOTALL)
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name) and is_plain(p))


def sweep(path: Path) -> None:
    """Remove what dead processes of this user left of their attempts to write `path`."""
    for stray in left_behind(path.parent, path.name[:_LONGEST]):
        with suppress(OSError):
            descriptor = os.open(stray, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.getuid():
                    stray.unlink()
            finally:
                os.close(descriptor)


def is_plain(path: Path) -> bool:
    """Whether a path is a file of its own: no link, folder, device or pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def name_file(error: OSError, path: Path) -> None:
    """Say which file an error is about, where a write has not."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that a crash does not take their names back."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """Create a file beside another, locked by this process, and remove it if anything fails."""
    start = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    temporary = path.with_name(f"{start}.{secrets.token_hex(8)}{TEMPORARY}")
    descriptor = -1
    try:
        descriptor = os.open(temporary, _NEW, 0o666)
        with suppress(OSError):  # Lustre mounted without flock
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor, temporary
    except BaseException as error:
        if descriptor >= 0:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            if error.filename == str(temporary):
                error.filename = None
            name_file(error, path)
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _foreign(path: Path) -> str:
    return (
        f"{path} is a link, has a second name or is no plain file, so that writing to it would "
        f"change something else; remove it"
    )


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
