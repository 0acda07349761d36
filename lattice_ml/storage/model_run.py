"""A model being trained: its directory goes on from the last checkpoint after any interruption.

A checkpoint remembers how long `metrics.jsonl` was, and its sha256.  A training killed anywhere
and begun again cuts the metrics to that length, repeats what came after it, and ends with the same
bytes.  When and how often states were kept depends on the clock, so a finished model has none.
Where several processes train a model, process 0 alone writes, and tells the others the last state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.runtime import collectives, writing
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.runtime.processes import ALONE, Team
from lattice_ml.storage import files, intact, model
from lattice_ml.storage.checkpoints import Checkpoints
from lattice_ml.storage.config_file import write_config
from lattice_ml.storage.directory import (
    Kind,
    Writer,
    changes,
    check_asked_alike,
    check_seen,
    held,
    made,
)
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import MANIFEST, THEORIES, WEIGHTS, Arrays

__all__ = ["CHECKPOINTS", "ModelRun", "open_model_run"]

_METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
_MODEL = Kind(
    "model",
    MANIFEST,
    (MANIFEST, THEORIES, files.CONFIG, files.COST, WEIGHTS, model.REPORT, model.HISTORY),
    begun=(files.CONFIG, THEORIES, _METRICS, CHECKPOINTS),
)
_FREE = ("training.checkpoint_every", "sampling")  # what leaves the weights alone and may change

Tree = TypeVar("Tree")  # of arrays, whatever its structure


def open_model_run(
    directory: str | os.PathLike[str],
    config: Section,
    stages: Sequence[Section],
    *,
    measure: Callable[[], Sequence[Sequence[Arrays]]],
    provenance: Section,
    parent: str,
    team: Team = ALONE,
) -> "ModelRun":
    """Start a training in a new or empty directory, or continue the one found there.

    Args:
        directory: where the model lives; made if it does not exist.
        config: resolved config.
        stages: `shape` and `actions` of each, in the order of the training.
        measure: gives the theories of each stage; called for a new training only.
        provenance: what makes the numbers; each is kept with the first step it made.
        parent: hash of the data, and of the model that the weights start from.
        team: the processes that train the model; all of them open it.

    Returns:
        The run, which holds the lock of the directory: use it in a `with` statement.

    Raises:
        StorageError: the directory holds something else, another process writes to it, or the
            config or the data differ.
        PeerError: process 0 met one of these.
    """
    directory, lock = Path(directory), None
    asked = json.loads(json.dumps({"config": config, "stages": stages, "parent": parent}))

    def begin(taken: TextIO) -> JsonTable:
        nonlocal lock
        lock = taken
        if (directory / MANIFEST).exists():
            manifest = model.read_manifest(directory)
            _check_same(directory, manifest, asked)
            manifest = manifest | asked
            if manifest["files"]:  # there from the start, but for earlier versions
                model.check_file(directory, THEORIES, manifest["files"][THEORIES])
        else:
            model.write_theories(directory, measure())
            new = {"format_version": files.FORMAT_VERSION, "kind": "model"}
            manifest = {**new, **asked, "provenance": [], "files": {}}
        write_config(directory, config)
        return manifest

    check_asked_alike(team, asked)
    manifest = team.first(lambda: held(directory, _MODEL, begin))
    run = ModelRun(directory, manifest, lock, team)
    try:
        run.begin(dict(provenance))
    except BaseException:
        run.__exit__()
        raise
    return run


class ModelRun(Writer):
    """A model being trained: `commit` keeps a state, `restore` says where to go on.

    Where several processes train it all of them call these.

    Attributes:
        team: the processes.
        step: number of the last state, 0 before the first.
    """

    def __init__(
        self, directory: Path, manifest: JsonTable, lock: TextIO | None, team: Team
    ) -> None:
        """Continue from a checked manifest, process 0 with the lock; `open_model_run` does this."""
        super().__init__(directory, manifest, lock)
        self.team, self.step = team, 0

    def begin(self, made_by: JsonTable) -> None:
        """Look for the last state, and say who makes what comes now."""
        self.step = self.team.first(lambda: self._begin(made_by))
        self.manifest = self.team.first(lambda: self.manifest)
        self.team.together(lambda: check_seen(self.directory, self.directory / THEORIES))

    @property
    def finished(self) -> bool:
        """Whether weights and report are there."""
        return WEIGHTS in self.manifest["files"]

    @property
    def theories(self) -> Sequence[Sequence[Arrays]]:
        """What was measured, of every stage."""
        return model.read_theories(self.directory, self.manifest)

    def notes(self) -> JsonTable:
        """What was noted beside the last state; nothing before the first."""
        return self.team.first(self._notes)

    def restore(self, like: Tree) -> Tree:
        """The last state, a tree of arrays as `like` is."""
        numbered = _numbered(like)
        found: dict[str, np.ndarray] = {}
        self.team.first(lambda: found.update(self._checkpoints.restore(numbered)))
        leaves = collectives.gather(found or numbered)[0]
        # through the host: orbax ties arrays to one device
        values = [jnp.asarray(np.asarray(leaves[name])) for name in sorted(leaves, key=int)]
        restored: Tree = jax.tree.unflatten(jax.tree.structure(like), values)
        return restored

    def commit(self, step: int, state: object, lines: Sequence[Section], notes: Section) -> None:
        """Keep the state after `step`, with the metrics that led to it and notes beside it.

        Raises:
            OSError: the file system refuses; what was committed before is intact.
            PeerError: it refuses process 0.
        """
        self.team.first(lambda: self._commit(step, state, lines, notes))
        self.step = step

    def finish(
        self,
        weights: Arrays,
        report: Section,
        history: Arrays | None = None,
        cost: Section | None = None,
    ) -> None:
        """Write the weights and what they are worth; from now on the model can be opened."""

        def write() -> None:
            if cost is not None:
                files.write_seconds(self.directory, **cost)
            written = model.write_result(self.directory, weights, report, history)
            self._update(files=written)
            self._forget_states()

        self.team.first(write)

    def _commit(self, step: int, state: object, lines: Sequence[Section], notes: Section) -> None:
        with writing.open_in_place(self.directory / _METRICS, "a") as metrics:
            metrics.writelines(json.dumps(line) + "\n" for line in lines)
            metrics.flush()
            os.fsync(metrics.fileno())
            length = metrics.tell()
        written = {"metrics": length, "metrics_sha256": intact.sha256(self.directory / _METRICS)}
        self._checkpoints.save(step, _numbered(state), {**notes, **written})

    def _notes(self) -> JsonTable:
        return self._checkpoints.notes() if self._checkpoints.step else {}

    def _begin(self, made_by: JsonTable) -> int:
        """Forget metrics after the last state, whose number is returned."""
        if self.finished:
            self._forget_states()
            return 0
        earlier = self.manifest["format_version"] == 1
        self._checkpoints = Checkpoints(self.directory / CHECKPOINTS, earlier=earlier)
        self._held.callback(self._checkpoints.close)
        step, path, notes = self._checkpoints.step, self.directory / _METRICS, self._notes()
        kept = path.read_bytes()[: notes.get("metrics", 0)] if path.exists() else b""
        sha256 = hashlib.sha256(kept).hexdigest()
        if notes.get("metrics_sha256", sha256) != sha256:
            raise StorageError(
                f"{path} is altered: its first {notes['metrics']} bytes are not those that led "
                f"to step {step}; copy it back from where it came from"
            )
        with writing.open_in_place(path, "a") as metrics:
            metrics.truncate(len(kept))
        provenance = made(self.manifest["provenance"], made_by, "first_step", step)
        theories = {THEORIES: intact.sha256(self.directory / THEORIES)}
        self._update(provenance=provenance, files=theories)
        return step

    def _forget_states(self) -> None:
        """Remove what nobody goes on from."""
        shutil.rmtree(self.directory / CHECKPOINTS, ignore_errors=True)

    def _update(self, **entries: object) -> None:
        manifest = self.manifest | entries
        self.manifest = files.write_manifest(self.directory, manifest, MANIFEST)


def _check_same(directory: Path, old: Section, new: Section) -> None:
    """Refuse to continue a training with other parameters or other data."""
    for key, before, now in changes(old["config"], new["config"], _FREE):
        raise StorageError(
            f"{key}: the model in {directory} is trained with {before!r}, asked {now!r}; set it "
            f"back or choose another directory"
        )
    if (old["stages"], old["parent"]) != (new["stages"], new["parent"]):
        raise StorageError(
            f"the model in {directory} is trained on other data; choose another directory"
        )


def _numbered(tree: object) -> dict[str, jax.Array]:
    """The leaves of a tree by their number: what a checkpoint knows of its structure."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
