"""One process at a time writes to a directory: the lock file that says which.

The lock is the system's, so it falls with its process; the file names the owner to whoever waits.
"""

import fcntl
import os
import socket
import warnings
from pathlib import Path
from typing import TextIO

from lattice_ml.files import StorageError

__all__ = ["LOCK", "release_lock", "take_lock"]

LOCK = "lock"


def take_lock(directory: Path) -> TextIO:
    """Open and lock the lock file; the system drops the lock of a process that has died.

    Raises:
        StorageError: a live process holds it.
    """
    path = directory / LOCK
    while True:
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with lock:
                lock.seek(0)
                owner = lock.read().strip()
            raise StorageError(
                f"{directory} is being written by {owner}; wait or stop it"
            ) from None
        except OSError as error:  # Lustre mounted without flock
            warnings.warn(f"{path}: {error}; do not start this run twice", stacklevel=3)
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()  # its owner removed it between our two calls
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def release_lock(lock: TextIO) -> None:
    """Remove the lock file and let go of it."""
    with lock:
        Path(lock.name).unlink(missing_ok=True)
