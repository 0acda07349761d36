"""The files of an ensemble: each is written once, renamed into place, and never touched again.

A shard holds consecutive configurations of all chains, or of those of one process, sample first and
configuration-major (all chains of one configuration together), with N = n_configs * n_chains rows::

    /cfgs (N, *shape)   /chain (N,)   /trajectory (N,)   /history/<name> (N,)
    /log_prob (N,)   /log_weight (N,)       where a model made the samples
    /state/<name>                           the sampler's state after the last row

The index `ensemble.h5` shows the rows of all shards as one file, by virtual datasets whose
relative paths survive a move of the directory; a missing shard reads as NaN (-1 for integers).
Checksums are on, compression is off, and nothing depends on the clock: equal runs are equal byte
for byte.  What JSON there is carries a seal (`storage/seals.py`); the sha256 of a shard is in the
manifest, and is compared before a shard is read, once per process while the file stays as it is.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.runtime.writing import StorageError, make_folder, replacing
from lattice_ml.storage import intact, manifests, seals
from lattice_ml.storage.manifests import Entry
from lattice_ml.storage.schema import Rule

__all__ = [
    "StorageError",
    "make_folder",
    "replacing",
    *("CONFIG", "FORMAT_VERSION", "blank_entry", "check_shards", "columns", "columns_of"),
    *("create_dataset", "datasets", "describe_folder", "entry", "read_cost", "read_manifest"),
    *("read_seconds", "remedy", "shard_image", "write_manifest", "write_seconds", "write_shard"),
]

FORMAT_VERSION = 2  # 1 had no seals
MANIFEST = "manifest.json"
INDEX = "ensemble.h5"
SHARDS = "shards"
COST = "cost.json"
CONFIG = "config.toml"

_CHUNK_BYTES = 2**20
_OF_A_DATASET = 2**14  # bytes that HDF5 adds, at most

Columns = dict[str, tuple[np.dtype, tuple[int, ...]]]  # dtype and shape of one row


def read_manifest(
    directory: Path,
    name: str = MANIFEST,
    kind: str = "ensemble",
    rule: Rule = manifests.check_manifest,
    *,
    edited: bool = False,
) -> JsonTable:
    """Return what `manifest.json`, or the file `name` that a model has in its place, holds.

    A seal that is wrong or missing is accepted where the file was `edited` on purpose.

    Raises:
        StorageError: there is none, it is not one that this version reads, or it is altered.
    """
    path = directory / name
    if not path.is_file():
        raise StorageError(f"{directory} holds no {kind}: no {name}, {describe_folder(directory)}")
    manifest = seals.parse(path)
    version = manifest.get("format_version")
    if type(version) is int and not 1 <= version <= FORMAT_VERSION:
        raise StorageError(f"{path} has format version {version}, this reads 1 to {FORMAT_VERSION}")
    seals.check(path, manifest, rule, remedy=remedy(directory), edited=edited)
    if version != 1 and seals.SEAL not in manifest and not edited:
        raise StorageError(f"{path} is altered: its seal is missing; {remedy(directory)}")
    return manifest


def remedy(directory: Path) -> str:
    """What to do about a file that does not fit its seal."""
    return (
        f"copy it back from where it came from or, if you meant the edit, accept it with "
        f"`lattice-ml info {directory} --accept-edit`"
    )


def write_manifest(directory: Path, manifest: Section, name: str = MANIFEST) -> JsonTable:
    """Replace `manifest.json`, or what a model has in its place; return what it now holds."""
    return seals.write(directory / name, {**manifest, "format_version": FORMAT_VERSION})


def write_shard(
    directory: Path, first: int, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
) -> Entry:
    """Commit the shard from configuration `first` on; return its entry for the manifest.

    `rows` are (N, ...) per dataset, `chain` among them; `state` has arrays of any shape.
    """
    path = directory / SHARDS / manifests.shard_name(first, rows["chain"][0])
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(shard_image(rows, state))
    return entry(path, first, rows["chain"])


def shard_image(rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> memoryview:
    """The bytes of a shard, in memory first: HDF5 does not survive a full disk.

    Nor does it survive a lack of memory, so all of it is there before the first is written.
    """
    image = io.BytesIO()
    datasets = dict(rows) | {f"state/{name}": array for name, array in state.items()}
    n_bytes = sum(array.nbytes for array in datasets.values())
    with h5py.File(image, "w") as file:
        image.seek(n_bytes + n_bytes // 100 + _OF_A_DATASET * (1 + len(datasets)))
        image.write(b"end")  # HDF5 cuts the file where its own end is
        file.create_group("state")
        for name, array in sorted(datasets.items()):
            create_dataset(file, name, array.shape, array.dtype)[...] = array
    return image.getbuffer()


def read_seconds(directory: Path) -> float | None:
    """How long an ensemble or a model took to make; None where that was not kept."""
    seconds: float | None = read_cost(directory).get("seconds")
    return seconds


def read_cost(directory: Path) -> JsonTable:
    """What `cost.json` holds, nothing where it is not there; refused where it is altered."""
    path = directory / COST
    if not path.is_file():
        return {}
    return seals.read(path, manifests.COST, remedy="remove it, and the cost is not known")


def write_seconds(directory: Path, seconds: float | None, **parts: object) -> None:
    """Keep how long an ensemble or a model took to make, and its parts; None where not known."""
    if seconds is None:
        (directory / COST).unlink(missing_ok=True)
        return
    seals.write(directory / COST, {"seconds": round(seconds, 3)} | parts)


def create_dataset(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> h5py.Dataset:
    """Create a dataset with checksums and chunks of about 1 MiB, whole rows where they fit."""
    whole = not shape or 0 in shape  # HDF5 cannot chunk a scalar or nothing
    chunks = None if whole else _chunks(shape, np.dtype(dtype).itemsize)
    options = {"chunks": chunks, "fletcher32": not whole, "track_times": False}
    return group.create_dataset(name, shape, dtype, **options)


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return all datasets of an open file by their full names."""
    found: dict[str, h5py.Dataset] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(note)
    return found


