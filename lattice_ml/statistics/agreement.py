"""Whether the chains of an ensemble have one mean."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.gamma import autocovariance, summation_window
from lattice_ml.statistics.series import Array, as_primaries, fluctuations, in_safe_units

__all__ = ["ChainAgreement", "chain_agreement", "r_hat"]

_SQUARES = (8.0, 12.0)  # skewness^2 and excess kurtosis of the square of a Gaussian


class ChainAgreement(NamedTuple):
    """Result of `chain_agreement`; `p_value` is NaN where the chains are too short to tell."""

    chi2: float
    dof: int
    p_value: float


def chain_agreement(
    series: npt.ArrayLike, log_weights: npt.ArrayLike | None = None
) -> ChainAgreement:
    """Test whether all chains have one mean, by the error that each chain sees by itself.

    chi2 = sum_c (m_c - m)^2 / (s^2 / n), s^2 = 2 tau_m var, has dof = C - 1. s^2 is the spectral
    density at zero frequency and taken from the K = max(1, 8 // C) lowest Fourier modes of every
    chain (P. Heidelberger and P. D. Welch, CACM 24 (1981) 233), corrected for how far the density
    of exponential decay has fallen there, 1 / (1 + (2 pi k tau / n)^2). They are independent of the
    chain means and need no window, so that chi2 / dof follows F(C - 1, 2 K C), with fewer degrees
    of freedom, by 1 + 12 tau / n, since means of squares scatter more than Gaussian ones.

    One bad chain hides in the chi2 of many. So the largest |m_c - m| is tested too, against
    Student's t with 2 K C degrees of freedom or, where it is heavier, the upper tail of a mean of
    n / (5 tau) squares of Gaussians: as skewed as the mean of an M^2. The p-value is that of the
    more significant of both tests, 1 - (1 - p)^2. With weights the chain means of w (a - m) / <w>
    are compared. Such numbers have longer tails than squares of Gaussians, whose skewness^2 is 8
    and whose excess kurtosis is 12: those that are measured within the chains take their place.

    Measured for C = 2 ... 256 and n >= 50 tau: p < 1e-4 in 0.4e-4 to 1.2e-4 of AR(1) ensembles, up
    to 6e-4 of their squares, before both corrections; with them, p < 1e-3 in 2 of 3,000 squares at
    n = 20 tau and of as many at 25 tau (without, in 20 and 10). Of 64 chains, one off by 6 of its
    errors gives p < 1e-4 in 2 of 3 cases for n >= 1000 tau; in 4 of 5 it takes 8 errors at
    n = 200 tau and 10 at 50 tau. For n < 20 tau, as seen within the chains, the p-value is NaN: run
    longer.

    Raises:
        ValueError: There is a single chain.
    """
    from scipy import special  # here, because no other start should pay for its import

    _, delta = fluctuations(series, None, log_weights)
    n_chains, n = delta.shape
    if n_chains < 2:
        raise ValueError(f"agreement of chains needs at least 2 chains, got {n_chains=}")
    dof = n_chains - 1
    delta, _ = in_safe_units(delta)
    means = delta.mean(axis=1)
    if not np.ptp(delta, axis=1).any():  # all constant: frozen apart, or frozen together
        apart = bool(np.ptp(means))
        return ChainAgreement(math.inf if apart else 0.0, dof, 0.0 if apart else 1.0)
    gamma = autocovariance(delta - means[:, None])
    window, tau = summation_window(gamma / gamma[0], delta.size, 2.0)
    tau *= 1 + (2 * window + 1) / n  # eq. 49 for chains with a mean of their own each
    modes = np.arange(1, max(1, 8 // n_chains) + 1)
    waves = np.exp(2j * np.pi * np.outer(np.arange(n), modes) / n)
    fall = np.mean(1 / (1 + (2 * np.pi * modes * tau / n) ** 2))
    pulls = means / math.sqrt(np.mean(np.abs(delta @ waves) ** 2) / fall / n**2)
    chi2 = float(np.sum(pulls**2))
    if n < 20 * tau:
        return ChainAgreement(chi2, dof, math.nan)
    n_waves = 2 * len(modes) * n_chains
    largest = float(np.max(np.abs(pulls))) * math.sqrt(n_chains / dof)
    skewness_squared, kurtosis = _SQUARES if log_weights is None else _tails(delta)
    squares = 8 / skewness_squared * n / (5 * tau)  # whose mean is as skewed as that of a chain
    p_largest = _any_of(n_chains, 2 * _upper_tail(largest, n_waves, squares))
    spread = 1 + kurtosis * tau / n  # of chi2, against that of Gaussian means
    p_all = float(special.fdtrc(dof / spread, n_waves / spread, chi2 / dof))
    return ChainAgreement(chi2, dof, _any_of(2, min(p_all, p_largest)))


def r_hat(series: npt.ArrayLike) -> float:
    """Return split R-hat, sqrt(((n-1)/n W + B/n) / W) over half chains of length n.

    BDA3 (Gelman et al., Bayesian Data Analysis, 3rd ed.), eqs. 11.3-11.4. It exceeds 1.01 in
    equilibrium for many short chains: print it, and judge by `chain_agreement`.
    """
    chains, _ = in_safe_units(as_primaries(series, None)[0])
    n = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :n], chains[:, -n:]])
    within = float(np.mean(np.var(halves, axis=1, ddof=1)))
    between = float(np.var(np.mean(halves, axis=1), ddof=1))
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((n - 1) / n + between / within)


def _tails(delta: Array) -> tuple[float, float]:
    """Return skewness^2 and excess kurtosis within the chains, no less than those of squares."""
    within = delta - delta.mean(axis=1, keepdims=True)
    within /= within.std()
    found = float(np.mean(within**3)) ** 2, float(np.mean(within**4)) - 3
    return max(_SQUARES[0], found[0]), max(_SQUARES[1], found[1])


def _upper_tail(pull: float, dof: float, squares: float) -> float:
    """Return P(> pull) of Student's t or of a standardised chi^2(squares), whichever is larger."""
    from scipy import special

    skewed = special.gammaincc(squares / 2, (squares + pull * math.sqrt(2 * squares)) / 2)
    return float(max(special.stdtr(dof, -pull), skewed))


def _any_of(n: int, p: float) -> float:
    """Return the probability 1 - (1 - p)^n that any of n tests gives p or less."""
    return -math.expm1(n * math.log1p(-p)) if p < 1 else 1.0
