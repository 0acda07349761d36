"""`measure`: every observable of an ensemble with an honest error."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.jax_modes import ordinary
from lattice_ml.lattice import Lattice
from lattice_ml.observables import (
    DERIVED,
    Derived,
    known_primaries,
    measure_configurations,
    require_powers,
)
from lattice_ml.statistics import Estimate, estimate

__all__ = ["estimate_derived", "measure", "of_means", "stored_series"]

Function = Callable[[jax.Array], jax.Array]


@ordinary()
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


def stored_series(ensemble: Any) -> Mapping[str, np.ndarray]:
    """All histories `(n_chains, n_configs)`; primaries that were not stored are measured now.

    Histories are read when they are asked for, and not kept.
    """
    complete = set(known_primaries(ensemble.action)) <= set(ensemble.history)
    return _Histories(ensemble, {} if complete else remeasured_series(ensemble))


class _Histories(Mapping[str, np.ndarray]):
    """Series that were measured now, and the stored ones, read from disk at every look."""

    def __init__(self, ensemble: Any, measured: Mapping[str, np.ndarray]) -> None:
        self._ensemble, self._measured = ensemble, measured

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._measured:
            return self._measured[name]
        if name not in self._ensemble.history:
            raise KeyError(name)
        series: np.ndarray = self._ensemble.series(name)
        return series

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._ensemble.history), **self._measured})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def remeasured_series(ensemble: Any) -> dict[str, np.ndarray]:
    """Primaries of all configurations, `(n_chains, n_configs)`, read in blocks."""
    series = {
        name: np.empty((ensemble.n_configs, ensemble.n_chains))
        for name in known_primaries(ensemble.action)
    }
    for first, fields in ensemble.blocks():
        measured = measure_configurations(ensemble.action, fields)
        require_powers(fields, measured["phi4"], first)
        for name, values in measured.items():
            series[name].reshape(-1)[first : first + len(values)] = values
    return {name: values.T for name, values in series.items()}


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
