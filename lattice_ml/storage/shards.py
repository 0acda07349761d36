"""Which rows of an ensemble lie in which of its shards, and the index that shows them as one file.

A process writes the chains it runs, so a block of configurations is one shard, or one of every
process.  Rows are configuration-major, all chains of one configuration together, so those of a
shard with some of the chains lie spread among the rows of the others.
"""

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.storage import files, intact
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.manifests import Entry

__all__ = [
    *("Shard", "attributes", "check_index", "index_image", "layout", "n_configs", "read_state"),
    *("shards", "uncommitted", "unrecorded_shards", "write_index"),
]

_NAME = re.compile(r"c(\d{8,})-n(\d{4,})\.h5")  # first configuration, first chain


@dataclass(frozen=True)
class Shard:
    """Which rows of an ensemble a shard holds.

    Attributes:
        path: of the file.
        start, stop: rows of the ensemble from the first to after the last of its configurations.
        first_chain, n_chains: of the shard.
        all_chains: how many the ensemble has.
        sha256: of the file; "" in a forecast.
    """

    path: Path
    start: int
    stop: int
    first_chain: int
    n_chains: int
    all_chains: int
    sha256: str

    @property
    def whole(self) -> bool:
        """Whether it has all chains, so that its rows follow each other."""
        return self.n_chains == self.all_chains

    @property
    def n_configs(self) -> int:
        """Configurations per chain."""
        return (self.stop - self.start) // self.all_chains

    def holds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some rows of the ensemble it has, `(n,)`, and where they lie in the file."""
        inside = (self.start <= rows) & (rows < self.stop)
        if self.whole:
            return inside, rows[inside] - self.start
        config, chain = np.divmod(rows - self.start, self.all_chains)
        place = chain - self.first_chain
        inside &= (place >= 0) & (place < self.n_chains)
        return inside, (config * self.n_chains + place)[inside]

    def read(
        self,
        name: str,
        layout: files.Columns,
        rows: slice | np.ndarray = slice(None),
        *,
        hashes: bool,
    ) -> np.ndarray:
        """Read rows of a dataset, after checking that the file is what it was and fits.

        Args:
            name, rows: of the dataset, the rows in increasing order.
            layout: dtype and shape of one row of every dataset that there should be.
            hashes: compare the sha256 of the file, where this process has not done so yet.

        Raises:
            StorageError: the file is missing, altered, or holds other rows than the manifest says.
        """
        if hashes:
            intact.verify(self.path, self.sha256)
        intact.once(self.path, (self, *layout.items()), lambda: self._check(layout))
        with intact.opened(self.path) as file:
            return np.asarray(file[name][rows])

    def _check(self, layout: files.Columns) -> None:
        """Check names, dtypes and shapes of the datasets, and which chains the rows are of."""
        n = self.n_configs * self.n_chains
        wanted = {name: (dtype, (n, *row)) for name, (dtype, row) in layout.items()}
        with intact.opened(self.path) as file:
            there = {name: (d.dtype, d.shape) for name, d in files.datasets(file).items()}
            found = {k: v for k, v in there.items() if not k.startswith("state/")}
            for name in sorted(wanted.keys() | found.keys()):
                if found.get(name) != wanted.get(name):
                    raise StorageError(
                        f"{self.path} does not fit its ensemble: {name} is "
                        f"{_said(found.get(name))}, manifest.json and the first shard ask for "
                        f"{_said(wanted.get(name))}"
                    )
            chains = np.asarray(file["chain"])
        own = np.arange(self.first_chain, self.first_chain + self.n_chains)
        if not np.array_equal(chains, np.tile(own, self.n_configs)):
            raise StorageError(
                f"{self.path} does not fit its ensemble: its rows are not of {self.n_chains} "
                f"chains from {self.first_chain} on in turn (n_chains in manifest.json)"
            )

    def place(self, rows: np.ndarray, part: np.ndarray) -> None:
        """Write the rows of the file into those of an array of the whole ensemble."""
        block = rows[self.start : self.stop].reshape(-1, self.all_chains, *rows.shape[1:])
        chains = slice(self.first_chain, self.first_chain + self.n_chains)
        block[:, chains] = part.reshape(-1, self.n_chains, *part.shape[1:])


def shards(directory: Path, manifest: Section) -> list[Shard]:
    """The shards of a manifest in their order, by configurations and then by chains."""
    everyone, found = manifest["config"]["chain"]["n_chains"], []
    for entry in manifest["shards"]:
        start = entry["first_config"] * everyone
        own = entry.get("n_chains", everyone)
        stop = start + entry["n_configs"] * everyone
        path = directory / files.SHARDS / entry["file"]
        chains = entry.get("first_chain", 0), own
        found.append(Shard(path, start, stop, *chains, everyone, entry.get("sha256", "")))
    return found


def layout(shard: Shard, config: Section) -> files.Columns:
    """Dtype and shape of one row of every dataset of a shard, as its config has them.

    Raises:
        StorageError: the file is not a shard, or its config has them otherwise.
    """
    found = files.columns(shard.path)
    asked = files.columns_of(config, found | dict.fromkeys(("chain", "trajectory")))
    for name, wanted in asked.items():
        if found.get(name) != wanted:
            raise StorageError(
                f"{shard.path} does not fit its ensemble: {name} is {_said(found.get(name))} per "
                f"row, the config in manifest.json asks for {_said(wanted)}"
            )
    return found


def n_configs(entries: Sequence[Entry]) -> int:
    """Configurations per chain in the shards of a manifest."""
    return sum(entry["n_configs"] for entry in entries if not entry.get("first_chain"))


def read_state(directory: Path, manifest: Section) -> dict[str, np.ndarray] | None:
    """The sampler state of all chains after the last configuration, None before the first."""
    parts = shards(directory, manifest)
    states: list[dict[str, np.ndarray]] = []
    for part in [part for part in parts if part.stop == parts[-1].stop]:
        with intact.opened(part.path) as file:
            states.append({name: np.asarray(x[()]) for name, x in file["state"].items()})
    if len(states) > 1:
        return {name: np.concatenate([state[name] for state in states]) for name in states[0]}
    return states[0] if states else None


def unrecorded_shards(directory: Path, entries: Sequence[Entry], n_chains: int) -> list[Entry]:
    """Return entries for shards that were renamed just before the process died.

    Those of some chains count only where all the others are there as well.

    Raises:
        StorageError: a shard does not begin where the one before it ends, or is damaged.
    """
    found = list(entries)
    names = sorted((int(m[1]), int(m[2]), m[0]) for m in _unnamed(directory, entries))
    for first, group in itertools.groupby(names, key=lambda name: name[0]):
        paths = [directory / files.SHARDS / name for _, _, name in group]
        if first != n_configs(found):
            raise StorageError(
                f"{paths[0]} begins at configuration {first}, but the shards before it end "
                f"at {n_configs(found)}: a shard is missing"
            )
        new = [files.entry(path, first, _readable_chains(path)) for path in paths]
        if found:
            _check_order(directory / files.SHARDS / found[-1]["file"], paths)
        reached = 0
        for entry in new:
            reached += entry["n_chains"] if entry["first_chain"] == reached else 0
        if reached == n_chains and len({entry["n_configs"] for entry in new}) == 1:
            found += new
    return found[len(entries) :]


def uncommitted(directory: Path, entries: Sequence[Entry]) -> list[Path]:
    """Return shards that no entry names: their process, or another one of the run, was lost."""
    return [directory / files.SHARDS / match[0] for match in _unnamed(directory, entries)]


def attributes(config: Section, n_configs: int) -> JsonTable:
    """Return the HDF5 attributes of an ensemble: couplings that are set, shape, sizes, format."""
    couplings = {key: value for key, value in config.get("action", {}).items() if value is not None}
    return couplings | {
        "shape": config["lattice"]["shape"],
        "dtype": config["output"]["dtype"],
        "n_chains": config["chain"]["n_chains"],
        "n_configs": n_configs,
        "format_version": files.FORMAT_VERSION,
    }


def check_index(directory: Path, config: Section) -> None:
    """Refuse an `ensemble.h5`, where it is there, that says something else than the config.

    It may be of an earlier version, and show fewer configurations while a run goes on.
    """
    path = directory / files.INDEX
    if not path.is_file():
        return
    with intact.opened(path) as file:
        found = {name: np.asarray(value).tolist() for name, value in file.attrs.items()}
        shown = file["chain"].shape[0] // config["chain"]["n_chains"] if "chain" in file else 0
    asked = attributes(config, shown)
    wanted = {name: np.asarray(value).tolist() for name, value in asked.items()}
    if found.get("format_version") in range(1, files.FORMAT_VERSION):
        del found["format_version"], wanted["format_version"]
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise StorageError(
                f"{path} and {files.MANIFEST} disagree: {name} is {found.get(name)!r} in the one "
                f"and {wanted.get(name)!r} in the other; {files.remedy(directory)}"
            )


def write_index(directory: Path, config: Section, entries: Sequence[Entry]) -> None:
    """Write `ensemble.h5`, the rows of all shards as one file, anew."""
    layout = files.columns(directory / files.SHARDS / entries[0]["file"]) if entries else {}
    with files.replacing(directory / files.INDEX) as temporary:
        temporary.write_bytes(index_image(config, entries, layout))


def index_image(config: Section, entries: Sequence[Entry], layout: files.Columns) -> memoryview:
    """The bytes of `ensemble.h5`."""
    parts = shards(Path(), {"config": config, "shards": entries})
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs.update(attributes(config, n_configs(entries)))
        for name, (dtype, row) in layout.items():
            virtual = h5py.VirtualLayout((parts[-1].stop, *row), dtype)
            virtual.dcpl.set_obj_track_times(False)
            for part in parts:
                n = part.n_configs * part.n_chains
                rows: slice | h5py.MultiBlockSlice = slice(part.start, part.stop)
                if not part.whole:
                    first, step = part.start + part.first_chain, part.all_chains
                    rows = h5py.MultiBlockSlice(first, step, part.n_configs, part.n_chains)
                source = f"{files.SHARDS}/{part.path.name}"
                virtual[rows] = h5py.VirtualSource(source, name, (n, *row))
            fill = np.nan if dtype.kind == "f" else -1
            file.create_virtual_dataset(name, virtual, fillvalue=fill)
    return image.getbuffer()


def _said(kind: tuple[np.dtype, tuple[int, ...]] | None) -> str:
    return "not there" if kind is None else f"{kind[0]} {kind[1]}"


def _unnamed(directory: Path, entries: Sequence[Entry]) -> Iterator[re.Match[str]]:
    folder, known = directory / files.SHARDS, {entry["file"] for entry in entries}
    for path in folder.iterdir() if folder.is_dir() else ():
        if (match := _NAME.fullmatch(path.name)) and path.name not in known:
            yield match


def _check_order(last: Path, following: Sequence[Path]) -> None:
    """Refuse shards that do not go on where the last one ends, such as a copy of an earlier one."""
    with intact.opened(last) as file:
        reached = int(file["trajectory"][-1])
    for path in following:
        with intact.opened(path) as file:
            begins = int(file["trajectory"][0])
        if begins <= reached:
            raise StorageError(
                f"{path} begins with trajectory {begins}, but the shard before it ends with "
                f"{reached}: it is of another place; delete it to compute it anew"
            )


def _readable_chains(path: Path) -> np.ndarray:
    """Read a whole shard, so that its checksums are checked, and return its chain numbers."""
    try:
        with h5py.File(path) as file:
            for dataset in files.datasets(file).values():
                dataset[()]
            return np.asarray(file["chain"])
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged ({error}); delete it to compute it anew") from error
