r"""Exact stationary distributions of the Langevin schemes at finite step size.

For a mode S = w q^2/2 all are Gaussian, and with x = eps w the variance solves a linear equation
(`gaussian_variance`).  For one degree of freedom with any drift, `site_moments` finds the
distribution numerically to about ten digits: the transfer operator of one step,
(P f)(phi) = <f(phi')>, is a matrix on Chebyshev points with the noise integrated by Gauss-Hermite
quadrature, and its left eigenvector of eigenvalue 1 gives all expectation values.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.fields.types import Floats

__all__ = ["SCHEMES", "gaussian_variance", "site_moments"]

Drift = Callable[[Floats], Floats]

SCHEMES = ("euler", "heun", "leimkuhler_matthews")

_POINTS, _NOISES = 120, 40


def gaussian_variance(
    scheme: str, step_size: ArrayLike, w: ArrayLike, temperature: float = 1.0
) -> Floats:
    """Stationary variance of a mode S = w q^2/2; exactly temperature/w only at zero step.

    Args:
        scheme: one of `SCHEMES`, or "kramers" (without accept step, of any friction).
        step_size: eps, of "kramers" delta; broadcast against `w`.
        w: eigenvalues of the quadratic form.
        temperature: alpha.

    Raises:
        ValueError: a scheme that is not known, or a step at which it is not stable.
    """
    w, eps = np.asarray(w, np.float64), np.asarray(step_size, np.float64)
    x = eps**2 * w / 2 if scheme == "kramers" else eps * w
    if np.any(x >= 2) or np.any(x <= 0):
        raise ValueError(f"{scheme} is stable for 0 < x < 2, got x from {x.min()} to {x.max()}")
    if scheme in ("euler", "kramers"):
        factor = 1 / (1 - x / 2)
    elif scheme == "heun":
        factor = (1 - x / 2) / (1 - x / 2 + x**2 / 4)
    else:
        _check(scheme)
        factor = np.ones_like(x)
    return np.asarray(temperature * factor / w)


def site_moments(
    scheme: str,
    drift: Drift,
    step_size: float,
    powers: Sequence[int] = (2, 4),
    *,
    radius: float = 6.0,
) -> Floats:
    """<phi^n> of one degree of freedom in the stationary distribution of a scheme.

    Args:
        scheme: one of `SCHEMES`.
        drift: K(phi) of an array.
        step_size: eps.
        powers: the n.
        radius: the distribution is taken on [-radius, radius]; steps that leave it end on its edge.

    Returns:
        `(len(powers),)`, to about 1e-10 where the distribution is negligible at the edge.
    """
    _check(scheme)
    points = radius * np.cos(np.pi * (np.arange(_POINTS) + 0.5) / _POINTS)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NOISES)
    weights /= weights.sum()
    noise = np.sqrt(2 * step_size) * nodes
    phi = points[:, None]
    if scheme == "euler":
        there = phi + step_size * drift(phi) + noise
    elif scheme == "heun":
        trial = phi + step_size * drift(phi) + noise
        there = phi + step_size / 2 * (drift(phi) + drift(trial)) + noise
    else:  # phi is what the field would be without half of its last noise
        there = phi + step_size * drift(phi + noise / 2) + noise
    there = np.clip(there, -radius, radius)
    transfer = np.einsum("q,iqj->ij", weights, _interpolation(points, there))
    system = np.vstack([transfer.T - np.eye(_POINTS), np.ones(_POINTS)])
    stationary = np.linalg.lstsq(system, np.r_[np.zeros(_POINTS), 1.0], rcond=None)[0]
    seen = phi + noise / 2 if scheme == "leimkuhler_matthews" else np.broadcast_to(phi, there.shape)
    return np.array([stationary @ (seen**n @ weights) for n in powers])


def _interpolation(points: Floats, there: Floats) -> Floats:
    """Weights with which values at Chebyshev points give those at `there`: `(*there.shape, n)`."""
    signs = (-1.0) ** np.arange(len(points))
    barycentric = signs * np.sin(np.pi * (np.arange(len(points)) + 0.5) / len(points))
    distance = there[..., None] - points
    exact = distance == 0
    terms = barycentric / np.where(exact, 1, distance)
    values = terms / terms.sum(axis=-1, keepdims=True)
    hit = exact.any(axis=-1, keepdims=True)
    return np.asarray(np.where(hit, exact, values))


def _check(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
