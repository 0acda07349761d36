r"""Distance of two sets of vectors, such as whole configurations, with an honest p-value.

With kernel k(x, y) = (|x| + |y| - |x - y|) / 2, a kernel whose maximum mean discrepancy is half the
energy distance (arXiv:1207.6076), or a Gaussian kernel,

    E^2 = 2 <|x - y|> - <|x - x'|> - <|y - y'|> = 2 MMD^2.

Its law for equal distributions is that of a quadratic form of Gaussians whose covariance the
stretches of the chains give: with w_s the kernel mean of stretch s minus that of the sample,
MMD^2 ~ sum_ab g_a g_b <w_a, w_b> / (n_a n_b).  Its first three moments are known, and a Gamma law
shifted to them (Pearson III) gives the tail, `few_stretches` corrects it for the covariance being
measured.  Correlation within a stretch and weights are in w.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.distributions import few_stretches
from lattice_ml.statistics.series import Array, as_numbers, in_safe_units

__all__ = ["Distance", "Sample", "energy_distance", "maximum_mean_discrepancy"]

_FEWEST_STRETCHES = 8


class Sample(NamedTuple):
    """Vectors of one ensemble."""

    vectors: npt.NDArray[np.floating]  # (n, V)
    stretch: npt.NDArray[np.integer]  # (n,) number of the independent stretch each belongs to
    weights: Array | None = None  # (n,)


class Distance(NamedTuple):
    """A squared distance, what equal distributions give on average, and how rarely so much."""

    value: float
    expected: float
    p_value: float  # nan where there are fewer than 8 stretches


def energy_distance(a: Sample, b: Sample) -> Distance:
    """E^2 in the units of the vectors (Szekely and Rizzo, J. Stat. Plan. Inf. 143 (2013) 1249).

    Raises:
        ValueError: the vectors of the two are of different length, or not finite.
    """
    vectors, unit = in_safe_units(_joined(a, b))
    found = _judged(a, b, -_distances(vectors))
    return Distance(unit * found.value, unit * found.expected, found.p_value)


def maximum_mean_discrepancy(a: Sample, b: Sample) -> Distance:
    """MMD^2, Gaussian kernel as wide as the median distance (Gretton, JMLR 13 (2012) 723).

    Raises:
        ValueError: the vectors of the two are of different length, or not finite.
    """
    squares = _distances(in_safe_units(_joined(a, b))[0]) ** 2
    width = float(np.median(squares[np.triu_indices(len(squares), 1)])) or 1.0
    return _judged(a, b, np.exp(-squares / width))


def _joined(a: Sample, b: Sample) -> Array:
    lengths = [sample.vectors.shape[1] for sample in (a, b)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"distances are between vectors of one length, got {lengths[0]} and {lengths[1]} "
            "numbers"
        )
    parts = [as_numbers("vectors", sample.vectors) for sample in (a, b)]
    joined = np.concatenate(parts).astype(np.float64)
    if bad := np.count_nonzero(~np.isfinite(joined)):
        raise ValueError(f"vectors must be finite, got {bad} of {joined.size} numbers that are not")
    return joined


def _distances(x: Array) -> Array:
    """|x - y| of all pairs."""
    norms = np.sum(x**2, axis=1)
    found: Array = np.sqrt(np.maximum(norms[:, None] + norms - 2 * x @ x.T, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def _judged(a: Sample, b: Sample, kernel: Array) -> Distance:
    """sum_ij c_i c_j k_ij with c = w_a / sum w_a and - w_b / sum w_b, and its law."""
    shares = []
    for sample in (a, b):
        weights = np.ones(len(sample.vectors)) if sample.weights is None else sample.weights
        shares.append(weights / weights.sum())
    value_of = np.concatenate([shares[0], -shares[1]])
    value = float(value_of @ kernel @ value_of)
    rows = [_centred(sample.stretch, share) for sample, share in zip((a, b), shares, strict=True)]
    if min(map(len, rows)) < _FEWEST_STRETCHES:
        return Distance(value, math.nan, math.nan)
    centred = np.zeros((sum(map(len, rows)), len(value_of)))
    centred[: len(rows[0]), : len(shares[0])] = rows[0]
    centred[len(rows[0]) :, len(shares[0]) :] = rows[1]
    form = centred @ kernel @ centred.T
    spreads = np.diag(form)
    parts = [float(spreads[: len(rows[0])].sum()), float(spreads[len(rows[0]) :].sum())]
    p_value = few_stretches(_tail(value, form), parts, [len(row) for row in rows])
    return Distance(value, sum(parts), p_value)


def _centred(stretch: npt.NDArray[np.integer], share: Array) -> Array:
    """What each stretch contributes to the mean, about the mean: `(n_stretches, n)`."""
    _, number = np.unique(stretch, return_inverse=True)
    count = int(number.max()) + 1
    member = np.zeros((count, len(share)))
    member[number, np.arange(len(share))] = share
    found: Array = member - member.sum(axis=1)[:, None] * share
    return found * math.sqrt(count / max(1, count - 1))


def _tail(value: float, form: Array) -> float:
    """P(sum_ab g_a g_b F_ab > value) by the Gamma law with its first three cumulants."""
    from scipy import special

    eigenvalues = np.linalg.eigvalsh(form)
    mean, variance = eigenvalues.sum(), 2 * np.sum(eigenvalues**2)
    third = 8 * np.sum(eigenvalues**3)
    if variance <= 0:
        return float(value <= mean)
    skewness = max(third / variance**1.5, 1e-6)
    shape = 4 / skewness**2
    pull = (value - mean) / math.sqrt(variance)
    return float(special.gammaincc(shape, max(0.0, shape + math.sqrt(shape) * pull)))
