"""Lines through points in the step size: closed forms, coverage, and when they are doubted."""

import dataclasses
import math

import numpy as np
import pytest
from rows import each
from scipy import stats

from lattice_ml.analysis.dynamics.extrapolation_fit import LEVEL, SIGNIFICANT, fit
from lattice_ml.statistics import Estimate

STEPS = np.array([0.02, 0.05, 0.1, 0.2])
N_SETS = 400


def points(values, errors, tau_int=0.5, n=10_000, n_chains=10):
    """Estimates of n configurations; the spread of one is error sqrt(n / (2 tau))."""
    values, errors = np.broadcast_arrays(values, errors)
    pairs = zip(values.tolist(), errors.tolist(), strict=True)
    return [Estimate(v, e, 0.0, tau_int, 0.0, 1, n, n_chains) for v, e in pairs]


def noisy(seed, steps=STEPS, order=1, value=0.7, slope=-2.0, curvature=0.0, error=0.01):
    steps = np.asarray(steps)
    truth = value + slope * steps**order + curvature * steps ** (order + 1)
    errors = error * (1 + np.arange(len(steps)))  # unequal, so that weights matter
    return points(truth + errors * np.random.default_rng(seed).normal(size=len(steps)), errors)


def normal_equations(steps, given, powers):
    """Coefficients, their covariance and chi^2, from A^T W A."""
    design = np.asarray(steps)[:, None] ** np.array(powers)
    weight = np.diag([point.error**-2 for point in given])
    y = np.array([point.value for point in given])
    covariance = np.linalg.inv(design.T @ weight @ design)
    values = covariance @ design.T @ weight @ y
    residual = y - design @ values
    return values, covariance, residual @ weight @ residual


# Closed forms.


@pytest.mark.parametrize("order", [1, 2])
def test_points_on_a_line_give_the_line(order):
    found = fit(STEPS, points(0.7 - 2 * STEPS**order, 0.01), order)
    assert (found.value, found.slope) == pytest.approx((0.7, -2.0), rel=1e-12)
    assert found.chi2 == pytest.approx(0, abs=1e-20) and found.p_value == pytest.approx(1)
    assert found.curved == pytest.approx((0.7, found.curved.error, -2.0, 0.0), abs=1e-10)
    assert found.curved.error > found.error
    assert (found.order, found.dof, found.marks, found.warnings) == (order, 2, (), ())


@pytest.mark.parametrize("order", [1, 2])
def test_the_fit_is_that_of_numpy_and_of_the_normal_equations(order):
    given = noisy(1, order=order)
    found = fit(STEPS, given, order)
    y, weights = [point.value for point in given], [1 / point.error for point in given]
    (slope, value), covariance = np.polyfit(STEPS**order, y, 1, w=weights, cov="unscaled")
    assert (found.value, found.slope) == pytest.approx((value, slope), rel=1e-12)
    assert (found.slope_error**2, found.error**2, found.covariance) == pytest.approx(
        (covariance[0, 0], covariance[1, 1], covariance[0, 1]), rel=1e-12
    )
    _, _, chi2 = normal_equations(STEPS, given, (0, order))
    assert found.chi2 == pytest.approx(chi2, rel=1e-9)
    assert found.p_value == pytest.approx(stats.chi2.sf(chi2, 2), rel=1e-9)
    more, covariance, _ = normal_equations(STEPS, given, (0, order, order + 1))
    assert found.curved == pytest.approx((more[0], covariance[0, 0] ** 0.5, *more[1:]), rel=1e-9)


def test_two_points_are_joined_by_propagating_their_errors():
    found = fit([0.2, 0.1], points([1.4, 1.1], [0.03, 0.01]), 1)
    assert (found.value, found.slope) == pytest.approx((0.8, 3.0))
    assert found.error == pytest.approx(math.hypot(2 * 0.01, 0.03))
    assert found.slope_error == pytest.approx(math.hypot(0.01, 0.03) / 0.1)
    assert (found.dof, found.p_value, found.curved) == (0, None, None)
    assert found.chi2 == pytest.approx(0, abs=1e-20)
    assert found.step_sizes == (0.1, 0.2) and found.points[0].value == 1.1


def test_repeated_step_sizes_count_as_more_data():
    twice = fit([0.1, 0.2, 0.1, 0.2], points([1.0, 1.3, 1.2, 1.5], 0.02), 1)
    once = fit([0.1, 0.2], points([1.1, 1.4], 0.02 / math.sqrt(2)), 1)
    for name in ("value", "error", "slope", "slope_error"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name))
    assert (twice.dof, twice.curved) == (2, None)
    assert twice.chi2 == pytest.approx(4 * (0.1 / 0.02) ** 2)


