r"""A theory on a lattice, or at couplings, that nothing was measured at.

The density of a sample is exact for any Gaussian part; a poor guess costs weights, not
correctness.  Between couplings, logarithms of everything measured are interpolated by a natural
cubic spline (a cubic radial basis function where both couplings vary).  From one coupling alone,
1/C moves with the bare quadratic form.  To another volume, 1/C is interpolated linearly in
p_hat^2, and x_0 scales as V^(alpha/2) with alpha = 3/2 of the Binder cumulant: 0 for a Gaussian,
1 in a well, and 0.92 at the critical point in two dimensions, where exactly 0.875 is expected.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lattice_ml.actions import Action, quartic
from lattice_ml.fields.lattice import group_means
from lattice_ml.fields.modes import Modes
from lattice_ml.models.measured import fit_mixture
from lattice_ml.models.model import host
from lattice_ml.models.theory import Theory

__all__ = ["theory_at"]


def theory_at(theories: Sequence[Theory], action: Action | None, shape: tuple[int, ...]) -> Theory:
    """Return what was measured for an action on a lattice, or a guess from what was.

    Args:
        theories: measured ones, of one dimension, on one lattice or several.
        action: in (h, a, b).
        shape: extents of the lattice.

    Raises:
        ValueError: the action or the dimension is another, or the guess is not a distribution.
    """
    couplings = np.array(
        [float(c) for c in quartic(action, "flow and diffusion models are").couplings()]
    )
    if len(shape) != theories[0].modes.ndim:
        raise ValueError(
            f"a model trained in {theories[0].modes.ndim} dimensions cannot sample lattice.shape "
            f"= {list(shape)}"
        )
    nearest = min(theories, key=lambda t: abs(np.log(t.modes.volume / np.prod(shape))))
    alike = [t for t in theories if t.modes == nearest.modes]
    same = (t for t in alike if np.allclose(_couplings(t), couplings, rtol=1e-12))
    found = next(same, None) or _interpolate(alike, couplings)
    return found if found.modes.shape == tuple(shape) else _resize(found, tuple(shape))


def _couplings(theory: Theory) -> np.ndarray:
    return np.array([float(theory.h), float(theory.a), float(theory.b)])


def _interpolate(theories: Sequence[Theory], couplings: np.ndarray) -> Theory:
    """A theory between others on the same lattice."""
    known = np.array([_couplings(theory) for theory in theories])
    varying = np.ptp(known, axis=0) > 1e-12
    if not varying.any() or not np.allclose(known[0][~varying], couplings[~varying]):
        return _shift(_closest(theories, couplings), couplings)
    tables = np.array([_logarithms(theory) for theory in theories])
    table = _spline(known[:, varying], tables, couplings[varying])
    first = theories[0]
    n = first.modes.volume
    symmetric = all(np.all(np.asarray(theory.quantiles) >= 0) for theory in theories)
    closest = np.asarray(_closest(theories, couplings).quantiles)
    quantiles = np.exp(table[n + 2 :]) if symmetric else closest
    h, a, b = couplings
    return Theory(
        h,
        a,
        b,
        propagator=host(np.exp(table[:n]).reshape(first.propagator.shape)),
        mixture=host(fit_mixture(quantiles, len(first.mixture[0]) // 2, symmetric=symmetric)),
        phi_squared=float(np.exp(table[n])),
        force_rms=float(np.exp(table[n + 1])),
        quantiles=host(quantiles),
        modes=first.modes,
    )


def _closest(theories: Sequence[Theory], couplings: np.ndarray) -> Theory:
    return min(theories, key=lambda t: float(np.sum((_couplings(t) - couplings) ** 2)))


def _logarithms(theory: Theory) -> np.ndarray:
    quantiles = np.maximum(np.asarray(theory.quantiles, np.float64), 1e-6)
    numbers = np.array([theory.phi_squared, theory.force_rms], np.float64)
    return np.log(np.concatenate([np.ravel(theory.propagator), numbers, quantiles]))


def _spline(points: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate rows of `values` known at `points` `(n, couplings)`."""
    from scipy.interpolate import RBFInterpolator

    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled, target = (points - low) / span, (at - low) / span
    rank = np.linalg.matrix_rank(scaled - scaled.mean(axis=0), tol=1e-9)
    axes = np.linalg.svd(scaled - scaled.mean(axis=0))[2][:rank]
    degree = 1 if len(points) > len(axes) else 0
    spline = RBFInterpolator(scaled @ axes.T, values, kernel="cubic", degree=degree)
    row: np.ndarray = spline((target @ axes.T)[None])[0]
    return row


def _shift(theory: Theory, couplings: np.ndarray) -> Theory:
    """A theory at other couplings: its self-energy 1/C - A is kept."""
    h, a, b = couplings
    moved = replace(theory, h=h, a=a, b=b)
    inverse = 1 / np.asarray(theory.propagator) + np.asarray(moved.bare) - np.asarray(theory.bare)
    propagator = 1 / np.maximum(inverse, 0.1 / np.asarray(theory.propagator))
    return replace(moved, propagator=propagator)


def _resize(theory: Theory, shape: tuple[int, ...]) -> Theory:
    """A theory on another lattice of the same dimension."""
    modes = Modes(shape)
    p_hat_squared, orbit = np.unique(
        np.round(theory.modes.p_hat_squared, 10).ravel(), return_inverse=True
    )
    inverse = group_means(1 / np.ravel(theory.propagator), orbit)
    x, y = p_hat_squared[1:], inverse[1:]  # the zero mode has its own rule
    below = y[0] + (modes.p_hat_squared - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
    guess = np.interp(modes.p_hat_squared, x, y)
    guess = np.where(modes.p_hat_squared < x[0], np.maximum(below, 0.3 * y[0]), guess)
    scale = (modes.volume / theory.modes.volume) ** (_order(theory) / 2)
    weights, means, variances = np.asarray(theory.mixture, np.float64)
    mixture = np.array([weights, scale * means, scale**2 * variances])
    propagator = 1 / guess
    propagator[(0,) * modes.ndim] = np.sum(weights * (mixture[2] + mixture[1] ** 2))
    return replace(
        theory,
        propagator=host(propagator),
        mixture=host(mixture),
        quantiles=host(scale * np.asarray(theory.quantiles)),
        modes=modes,
    )


def _order(theory: Theory) -> float:
    """Three halves of the Binder cumulant of the zero mode, between 0 and 1."""
    x = np.asarray(theory.quantiles, np.float64)
    return float(np.clip(1.5 - 0.5 * np.mean(x**4) / np.mean(x**2) ** 2, 0, 1))
