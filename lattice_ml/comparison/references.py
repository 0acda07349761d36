"""References that are no ensembles, and whether two things can be compared at all."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import Phi4, Quartic, conventions
from lattice_ml.analysis.exact import exact
from lattice_ml.analysis.measurement import OF_WEIGHTS
from lattice_ml.fields.types import Floats
from lattice_ml.observables import DERIVED
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.printable import shape_label, shown
from lattice_ml.runtime.results import read_json

__all__ = ["Known", "Value", "check_comparable", "exact_reference", "read_values"]


class Value(NamedTuple):
    """A number that is known with a Gaussian error."""

    value: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.value:.10g}" if self.error == 0 else f"{self.value:.8g} +- {self.error:.2g}"


@dataclass(frozen=True)
class Known:
    """What is known of a distribution without an ensemble of it.

    Attributes:
        label: how it is called.
        source: where the numbers come from.
        values: of observables, by the names that `measure` gives them.
        two_point: G(p), `(*L)` in FFT order; None where it is not known.
        magnetisation: x and P(M <= x), `(n,)` each; None where it is not known.
    """

    label: str
    source: str
    values: Mapping[str, Value]
    two_point: Floats | None = None
    magnetisation: tuple[Floats, Floats] | None = None


def exact_reference(ensemble: Ensemble) -> Known:
    """The exact solution of an ensemble's action on its lattice.

    Raises:
        ValueError: there is none, or the ensemble is not of exp(-S).
    """
    if ensemble.action is None:
        raise ValueError("there is no exact solution without an action, but action.kind = none")
    if ensemble.temperature != 1:
        raise ValueError(
            f"the exact solution is of exp(-S), but the ensemble is of exp(-S/alpha) with alpha = "
            f"{ensemble.temperature:g}"
        )
    found = exact(ensemble.action, ensemble.shape)
    values = {
        name: Value(value, found.errors.get(name, 0.0)) for name, value in found.values.items()
    }
    return Known("exact", found.source, values, found.two_point, found.magnetisation)


def read_values(path: str | os.PathLike[str]) -> Known:
    """Reference values from a JSON file.

    The file has a table of observables, `{"phi2": {"value": v, "error": e}, ...}`, of which a
    pair `[v, e]` or a number alone are short forms and null leaves one out; or it is what
    `measure --json` writes for one ensemble.

    Raises:
        ValueError: it is not such a table, naming the entry, or a value was measured with weights
            that are worth too little for its error to be known.
    """
    table = read_json(path)
    if isinstance(table, dict) and len(table) == 1 and not set(table) & set(DERIVED):
        (table,) = table.values()  # of `measure`: one ensemble
    if not isinstance(table, dict) or not table:
        raise ValueError(
            f"{path} must hold one table of observables, as `measure --json` writes it for one "
            f"ensemble"
        )
    values = {}
    for name, entry in table.items():
        if name in OF_WEIGHTS:
            continue
        if name not in DERIVED:
            raise ValueError(f"{path}: {name!r} is no observable; allowed are {', '.join(DERIVED)}")
        if entry is not None:
            values[name] = _value(path, name, entry)
    return Known(shown(Path(path).name), f"values of {path}", values)


def _value(path: str | os.PathLike[str], name: str, entry: object) -> Value:
    if isinstance(entry, Mapping):
        if "doubt" in entry:
            raise ValueError(f"{path}: {name} is no reference: {entry['doubt']}")
        entry = [entry.get("value"), entry.get("error", 0.0)]
    numbers = entry if isinstance(entry, list) else [entry]
    try:
        found = Value(*map(float, numbers))
    except (TypeError, ValueError, OverflowError):
        found = Value(math.nan)
    if not (math.isfinite(found.value) and found.error >= 0 and math.isfinite(found.error)):
        raise ValueError(
            f"{path}: {name} must be a number, [value, error] or a table with value and error, "
            f"got {entry!r}"
        )
    return found


def check_comparable(reference: Ensemble, candidate: Ensemble) -> None:
    """Refuse to compare ensembles of different distributions.

    Raises:
        ValueError: saying what differs, and what to run where only the convention does.
    """
    names = shown(reference.label), shown(candidate.label)
    if reference.shape != candidate.shape:
        raise ValueError(
            f"the lattices differ: {names[0]} has {shape_label(reference.shape)}, {names[1]} has "
            f"{shape_label(candidate.shape)}; compare ensembles of one lattice"
        )
    if reference.temperature != candidate.temperature:
        raise ValueError(
            f"{names[0]} is of exp(-S/{reference.temperature:g}), {names[1]} of "
            f"exp(-S/{candidate.temperature:g}): that is another action"
        )
    if reference.action is None or candidate.action is None:
        if (reference.action is None) != (candidate.action is None):
            raise ValueError(
                f"the action of {names[candidate.action is None]} is not known (action.kind = "
                f"none), that of {names[reference.action is None]} is: compare like with like"
            )
        return
    known, other = (_couplings(ensemble) for ensemble in (reference, candidate))
    alike = isinstance(reference.action, Quartic) == isinstance(candidate.action, Quartic)
    if alike and np.shape(known) == np.shape(other):
        if np.allclose(known, other, rtol=1e-9, atol=1e-12):
            return
        forms = [f for f in map(_kappa_form, (reference, candidate)) if f is not None]
        if len(forms) == 2 and np.allclose(forms[0], forms[1], rtol=1e-9, atol=1e-12):
            convention = reference.config.get("action", {}).get("convention")
            raise ValueError(
                f"{names[0]} and {names[1]} are one theory in two normalisations of the field; "
                f"run lattice-ml convert {names[1]} --action.convention {convention or 'standard'} "
                f"--out DIR and compare that"
            )
    raise ValueError(
        f"the actions differ: {names[0]} has {_shown(reference)}, {names[1]} has "
        f"{_shown(candidate)}"
    )


def _couplings(ensemble: Ensemble) -> Floats:
    """(h, a, b), or what an action of the user's own has for parameters."""
    if isinstance(ensemble.action, Quartic):
        return np.array([float(x) for x in ensemble.action.couplings()])
    return np.array([np.sum(leaf) for leaf in jax.tree.leaves(ensemble.action)])


def _kappa_form(ensemble: Ensemble) -> Floats | None:
    """kappa and lam, the same in all normalisations of the field; None of other actions."""
    if not isinstance(ensemble.action, Quartic):
        return None
    ndim = len(ensemble.shape)
    action, _ = conventions.convert(Phi4(*_couplings(ensemble)), "kappa", ndim)
    return np.array(list(conventions.parameters(action, "kappa", ndim).values()))


def _shown(ensemble: Ensemble) -> str:
    numbers = ", ".join(f"{x:.10g}" for x in _couplings(ensemble))
    own = isinstance(ensemble.action, Quartic)
    return f"(h, a, b) = ({numbers})" if own else f"{type(ensemble.action).__name__}({numbers})"
