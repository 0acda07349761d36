"""Jackknife and bootstrap over bins within chains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.gamma import estimate
from lattice_ml.statistics.series import Array, Function, as_primaries, as_weights, in_safe_units

__all__ = ["Resampled", "bootstrap", "jackknife", "jackknife_error", "jackknife_variance"]


class Resampled(NamedTuple):
    """Value and error found by resampling."""

    value: float
    error: float


def jackknife_variance(left_out: npt.NDArray[np.floating], axis: int = 0) -> Array:
    """(B-1)/B sum_b (f_b - mean f)^2 along an axis of B values, bin b left out in f_b."""
    return np.asarray((left_out.shape[axis] - 1) * np.var(left_out, axis=axis))


def jackknife_error(left_out: npt.NDArray[np.floating], axis: int = 0) -> Array:
    """The root of `jackknife_variance`."""
    return np.sqrt(jackknife_variance(left_out, axis))


def jackknife(
    series: npt.ArrayLike,
    function: Function | None = None,
    *,
    bin_size: int | None = None,
    log_weights: npt.ArrayLike | None = None,
) -> Resampled:
    """Estimate with error^2 = (B-1)/B sum_b (f_b - mean f)^2, bin b of B left out in f_b.

    Bins lie within chains. By default they hold b = (2 N tau_m^2)^(1/3) configurations, where
    the sum of bias tau_m / (2 b) and noise sqrt(b / (2 N)) of the error is smallest.

    Raises:
        ValueError: Fewer than two bins are left.
    """
    bins = _bins(series, function, bin_size, log_weights)
    total = bins.sum(axis=1, keepdims=True)
    left_out = _evaluate(function, total - bins)
    left_out, unit = in_safe_units(left_out)
    error = unit * float(jackknife_error(left_out))
    return Resampled(float(_evaluate(function, total)[0]), error)


def bootstrap(
    seed: int | Sequence[int] | npt.NDArray[np.integer] | np.random.Generator,
    series: npt.ArrayLike,
    function: Function | None = None,
    n_resamples: int = 1000,
    *,
    bin_size: int | None = None,
    log_weights: npt.ArrayLike | None = None,
) -> Resampled:
    """Estimate with the spread of `n_resamples` draws of bins (as in `jackknife`), put back.

    Args:
        seed: What `numpy.random.default_rng` takes; of a JAX key ``jax.random.key_data(key)``.
        series: As in the module's docstring, like `function` and `log_weights`.
        function: None for the mean itself.
        n_resamples: The error has a relative noise of 1/sqrt(2 n_resamples).
        bin_size: Configurations per bin.
        log_weights: None for equal weights.

    Raises:
        ValueError: Fewer than two bins, or fewer than two resamples.
    """
    if n_resamples < 2:
        raise ValueError(f"bootstrap needs n_resamples >= 2 for a spread, got {n_resamples=}")
    rng = np.random.default_rng(seed)
    bins = _bins(series, function, bin_size, log_weights)
    n_bins = bins.shape[1]
    draws = [bins[:, rng.integers(n_bins, size=n_bins)].sum(axis=1) for _ in range(n_resamples)]
    value = _evaluate(function, bins.sum(axis=1, keepdims=True))[0]
    found, unit = in_safe_units(_evaluate(function, np.stack(draws, axis=1)))
    return Resampled(float(value), unit * float(np.std(found, ddof=1)))


def _bins(
    series: npt.ArrayLike,
    function: Function | None,
    bin_size: int | None,
    log_weights: npt.ArrayLike | None,
) -> Array:
    """Return sums (n_primaries + 1, n_bins) of w a and w; bins differ by at most one in length."""
    primaries = as_primaries(series, function)
    n_chains, n = primaries.shape[1:]
    weights = as_weights(log_weights, (n_chains, n))
    if bin_size is None:
        tau = estimate(series, function, log_weights=log_weights).tau_int
        largest = n if n_chains > 1 else n // 2
        bin_size = 1 if math.isnan(tau) else round((2 * n_chains * n * tau**2) ** (1 / 3))
        bin_size = min(bin_size, largest)
    if not 1 <= bin_size <= n or n_chains * (n // bin_size) < 2:
        raise ValueError(
            f"bin_size must leave at least two bins within chains of {n} configurations, "
            f"got {bin_size=} for {n_chains=}"
        )
    n_bins = n // bin_size
    starts = np.arange(n_bins) * n // n_bins
    summands = np.concatenate([weights * primaries, weights[None]])
    return np.asarray(np.add.reduceat(summands, starts, axis=2).reshape(len(summands), -1))


def _evaluate(function: Function | None, sums: Array) -> Array:
    """Return f (n_samples,) of weighted sums (n_primaries + 1, n_samples), the weights last."""
    means = sums[:-1] / sums[-1]
    if function is None:
        return np.asarray(means[0])
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return np.asarray(jax.vmap(function, in_axes=1)(jnp.asarray(means)))
