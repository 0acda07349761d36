"""One process at a time writes to a directory: the lock file that says which.

The lock is the system's, so it falls with its process; the file names the owner to whoever waits.
It changes in place, so what is no lock file of ours by its kind or its content is left alone.
"""

import fcntl
import os
import re
import socket
import warnings
from pathlib import Path
from typing import TextIO

from lattice_ml.runtime.printable import shown
from lattice_ml.runtime.writing import StorageError, open_in_place

__all__ = ["LOCK", "release_lock", "take_lock"]

LOCK = "lock"

_OWNER = re.compile(r"(process \d+ on \S+\n?)?")


def take_lock(directory: Path) -> TextIO:
    """Open and lock the lock file; the system drops the lock of a process that has died.

    Raises:
        StorageError: a live process holds it, or what is there is no lock file.
    """
    path = directory / LOCK
    while True:
        lock = open_in_place(path, "a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                owner = _content(lock).strip()
            raise StorageError(
                f"{directory} is being written by {owner}; wait or stop it"
            ) from None
        except OSError as error:  # Lustre mounted without flock
            warnings.warn(f"{shown(path)}: {error}; do not start this run twice", stacklevel=3)
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()  # its owner removed it between our two calls
    if not _OWNER.fullmatch(_content(lock)):
        lock.close()
        raise StorageError(
            f"{path} does not say which process writes to {directory}, as a lock file does: it is "
            f"something else; remove it or choose another directory"
        )
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def release_lock(lock: TextIO) -> None:
    """Remove the lock file and let go of it."""
    with lock:
        Path(lock.name).unlink(missing_ok=True)


def _content(lock: TextIO) -> str:
    return os.pread(lock.fileno(), 200, 0).decode(errors="replace")