def columns(shard: Path) -> Columns:
    """Return the dtype and the shape of one row of each dataset, the state's left out."""
    with intact.opened(shard) as file:
        kept = {n: d for n, d in datasets(file).items() if not n.startswith("state/")}
        return {name: (d.dtype, d.shape[1:]) for name, d in kept.items()}


def columns_of(config: Section, names: Iterable[str]) -> Columns:
    """The dtype and the shape of one row that datasets of these names must have in a shard."""
    field = np.dtype(config["output"]["dtype"]), tuple(config["lattice"]["shape"])
    index, number = (np.dtype(np.int64), ()), (np.dtype(np.float64), ())
    known = {"cfgs": field, "chain": index, "trajectory": index}
    return {name: known.get(name, number) for name in names}


def check_shards(directory: Path, entries: Sequence[Entry], *, hashes: bool) -> None:
    """Refuse the first shard that is not there with the manifest's size, and with its sha256."""
    for entry in entries:
        path = directory / SHARDS / entry["file"]
        size = intact.size(path, "the ensemble")
        if size != entry["bytes"]:
            raise StorageError(f"{path} is altered: it has {size} bytes, not {entry['bytes']}")
        if hashes:
            intact.verify(path, entry["sha256"])


def describe_folder(directory: Path) -> str:
    """Describe what a directory holds."""
    if not directory.is_dir():
        return "it is a file" if directory.exists() else "no such directory"
    names = sorted(path.name for path in directory.iterdir())
    return "found " + (", ".join(names[:5]) + ", ..." * (len(names) > 5) if names else "nothing")


def entry(path: Path, first: int, chain: np.ndarray) -> Entry:
    """What the manifest keeps of a shard, from its numbers of chains `(N,)`."""
    chains = range(int(chain[0]), int(chain[-1]) + 1)
    blank = blank_entry(first, len(chain) // len(chains), chains, path.stat().st_size)
    return {**blank, "file": path.name, "sha256": intact.sha256(path)}


def blank_entry(first: int, n_configs: int, chains: range, n_bytes: int) -> Entry:
    """The entry of a shard that is not written yet: without its sha256."""
    return {
        "file": manifests.shard_name(first, chains.start),
        "first_config": first,
        "n_configs": n_configs,
        "first_chain": chains.start,
        "n_chains": len(chains),
        "bytes": n_bytes,
        "sha256": 64 * "0",
    }


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the longest run of rows of at most 1 MiB, or of sub-rows where one row is longer."""
    chunk = list(shape)
    for axis in range(len(shape)):
        below = math.prod(chunk[axis + 1 :]) * itemsize
        chunk[axis] = max(1, min(shape[axis], _CHUNK_BYTES // below))
        if below <= _CHUNK_BYTES:
            break
    return tuple(chunk)
