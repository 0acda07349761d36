"""A model being trained: its directory goes on from the last checkpoint after any interruption.

A checkpoint remembers how long `metrics.jsonl` was, and its sha256.  A training killed anywhere
and begun again cuts the metrics to that length, repeats what came after it, and ends with the same
bytes.  When and how often states were kept depends on the clock, so a finished model has none.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.runtime import writing
from lattice_ml.storage import files, intact, locks, model
from lattice_ml.storage.checkpoints import Checkpoints
from lattice_ml.storage.config_file import write_config
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import MANIFEST, THEORIES, WEIGHTS, Arrays

__all__ = ["CHECKPOINTS", "ModelRun", "open_model_run"]

_METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
_FILES = (
    MANIFEST,
    THEORIES,
    files.CONFIG,
    files.COST,
    WEIGHTS,
    model.REPORT,
    model.HISTORY,
)
_FREE = ("training.checkpoint_every", "sampling.")  # what leaves the weights alone and may change


def open_model_run(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    *,
    measure: Callable[[], Sequence[Sequence[Arrays]]],
    provenance: Mapping[str, Any],
    parent: str,
) -> "ModelRun":
    """Start a training in a new or empty directory, or continue the one found there.

    Args:
        directory: where the model lives; made if it does not exist.
        config: resolved config.
        stages: `shape` and `actions` of each, in the order of the training.
        measure: gives the theories of each stage; called for a new training only.
        provenance: what makes the numbers; each is kept with the first step it made.
        parent: hash of the data, and of the model that the weights start from.

    Returns:
        The run, which holds the lock of the directory: use it in a `with` statement.

    Raises:
        StorageError: the directory holds something else, another process writes to it, or the
            config or the data differ.
    """
    directory = Path(directory)
    _check_not_foreign(directory)
    files.make_folder(directory)
    lock = locks.take_lock(directory)
    try:
        for stray in _strays(directory):
            stray.unlink()
        asked = json.loads(json.dumps({"config": config, "stages": stages, "parent": parent}))
        if (directory / MANIFEST).exists():
            manifest = model.read_manifest(directory)
            _check_same(directory, manifest, asked)
            manifest |= asked
            if manifest["files"]:  # there from the start, but for earlier versions
                model.check_file(directory, THEORIES, manifest["files"][THEORIES])
        else:
            model.write_theories(directory, measure())
            new = {"format_version": files.FORMAT_VERSION, "kind": "model"}
            manifest = {**new, **asked, "provenance": [], "files": {}}
        write_config(directory, config)
        return ModelRun(directory, manifest, lock, dict(provenance))
    except BaseException:
        locks.release_lock(lock)
        raise


class ModelRun:
    """A directory being written: `commit` keeps a state, `restore` says where to go on.

    Attributes:
        directory: where the model lives.
        manifest: what `model.json` holds.
    """

    def __init__(
        self, directory: Path, manifest: dict[str, Any], lock: TextIO, made_by: dict[str, Any]
    ) -> None:
        """Continue from a checked manifest, holding the lock; `open_model_run` does this."""
        self.directory = directory
        self.manifest = manifest
        self._held = contextlib.ExitStack()
        self._held.callback(locks.release_lock, lock)
        if self.finished:
            self._forget_states()
        else:
            earlier = manifest["format_version"] == 1
            self._checkpoints = Checkpoints(directory / CHECKPOINTS, earlier=earlier)
            self._held.callback(self._checkpoints.close)
            self._begin(made_by)

    def __enter__(self) -> Self:
        """Return the run itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock; what is committed stays."""
        self._held.close()

    @property
    def finished(self) -> bool:
        """Whether weights and report are there."""
        return WEIGHTS in self.manifest["files"]

    @property
    def theories(self) -> Sequence[Sequence[Arrays]]:
        """What was measured, of every stage."""
        return model.read_theories(self.directory, self.manifest)

    @property
    def step(self) -> int:
        """Number of the last state, 0 before the first."""
        return self._checkpoints.step

    def notes(self) -> dict[str, Any]:
        """What was noted beside the last state; nothing before the first."""
        return self._checkpoints.notes() if self.step else {}

    def restore(self, like: Any) -> Any:
        """The last state, a tree of arrays as `like` is."""
        leaves = self._checkpoints.restore(_numbered(like))
        # through the host: orbax ties arrays to one device
        values = [jnp.asarray(np.asarray(leaves[name])) for name in sorted(leaves, key=int)]
        return jax.tree.unflatten(jax.tree.structure(like), values)

    def commit(
        self, step: int, state: Any, lines: Sequence[Mapping[str, Any]], notes: Mapping[str, Any]
    ) -> None:
        """Keep the state after `step`, with the metrics that led to it and notes beside it.

        Raises:
            OSError: the file system refuses; what was committed before is intact.
        """
        with writing.open_in_place(self.directory / _METRICS, "a") as metrics:
            metrics.writelines(json.dumps(line) + "\n" for line in lines)
            metrics.flush()
            os.fsync(metrics.fileno())
            length = metrics.tell()
        written = {"metrics": length, "metrics_sha256": intact.sha256(self.directory / _METRICS)}
        self._checkpoints.save(step, _numbered(state), {**notes, **written})

    def finish(
        self,
        weights: Arrays,
        report: Mapping[str, Any],
        history: Arrays | None = None,
        cost: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the weights and what they are worth; from now on the model can be opened."""
        if cost is not None:
            files.write_seconds(self.directory, **cost)
        self._update(files=model.write_result(self.directory, weights, report, history))
        self._forget_states()

    def _begin(self, made_by: dict[str, Any]) -> None:
        """Forget metrics after the last state, and say who makes what comes now."""
        path, notes = self.directory / _METRICS, self.notes()
        kept = path.read_bytes()[: notes.get("metrics", 0)] if path.exists() else b""
        sha256 = hashlib.sha256(kept).hexdigest()
        if notes.get("metrics_sha256", sha256) != sha256:
            raise StorageError(
                f"{path} is altered: its first {notes['metrics']} bytes are not those that led "
                f"to step {self.step}; copy it back from where it came from"
            )
        with writing.open_in_place(path, "a") as metrics:
            metrics.truncate(len(kept))
        made = [e for e in self.manifest["provenance"] if e["first_step"] < self.step]
        if not made or made[-1]["made_by"] != made_by:
            made = [*made, {"first_step": self.step, "made_by": made_by}]
        theories = {THEORIES: intact.sha256(self.directory / THEORIES)}
        self._update(provenance=made, files=theories)

    def _forget_states(self) -> None:
        """Remove what nobody goes on from."""
        shutil.rmtree(self.directory / CHECKPOINTS, ignore_errors=True)

    def _update(self, **entries: object) -> None:
        manifest = self.manifest | entries
        self.manifest = files.write_manifest(self.directory, manifest, MANIFEST)


