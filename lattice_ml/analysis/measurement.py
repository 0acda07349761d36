"""`measure`: every observable of an ensemble with an honest error."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables import (
    DERIVED,
    Derived,
    known_primaries,
    measure_configurations,
    require_powers,
)
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics import Estimate, estimate, kish, log_weights, log_z_doubt, pareto_k
from lattice_ml.statistics.series import Function

__all__ = [
    *("OF_WEIGHTS", "describe_weights", "estimate_derived", "estimate_weights", "explain"),
    *("measure", "of_means", "stored_series"),
]

OF_WEIGHTS = ("ess", "log_z")  # measured of weighted ensembles beside `observables.DERIVED`


@ordinary()
def measure(ensemble: Ensemble, *, weights: bool = True) -> dict[str, Estimate | None]:
    """Estimate all of `observables.DERIVED`, and what weights are worth where there are some.

    Args:
        ensemble: from `open_ensemble` or `run`.
        weights: use the ensemble's `log_weight` where it has one.

    Returns:
        Name to estimate (tau_int in trajectories), or to None where the quantity is not defined:
        no acceptance in an imported ensemble, a correlation length with chi2 < G(p_min). With
        weights also those of `estimate_weights`.

    Raises:
        ValueError: too few configurations.
    """
    series = stored_series(ensemble)
    log_weights = ensemble.log_weight if weights else None
    lattice = Lattice(ensemble.shape)
    found = {
        name: estimate_derived(observable, series, lattice, log_weights, ensemble.thin)
        for name, observable in DERIVED.items()
    }
    return found if log_weights is None else found | estimate_weights(ensemble)


def estimate_weights(ensemble: Ensemble) -> dict[str, Estimate | None]:
    """Estimate what the weights of an ensemble say, with errors that know tau_int.

    Returns:
        `ess`, Kish's number over n, (sum w)^2 / (n sum w^2); and `log_z`, log <w>, of the action
        in (h, a, b), or None where the weights are estimates or known up to a constant only.
    """
    logs = np.asarray(ensemble.log_weight, np.float64)
    largest = float(logs.max())
    weights = np.exp(logs - largest)
    ess = estimate(np.stack([weights, weights**2]), lambda m: m[0] ** 2 / m[1], thin=ensemble.thin)
    log_mean = estimate(weights[None], lambda m: jnp.log(m[0]), thin=ensemble.thin)
    log_z = replace(log_mean, value=largest + log_mean.value)
    found = {"ess": ess, "log_z": log_z if _normalised(ensemble) else None}
    worth, tail = kish(logs), pareto_k(logs)
    return {n: e and replace(e, worth=worth, pareto_k=tail) for n, e in found.items()}


def describe_weights(estimates: Mapping[str, Estimate | None]) -> str | None:
    """What the weights of measured quantities are worth, in words; None without weights."""
    ess, log_z = (estimates.get(name) for name in OF_WEIGHTS)
    if ess is None:
        return None
    text = f"{ess.n} samples are worth {ess.worth:.4g}, Pareto k {ess.pareto_k:.2f}, log Z "
    if log_z is None:
        return f"{text}not known: the weights are estimates, or without their constant"
    warning = log_z_doubt(ess.pareto_k)
    return f"{text}{log_z}; warning: {warning}" if warning else f"{text}{log_z}"


def explain(estimates: Mapping[str, Estimate | None]) -> dict[str, str]:
    """The marks of any of these estimates, with what they mean."""
    found = [estimate for estimate in estimates.values() if estimate is not None]
    said = {
        "short": "the chains have fewer than 50 tau_int of these configurations; their errors are "
        "themselves uncertain",
        "weights": next((e.doubt for e in found if e.doubt), ""),
    }
    return {mark: said[mark] for mark in said if any(mark in e.marks for e in found)}


def _normalised(ensemble: Ensemble) -> bool:
    """Whether <w> = Z: so it is of weights that are -S - log_prob, or that `sample` made.

    Weights of a density that is an estimate have another mean.
    """
    if ensemble.provenance and ensemble.provenance[-1]["made_by"].get("approximate"):
        return False
    made = ensemble.config.get("sampling") or {}
    if made.get("correct") in ("reweight", "hmc"):
        return True
    log_prob, log_weight = ensemble.log_prob, ensemble.log_weight
    if log_prob is None or log_weight is None or "action" not in ensemble.history:
        return False
    expected = log_weights(ensemble.series("action"), log_prob)
    return bool(np.allclose(log_weight, expected, rtol=1e-6, atol=1e-3))


def stored_series(ensemble: Ensemble) -> Mapping[str, np.ndarray]:
    """All histories `(n_chains, n_configs)`; primaries that were not stored are measured now.

    Histories are read when they are asked for, and not kept.
    """
    complete = set(known_primaries(ensemble.action)) <= set(ensemble.history)
    return _Histories(ensemble, {} if complete else remeasured_series(ensemble))


class _Histories(Mapping[str, np.ndarray]):
    """Series that were measured now, and the stored ones, read from disk at every look."""

    def __init__(self, ensemble: Ensemble, measured: Mapping[str, np.ndarray]) -> None:
        self._ensemble, self._measured = ensemble, measured

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._measured:
            return self._measured[name]
        if name not in self._ensemble.history:
            raise KeyError(name)
        return self._ensemble.series(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._ensemble.history), **self._measured})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def remeasured_series(ensemble: Ensemble) -> dict[str, np.ndarray]:
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
