"""Measure a `Theory` from configurations, once and in blocks."""

from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import Action, quartic
from lattice_ml.fields.lattice import group_means
from lattice_ml.fields.modes import Modes
from lattice_ml.models.model import host
from lattice_ml.models.theory import Theory

__all__ = ["fit_mixture", "measure_theory"]

_QUANTILES = 1024
_BATCH = 1024  # configurations transformed at once
_SAMPLE = 1024  # configurations that the scale of F is measured on


def measure_theory(
    action: Action,
    blocks: Iterable[tuple[np.ndarray, np.ndarray | None]],
    *,
    pairs: int = 2,
    symmetric: bool = True,
) -> Theory:
    """Measure propagator and zero mode, averaged over the lattice's symmetries.

    Args:
        action: in (h, a, b).
        blocks: configurations `(n, *L)` and their weights `(n,)`, or None for equal weights.
        pairs: pairs of Gaussians in the mixture of the zero mode.
        symmetric: make the mixture symmetric under phi -> -phi, as the action is.

    Returns:
        The theory with float64 numbers.

    Raises:
        ValueError: no configurations, fewer than 16, or one that is not finite.
    """
    h, a, b = (float(c) for c in quartic(action, "flow and diffusion models are").couplings())
    square = np.zeros(())
    zeros, all_weights, sample = [], [], None
    for fields, weights in _batches(blocks):
        modes = Modes(fields.shape[1:])
        x = np.asarray(_forward(jnp.asarray(fields, jnp.float32), modes), np.float64)
        square = square + np.tensordot(weights, x**2, 1)
        zeros.append(fields.reshape(len(fields), -1).mean(axis=1, dtype=np.float64))
        all_weights.append(weights)
        if sample is None:  # one is enough, and keeps its batch in memory
            sample = x[:_SAMPLE], weights[:_SAMPLE] / weights.sum()
    n = sum(map(len, zeros))
    if sample is None or n < 16:
        raise ValueError(f"a theory is measured on at least 16 configurations, got {n}")
    weight = np.concatenate(all_weights)
    square, weight = square / weight.sum(), weight / weight.sum()
    phi_squared = square.mean()
    if not np.isfinite(phi_squared):
        raise ValueError("a configuration is not finite: check the ensemble")
    zero = np.concatenate(zeros) * np.sqrt(modes.volume)
    propagator = _propagator(square, modes, 1 / np.sum(weight**2))
    quantiles = _quantiles(np.abs(zero) if symmetric else zero, weight)
    theory = Theory(
        h,
        a,
        b,
        propagator=host(propagator),
        mixture=host(fit_mixture(quantiles, pairs, symmetric=symmetric)),
        phi_squared=float(phi_squared),
        force_rms=1.0,
        quantiles=host(quantiles),
        modes=modes,
    )
    return replace(theory, force_rms=_force_rms(theory, sample))


def fit_mixture(
    values: np.ndarray, pairs: int, *, symmetric: bool = True, n_iterations: int = 300
) -> np.ndarray:
    """Fit Gaussians to the zero mode by expectation maximisation: `(3, 2 * pairs)`.

    Args:
        values: |x_0|, or x_0 where the mixture is not symmetric: `(n,)`.
        pairs: half the number of Gaussians; in a symmetric mixture they come in pairs at +-mu.
        symmetric: give both Gaussians of a pair one weight and one variance.
        n_iterations: of the algorithm.

    Returns:
        Weights, means and variances.
    """
    if not symmetric:
        return _maximise(values, 2 * pairs, n_iterations, mirror=False)
    weights, means, variances = _maximise(values, pairs, n_iterations, mirror=True)
    return np.array(
        [np.r_[weights, weights] / 2, np.r_[means, -means], np.r_[variances, variances]]
    )