def _check_not_foreign(directory: Path) -> None:
    """Refuse a directory that holds other things than a model."""
    if directory.exists() and not directory.is_dir():
        raise StorageError(f"{directory} is a file; asked for a new or empty directory, or a model")
    if not directory.exists() or (directory / MANIFEST).exists():
        return
    begun = {locks.LOCK, files.CONFIG, THEORIES, _METRICS, CHECKPOINTS}
    begun |= {path.name for path in _strays(directory)}
    if not begun.issuperset(path.name for path in directory.iterdir()):
        raise StorageError(
            f"{directory} is neither empty nor a model: {files.describe_folder(directory)}, "
            f"no {MANIFEST}; choose another directory"
        )


def _strays(directory: Path) -> list[Path]:
    """Return the temporary files that a process left when it died."""
    return writing.left_behind(directory, *_FILES)


def _check_same(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to continue a training with other parameters or other data."""
    before, now = _flat(old["config"]), _flat(new["config"])
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(_FREE):
            raise StorageError(
                f"{key}: the model in {directory} is trained with {before.get(key)!r}, asked "
                f"{now.get(key)!r}; set it back or choose another directory"
            )
    if (old["stages"], old["parent"]) != (new["stages"], new["parent"]):
        raise StorageError(
            f"the model in {directory} is trained on other data; choose another directory"
        )


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their number: what a checkpoint knows of its structure."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.key": value} of the sections of a config."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            {f"{name}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat
