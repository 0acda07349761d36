r"""Whether a mean is what it should be, for correlated and weighted series.

A mean is judged over independent stretches of the chains, at least 10 tau_int long or, where there
are 32, whole chains (a handful of short ones is too skewed for any test): Student's t (Welch's
degrees of freedom where two ensembles are compared), or its correction for skewness (P. Hall,
J. R. Stat. Soc. B 54 (1992) 221) where that is less significant.  Many means at once are judged by
Hotelling's T^2 with the degrees of freedom of Y. Yao, Biometrika 52 (1965) 139.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lattice_ml import statistics
from lattice_ml.fields.types import Floats, Integers

__all__ = ["Mean", "hotelling", "judge", "stretch_means", "stretch_starts", "stretches", "worst"]

STRETCHES = 128  # wanted for an average
_FEWEST_STRETCHES = 8
_FEWEST_SHORT = 32  # of chains shorter than a stretch: squares of Gaussians fool fewer
_LENGTH = 10  # of a stretch, in tau_int


class Mean(NamedTuple):
    """A mean that should be zero; `p_value` is nan where the chains are too short to tell."""

    value: float
    error: float
    p_value: float

    def show(self, expected: float = 0.0) -> str:
        """The mean and its error, with what was subtracted from it added again."""
        return f"{expected + self.value:.6g} +- {self.error:.2g}"


def judge(mean: float, *parts: Floats, known_error: float = 0.0) -> Mean:
    """Whether `mean` is zero, given independent numbers that fluctuate as its parts do.

    Args:
        mean: a mean, or the difference of two.
        parts: `(n,)` each; their means vary independently and add up in `mean`, so those of what
            was subtracted come with a minus sign.
        known_error: of a contribution that is known with this Gaussian error.
    """
    from scipy import special

    if min(len(part) for part in parts) < _FEWEST_STRETCHES:
        return Mean(mean, math.nan, math.nan)
    variances = [float(np.var(part)) / (len(part) - 1) for part in parts]
    squared_error = sum(variances) + known_error**2
    if squared_error == 0:
        return Mean(mean, 0.0, float(mean == 0))
    dof = squared_error**2 / max(
        sum(v**2 / (len(part) - 1) for v, part in zip(variances, parts, strict=True)), 1e-300
    )
    spread = sum(float(np.var(part)) / len(part) for part in parts) + known_error**2
    third = sum(float(np.mean((part - part.mean()) ** 3)) / len(part) ** 2 for part in parts)
    pull, a = mean / math.sqrt(squared_error), third / spread**1.5
    corrected = pull + a * pull**2 / 3 + a**2 * pull**3 / 27 + a / 6
    p_value = 2 * special.stdtr(dof, -min(abs(pull), abs(corrected)))
    return Mean(mean, math.sqrt(squared_error), float(p_value))


def stretch_starts(
    series: Floats, wanted: int = STRETCHES, tau_int: float | None = None
) -> Integers:
    """Where stretches that are independent of each other begin within the chains.

    Args:
        series: `(n_chains, n_configs)`, as correlated as what will be averaged.
        wanted: stretches of all chains together; there are more where there are more chains, and
            fewer where they would be shorter than 10 tau_int.
        tau_int: of the series in configurations, where that is known already.
    """
    n_chains, n = series.shape
    pieces = 1
    if n_chains < wanted and n >= statistics.MIN_CONFIGS:
        shortest = _LENGTH * (tau_int or statistics.estimate(series).tau_int)
        pieces = max(1, int(n / max(shortest, n_chains * n / wanted)))
    return np.arange(pieces) * n // pieces


def stretch_means(series: Floats, starts: Integers) -> Floats:
    """Averages of a series `(n_chains, n_configs, ...)` over stretches: `(n_stretches, ...)`."""
    lengths = np.diff(starts, append=series.shape[1])
    sums = np.add.reduceat(series, starts, axis=1)
    means = sums / lengths.reshape(1, -1, *(1,) * (series.ndim - 2))
    return np.asarray(means.reshape(-1, *series.shape[2:]))


def stretches(series: Floats) -> Floats:
    """Averages of a series `(n_chains, n_configs)` over stretches that suit itself.

    None where these are chains too short and too few to be judged by.
    """
    parts = stretch_means(series, stretch_starts(series))
    enough = len(parts) >= _FEWEST_SHORT or len(parts) > len(series)
    if not enough and series.shape[1] >= statistics.MIN_CONFIGS:  # chains are a stretch each
        enough = series.shape[1] >= _LENGTH * statistics.estimate(series).tau_int
    return parts if enough else parts[:0]


class Hotelling(NamedTuple):
    """T^2 of several means at once; `p_value` is nan where the stretches are too few."""

    chi2: float
    dof: int
    p_value: float


def hotelling(difference: Floats, *parts: Floats) -> Hotelling:
    """Whether all of several means are zero, given their scatter.

    Args:
        difference: `(k,)` means, or differences of those of two ensembles.
        parts: `(n, k)` independent vectors each, as in `judge`.
    """
    from scipy import special

    k = len(difference)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) / len(part) for part in parts]
    if min(len(part) for part in parts) <= 2 * k:
        return Hotelling(math.nan, k, math.nan)
    solved = np.linalg.solve(sum(covariances[1:], covariances[0]), difference)
    chi2 = float(difference @ solved)
    shares = [float(solved @ c @ solved) / chi2 for c in covariances] if chi2 > 0 else [1.0]
    dof = 1 / sum(s**2 / (len(p) - 1) for s, p in zip(shares, parts, strict=False))
    below = dof - k + 1
    return Hotelling(chi2, k, float(special.fdtrc(k, below, chi2 * below / (dof * k))))


def worst(p_values: Mapping[str, float] | Sequence[tuple[str, float]]) -> tuple[str, float] | None:
    """The most significant of several tests, and the probability that any is so significant.

    Tests without a p-value (nan) do not count; None where none has one.
    """
    judged = {name: p for name, p in dict(p_values).items() if not math.isnan(p)}
    if not judged:
        return None
    name = min(judged, key=lambda key: judged[key])
    return name, min(1.0, len(judged) * judged[name])
