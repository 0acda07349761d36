"""ROC curves: direct double sums, two Gaussians, and errors that know of correlation."""

import math

import numpy as np
import pytest
from rows import each
from scipy import special, stats
from sklearn import metrics
from synthetic import ar1

from lattice_ml.statistics import Scores, auc, roc_curve


def double_sum(x, y, w, v):
    """P(x > y) + P(x = y)/2 pair by pair."""
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return float(w @ wins @ v / (w.sum() * v.sum()))


def test_area_is_the_double_sum_over_pairs_with_ties_and_weights():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 40) + 1.0, rng.integers(0, 6, 30) * 1.0
    w, v = rng.random(40), rng.random(30)
    found = auc(Scores(x, weights=w), Scores(y, weights=v))
    assert found.value == pytest.approx(double_sum(x, y, w, v), rel=1e-12)


def test_error_of_independent_scores_is_that_of_delong():
    """Against placements written out, one stretch per score."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.7, 1, 50), rng.normal(0, 1.5, 80)
    wins = (x[:, None] > y) * 1.0
    variance = np.var(wins.mean(1), ddof=1) / 50 + np.var(wins.mean(0), ddof=1) / 80
    assert auc(Scores(x), Scores(y)).error == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_curve_is_that_of_sklearn_and_has_the_area_under_it():
    rng = np.random.default_rng(3)
    x, y = np.round(rng.normal(1, 1, 200), 1), np.round(rng.normal(0, 1, 100), 1)
    curve = roc_curve(Scores(x), Scores(y))
    known = metrics.roc_curve(np.repeat([1, 0], [200, 100]), np.r_[x, y], drop_intermediate=False)
    for mine, theirs in zip(curve, known, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    area = np.trapezoid(curve.true_positive, curve.false_positive)
    assert auc(Scores(x), Scores(y)).value == pytest.approx(area, rel=1e-12)


@pytest.mark.parametrize("seed", [4, 5])
def test_two_gaussians_have_the_closed_form(seed):
    """AUC = Phi(d / sqrt 2)."""
    rng = np.random.default_rng(seed)
    z = []
    for d in (0.0, 0.5, 2.0):
        found = auc(Scores(d + rng.standard_normal(4000)), Scores(rng.standard_normal(3000)))
        z.append((found.value - special.ndtr(d / math.sqrt(2))) / found.error)
    assert np.max(np.abs(z)) < 4.5


def test_p_values_of_correlated_scores_are_uniform_only_with_their_stretches():
    n_chains, n = 10, 40
    stretch = np.repeat(np.arange(n_chains), n)
    found = {True: [], False: []}
    for seed in range(200):
        x, y = ar1(seed, (2, n_chains, n), 0.95).reshape(2, -1)
        for known, values in found.items():
            marks = stretch if known else None
            values.append(auc(Scores(x, marks), Scores(y, marks)).p_value)
    assert stats.kstest(found[True], "uniform").pvalue > 1e-3
    assert abs(np.mean(np.array(found[True]) < 0.05) - 0.05) < 4.5 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(np.array(found[False]) < 0.05) > 0.2


def test_weights_reweight():
    """Weights exp(x) of a unit Gaussian are those of one with mean 1."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 20_000))
    found = auc(Scores(x, weights=np.exp(x)), Scores(y))
    assert abs(found.value - special.ndtr(1 / math.sqrt(2))) < 4.5 * found.error
    assert found.error < 0.02


def test_scores_without_scatter():
    assert auc(Scores([2.0, 3.0]), Scores([0.0, 1.0])) == (1.0, 0.0, 0.0)
    assert auc(Scores([1.0, 1.0]), Scores([1.0, 1.0])) == (0.5, 0.0, 1.0)
    one = auc(Scores([2.0, 3.0], [7, 7]), Scores([0.0, 1.0]))
    assert one.value == 1 and math.isnan(one.error) and math.isnan(one.p_value)


@each(
    ("scores", "message"),
    [
        (Scores([]), "at least one"),
        (Scores([[1.0]]), r"the shape \(1, 1\)"),
        (Scores([1.0, np.nan]), "1 not finite"),
        (Scores([1.0], stretch=[1, 2]), r"shape \(1,\) of the scores, got \(1,\) and \(2,\)"),
        (Scores([1.0], weights=[1.0, 2.0]), r"got \(2,\) and \(1,\)"),
        (Scores([1.0, 2.0], weights=[-1.0, 2.0]), "not negative"),
        (Scores([1.0], weights=[0.0]), "not all zero"),
    ],
)
def test_what_makes_no_sense_is_refused(scores, message):
    for function in (auc, roc_curve):
        with pytest.raises(ValueError, match=f"positive .*{message}"):
            function(scores, Scores([1.0]))
        with pytest.raises(ValueError, match=f"negative .*{message}"):
            function(Scores([1.0]), scores)


def test_masks_and_text_are_no_scores():
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    for function in (auc, roc_curve):
        with pytest.raises(ValueError, match="positive scores must have no mask, got 1 masked"):
            function(Scores(masked), Scores([1.0]))
        with pytest.raises(ValueError, match="negative weights must have no mask"):
            function(Scores([1.0]), Scores([1.0, 2.0], weights=masked))
        with pytest.raises(TypeError, match="positive scores must be real numbers, got an array"):
            function(Scores(["1.0"]), Scores([1.0]))
