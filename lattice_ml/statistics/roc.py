r"""Receiver operating characteristic: how well one number tells two classes apart.

With scores x of the positive class and y of the negative one, whatever the threshold,

    AUC = P(x > y) + P(x = y) / 2

is the area under the curve of true against false positives (Mann and Whitney, Ann. Math. Stat. 18
(1947) 50): 1/2 is chance, 1 is perfect.  AUC is a mean over each class, and its fluctuations are

    a_i = w_i [P(x_i > y) + P(x_i = y)/2 - AUC] / sum w,    b_j likewise with P(x > y_j) + ...,

(DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837).  Their sums over stretches that are
independent of each other, such as whole chains, give the error, and correlation within a stretch
counts (Obuchowski, Biometrics 53 (1997) 567): error^2 = sum over classes of G/(G-1) sum_g a_g^2
for G stretches.  Weights count in the same way.

The p-value is the probability of so large an AUC by chance: Student's t with the degrees of freedom
of Welch.  Scores that never overlap scatter not at all: AUC = 1 has error 0 and p-value 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.series import Array, as_numbers

__all__ = ["Area", "Curve", "Scores", "auc", "roc_curve"]

_ROUNDING = 1e-24  # variances this small are none


class Scores(NamedTuple):
    """Scores of one class; larger ones speak for the positive class."""

    values: npt.ArrayLike  # (n,)
    stretch: npt.ArrayLike | None = None  # (n,) stretch of each; None: all are independent
    weights: npt.ArrayLike | None = None  # (n,) positive, up to a constant


class Curve(NamedTuple):
    """Both rates for every threshold, from the strictest, infinity, to the loosest."""

    false_positive: Array  # (m,) share of the negative class at or above the threshold
    true_positive: Array  # (m,)
    threshold: Array  # (m,)


class Area(NamedTuple):
    """Area under the curve, and how often chance gives so much or more."""

    value: float
    error: float  # nan where a class has one stretch only
    p_value: float  # of AUC > 1/2, one-sided; nan as the error


def roc_curve(positive: Scores, negative: Scores) -> Curve:
    """Trace the curve through all thresholds.

    Raises:
        ValueError: scores that are none, not finite or not one-dimensional; weights or stretches
            that do not fit.
    """
    (x, w, _), (y, v, _) = _read("positive", positive), _read("negative", negative)
    thresholds = np.unique(np.concatenate([x, y]))[::-1]
    rates = [1 - _below(thresholds, *side)[0] for side in ((y, v), (x, w))]
    false, true = (np.concatenate([[0.0], rate]) for rate in rates)
    return Curve(false, true, np.concatenate([[np.inf], thresholds]))


def auc(positive: Scores, negative: Scores) -> Area:
    """Area under the curve with its error and p-value, see above.

    Raises:
        ValueError: as `roc_curve`.
    """
    x, w, of_x = _read("positive", positive)
    y, v, of_y = _read("negative", negative)
    above = np.mean(_below(x, y, v), axis=0)  # P(y < x_i), a tie is half
    value = min(1.0, float(w @ above))  # of weights whose sum rounding may have raised
    beyond = 1 - np.mean(_below(y, x, w), axis=0)
    scatters = _scatter(w * (above - value), of_x), _scatter(v * (beyond - value), of_y)
    variance = sum(s for s, _ in scatters)
    if math.isnan(variance):
        return Area(value, math.nan, math.nan)
    if variance <= _ROUNDING:
        return Area(value, 0.0, float(value <= 0.5))
    from scipy import stats

    freedom = variance**2 / sum(s**2 / k for s, k in scatters)
    error = math.sqrt(variance)
    return Area(value, error, float(stats.t.sf((value - 0.5) / error, freedom)))


def _below(at: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of the scores below, and at or below, each of `at`; all weights sum to 1."""
    order = np.argsort(scores)
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    places = (np.searchsorted(scores[order], at, side) for side in ("left", "right"))
    below, up_to = (total[place] / total[-1] for place in places)
    return below, up_to


def _scatter(fluctuations: Array, stretch: npt.NDArray[np.integer]) -> tuple[float, int]:
    """Variance of their sum, from its parts by stretch, and its degrees of freedom."""
    sums = np.bincount(stretch, fluctuations)
    n = len(sums)
    return (math.nan, 0) if n < 2 else (float(n / (n - 1) * np.sum(sums**2)), n - 1)


def _read(name: str, scores: Scores) -> tuple[Array, Array, npt.NDArray[np.integer]]:
    """Values, weights of sum 1 and numbers of the stretches from 0 on, `(n,)` each."""
    values = as_numbers(f"{name} scores", scores.values).astype(np.float64)
    n = values.size
    given = np.ones(n) if scores.weights is None else scores.weights
    weights = as_numbers(f"{name} weights", given).astype(np.float64)
    stretch = np.arange(n) if scores.stretch is None else np.asarray(scores.stretch)
    if values.ndim != 1 or not n or not np.all(np.isfinite(values)):
        bad = np.count_nonzero(~np.isfinite(values))
        raise ValueError(
            f"{name} scores must be finite numbers (n,), at least one, got the shape "
            f"{values.shape} with {bad} not finite"
        )
    if weights.shape != (n,) or stretch.shape != (n,):
        raise ValueError(
            f"{name} weights and stretch must have the shape ({n},) of the scores, got "
            f"{weights.shape} and {stretch.shape}"
        )
    if not (np.all(np.isfinite(weights)) and np.all(weights >= 0) and weights.sum() > 0):
        raise ValueError(f"{name} weights must be finite, not negative and not all zero")
    return values, weights / weights.sum(), np.unique(stretch, return_inverse=True)[1]
