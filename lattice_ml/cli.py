"""The command line: parse, call, print.  `lattice-ml --help` imports neither JAX nor NumPy."""

import importlib
import sys
from collections.abc import Sequence

from lattice_ml.runtime import interruptions, memory, processes
from lattice_ml.runtime.printable import say

__all__ = ["VERBS", "main"]

VERBS = {
    "generate": "run Markov chains of a config into an ensemble; resumes what was interrupted",
    "measure": "observables of ensembles with errors and autocorrelation times",
    "check": "test ensembles without a reference; exit 1 where a test fails, 4 where undecided",
    "compare": "judge ensembles against a reference; exit 1 on rejection, 4 where undecided",
    "extrapolate": "observables of Langevin ensembles at step size zero, and how far to trust them",
    "train": "fit a model to ensembles; resumes; exit 1 where it is useless, 4 where undecided",
    "sample": "draw an ensemble from a model, corrected to exactness where asked for",
    "spectrum": "the kernel of a model or an ensemble, momentum by momentum, beside the theory's",
    "import": "make an ensemble of an array in a .npy, .npz or .h5 file",
    "export": "write an ensemble to one .h5, .npz or .npy file",
    "convert": "write an ensemble anew in another convention",
    "bench": "benchmarks of samplers, models and this machine; without a name, what there is",
    "info": "what an ensemble or a model is and where it came from",
}

_ABORTED = (
    "a library ended the process, most likely because it was refused memory: fewer chains, smaller "
    "batches or a smaller lattice take less; what was committed is safe, and the same command goes "
    "on from there"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lattice-ml`; returns the exit status.

    0 good; 1 a check, comparison or training failed; 2 bad usage or input; 3 failed while running;
    4 undecided; 130 or 143 interrupted with everything committed.
    """
    if arguments is not None:
        return _run(list(arguments), alone=False)
    words = sys.argv[1:]  # a process of its own
    with interruptions.answered(" ".join(["lattice-ml", *(w for w in words[:1] if w in VERBS)])):
        return _run(words, alone=True)


def _run(words: list[str], *, alone: bool) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"lattice-ml {version('lattice-ml')}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        from difflib import get_close_matches

        near = get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = ", ".join(VERBS)
        say(f"lattice-ml: unknown command {verb}{hint} (allowed: {allowed})", file=sys.stderr)
        return 2
    try:
        memory.prepare()
        commands = importlib.import_module("lattice_ml.commands")
    except (MemoryError, ImportError) as error:  # NumPy is missing, say, or memory for it
        say(f"lattice-ml {verb}: {error or type(error).__name__}", file=sys.stderr)
        return 3 if isinstance(error, MemoryError) else 2
    if alone:
        processes.explain_aborts(f"lattice-ml {verb}: {_ABORTED}")
    return int(commands.run(verb, rest))


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<13}{text}" for verb, text in VERBS.items())
    return f"""usage: lattice-ml COMMAND [arguments]      lattice-ml COMMAND --help

Lattice field theory sampling with machine learning: from couplings to a verdict.

{verbs}

  --version  the version          --help  this page"""
