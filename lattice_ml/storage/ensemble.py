"""Reading an ensemble, whatever made it.

    ensemble = open_ensemble("runs/critical")
    ensemble.cfgs[-1]                   # (*shape), read from disk when asked for
    ensemble.series("magnetisation")    # (n_chains, n_configs)
    for start, fields in ensemble.blocks(): ...

What is read is what was written: the manifest is checked when an ensemble is opened, and the sha256
of a shard before the first of its numbers is used, once per process.  The reader goes by the
manifest, so an ensemble that is still being written, or was interrupted, is readable up to its last
committed shard.  N = n_configs * n_chains samples lie sample first and configuration-major: sample
i is configuration i // n_chains of chain i % n_chains.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import numpy.typing as npt

from lattice_ml.runtime.devices import usable_cores
from lattice_ml.runtime.json import JsonTable
from lattice_ml.storage import files, intact, shards
from lattice_ml.storage.files import StorageError

__all__ = ["Configurations", "EnsembleOnDisk", "open_ensemble", "rows_in"]

BLOCK_BYTES = 64 * 2**20

Series = npt.NDArray[np.float64]
Index = int | slice | EllipsisType | np.ndarray


def open_ensemble(path: str | os.PathLike[str], *, verify: bool = True) -> "EnsembleOnDisk":
    """Open the ensemble in a directory.

    Args:
        path: of the directory.
        verify: compare the sha256 of every shard with the manifest's before it is first read.

    Raises:
        StorageError: there is none, it has no configurations yet, its manifest or `ensemble.h5` is
            altered, or a shard is missing or has another size than when it was written. Reading
            raises it where a shard is altered.
    """
    directory = Path(path)
    manifest = files.read_manifest(directory)
    if not manifest["shards"]:
        raise StorageError(f"{directory} has no configurations yet; run it on")
    files.check_shards(directory, manifest["shards"], hashes=False)
    shards.check_index(directory, manifest["config"])
    ensemble = EnsembleOnDisk(directory, manifest, verify)
    shards.layout(ensemble._shards[0], manifest["config"])
    return ensemble


@dataclass(frozen=True)
class EnsembleOnDisk:
    """An `observables.ensemble.Ensemble` of what was committed to a directory.

    Attributes:
        directory: where the ensemble lives.
        manifest: what `manifest.json` holds.
        hashes: whether the sha256 of a shard is compared before it is first read.
    """

    directory: Path
    manifest: JsonTable = field(repr=False)
    hashes: bool = True

    @property
    def config(self) -> JsonTable:
        """The resolved config that made the ensemble."""
        return dict(self.manifest["config"])

    @property
    def parent(self) -> str | None:
        """Hash of the data or model that the ensemble comes from."""
        parent: str | None = self.manifest["parent"]
        return parent

    @property
    def provenance(self) -> list[JsonTable]:
        """Versions and devices that made it, each from `first_config` on."""
        return list(self.manifest["provenance"])

    @property
    def tuned(self) -> JsonTable:
        """What the warm-up fixed."""
        return dict(self.manifest["tuned"])

    @property
    def label(self) -> str:
        """The directory, as it was named."""
        return str(self.directory)

    @cached_property
    def action(self) -> Any:
        """The action in (h, a, b), from the convention's couplings; None where none is known."""
        from lattice_ml.actions import conventions  # and so JAX, which reading does without

        try:
            return conventions.from_config(self.config["action"], len(self.shape))
        except (KeyError, TypeError, ValueError) as error:
            path = self.directory / files.MANIFEST
            raise StorageError(f"{path} has no action that there is: {error}") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the lattice."""
        return tuple(self.config["lattice"]["shape"])

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return int(self.config["chain"]["n_chains"])

    @property
    def n_configs(self) -> int:
        """Configurations per chain."""
        return shards.n_configs(self.manifest["shards"])

    @property
    def thin(self) -> int:
        """Trajectories from one kept configuration to the next."""
        return int(self.config["chain"].get("thin", 1))

    @property
    def temperature(self) -> float:
        """alpha of exp(-S/alpha); 1 unless the sampler was told otherwise."""
        return float(self.config.get("sampler", {}).get("temperature", 1.0))

    @property
    def kind(self) -> str:
        """Of the sampler, such as HMC; "" where there was none."""
        return str(self.config.get("sampler", {}).get("kind", ""))

    @property
    def seconds(self) -> float | None:
        """Wall time that making it took, warm-up and compilation included; None where unknown."""
        return files.read_seconds(self.directory)

    @property
    def history(self) -> tuple[str, ...]:
        """Names that `series` knows."""
        names = (name.partition("history/")[2] for name in self.columns)
        return tuple(name for name in names if name)

    @cached_property
    def columns(self) -> files.Columns:
        """Name on disk, dtype and shape of one row of everything kept per sample."""
        first = self._shards[0]
        if self.hashes:
            intact.verify(first.path, first.sha256)
        return shards.layout(first, self.manifest["config"])

    @property
    def has_cfgs(self) -> bool:
        """Whether the run kept configurations."""
        return "cfgs" in self.columns

    @cached_property
    def cfgs(self) -> "Configurations":
        """All configurations, (N, *shape), read from disk when indexed; refused if not kept."""
        if not self.has_cfgs:
            raise StorageError(f"{self.directory} kept no configurations (output.save_configs)")
        return Configurations(self._shards, self.columns, self.hashes)

    def series(self, name: str) -> Series:
        """Return one of `history`, (n_chains, n_configs); other names are refused."""
        if name not in self.history:
            known = ", ".join(self.history) or "none"
            raise StorageError(f"{self.directory} has no history {name!r}; it has {known}")
        return self._series(f"history/{name}")

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """The trajectory and the chain that each sample was stored with, (n_chains, n_configs)."""
        return {name: self._by_chain(name) for name in ("chain", "trajectory")}

    @property
    def log_prob(self) -> Series | None:
        """Log density of the model that made the samples, (n_chains, n_configs)."""
        return self._series("log_prob") if "log_prob" in self.columns else None

    @property
    def log_weight(self) -> Series | None:
        """Log weight of the samples, not normalised, (n_chains, n_configs)."""
        return self._series("log_weight") if "log_weight" in self.columns else None

    def blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, (n, *shape)) over all configurations, n as `max_bytes` allows."""
        rows = rows_in(max_bytes, self.shape, self.cfgs.dtype)
        for start in range(0, len(self.cfgs), rows):
            yield start, self.cfgs[start : start + rows]

    def verify(self) -> None:
        """Compare the sha256 of every shard with the manifest's; refuse the first that differs."""
        files.check_shards(self.directory, self.manifest["shards"], hashes=True)

    def column(self, name: str) -> np.ndarray:
        """Return one of `columns`, (N, ...), read whole."""
        dtype, row = self.columns[name]
        rows = np.empty((self._shards[-1].stop, *row), dtype)
        if self.hashes:
            intact.verify_all([(s.path, s.sha256) for s in self._shards], usable_cores())
        for shard in self._shards:
            shard.place(rows, shard.read(name, self.columns, hashes=self.hashes))
        return rows

    @cached_property
    def _shards(self) -> list[shards.Shard]:
        return shards.shards(self.directory, self.manifest)

    def _series(self, name: str) -> Series:
        return np.ascontiguousarray(self._by_chain(name), dtype=np.float64)

    def _by_chain(self, name: str) -> np.ndarray:
        return self.column(name).reshape(self.n_configs, self.n_chains).T


