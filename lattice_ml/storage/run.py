"""Writing an ensemble so that what is committed cannot be lost.

A single HDF5 file that grows can be lost whole when the machine stops between two of its writes,
so a run is a directory of files that are each written once (`storage/files.py`)::

    DIR/manifest.json       config, provenance, tuned parameters; size and sha256 of every shard;
                            its own seal
    DIR/shards/*.h5         configurations, histories and the sampler state after them
    DIR/ensemble.h5         all shards as one file, for other programs
    DIR/cost.json           seconds that it took: all else is the same whenever the run was resumed
    DIR/lock                there while a process writes

The set of complete shards is the commit log. `append` renames a shard into place and then enters
it in the manifest; a shard whose entry is missing because the process died in between belongs to
the run. A run killed anywhere and opened again goes on from `Run.state` after its last shard.
Where several processes make a run, each writes shards of its own chains, and process 0 all else.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from lattice_ml.runtime.json import JsonTable, Section, copied
from lattice_ml.runtime.processes import ALONE, Team
from lattice_ml.storage import files, resuming, shards
from lattice_ml.storage.directory import (
    Writer,
    check_asked_alike,
    check_not_foreign,
    check_seen,
    held,
)
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.manifests import Entry

__all__ = ["Run", "StorageError", "look", "open_run"]

_GROWABLE = ("chain.n_configs",)


def open_run(
    directory: str | os.PathLike[str],
    config: Section,
    *,
    provenance: Section,
    parent: str | None = None,
    growable: Sequence[str] = _GROWABLE,
    free: Sequence[str] = (),
    team: Team = ALONE,
) -> "Run":
    """Start a run in a new or empty directory, or continue the run found there.

    Args:
        directory: where the run lives; made if it does not exist.
        config: resolved config, nested sections of JSON values. Needs `lattice.shape`,
            `chain.n_chains` and `output.dtype`. A key that is absent equals one that is None.
        provenance: what makes the numbers (versions, device). It may change from one resume to
            the next; each is kept with the first configuration it made.
        parent: hash of the data or model that the numbers come from.
        growable: dotted keys of numbers that may grow, never shrink, when a run is continued.
        free: dotted keys, or sections, that leave the numbers alone and may change.
        team: the processes that make the run; all of them open it.

    Returns:
        The run, which holds the lock of the directory: use it in a `with` statement.

    Raises:
        StorageError: the directory holds something else, another process writes to it, the config
            or the parent differs, or a committed shard is missing or altered.
        PeerError: process 0 met one of these.
        OSError: the file system refuses.
    """
    directory, lock = Path(directory), None
    asked = resuming.asked_for(config, parent)

    def begin(taken: TextIO) -> JsonTable:
        nonlocal lock
        lock = taken
        made_by = copied("provenance", provenance)
        return resuming.resumed(directory, asked, made_by, growable, free)

    check_asked_alike(team, asked)
    manifest = team.first(lambda: held(directory, resuming.RUN, begin))
    run = Run(directory, manifest, lock, team)
    try:
        team.together(run.check_here)
    except BaseException:
        run.__exit__()
        raise
    return run


def look(directory: str | os.PathLike[str], config: Section) -> JsonTable | None:
    """The manifest that `open_run` would go on from, and None where nothing was kept yet.

    Writes nothing, and compares the sizes of shards but not their checksums.

    Raises:
        StorageError: where `open_run` would.
    """
    directory, asked = Path(directory), resuming.asked_for(config)
    check_not_foreign(directory, resuming.RUN)
    recorded, committed = resuming.found(directory, asked, _GROWABLE, (), hashes=False)
    return recorded | {"shards": committed} if committed else None


class Run(Writer):
    """A run being written: `append` commits configurations, `state` is where to go on."""

    def __init__(
        self, directory: Path, manifest: JsonTable, lock: TextIO | None, team: Team
    ) -> None:
        """Continue from a checked manifest, process 0 with the lock; `open_run` does this."""
        super().__init__(directory, manifest, lock)
        self.team = team
        self._clock = time.monotonic()

    @property
    def n_done(self) -> int:
        """Configurations per chain on disk."""
        return shards.n_configs(self.manifest["shards"])

    @property
    def tuned(self) -> JsonTable:
        """Sampler parameters frozen after the warm-up, as given to `record`."""
        return dict(self.manifest["tuned"])

    def state(self) -> dict[str, np.ndarray] | None:
        """Return the state of all chains after the last configuration, None before the first."""
        return shards.read_state(self.directory, self.manifest)

    def check_here(self) -> None:
        """Refuse to go on where this process does not see what process 0 does."""
        parts = shards.shards(self.directory, self.manifest)
        check_seen(self.directory, *(part.path for part in parts))

    def record(self, **entries: object) -> None:
        """Keep tuned parameters (numbers, strings, lists) in the manifest, at once."""
        self._update(tuned=self.tuned | copied("tuned parameters", entries))

    def append(
        self,
        trajectory: npt.ArrayLike,
        cfgs: npt.ArrayLike | None,
        history: Mapping[str, npt.ArrayLike],
        state: Mapping[str, npt.ArrayLike],
        *,
        log_prob: npt.ArrayLike | None = None,
        log_weight: npt.ArrayLike | None = None,
        chains: range | None = None,
    ) -> None:
        """Commit the next n configurations of every chain, those of this process as one shard.

        Args:
            trajectory: (n,) number of the trajectory after which each configuration was kept.
            cfgs: (n, n_chains, *shape) in the dtype of the config, or None to keep none.
            history: (n, n_chains) per name, stored as float64.
            state: sampler state after the last configuration, arrays of any shape; chains first
                where several processes write.
            chains: those of this process, to which `n_chains` then refers; all by default.
            log_prob: (n, n_chains) log density of the model.
            log_weight: (n, n_chains) log weight, not normalised.

        Raises:
            ValueError: a shape or dtype is not the config's, or the names are not those of the
                shards before.
            OSError: the file system refuses; what was committed before is intact.
            PeerError: another process failed.
        """
        own = {"log_prob": log_prob, "log_weight": log_weight}
        scalars = {f"history/{name}": values for name, values in history.items()}
        scalars |= {name: values for name, values in own.items() if values is not None}
        everyone = range(self.manifest["config"]["chain"]["n_chains"])
        numbers = np.asarray(trajectory, dtype=np.int64)
        rows = self._rows(numbers, cfgs, scalars, everyone if chains is None else chains)
        if entries := self.manifest["shards"]:
            before = files.columns(self.directory / files.SHARDS / entries[0]["file"])
            if before.keys() != rows.keys():
                raise ValueError(
                    f"got {sorted(rows)}, but the shards before hold {sorted(before)}: "
                    f"every shard of a run holds the same names"
                )
        arrays = {name: np.asarray(value) for name, value in state.items()}

        def write() -> Entry | None:
            if not len(rows["chain"]):  # more processes than chains
                return None
            return files.write_shard(self.directory, self.n_done, rows, arrays)

        new = [entry for entry in self.team.together(write) if entry is not None]
        self._update(shards=[*entries, *new])
        self.team.first(self._count_seconds)

    def finish(self) -> None:
        """Write `ensemble.h5` anew, which shows all shards as one file; may be called any time."""
        config, entries = self.manifest["config"], self.manifest["shards"]
        self.team.first(lambda: shards.write_index(self.directory, config, entries))

    def _rows(
        self,
        trajectory: np.ndarray,
        cfgs: npt.ArrayLike | None,
        scalars: Mapping[str, npt.ArrayLike],
        chains: range,
    ) -> dict[str, np.ndarray]:
        """Check the arrays of one shard and merge (n, n_chains) into one axis of rows."""
        if trajectory.ndim != 1 or not trajectory.size:
            raise ValueError(f"asked for trajectory (n,) with n >= 1, got {trajectory.shape=}")
        config = self.manifest["config"]
        n, n_chains = len(trajectory), len(chains)
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scalars.items()}
        if cfgs is not None:
            arrays["cfgs"] = np.asarray(cfgs)
        for name, (dtype, row) in files.columns_of(config, arrays).items():
            array, shape = arrays[name], (n, n_chains, *row)
            if (array.dtype, array.shape) != (dtype, shape):
                raise ValueError(
                    f"{name}: got {array.dtype} {array.shape}, the config and the trajectory "
                    f"numbers ask for {dtype} {shape}"
                )
        rows = {
            name: array.reshape(n * n_chains, *array.shape[2:]) for name, array in arrays.items()
        }
        rows["chain"] = np.tile(np.arange(chains.start, chains.stop), n)
        rows["trajectory"] = np.repeat(trajectory, n_chains)
        return rows

    def _count_seconds(self) -> None:
        before, self._clock = self._clock, time.monotonic()
        so_far = files.read_seconds(self.directory) or 0.0
        files.write_seconds(self.directory, so_far + self._clock - before)

    def _update(self, **entries: object) -> None:
        manifest = self.manifest | entries
        self.manifest = self.team.first(lambda: files.write_manifest(self.directory, manifest))