def _maximise(values: np.ndarray, n: int, n_iterations: int, *, mirror: bool) -> np.ndarray:
    """Weights, means and variances of `n` Gaussians, each with its mirror image if asked."""
    means = np.quantile(values, (np.arange(n) + 0.5) / n)
    variances = np.full(n, values.var() / n + 1e-9)
    weights = np.full(n, 1 / n)
    signed = np.stack([values, -values]) if mirror else values[None]  # (images, values)
    for _ in range(n_iterations):
        distance = signed[..., None] - means
        logs = np.log(weights) - 0.5 * np.log(variances) - 0.5 * distance**2 / variances
        share = np.exp(logs - logs.max(axis=(0, 2), keepdims=True))
        share /= share.sum(axis=(0, 2), keepdims=True)
        total = share.sum(axis=(0, 1)) + 1e-300
        means = np.sum(share * signed[..., None], axis=(0, 1)) / total
        variances = np.sum(share * (signed[..., None] - means) ** 2, axis=(0, 1)) / total
        variances = np.maximum(variances, 1e-6 * np.mean(values**2))
        weights = total / total.sum()
    return np.array([weights, means, variances])


def _batches(
    blocks: Iterable[tuple[np.ndarray, np.ndarray | None]],
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for fields, weights in blocks:
        all_weights = np.ones(len(fields)) if weights is None else weights
        for first in range(0, len(fields), _BATCH):
            yield fields[first : first + _BATCH], all_weights[first : first + _BATCH]


_forward = jax.jit(lambda fields, modes: modes.forward(fields), static_argnums=1)


def _propagator(square: np.ndarray, modes: Modes, n: float) -> np.ndarray:
    """C averaged over symmetric modes, and smoothed where there are many.

    The noise of C costs a variance of log w of (number of orbits) / n.  1/C is therefore fitted
    by a series in p_hat^2 and sum_mu p_hat_mu^4 (the first term that breaks rotations); the fit
    is taken unless its residuals show structure: those next to each other in p_hat^2 agree.
    """
    orbits = modes.orbits.ravel()
    size = np.bincount(orbits)
    c = group_means(square.ravel(), orbits)
    squares = modes.p_hat_mu_squared
    p2, p4 = (group_means(np.sum(squares**k, axis=0).ravel(), orbits) for k in (1, 2))
    moving = np.flatnonzero(p2 > 0)
    series = _series(p2[moving], p4[moving])
    if len(moving) >= 4 * len(series):
        error = np.sqrt(2 / (n * size[moving]))  # relative
        rows = (series * c[moving] / error).T
        fit = np.linalg.lstsq(rows, 1 / error, rcond=None)[0]
        residual = (rows @ fit - 1 / error)[np.argsort(p2[moving], kind="stable")]
        correlation = np.mean(residual[1:] * residual[:-1]) / np.mean(residual**2)
        if correlation < 0.2 and np.all(fit @ series > 0):
            c[moving] = 1 / (fit @ series)
    averaged: np.ndarray = c[modes.orbits]
    return averaged


def _series(p2: np.ndarray, p4: np.ndarray) -> np.ndarray:
    """Terms of 1/C on momenta other than zero: `(terms, n)`."""
    infrared = [1 / (p2 + 0.02), 1 / (p2 + 0.1), np.log(p2 + 0.05)]
    return np.stack([np.ones_like(p2), p2, p2**2, p2**3, *infrared, p4, p4 * p2])


def _quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    levels = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.interp((np.arange(_QUANTILES) + 0.5) / _QUANTILES, levels, values[order])


def _force_rms(theory: Theory, sample: tuple[np.ndarray, np.ndarray]) -> float:
    """Root mean square per site of V' without its zero mode."""
    x, share = sample
    force = np.asarray(_fluctuating_force(theory, jnp.asarray(x)), np.float64)
    squares = np.mean(force**2, axis=theory.modes.axes)
    return float(np.sqrt(np.sum(share * squares) / share.sum() + 1e-12 * theory.phi_squared))


@jax.jit
def _fluctuating_force(theory: Theory, x: jax.Array) -> jax.Array:
    return theory.interaction(x) * theory.fluctuating