class Configurations:
    """An array (N, *shape) on disk, indexed as NumPy does and read where it is indexed.

    Attributes:
        shape: (N, *shape).
        dtype: that of the fields.
    """

    def __init__(self, parts: list[shards.Shard], columns: files.Columns, hashes: bool) -> None:
        """Join shards with such columns, their sha256 compared or not."""
        self.dtype, row = columns["cfgs"]
        self.shape = (parts[-1].stop, *row)
        self._shards, self._columns, self._hashes = parts, columns, hashes
        self._numbers = np.arange(self.shape[0])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Index | tuple[Index, ...]) -> np.ndarray:
        """Read the samples that the first index names; further ones may be integers or slices."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        if not all(isinstance(k, int | np.integer | slice) or k is Ellipsis for k in rest):
            raise IndexError(f"got {key!r}: only the first index may be an array; read, then index")
        rows = self._numbers[first]
        wanted, where = np.unique(rows, return_inverse=True)
        fields = self._read(wanted)
        if not np.array_equal(wanted, rows):
            fields = fields[where]
        return fields[(*[slice(None)] * np.ndim(rows), *rest)]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("configurations lie on disk: reading them makes a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        """Read rows given in increasing order."""
        fields = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for shard in self._shards:
            a, b = np.searchsorted(wanted, (shard.start, shard.stop))
            inside, rows = shard.holds(wanted[a:b])
            if not len(rows):
                continue
            part = shard.read("cfgs", self._columns, _selection(rows), hashes=self._hashes)
            if len(rows) == b - a:
                fields[a:b] = part
            else:
                fields[a:b][inside] = part
        return fields


def rows_in(max_bytes: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> int:
    """Return how many arrays of a shape fit, at least one."""
    return max(1, max_bytes // (math.prod(shape) * np.dtype(dtype).itemsize))


def _selection(rows: np.ndarray) -> slice | np.ndarray:
    """Return rows in increasing order as a slice where they are evenly spaced: HDF5 is faster."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    even = slice(int(rows[0]), int(rows[-1]) + 1, int(step))
    return even if np.array_equal(rows, np.arange(rows[0], rows[-1] + 1, step)) else rows
