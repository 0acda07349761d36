"""Where the tests keep compiled programs.

A program is compiled once for a machine, not once for a clone: two thirds of a first run of all
tests go into XLA.  The folder is `${XDG_CACHE_HOME:-~/.cache}/lattice_ml/tests/KEY`, or where
JAX_COMPILATION_CACHE_DIR points.  KEY is a digest of all that a program depends on and JAX's own
keys may miss: the processor with its instructions, jaxlib, and XLA's flags.  Entries are bytes
under the hash of their program, so processes may share the folder: one that reads what another
has not finished writing compiles for itself.
"""

import hashlib
import os
import platform
import tempfile
from pathlib import Path

import jaxlib

MAX_BYTES = 2**30  # all tests need a tenth
_ENTRIES = "*-cache"  # as JAX names them


def folder():
    """The folder that survives this clone; None where there is none to write to."""
    above = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(above) if os.path.isabs(above) else Path.home() / ".cache"
        found = home / "lattice_ml" / "tests" / key()
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            return found
    except (OSError, RuntimeError):  # the latter where a user has no home
        return None


def key():
    """A digest of the processor, jaxlib and XLA's flags."""
    words = [processor(), platform.machine(), jaxlib.__version__, os.environ.get("XLA_FLAGS", "")]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def processor():
    """Model and instructions of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    telling = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU p")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))


def prune(directory, max_bytes=MAX_BYTES):
    """Remove the entries at any depth that were not used for longest, down to `max_bytes`."""
    entries = []
    for path in Path(directory).rglob(_ENTRIES):
        try:
            status = path.stat()
        except FileNotFoundError:  # another session prunes as well
            continue
        entries.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
