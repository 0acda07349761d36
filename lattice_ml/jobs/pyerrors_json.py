"""Observables with their fluctuations, in the file format of pyerrors.

pyerrors (arXiv:2209.14371) keeps of a quantity its value and the fluctuation of every
configuration, by ensemble and replica, and propagates errors through whatever is computed of
several quantities.  Its `json.gz` (format 1.1) holds a list of

    {"type": "Obs", "layout": "1", "tag": [name], "value": [v], "data": [{"id": ensemble,
     "replica": [{"name": "ensemble|r0", "deltas": [[trajectory, delta], ...]}, ...]}]}

Here every chain is a replica, and the fluctuations of a function of means f(a, b, ...) are
sum_i df/da_i (a_i - <a_i>), as everywhere in this package. With weights they are
sum_i df/da_i w (a_i - <a_i>) / <w>, which is what `pyerrors.reweight` makes of a and w.  Nothing of
pyerrors is needed to write them, and there is no date in a file: equal ensembles give equal bytes.
"""

import gzip
import json
import math
import os
from collections.abc import Iterator
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path

import numpy as np

from lattice_ml.analysis.measurement import of_means, stored_series
from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables import DERIVED, PRIMARIES, Derived
from lattice_ml.runtime.results import check_export
from lattice_ml.runtime.writing import write_once
from lattice_ml.statistics.series import fluctuations
from lattice_ml.storage.ensemble import EnsembleOnDisk
from lattice_ml.storage.files import StorageError

__all__ = ["SUFFIX", "export_observables"]

SUFFIX = ".json.gz"


def export_observables(
    ensemble: EnsembleOnDisk, file: str | os.PathLike[str], name: str = ""
) -> list[str]:
    """Write all observables of an ensemble for `pyerrors.input.json.load_json`.

    Args:
        ensemble: from `open_ensemble`; its weights are used where it has some.
        file: a new file, `.json.gz`.
        name: what pyerrors is to call the ensemble; by default its directory's name and the start
            of its first checksum, because it takes quantities of equal names as correlated.

    Returns:
        The names of what was written, also the tags of the `Obs`: primaries, then what is derived
        from them; without what is not defined.

    Raises:
        ValueError: too few configurations, or a name that pyerrors would divide.
        StorageError: the file exists and is not what would be written, or its name ends
            differently.
    """
    file = Path(file)
    checksum = ensemble.manifest["shards"][0]["sha256"][:8]
    name = name or f"{ensemble.directory.resolve().name}-{checksum}"
    if not file.name.endswith(SUFFIX):
        raise StorageError(f"cannot export observables to {file}: the name must end in {SUFFIX}")
    check_export(file)
    if "|" in name:
        raise ValueError(f"pyerrors separates replicas by |, so no ensemble is called {name!r}")
    trajectories = ensemble.column("trajectory").reshape(-1, ensemble.n_chains)[:, 0].tolist()
    said = {"reweighted": True} if "log_weight" in ensemble.columns else {}
    written: list[str] = []

    def write(temporary: Path) -> None:
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        ):
            for tag, value, delta in _quantities(ensemble):
                packed.write(b",\n" if written else _head(ensemble).encode())
                opening = {"type": "Obs", "layout": "1", "tag": [tag], "value": [value], **said}
                for piece in _obs(opening, delta, name, trajectories):
                    packed.write(piece.encode())
                written.append(tag)
            packed.write(b"]}\n")

    write_once(file, write)
    return written


def _quantities(ensemble: EnsembleOnDisk) -> Iterator[tuple[str, float, np.ndarray]]:
    """Name, value and fluctuations `(n_chains, n_configs)` of what is defined."""
    series, lattice = stored_series(ensemble), Lattice(ensemble.shape)
    plain = {name: Derived((itemgetter(name),)) for name in PRIMARIES}
    for name, quantity in {**plain, **DERIVED}.items():
        means = of_means(quantity, series, lattice)
        if means is not None:
            value, delta = fluctuations(*means, ensemble.log_weight)
            if math.isfinite(value):
                yield name, value, delta


def _head(ensemble: EnsembleOnDisk) -> str:
    """The file up to its list of quantities."""
    config, names = ensemble.config, ("action", "lattice", "chain", "sampler")
    head = {
        "program": f"lattice_ml {version('lattice-ml')}",
        "version": "1.1",
        "description": {name: config[name] for name in names if name in config},
    }
    return f'{json.dumps(head)[:-1]}, "obsdata": [\n'


def _obs(
    opening: dict[str, object], delta: np.ndarray, name: str, trajectories: list[int]
) -> Iterator[str]:
    """One quantity as JSON, chain by chain, to need little memory."""
    start = f'{json.dumps(opening)[:-1]}, "data": [{{"id": {json.dumps(name)}, "replica": ['
    digits = len(str(len(delta) - 1))  # pyerrors sorts replicas by name
    for chain, own in enumerate(delta):
        replica = {
            "name": f"{name}|r{chain:0{digits}d}",
            "deltas": list(zip(trajectories, own.tolist(), strict=True)),
        }
        yield f"{', ' if chain else start}{json.dumps(replica)}"
    yield "]}]}"
