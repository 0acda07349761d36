"""The verbs of the command line: each parses its arguments, calls the library and prints.

What goes wrong becomes one sentence and an exit status, whatever it is.  Errors that the library
raises say what to do and stand for themselves; one that a library below it raises, or that nobody
meant to raise, is given with its place.  LATTICE_ML_TRACEBACK=1 in the environment shows the whole
way to it.
"""

import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from lattice_ml.runtime import memory
from lattice_ml.runtime.interruptions import Interrupted
from lattice_ml.runtime.printable import say, shown
from lattice_ml.storage.run import StorageError

__all__ = ["run"]

_HOMES = {  # of those whose module has another name
    "check": "measure",
    **dict.fromkeys(("import", "export", "convert", "info"), "data"),
}
_GOES_ON = "what was committed is safe, and the same command goes on from there"
_SMALLER = {  # what takes less memory
    "generate": f"fewer chains, a smaller lattice or --output.dtype float32 take less; {_GOES_ON}",
    "train": f"a smaller --training.batch-size or --training.pool-bytes takes less; {_GOES_ON}",
    "sample": f"a smaller --sampling.batch-size takes less; {_GOES_ON}",
}
_NO_MEMORY = re.compile(
    "RESOURCE_EXHAUSTED|out of memory|bad_alloc|unable to allocate|memory allocation failed|"
    "cannot allocate memory|can't start new thread",
    re.IGNORECASE,
)
_NEVER_MEANT = (RecursionError, NotImplementedError, UnicodeEncodeError, UnicodeDecodeError)
_SHOW = "LATTICE_ML_TRACEBACK"
_PACKAGE = Path(__file__).parents[1]
_LONGEST = 400  # characters of what a library says


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb and turn what goes wrong into one sentence and an exit status."""
    try:
        home = importlib.import_module(f"lattice_ml.commands.{_HOMES.get(verb, verb)}")
        return int(vars(home)[f"{verb}_command"](list(arguments)))
    except SystemExit as stop:  # from the parser, which has printed its message
        return int(stop.code or 0)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Interrupted as stop:
        return _fail(verb, str(stop), 128 + stop.signum if stop.signum else 0)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)
    except Exception as error:
        if os.environ.get(_SHOW, "0") not in ("", "0"):
            traceback.print_exc()
        return _fail(verb, *_sentence(verb, error))


def _sentence(verb: str, error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit status that it means."""
    if isinstance(error, memory.OutOfMemory):
        return str(error), 3
    if _is_of_memory(error):
        remedy = _SMALLER.get(verb, "find more, or raise the limit")
        asked = _said(error) if str(error) else "an array was refused"
        least = memory.room()
        limit = f"{least.name} is {memory.in_words(least.limit)}"
        return f"out of memory ({asked}; {limit}): {remedy}", 3
    if isinstance(error, StorageError | ImportError):
        return str(error), 2
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 3
    if isinstance(error, ValueError | RuntimeError) and type(error) not in _NEVER_MEANT:
        status = 2 if isinstance(error, ValueError) else 3
        where = "" if _is_ours(error) else f" ({type(error).__name__}, {_place(error)})"
        return f"{str(error) if _is_ours(error) else _said(error)}{where}", status
    return (
        f"{type(error).__name__} at {_place(error)}: {_said(error)}. This is a fault of the "
        f"program and worth reporting; with {_SHOW}=1 in the environment the same command shows "
        f"all of it"
    ), 3


def _is_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(said)


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it, in its own words."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return _own(frame) and (frame.line or "raise").startswith("raise")


def _own(frame: traceback.FrameSummary) -> bool:
    return Path(frame.filename).is_relative_to(_PACKAGE)


def _place(error: Exception) -> str:
    """The last line of this package on the way to an error."""
    frame = [f for f in traceback.extract_tb(error.__traceback__) if _own(f)][-1]
    return f"{Path(frame.filename).relative_to(_PACKAGE.parent)}:{frame.lineno}"


def _said(error: Exception) -> str:
    """The first line of what an error says, if it is not too long."""
    line = shown(next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__)
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."


def _fail(verb: str, sentence: str, status: int) -> int:
    say(f"lattice-ml {verb}: {sentence}", file=sys.stderr)
    return status