def test_the_unit_of_the_step_size_does_not_matter():
    near, far = fit(STEPS, noisy(2), 2), fit(STEPS * 1e-6, noisy(2), 2)
    assert (far.value, far.error) == pytest.approx((near.value, near.error))
    assert far.slope == pytest.approx(near.slope * 1e12)
    assert far.curved[:2] == pytest.approx(near.curved[:2])


def test_the_shift_by_the_next_power_is_as_significant_as_its_coefficient():
    """In nested fits the two are one test, and with three points chi^2 is its square."""
    for steps in (STEPS, STEPS[:3]):
        given = noisy(3, steps)
        found = fit(steps, given, 1)
        more, covariance, _ = normal_equations(steps, given, (0, 1, 2))
        shift = abs(found.curved.value - found.value)
        z = shift / math.sqrt(found.curved.error**2 - found.error**2)
        assert z == pytest.approx(abs(more[2]) / covariance[2, 2] ** 0.5)
    assert z == pytest.approx(math.sqrt(found.chi2))


def test_it_prints_value_and_error():
    assert str(fit([0.1, 0.2], points([0.9, 1.1], 0.0012 / math.sqrt(5)), 1)) == "0.7000(12)"


# Coverage.


@pytest.fixture(scope="module", params=[1, 2])
def many(request):
    """Fits of synthetic data sets in which the line is true."""
    order = request.param
    return [fit(STEPS, noisy((order, k), order=order), order) for k in range(N_SETS)]


@pytest.mark.parametrize(
    ("of", "error", "truth"), [("value", "error", 0.7), ("slope", "slope_error", -2.0)]
)
def test_pulls_have_mean_zero_and_unit_variance(many, of, error, truth):
    pulls = np.array([(getattr(f, of) - truth) / getattr(f, error) for f in many])
    assert abs(pulls.mean()) * math.sqrt(N_SETS) < 4.5
    assert abs(pulls.var() - 1) / math.sqrt(2 / N_SETS) < 4.5


def test_pulls_of_the_curved_fit_and_of_a_point_on_the_line_have_unit_variance(many):
    curved = np.array([(f.curved.value - 0.7) / f.curved.error for f in many])
    x = 0.15 ** many[0].order
    on_it = np.array([f.value + f.slope * x for f in many])
    f = many[0]
    error = math.sqrt(f.error**2 + 2 * x * f.covariance + (x * f.slope_error) ** 2)
    for pulls in (curved, (on_it - 0.7 + 2 * x) / error):
        assert abs(pulls.mean()) * math.sqrt(N_SETS) < 4.5
        assert abs(pulls.var() - 1) / math.sqrt(2 / N_SETS) < 4.5


def test_p_values_are_uniform(many):
    distance = stats.kstest([f.p_value for f in many], "uniform")
    assert distance.pvalue > 7e-6  # 4.5 sigma


@pytest.mark.parametrize("mark", ["fit", "curved"])
def test_a_true_line_is_doubted_as_often_as_stated(many, mark):
    count = sum(mark in f.marks for f in many)
    expected = LEVEL * N_SETS
    assert abs(count - expected) < 4.5 * math.sqrt(expected)


# Doubts.


def test_curvature_is_seen_where_the_errors_show_it_and_not_where_they_hide_it():
    bent = 0.7 + 0.5 * STEPS + 1.5 * STEPS**2
    seen, hidden = fit(STEPS, points(bent, 0.001), 1), fit(STEPS, points(bent, 0.05), 1)
    assert seen.marks == ("fit", "curved") and hidden.marks == ()
    poor, moved = seen.warnings
    assert "chi^2/dof = " in poor and "p = " in poor and "below 0.01" in poor
    assert moved.startswith(f"a term eps^2 moves the value at zero from {seen} to 0.7000(")
    assert "errors of the difference" in moved and "scaling window" in moved


def test_the_next_power_is_significant_where_its_coefficient_is():
    """Also where chi^2, which knows no direction, is not: with replicas it has more freedom."""
    steps = np.repeat(STEPS, 3)
    _, covariance, _ = normal_equations(steps, points(np.ones(12), 0.01), (0, 1, 2))
    for z, marks in ((2.5, ()), (2.7, ("curved",)), (-2.7, ("curved",))):
        curvature = z * covariance[2, 2] ** 0.5
        found = fit(steps, points(1 + steps + curvature * steps**2, 0.01), 1)
        assert found.marks == marks
        assert found.chi2 == pytest.approx(z**2)
        assert all("by 2.7 errors of the difference" in words for words in found.warnings)


