"""Reading series and weights; fluctuations of a function of weighted means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import jax

    Function = Callable[[jax.Array], jax.Array]

__all__ = ["Array", "as_primaries", "as_weights", "fluctuations"]

Array = npt.NDArray[np.float64]

MIN_CONFIGS = 4  # per chain: the window needs rho(1), and lags are used up to half a chain


def as_primaries(series: npt.ArrayLike, function: Function | None) -> Array:
    """Check a series and return it as (n_primaries, n_chains, n_configs)."""
    array = np.asarray(series)
    if np.iscomplexobj(array):
        raise TypeError(f"series must be real, got {array.dtype}: take real and imaginary parts")
    names = (
        ("n_chains", "n_configs") if function is None else ("n_primaries", "n_chains", "n_configs")
    )
    if array.ndim != len(names) or array.size == 0:
        raise ValueError(
            f"series must have shape ({', '.join(names)}), got {array.shape}; "
            "a single chain is series[None, :]"
        )
    if array.shape[-1] < MIN_CONFIGS:
        raise ValueError(
            f"too few configurations: {array.shape[-1]} per chain, at least {MIN_CONFIGS} needed; "
            "independent samples belong in one chain, shape (1, N)"
        )
    primaries = array.astype(np.float64).reshape(-1, *array.shape[-2:])
    for chains in primaries:
        _require_finite("series", chains)
    return primaries


def as_weights(log_weights: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return weights of mean one and shape (n_chains, n_configs)."""
    if log_weights is None:
        return np.ones(shape)
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.shape != shape:
        raise ValueError(
            f"log_weights must have the shape {shape} of the chains, got {log_w.shape}"
        )
    _require_finite("log_weights", log_w)
    weights: Array = np.exp(log_w - log_w.max())
    weights /= weights.mean()
    return weights


def fluctuations(
    series: npt.ArrayLike, function: Function | None, log_weights: npt.ArrayLike | None
) -> tuple[float, Array]:
    """Return the value and its fluctuations (n_chains, n_configs), which average to zero."""
    primaries = as_primaries(series, function)
    weights = as_weights(log_weights, primaries.shape[1:])
    origin = primaries[:, :1, :1]  # subtracted first: a constant then has no rounding errors
    shifts = np.mean(weights * (primaries - origin), axis=(1, 2), keepdims=True)
    means = origin + shifts
    delta = weights * (primaries - origin - shifts)
    if function is None:
        return float(means.item()), delta[0]
    value, gradient = _linearise(function, means[:, 0, 0])
    return value, np.tensordot(gradient, delta, axes=1)


def _require_finite(name: str, chains: Array) -> None:
    bad = np.argwhere(~np.isfinite(chains))
    if len(bad):
        chain, config = bad[0]
        raise ValueError(
            f"{name} must be finite, got {chains[chain, config]} "
            f"in chain {chain}, configuration {config} ({len(bad)} such values)"
        )


def _linearise(function: Function, means: Array) -> tuple[float, Array]:
    """Return f and df/dmeans (n_primaries,) in float64, all NaN where any is not finite."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        point = jnp.asarray(means)
        value = function(point)
        if np.shape(value) != ():
            raise ValueError(f"function must return one number, got shape {np.shape(value)}")
        gradient: Array = np.asarray(jax.grad(function)(point))
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        return math.nan, np.full_like(means, math.nan)
    return float(value), gradient
