"""What the spectra of kinds share: fields to probe a model at, and couplings by their names."""

import math
from collections.abc import Mapping

import numpy as np

from lattice_ml.actions import conventions, quartic
from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.statistics import weights_of

__all__ = ["chosen_fields", "named_couplings"]


def chosen_fields(source: Ensemble, lattice: Lattice, n: int) -> np.ndarray:
    """Configurations of an ensemble, evenly along it or in proportion to their weights."""
    if source.shape != lattice.shape:
        raise ValueError(
            f"the model lives on {lattice.shape}, the fields of {source.label} on {source.shape}"
        )
    total = len(source.cfgs)
    rows = np.unique(np.linspace(0, total - 1, n).astype(int))
    if source.log_weight is not None:
        logs = source.log_weight.T.ravel()
        share = weights_of(logs)
        rows = np.random.default_rng(0).choice(total, len(rows), p=share / share.sum())
    return np.asarray(source.cfgs[rows], np.float64)


def named_couplings(
    read: Mapping[str, tuple[float, float]], section: Section, ndim: int
) -> JsonTable:
    """Couplings that were read off, with errors and true values, in (h, a, b) and as named.

    Errors of the convention's own names are propagated from h, a and b as if independent.
    """
    action = quartic(conventions.from_config(section, ndim), "these couplings are")
    true = dict(zip("hab", map(float, action.couplings()), strict=True))
    true["bare_mass_squared"] = 2 * true["a"] - 2 * ndim * true["h"]
    table = {
        name: _value(*read[name]) | {"true": float(true[name])}
        for name in ("h", "a", "b", "bare_mass_squared")
        if name in read
    }
    if "convention" in section:
        convention = conventions.CONVENTIONS[section["convention"]]
        centre = np.array([read.get(name, (math.nan, 0.0))[0] for name in "hab"])
        moves = np.diag([read.get(name, (math.nan, 0.0))[1] for name in "hab"])
        found = np.array(convention.invert(ndim, *centre))
        moved = [np.array(convention.invert(ndim, *(centre + move))) for move in moves]
        errors = np.sqrt(np.sum((np.array(moved) - found) ** 2, axis=0))
        for name, value, error in zip(convention.keys, found, errors, strict=True):
            if math.isfinite(value):
                table[name] = _value(value, error) | {"true": float(section[name])}
    return table


def _value(value: float, error: float) -> JsonTable:
    return {"value": float(value), "error": float(error)}
