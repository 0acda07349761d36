"""Mean weights and their tail against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from lattice_ml.statistics import MIN_DRAWS, log_mean, log_z_doubt, pareto_k

N = 40_000
TAIL = 600  # 3 sqrt(N)


def pareto_draws(shape, seed):
    return stats.genpareto.rvs(shape, size=N, random_state=np.random.default_rng(seed))


@pytest.mark.parametrize("shape", [-0.4, 0.0, 0.3, 0.7, 1.2])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_shape_of_generalised_pareto_draws_is_found(shape, seed):
    found = pareto_k(np.log(pareto_draws(shape, seed)))
    expected = (TAIL * shape + 5) / (TAIL + 10)  # drawn to 1/2 by ten draws
    assert abs(found - expected) < 4.5 * (1 + shape) / math.sqrt(TAIL)  # of maximum likelihood


@pytest.mark.parametrize("shape", [-0.2, 0.5, 1.0])
def test_the_fit_is_that_of_maximum_likelihood(shape):
    draws = np.sort(pareto_draws(shape, 3))
    best, _, _ = stats.genpareto.fit(draws[-TAIL:] - draws[-TAIL - 1], floc=0)
    found = (pareto_k(np.log(draws)) * (TAIL + 10) - 5) / TAIL
    assert found == pytest.approx(best, abs=0.5 * (1 + shape) / math.sqrt(TAIL))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_constant_in_the_log_weights_changes_the_mean_only(shift):
    log_w = np.random.default_rng(4).normal(size=(10, 100))
    assert pareto_k(log_w + shift) == pytest.approx(pareto_k(log_w), abs=1e-9)
    assert log_mean(log_w + shift).value == pytest.approx(log_mean(log_w).value + shift)
    assert log_mean(log_w + shift).error == pytest.approx(log_mean(log_w).error)


def test_equal_weights_have_no_tail_and_an_exact_mean():
    log_w = np.full(1000, -3.25)
    assert pareto_k(log_w) == 0
    assert pareto_k(log_w + 1e-13 * np.random.default_rng(5).normal(size=1000)) == 0
    assert log_mean(log_w) == (-3.25, 0)


def test_few_values_of_the_weights_can_be_told():
    rng = np.random.default_rng(6)
    found = [pareto_k(np.log(rng.integers(1, 5, n))) for n in range(MIN_DRAWS, 300)]
    assert max(found) < 0.5
    assert pareto_k(np.repeat([0.0, 1.0], [9900, 100])) < 0, "bounded"


@pytest.mark.parametrize("width", [1e3, 1e5])
def test_weights_far_beyond_the_range_of_floats_have_a_heavy_tail(width):
    log_w = width * np.random.default_rng(7).normal(size=1000)
    assert 1 < pareto_k(log_w) < math.inf
    assert log_mean(log_w).value == pytest.approx(log_w.max() - math.log(1000))
    assert log_mean(log_w).error == pytest.approx(1, rel=1e-2)


def test_one_weight_that_outweighs_all_others_is_no_light_tail():
    log_w = np.random.default_rng(8).normal(size=100)
    log_w[17] = 1e5
    assert pareto_k(log_w) > 1
    assert pareto_k(np.where(np.arange(100) == 17, 1e5, 0)) == math.inf


@pytest.mark.parametrize(("k", "covered", "doubted"), [(0.3, 0.95, 0.0), (0.6, 0.87, 0.9)])
def test_the_error_of_a_mean_is_doubted_where_it_is_too_small(k, covered, doubted):
    """Of draws U^(-k) with the mean 1 / (1 - k)."""
    draws = -k * np.log(np.random.default_rng(12).uniform(size=(400, 8192)))
    found = np.array([log_mean(log_w) for log_w in draws])
    within = np.abs(found[:, 0] + math.log1p(-k)) < 2 * found[:, 1]
    shapes = [pareto_k(log_w) for log_w in draws]
    share = np.mean([shape >= 0.7 or log_z_doubt(shape) is not None for shape in shapes])
    assert abs(within.mean() - covered) < 4.5 * math.sqrt(covered * (1 - covered) / len(draws))
    assert abs(share - doubted) < 0.1
    assert log_z_doubt(0.7) is log_z_doubt(math.nan) is None, "`doubt` says more"


@pytest.mark.parametrize("seed", [9, 10])
def test_log_mean_of_log_normal_weights_is_exact_within_its_exact_error(seed):
    width, n = 0.8, 50_000
    log_w = np.random.default_rng(seed).normal(-40, width, size=n)
    found = log_mean(log_w)
    error = math.sqrt(math.expm1(width**2) / n)
    assert abs(found.value - (-40 + width**2 / 2)) < 4.5 * error
    assert found.error == pytest.approx(error, rel=0.05)


def test_too_few_draws_say_so():
    draws = np.random.default_rng(11).normal(size=MIN_DRAWS)
    assert math.isnan(pareto_k(draws[1:]))
    assert pareto_k(np.full(3, -2.5)) == 0, "equal weights have no tail"
    assert math.isfinite(pareto_k(draws))
    assert math.isnan(log_mean([1.0]).error)


@pytest.mark.parametrize("function", [log_mean, pareto_k])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_or_missing_are_refused(function, bad):
    with pytest.raises(ValueError, match="finite and not empty, got 3 with 1 not finite"):
        function([0.0, bad, 1.0])
    with pytest.raises(ValueError, match="got 0 with 0 not finite"):
        function([])
