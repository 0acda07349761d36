"""The verbs of the command line: each parses its arguments, calls the library and prints."""

import importlib
import os
import sys
from collections.abc import Sequence

from lattice_ml.printable import say
from lattice_ml.storage import StorageError

__all__ = ["run"]

_HOMES = {
    "generate": "generate",
    "measure": "measure",
    "check": "measure",
    "compare": "compare",
    "extrapolate": "extrapolate",
    "train": "train",
    "sample": "sample",
    "spectrum": "spectrum",
    "import": "data",
    "export": "data",
    "convert": "data",
    "bench": "bench",
    "info": "data",
}


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb and turn what goes wrong into one sentence and an exit status."""
    home = importlib.import_module(f"lattice_ml.commands.{_HOMES[verb]}")
    try:
        return int(getattr(home, f"{verb}_command")(list(arguments)))
    except SystemExit as stop:  # from the parser, which has printed its message
        return int(stop.code or 0)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (StorageError, ValueError, ImportError) as error:
        return _fail(verb, error, 2)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error
        return _fail(verb, what, 3)
    except RuntimeError as error:
        return _fail(verb, error, 3)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)


def _fail(verb: str, error: object, status: int) -> int:
    say(f"lattice-ml {verb}: {error}", file=sys.stderr)
    return status