def test_points_that_scatter_are_a_poor_fit_without_a_curve():
    scattered = points(1 + 0.03 * np.array([1, -1, -1, 1, 1, -1]), 0.01)
    assert fit([0.1, 0.1, 0.2, 0.2, 0.3, 0.3], scattered, 1).marks == ("fit",)


def spread_of(ratio, error=1e-4):
    """Settings of `points` for a spread of one configuration."""
    return {"errors": error, "n": round((ratio / error) ** 2)}


def test_a_tenth_of_the_value_at_the_smallest_step_is_far():
    for order, share, far in ((1, 0.12, True), (1, 0.08, False), (2, 0.12, True), (2, 0.08, False)):
        line = 1 - share * (STEPS / STEPS[0]) ** order
        found = fit(STEPS, points(line, **spread_of(0.3)), order)
        assert ("far" in found.marks) == far, (order, share)
    assert fit(STEPS, points(1 - 0.12 * STEPS / 0.02, **spread_of(0.3)), 1).warnings == (
        "at the smallest step, 0.02, the correction is 12 % of the value at zero, more than 10 %: "
        "it is not in the scaling window; add smaller ones",
    )


def test_what_vanishes_is_measured_by_its_spread():
    """Such as a Binder cumulant or a magnetisation in the symmetric phase."""
    line = 1e-3 + 0.02 * STEPS / STEPS[0]
    assert fit(STEPS, points(line, **spread_of(0.3)), 1).marks == ()
    far = fit(STEPS, points(line, **spread_of(0.1)), 1)
    assert far.marks == ("far",) and "20 % of the spread between conf" in far.warnings[0]


def test_a_slope_that_is_compatible_with_zero_is_never_far():
    """A slope of 2.5 errors whose correction would be a fifth of the value, and one of 2.7."""
    for z, marks in ((2.5, ()), (2.7, ("far",))):
        one = {"errors": 0.02, "n": 4, "n_chains": 1, "tau_int": 0.01}
        slope_error = fit([0.1, 0.2], points([0.0, 0.0], **one), 1).slope_error
        values = 0.2 + z * slope_error * np.array([0.1, 0.2])
        found = fit([0.1, 0.2], points(values, **one), 1)
        assert found.slope / found.slope_error == pytest.approx(z)
        assert found.marks == marks
        assert found.slope * 0.1 > 0.2 * found.value


@pytest.mark.parametrize("seed", [1, 2])
def test_numbers_without_a_slope_are_not_flagged(seed):
    """A value of zero, and one that is not; the only doubts are the stated false alarms."""
    marks = [
        mark
        for value in (0.0, 1.0)
        for k in range(100)
        for mark in fit(STEPS, noisy((seed, k), value=value, slope=0.0), 1).marks
    ]
    assert "far" not in marks and len(marks) < 15


def test_weights_that_leave_too_little_are_named():
    given = noisy(3)
    given[1] = dataclasses.replace(given[1], worth=1.8, pareto_k=2.0)
    found = fit(STEPS, given, 1)
    assert found.marks == ("weights",)
    assert found.warnings[0].startswith("at step size 0.05 weighted averages, their errors and")


def test_short_chains_are_named():
    given = points(1 - STEPS, 0.01)
    given[1] = dataclasses.replace(given[1], tau_int=30.0)
    given[3] = dataclasses.replace(given[3], tau_int=30.0)
    found = fit(STEPS, given, 1)
    assert found.marks == ("short",)
    assert found.warnings[0].startswith("the chains at step size 0.05, 0.2 are shorter than 50 tau")
    assert found.doubted([("more", "a sentence")]).warnings == (*found.warnings, "a sentence")


def test_significant_is_what_the_level_says():
    assert stats.norm.sf(SIGNIFICANT) == pytest.approx(LEVEL / 2)


# Refusals.


@each(
    ("steps", "errors", "sentence"),
    [
        ([0.1], [0.1], "needs points at two or more step sizes, got 1 points at 1 step sizes"),
        ([0.1, 0.1], [0.1, 0.1], "got 2 points at 1 step sizes"),
        ([0.1, 0.2, 0.3], [0.1, 0.1], "got 2 points at 3 step sizes"),
        ([0.1, 0.2], [0.1, 0.0], r"positive, finite errors, got 0.0"),
        ([0.1, 0.2], [0.1, math.nan], "needs positive, finite errors"),
        ([0.1, 0.2], [0.1, math.inf], "needs positive, finite errors"),
    ],
)
def test_what_cannot_be_fitted_is_refused(steps, errors, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(steps, points(np.ones(len(errors)), errors), 1)
