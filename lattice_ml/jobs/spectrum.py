r"""`spectrum()`: what an ensemble shows, or a model has learned, momentum by momentum.

An ensemble has its inverse propagator 1/G(p), a model what its kind says of it
(`models/X/spectrum.py`): a Gaussian RBM the eigenvalues of its kernel K, a diffusion model the
curvature of its learned score.  Each stands beside what it should be, where that is known: a
free action's 2a - 2dh + h p_hat^2, the inverse of the data's second moment, the averaged Hessian
of the action.

All is returned as a table of JSON values (docs/spectrum.md lists the keys) and written to
`spectrum.json`, with a page of plots beside it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lattice_ml.analysis import spectrum as spectral
from lattice_ml.analysis.two_point import two_point
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.model import Probing
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.report import spectrum as spectrum_figures
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.json import JsonTable, plain_table
from lattice_ml.runtime.results import check_json, check_page, has_keys, write_json
from lattice_ml.runtime.writing import make_folder
from lattice_ml.statistics import doubt_of
from lattice_ml.storage import model as model_files
from lattice_ml.storage.ensemble import open_ensemble

__all__ = ["of_ensemble", "spectrum", "write"]

_TABLE = "spectrum.json"
_FIGURES = ["kernel", "ranks", "training", "singular_values", "zero_field", "regression", "noise"]
_SHAPE = has_keys("source", "kind", "what", "eigenvalues", "errors", "exact", "history")


@ordinary()
def spectrum(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    fields: str | os.PathLike[str] | None = None,
    n_fields: int | None = None,
    noise: Sequence[float] | None = None,
    weights: bool = True,
    seed: int = 0,
    verify: bool = True,
) -> JsonTable:
    """Write `spectrum.json` and a page of plots of a model or an ensemble to `out`.

    Args:
        path: of the model or the ensemble.
        out: a directory, made where missing.
        fields: an ensemble at whose configurations a diffusion model is probed; its own samples
            by default.
        n_fields: how many; 256 by default, 64 of networks that are slow to sample.
        noise: variances of the noise under a diffusion model's score, in units of C_min; the first
            is the one that the table shows.  By default those of the kind.
        weights: use an ensemble's `log_weight` where it has one.
        seed: of samples, noise and probes.
        verify: compare the sha256 of an ensemble's shards before they are read.

    Returns:
        What `spectrum.json` holds.

    Raises:
        StorageError: `path` is neither, or not finished; `out` holds something else by the name of
            a result.
        ValueError: settings that make no sense.
    """
    check_json(Path(out) / _TABLE, _SHAPE, new_folder=True)
    check_page(Path(out) / "index.html", "spectrum", _FIGURES)
    if noise is not None and not (noise and min(noise) > 0 and np.all(np.isfinite(noise))):
        raise ValueError(f"noise must be positive variances in units of C_min, got {tuple(noise)}")
    if n_fields is not None and n_fields < 2:
        raise ValueError(f"errors need n_fields >= 2, got {n_fields}")
    directory = Path(path)
    if (directory / model_files.MANIFEST).exists():
        source = None if fields is None else open_ensemble(fields, verify=verify)
        found = open_model(path).spectrum(Probing(source, n_fields, noise, seed))
    elif fields is None:
        found = of_ensemble(open_ensemble(path, verify=verify), weights=weights)
    else:
        raise ValueError(f"{directory} is an ensemble: only a model is probed at given fields")
    return write({"source": str(directory)} | found, out)


def write(found: JsonTable, out: str | os.PathLike[str]) -> JsonTable:
    """Write what was found; return it as JSON values, null in the place of NaN and infinity."""
    table = plain_table(found)
    make_folder(Path(out))
    write_json(Path(out) / _TABLE, table, _SHAPE)
    spectrum_figures.write(table, out)
    return table


def of_ensemble(ensemble: Ensemble, *, weights: bool = True) -> JsonTable:
    """The inverse propagator of an ensemble, see `analysis.spectrum.inverse_propagator`."""
    lattice = Lattice(ensemble.shape)
    bare, b = spectral.bare_form_of(ensemble.action, lattice)
    inverse = spectral.inverse_propagator(two_point(ensemble, weights=weights))
    exact = bare if b == 0 else np.full(len(bare), np.nan)
    return {
        "kind": "ensemble",
        "what": "inverse propagator 1/G(p)",
        "shape": list(lattice.shape),
        "action": dict(ensemble.config["action"]),
        **spectral.per_shell(lattice, inverse.value, inverse.error, exact),
        "history": [],
        "bare": bare,
        "renormalised": {
            "mass_squared": dict(zip(("value", "error"), inverse.mass_squared, strict=True)),
            "z": dict(zip(("value", "error"), inverse.z, strict=True)),
            "n_fitted": inverse.n_fitted,
        },
        "n_configurations": ensemble.n_chains * ensemble.n_configs,
        "weighted": weights and ensemble.log_weight is not None,
        "doubt": doubt_of(ensemble.log_weight) if weights else None,
    }
