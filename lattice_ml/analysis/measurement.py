"""`measure`: every observable of an ensemble with an honest error."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.lattice import Lattice
from lattice_ml.observables import DERIVED, Derived, known_primaries, measure_configurations
from lattice_ml.statistics import Estimate, estimate

__all__ = ["estimate_derived", "measure", "of_means", "stored_series"]

Function = Callable[[jax.Array], jax.Array]


def measure(ensemble: Any, *, weights: bool = True) -> dict[str, Estimate | None]:
    """Estimate all of `observables.DERIVED`.

    Args:
        ensemble: from `open_ensemble` or `run`.
        weights: use the ensemble's `log_weight` where it has one.

    Returns:
        Name to estimate (tau_int in trajectories), or to None where the quantity is not defined:
        no acceptance in an imported ensemble, a correlation length with chi2 < G(p_min).

    Raises:
        ValueError: too few configurations.
    """
    series = stored_series(ensemble)
    log_weights = getattr(ensemble, "log_weight", None) if weights else None
    lattice = Lattice(ensemble.shape)
    return {
        name: estimate_derived(observable, series, lattice, log_weights, ensemble.thin)
        for name, observable in DERIVED.items()
    }


def stored_series(ensemble: Any) -> dict[str, np.ndarray]:
    """All histories `(n_chains, n_configs)`; primaries that were not stored are measured now."""
    series = {name: ensemble.series(name) for name in ensemble.history}
    if not set(known_primaries(ensemble.action)) <= set(series):
        series |= remeasured_series(ensemble)
    return series


def remeasured_series(ensemble: Any) -> dict[str, np.ndarray]:
    """Primaries of all configurations, `(n_chains, n_configs)`, read in blocks."""
    parts = [measure_configurations(ensemble.action, fields) for _, fields in ensemble.blocks()]
    return {
        name: np.concatenate([part[name] for part in parts]).reshape(-1, ensemble.n_chains).T
        for name in parts[0]
    }


def estimate_derived(
    observable: Derived,
    series: Mapping[str, np.ndarray],
    lattice: Lattice,
    log_weights: np.ndarray | None,
    thin: int,
) -> Estimate | None:
    """One of `observables.DERIVED`; None where it is not defined or a series is missing."""
    means = of_means(observable, series, lattice)
    if means is None:
        return None
    found = estimate(*means, log_weights=log_weights, thin=thin)
    return found if math.isfinite(found.value) else None


def of_means(
    observable: Derived, series: Mapping[str, np.ndarray], lattice: Lattice
) -> tuple[list[np.ndarray], Function] | None:
    """The series that an observable takes the means of, and the function of these means.

    None where a series is missing.
    """
    try:
        primaries = [of(series) for of in observable.of]
    except KeyError:
        return None
    return primaries, lambda means: observable.function(lattice, *means) + 0 * jnp.sum(means)
