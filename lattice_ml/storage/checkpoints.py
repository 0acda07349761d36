"""States of a training on disk (orbax), each sealed by the sha256 of its files.

    FOLDER/STEP/...           what orbax writes
    FOLDER/STEP/seal.json     the sha256 of every file of it, written last

A state without a seal is one whose process died before it was complete, and is dropped: the
training goes on from the one before, to the same bytes.  A state that is not what its seal says is
refused.  Those that an earlier version wrote have no seals, and get them when they are taken over.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.storage import intact, seals
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.manifests import SHA256
from lattice_ml.storage.schema import table, whole

__all__ = ["Checkpoints"]

_SEAL = "seal.json"
_RULE = table({"step": whole(1), "files": table({}, others=SHA256)})
_KEPT = 2

Arrays = Mapping[str, np.ndarray | jax.Array]


class Checkpoints:
    """The last states of a training: `save`, `notes` and `restore`, which refuse what is damaged.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: Path, *, earlier: bool) -> None:
        """Open a folder, made if missing; states of an `earlier` version may lack seals.

        Raises:
            StorageError: the folder is a link.
        """
        from orbax import checkpoint  # slow to import, and only needed here

        if folder.is_symlink():
            raise StorageError(
                f"{folder} is a link, and what is kept there is removed in time; remove it"
            )
        folder.mkdir(exist_ok=True)
        self.folder = folder
        for path in folder.glob("[0-9]*"):
            if not path.name.isdigit() or (path / _SEAL).exists():
                continue
            if earlier:
                self._seal(int(path.name))
            else:
                shutil.rmtree(path)
        self._orbax = checkpoint
        # whoever opens a folder is the only one, of however many processes
        here = jax.process_index()
        alone = checkpoint.options.MultiprocessingOptions(here, {here}, str(folder.resolve()))
        self._manager = checkpoint.CheckpointManager(
            folder.resolve(),
            options=checkpoint.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                create=False,
                enable_async_checkpointing=False,
                multiprocessing_options=alone,
            ),
        )

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    @property
    def step(self) -> int:
        """Number of the last state, 0 before the first."""
        return int(self._manager.latest_step() or 0)

    def save(self, step: int, state: Arrays, notes: Section) -> None:
        """Keep a state, a table of arrays, with JSON values beside it.

        Raises:
            OSError: the file system refuses; the states before are intact.
        """
        items = {
            "state": self._orbax.args.StandardSave(state),
            "notes": self._orbax.args.JsonSave(notes),
        }
        self._manager.save(step, args=self._orbax.args.Composite(**items))
        self._seal(step)

    def notes(self) -> JsonTable:
        """What was kept beside the last state."""
        return self._restored("notes", self._orbax.args.JsonRestore())

    def restore(self, like: Arrays) -> dict[str, np.ndarray]:
        """The last state, a table of arrays as `like` is."""
        return self._restored("state", self._orbax.args.StandardRestore(like))

    def _seal(self, step: int) -> None:
        path = self.folder / str(step) / _SEAL
        hashes = {name: intact.sha256(path.parent / name) for name in _names(path.parent)}
        seals.write(path, {"step": step, "files": hashes})

    def _restored(self, item: str, wanted: object) -> JsonTable:
        path = self.folder / str(self.step)
        try:
            self._verify(path, item)
            args = self._orbax.args.Composite(**{item: wanted})
            found: dict[str, JsonTable] = self._manager.restore(self.step, args=args)
            return found[item]
        except Exception as error:  # orbax raises whatever its storage layers do
            what = error if isinstance(error, StorageError) else type(error).__name__
            raise StorageError(
                f"{path} is damaged ({what}); delete it to go on from the state before"
            ) from error

    def _verify(self, path: Path, item: str) -> None:
        """Compare one of the two items, and what belongs to both, with the seal."""
        content = seals.read(path / _SEAL, _RULE, remedy="it is a part of the state")
        if content["step"] != self.step:
            raise StorageError(f"{path / _SEAL} is of step {content['step']}")

        def read(name: str) -> bool:
            return "/" not in name or name.startswith(f"{item}/")

        known = {name: sha256 for name, sha256 in content["files"].items() if read(name)}
        if lost := known.keys() ^ set(filter(read, _names(path))):
            raise StorageError(f"{path / min(lost)} is not in its seal, or not there")
        for name, sha256 in known.items():
            intact.verify(path / name, sha256)


def _names(path: Path) -> list[str]:
    """The files of a state but for its seal, and that of a process that died over it."""
    found = (p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if not p.is_dir())
    return [name for name in found if not name.startswith(_SEAL)]
