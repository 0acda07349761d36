"""Whether files are as they were written: their kind, their sha256, and what HDF5 says of them.

A sha256 takes less time than reading what it vouches for, and is compared once per process as long
as the file stays what it was by its inode, its size and its times.
"""

import hashlib
import stat
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py

from lattice_ml.runtime.writing import StorageError

__all__ = ["once", "opened", "sha256", "size", "verify", "verify_all"]

_RACY = 1.0  # seconds after which a change gives a file another time for sure

_found_right: set[tuple[object, ...]] = set()  # files, as they were, and what was found right


def size(path: Path, whole: str) -> int:
    """The bytes of a plain file, part of a whole; a missing file and a link are refused."""
    try:
        found = path.lstat()
    except OSError:
        found = None
    if found is not None and stat.S_ISLNK(found.st_mode):
        raise StorageError(f"{path} is a link, which may lead anywhere; put a copy in its place")
    if found is None or not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{path} is missing; copy it back from where {whole} came from")
    return found.st_size


def verify(path: Path, wanted: str) -> None:
    """Refuse a file of another sha256, which is taken once per process unless the file changes."""

    def check() -> None:
        if sha256(path) != wanted:
            raise StorageError(f"{path} is altered: its sha256 is not {wanted}")

    once(path, wanted, check)


def verify_all(files: Iterable[tuple[Path, str]], n_threads: int) -> None:
    """`verify` several files, one on each core: hashing leaves Python to others."""
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(lambda file: verify(*file), files):
            pass


def once(path: Path, what: Hashable, check: Callable[[], None]) -> None:
    """Do a check of a file unless it was done before and the file has not changed since.

    A file that changed just now is checked again next time: two changes within a tick of the
    file system's clock leave the same time.

    Raises:
        StorageError: the file is missing, or what the check raises.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise StorageError(f"{path} is missing ({error.strerror})") from error
    times = found.st_mtime_ns, found.st_ctime_ns
    key = (found.st_dev, found.st_ino, found.st_size, *times, what)
    if key in _found_right:
        return
    begin = time.time()
    check()
    if abs(begin - max(times) / 1e9) > _RACY:
        _found_right.add(key)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read it; what HDF5 finds wrong on the way is a `StorageError`."""
    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; copy it back from where it came from") from error
    except PermissionError:
        raise
    except (OSError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is altered: HDF5 cannot read it ({error})") from error


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
