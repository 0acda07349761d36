r"""Learning as dynamics: how a Gaussian RBM learns a spectrum, and what its noise looks like.

The kernel K = mu^2 - Y of the fields, with Y = sigma^2 w w^T, is trained on fields whose kernel has
eigenvalues kappa by gradient ascent, dw/dt = sigma^2 (C_data - K^-1) w.  In the eigenbasis of the
data every mode y of Y then moves by itself,

    dy/dt = 2 sigma^2 y (1/kappa - 1/(mu^2 - y)) = (2 sigma^2/kappa) y (a - y)/lambda,

with a = mu^2 - kappa and lambda = mu^2 - y, the eigenvalue of K.  It is a logistic curve in a time
tau of its own, which runs as dt = kappa lambda dtau/(2 sigma^2):

    y(tau) = y0 / (exp(-a tau) + y0 (1 - exp(-a tau))/a),
    2 sigma^2 t/kappa = kappa tau + ln(y(tau)/y0).                                          (1)

(1) is the separated equation without its singular points.  It holds for a > 0, where y -> a; for
a < 0, a mode above the regulator, where y -> 0 exponentially; and for a = 0, where y decays like
mu^4/(2 sigma^2 t).  Its right side has the derivative lambda > 0 and bends in one direction only:
Newton's method from tau = 0 converges for any argument.

Minibatches put noise on Y.  Where kappa is degenerate nothing but this noise orders the two
eigenvalues, and they repel: the block of Y is a symmetric Gaussian random matrix, whose spacing in
units of its mean follows the Wigner surmise

    P(s) = (pi/2) s exp(-pi s^2/4).                                                         (2)

A step of learning rate alpha removes the fraction r = 2 alpha sigma^2 a/kappa^2 of the deviation of
the block from a and adds r kappa^2 xi, where xi is the fluctuation of the covariance of B fields,
Var(xi_12) = 1/(kappa^2 B).  Hence Var(Y_12) = kappa^2 r/(B (2 - r)), half the variance of Y_11 and
of Y_22, and the mean spacing is sqrt(2 pi Var(Y_12)).  Only alpha/B matters where r << 1.

The flow follows from arXiv:2309.15002, repulsion and scaling are the subject of arXiv:2407.16427,
arXiv:2411.13512 and arXiv:2412.20496.  The derivations are in docs/learning_dynamics.md.

The same arguments everywhere, all of which broadcast:
    kappa: eigenvalues of the kernel of the data; only those below mu^2 are learned.
    mu_squared: mu^2.
    y0: sigma^2 s^2 at t = 0, s the singular values of w.
    learning_rate: alpha in w <- w + alpha sigma^2 (C - K^-1) w, with C of B = `batch_size` fields.
    sigma: width of the hidden fields.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import exprel

__all__ = [
    *("degenerate_pairs", "gradient_flow", "learning_time", "relaxation_rate"),
    *("splitting_scale", "splittings", "wigner_cdf"),
]

_MAX_NEWTON = 100


def gradient_flow(
    kappa: ArrayLike, mu_squared: ArrayLike, y0: ArrayLike, t: ArrayLike, sigma: float = 1.0
) -> np.ndarray:
    """Eigenvalues lambda(t) = mu^2 - y(t) of the kernel under the gradient flow, by eq. (1).

    Exact to rounding.  n steps w <- w + alpha sigma^2 (C - K^-1) w are at t = n alpha, up to
    O(alpha).  Modes move by themselves only if w w^T commutes with the covariance of the data at
    the start, as it does for w = c times an orthogonal matrix; generic weights mix them first.

    Returns:
        lambda at times t `(*times)` of modes kappa `(*modes)`: `(*times, *modes)`.

    Raises:
        ValueError: kappa, mu^2 or sigma not positive, y0 outside [0, mu^2), or t < 0.
    """
    kappa, mu_squared, y0 = _broadcast(kappa, mu_squared, y0)
    times = np.asarray(t, float)
    _refuse("t must be finite and at least 0", times, (times < 0) | ~np.isfinite(times))
    _check_modes(kappa, mu_squared, sigma)
    _refuse("y0 must be in [0, mu_squared)", y0, ~((y0 >= 0) & (y0 < mu_squared)))
    a = np.where(y0 > 0, mu_squared - kappa, 0.0)  # a mode that is not there stays so
    target = 2 * sigma**2 * times.reshape(times.shape + (1,) * kappa.ndim) / kappa
    tau = np.zeros(target.shape)
    for _ in range(_MAX_NEWTON):
        growth = _log_growth(a, y0, tau)
        slope = kappa + a - y0 * np.exp(growth)
        step = (target - kappa * tau - growth) / slope
        tau = np.maximum(tau + step, 0)
        if np.all(np.abs(step) <= 1e-14 * tau):
            break
    return np.asarray(mu_squared - y0 * np.exp(_log_growth(a, y0, tau)))


def learning_time(
    kappa: ArrayLike,
    mu_squared: ArrayLike,
    y0: ArrayLike,
    fraction: ArrayLike = 0.5,
    sigma: float = 1.0,
) -> np.ndarray:
    """Time at which a mode has learned a fraction f of its asymptotic y = a, in closed form.

    t = kappa/(2 sigma^2) [ln(y/y0) + (kappa/a) ln(y (a - y0)/(y0 (a - y)))] with y = f a.  For
    y0 << a it grows with kappa like kappa mu^2/(2 sigma^2 a) ln(1/y0): infrared modes come first.

    Raises:
        ValueError: a mode with kappa >= mu^2, which is never learned, f outside (0, 1), or y0
            outside (0, f a].
    """
    kappa, mu_squared, y0, part = _broadcast(kappa, mu_squared, y0, fraction)
    _check_modes(kappa, mu_squared, sigma)
    _check_learned(kappa, mu_squared)
    _refuse("fraction must be between 0 and 1", part, ~((part > 0) & (part < 1)))
    a = mu_squared - kappa
    y = part * a
    _refuse("y0 must be in (0, fraction * (mu_squared - kappa)]", y0, ~((y0 > 0) & (y0 <= y)))
    tau = np.log(y / y0 * (a - y0) / (a - y)) / a
    return np.asarray(kappa / (2 * sigma**2) * (np.log(y / y0) + kappa * tau))


def wigner_cdf(s: ArrayLike) -> np.ndarray:
    """1 - exp(-pi s^2/4), the probability (2) of a spacing below s; what a K-S test asks for."""
    spacing = np.maximum(np.asarray(s, float), 0)
    return np.asarray(-np.expm1(-np.pi / 4 * spacing**2))


def degenerate_pairs(kappa: ArrayLike, rtol: float = 1e-9) -> np.ndarray:
    """Positions of the eigenvalues that occur exactly twice, `(n_pairs, 2)`.

    Larger multiplets are left out, since (2) is exact for pairs only.

    Args:
        kappa: `(n,)` eigenvalues in any order; positions refer to them sorted in ascending order,
            as `numpy.linalg.eigvalsh` returns them.
        rtol: neighbours that differ by less than this, relative to the larger, are equal.
    """
    values = np.sort(np.asarray(kappa, float).ravel())
    new = np.diff(values) > rtol * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    groups = np.split(np.arange(len(values)), np.flatnonzero(new) + 1)
    return np.array([group for group in groups if len(group) == 2], int).reshape(-1, 2)


def splittings(eigenvalues: ArrayLike, pairs: ArrayLike) -> np.ndarray:
    """Spacings of pairs of eigenvalues, in units of the mean spacing of each pair.

    Give spectra after the approach to the stationary state, a few 1/r steps apart: a K-S test
    takes them for independent.  The mean is of the sample; that makes p-values of a K-S test
    somewhat too large.  Divide differences by `splitting_scale` to test without it.

    Args:
        eigenvalues: a history of spectra, `(*n, n_modes)`: times, replicas or both before modes.
        pairs: `(n_pairs, 2)` positions along the last axis, as of `degenerate_pairs`.

    Returns:
        s, `(*n, n_pairs)`.

    Raises:
        ValueError: fewer than two spectra, pairs of another shape or out of range, or a pair that
            is never split.
    """
    spectra, chosen = np.asarray(eigenvalues, float), np.asarray(pairs)
    n_modes = spectra.shape[-1] if spectra.ndim else 0
    if spectra.ndim < 2 or spectra[..., 0].size < 2:
        raise ValueError(f"a mean spacing needs at least two spectra, got {spectra.shape=}")
    if chosen.ndim != 2 or chosen.shape[1] != 2 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"pairs must be integers (n_pairs, 2), got {chosen.shape=}")
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < n_modes):
        raise ValueError(f"pairs must be positions in 0 ... {n_modes - 1}, got {chosen.tolist()}")
    gaps = np.abs(spectra[..., chosen[:, 1]] - spectra[..., chosen[:, 0]])
    mean = gaps.mean(axis=tuple(range(gaps.ndim - 1)))
    _refuse("the mean spacing of every pair must be positive", mean, ~(mean > 0))
    return np.asarray(gaps / mean)


def relaxation_rate(
    kappa: ArrayLike, mu_squared: ArrayLike, learning_rate: ArrayLike, sigma: float = 1.0
) -> np.ndarray:
    """r = 2 alpha sigma^2 (mu^2 - kappa)/kappa^2: what a step removes of a deviation from kappa.

    Deviations decay as (1 - r)^n; steps with r >= 2 do not converge.  For the natural gradient of
    `models.rbm_fit` r = 2 alpha (1 - kappa/mu^2) instead.

    Raises:
        ValueError: arguments that are not positive, or a mode with kappa >= mu^2.
    """
    kappa, mu_squared, rate = _broadcast(kappa, mu_squared, learning_rate)
    _check_modes(kappa, mu_squared, sigma)
    _check_learned(kappa, mu_squared)
    _refuse("learning_rate must be positive", rate, ~(rate > 0))
    return np.asarray(2 * rate * sigma**2 * (mu_squared - kappa) / kappa**2)


def splitting_scale(
    kappa: ArrayLike,
    mu_squared: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    sigma: float = 1.0,
) -> np.ndarray:
    """Predicted mean spacing of a degenerate pair: kappa sqrt(2 pi r/(B (2 - r))).

    Exact in the learning rate, leading order in 1/B.  Corrections are relative O(1/B), of the order
    of the square of spacing over distance to the next level.  It is for plain SGD on batches of
    new, independent fields that are not centred (centred ones have B - 1 for B).

    Raises:
        ValueError: arguments that are not positive, a mode with kappa >= mu^2, or a learning rate
            at which steps do not converge, r >= 2.
    """
    r = relaxation_rate(kappa, mu_squared, learning_rate, sigma)
    size = np.asarray(batch_size, float)
    _refuse("batch_size must be positive", size, ~(size > 0))
    diverging = "steps diverge: 2 learning_rate sigma^2 (mu_squared - kappa)/kappa^2"
    _refuse(f"{diverging} must be below 2", r, r >= 2)
    return np.asarray(np.asarray(kappa, float) * np.sqrt(2 * np.pi * r / (size * (2 - r))))


def _log_growth(a: np.ndarray, y0: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """ln(y(tau)/y0) of the logistic curve, without overflow and smooth through a = 0."""
    decay = -np.abs(a) * tau
    bend = y0 * tau * exprel(decay)  # y0 (1 - exp(-|a| tau))/|a|
    return np.where(a > 0, -np.log(np.exp(decay) + bend), decay - np.log1p(bend))


def _broadcast(*arguments: ArrayLike) -> tuple[np.ndarray, ...]:
    return np.broadcast_arrays(*(np.asarray(argument, float) for argument in arguments))


def _refuse(sentence: str, values: np.ndarray, bad: np.ndarray) -> None:
    if np.any(bad):
        raise ValueError(f"{sentence}, got {float(values[bad].flat[0]):.6g}")


def _check_modes(kappa: np.ndarray, mu_squared: np.ndarray, sigma: float) -> None:
    for name, values in (("kappa", kappa), ("mu_squared", mu_squared), ("sigma", sigma)):
        number = np.asarray(values, float)
        bad = ~((number > 0) & np.isfinite(number))
        _refuse(f"{name} must be positive and finite", number, bad)


def _check_learned(kappa: np.ndarray, mu_squared: np.ndarray) -> None:
    _refuse("only modes with kappa below mu_squared are learned", kappa, kappa >= mu_squared)
