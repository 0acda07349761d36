"""Reading series and weights; fluctuations of a function of weighted means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import jax

__all__ = [
    *("MIN_CONFIGS", "Array", "Function", "as_numbers", "as_primaries", "as_weights"),
    *("fluctuations", "in_safe_units", "require_finite", "weights_of"),
]

Array = npt.NDArray[np.float64]
Function = Callable[["jax.Array"], "jax.Array"]  # of means, to a number

MIN_CONFIGS = 4  # per chain: the window needs rho(1), and lags are used up to half a chain
_SAFE_EXPONENT = 200  # fourth powers of numbers between 2^-200 and 2^200 are numbers too


def as_numbers(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Return an array of real numbers in its own dtype, refusing what only looks like one.

    Raises:
        TypeError: numbers that are complex, text or objects, rows of unequal length, or a value
            that JAX is still tracing.
        ValueError: some are masked. A mask says which numbers do not count, and it would be lost.
    """
    if masked := _count_masked(values):
        raise ValueError(
            f"{name} must have no mask, got {masked} masked numbers: leave those configurations "
            f"out, of all that is measured together, or fill them"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be an array of real numbers, got {type(values).__name__}: rows of "
            f"unequal length, or a value that jax.jit, vmap or grad is tracing and has no numbers "
            f"yet; call this outside of them"
        ) from None
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got {array.dtype}: take real and imaginary parts")
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name} must be real numbers, got an array of {array.dtype}")
    return array


def _count_masked(values: object) -> int:
    if isinstance(values, list | tuple):
        return sum(map(_count_masked, values))
    return int(np.ma.getmaskarray(values).sum()) if isinstance(values, np.ma.MaskedArray) else 0


def in_safe_units(values: Array) -> tuple[Array, float]:
    """Return numbers that can be squared, and the unit they are in: 1, unless huge or tiny.

    The unit is a power of two, so that the division is exact and nothing else depends on it.
    """
    largest = max(abs(float(values.max())), abs(float(values.min())))
    exponent = math.frexp(largest)[1] - 1 if math.isfinite(largest) else 0
    if abs(exponent) <= _SAFE_EXPONENT:
        return values, 1.0
    unit = math.ldexp(1.0, exponent)
    return values / unit, unit


def as_primaries(series: npt.ArrayLike, function: Function | None) -> Array:
    """Check a series and return it as (n_primaries, n_chains, n_configs)."""
    array = as_numbers("series", series)
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
        require_finite("series", chains)
    return primaries


def as_weights(log_weights: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return weights of mean one and shape (n_chains, n_configs)."""
    if log_weights is None:
        return np.ones(shape)
    log_w = as_numbers("log_weights", log_weights).astype(np.float64)
    if log_w.shape != shape:
        raise ValueError(
            f"log_weights must have the shape {shape} of the chains, got {log_w.shape}"
        )
    require_finite("log_weights", log_w)
    weights = weights_of(log_w)
    weights /= weights.mean()
    return weights


def weights_of(log_weights: Array) -> Array:
    """Return weights in units of the largest, exp(log w - max log w), of any shape."""
    weights: Array = np.exp(log_weights - log_weights.max())
    return weights


def fluctuations(
    series: npt.ArrayLike, function: Function | None, log_weights: npt.ArrayLike | None
) -> tuple[float, Array]:
    """Return the value and its fluctuations (n_chains, n_configs), which average to zero."""
    primaries = as_primaries(series, function)
    weights = as_weights(log_weights, primaries.shape[1:])
    units = np.ones((len(primaries), 1, 1))
    for i, chains in enumerate(primaries):
        primaries[i], units[i] = in_safe_units(chains)
    origin = primaries[:, :1, :1]  # subtracted first: a constant then has no rounding errors
    shifts = np.mean(weights * (primaries - origin), axis=(1, 2), keepdims=True)
    means = units * (origin + shifts)
    delta = weights * (primaries - origin - shifts)
    delta *= units
    if function is None:
        return float(means.item()), delta[0]
    value, gradient = _linearise(function, means[:, 0, 0])
    return value, np.tensordot(gradient, delta, axes=1)


def require_finite(name: str, chains: Array) -> None:
    """Refuse numbers `(n_chains, n_configs)` that are not finite, naming the first."""
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

    # numbers even where a caller is traced, as all else here is
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        point = jnp.asarray(means)
        value = function(point)
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                "function must give a number, but depends on a value that jax.jit, vmap or grad "
                "is tracing: call this outside of them"
            )
        if np.shape(value) != ():
            raise ValueError(f"function must return one number, got shape {np.shape(value)}")
        gradient: Array = np.asarray(jax.grad(function)(point))
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        return math.nan, np.full_like(means, math.nan)
    return float(value), gradient
