"""Distances of distributions: two Gaussians in closed form, and p-values that are honest."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, special, stats
from synthetic import ar1

from lattice_ml.statistics.distributions import (
    Histogram,
    common_edges,
    few_stretches,
    jensen_shannon,
    kolmogorov_smirnov,
    kullback_leibler,
    wasserstein,
)


def chains(x, edges, weights=None):
    """A histogram whose stretches are the rows of x."""
    rows = np.repeat(np.arange(x.shape[0]), x.shape[1])
    return Histogram.of(x.ravel(), rows, edges, None if weights is None else weights.ravel())


def both(a, b, *weights, n_cells=256):
    edges = common_edges(a, b, n_cells=n_cells)
    weights = weights or (None, None)
    return [chains(x, edges, w) for x, w in zip((a, b), weights, strict=True)]


@pytest.fixture(scope="module")
def gaussians():
    """200 x 500 draws each of N(0, 1) and N(0.3, 1.2^2)."""
    rng = np.random.default_rng(1)
    return both(rng.standard_normal((200, 500)), 0.3 + 1.2 * rng.standard_normal((200, 500)))


def test_a_histogram_is_one_however_it_is_put_together():
    rng = np.random.default_rng(2)
    x, stretch, w = rng.standard_normal((60, 3)), np.arange(60) % 5, rng.random(60)
    edges = common_edges(x, n_cells=9)
    whole = Histogram.of(x, stretch, edges, w)
    assert whole.sums.shape == (5, 9) and whole.sums.sum() == pytest.approx(w.sum())
    order = rng.permutation(60)
    halves = [Histogram.of(x[i], stretch[i], edges, w[i], 5) for i in np.split(order, [20])]
    assert_allclose((halves[0] + halves[1]).sums, whole.sums, rtol=1e-12)
    spread = np.repeat(w[:, None] / 3, 3, axis=1)
    direct = [
        np.histogram(x[i], edges, weights=spread[i])[0] for i in stretch == np.arange(5)[:, None]
    ]
    assert_allclose(whole.sums, direct, atol=1e-12)
    without = Histogram.of(x[stretch != 2], np.zeros(48, int), edges, w[stretch != 2])
    assert_allclose(whole.left_out[2], without.probability, rtol=1e-12)
    coarse = whole.coarse(4)
    assert_allclose(coarse.edges, edges[[0, 3, 6, 9]])
    assert_allclose(coarse.cumulative, whole.cumulative[[2, 5, 8]])
    assert_allclose(whole.coarse(9).sums, whole.sums)
    density, error = whole.density()
    assert np.sum(density * np.diff(edges)) == pytest.approx(1)
    assert error.shape == (9,) and (error > 0).all()


def test_edges_hold_all_values_and_samples_of_any_size_alike():
    rng = np.random.default_rng(3)
    few, many = rng.random((10, 20)), 5 + rng.random(10_000)
    edges = common_edges(few, many)
    assert edges[0] == few.min() and edges[-1] == many.max() and len(edges) == 257
    below = np.sum(edges < 3)
    assert abs(below - 128) <= 1
    outside = Histogram.of([-9.0, 99.0], [0, 0], edges).sums[0]
    assert outside[0] == outside[-1] == 1 and outside.sum() == 2
    assert_allclose(common_edges([2.0, 2.0]), [1.5, 2.5])


def test_the_density_has_multinomial_errors():
    x = np.random.default_rng(4).standard_normal((400, 50))
    density, error = chains(x, np.linspace(-6, 6, 25)).density()
    p = np.diff(stats.norm.cdf(np.linspace(-6, 6, 25)))
    exact = np.sqrt(p * (1 - p) / x.size) / 0.5
    seen = p > 0.01
    assert np.max(np.abs(density - p / 0.5)[seen] / exact[seen]) < 4.5
    assert_allclose(error[seen], exact[seen], rtol=4.5 / math.sqrt(2 * 400))


def test_divergences_of_two_gaussians(gaussians):
    """Those of the cells by their probabilities, which come close to those of the densities."""
    a, b = gaussians
    laws = stats.norm(0, 1), stats.norm(0.3, 1.2)
    edges = a.coarse(32).edges.copy()
    edges[[0, -1]] = -math.inf, math.inf
    p, q = (np.diff(law.cdf(edges)) for law in laws)
    m = (p + q) / 2
    cells = {
        kullback_leibler: np.sum(p * np.log(p / q)),
        jensen_shannon: np.sum(p * np.log(p / m) + q * np.log(q / m)) / 2,
    }

    def halves(x):
        p, q = (law.pdf(x) for law in laws)
        return (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2

    densities = {
        kullback_leibler: math.log(1.2) + (1 + 0.3**2) / (2 * 1.44) - 0.5,
        jensen_shannon: integrate.quad(halves, -9, 9)[0],
    }
    for function, exact in cells.items():
        found = function(a, b)
        assert abs(found.value - exact) < 4.5 * found.error < 0.15 * exact, function
        assert exact == pytest.approx(densities[function], rel=0.04)


def test_divergences_of_equal_distributions_are_zero_on_average():
    """Counting alone adds (cells - 1) / 2 (1/N_a + 1/N_b), 0.03 here, to KL, a quarter to JS."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(40):
        pair = both(rng.standard_normal((20, 50)), rng.standard_normal((20, 50)))
        found.append([f(*pair).value for f in (kullback_leibler, jensen_shannon)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(40)
    assert (abs(mean) < 4.5 * error).all() and (error < [0.003, 0.0008]).all()


def test_divergences_of_distributions_that_do_not_overlap():
    x = np.random.default_rng(6).random((10, 100))
    a, b = both(x, x + 5)
    assert 0.97 * math.log(2) < jensen_shannon(a, b).value < math.log(2)
    assert wasserstein(a, b).value == pytest.approx(5, rel=0.01)
    largest = math.log(2 * b.effective_size)
    assert largest - 4 < kullback_leibler(a, b).value < largest


def test_what_is_symmetric_and_zero_of_itself(gaussians):
    a, b = gaussians
    for function in (jensen_shannon, wasserstein):
        forth, back = function(a, b), function(b, a)
        assert_allclose(forth, back, rtol=1e-9)
    one = chains(np.random.default_rng(7).random((5, 40)), np.linspace(0, 1, 65))
    other = Histogram(one.edges, one.sums[::-1] * 3)  # nor do scale and order of weights count
    for function in (kullback_leibler, jensen_shannon, wasserstein):
        assert abs(function(one, other).value) < 0.5 and function(one, other).error >= 0
    assert wasserstein(one, other).value < 1e-12
    found = kolmogorov_smirnov(one, other)
    assert found.value < 1e-12 and found.p_value == 1
    uneven = both(ar1(8, (9, 30), 0.5), 1 + ar1(9, (4, 20), 0.0))
    assert_allclose(jensen_shannon(*uneven), jensen_shannon(*uneven[::-1]), rtol=1e-9)


def test_wasserstein_of_a_shift_and_of_a_scale():
    """|shift| with the error of the difference of means; (s - 1) sqrt(2 / pi)."""
    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((2, 400, 100))
    found = wasserstein(*both(x, y + 1.5))
    assert abs(found.value - 1.5) < 4.5 * math.sqrt(2 / x.size)
    assert found.error == pytest.approx(math.sqrt(2 / x.size), rel=4.5 / math.sqrt(4 * 400))
    found, exact = wasserstein(*both(x, 1.5 * y)), 0.5 * math.sqrt(2 / math.pi)
    assert abs(found.value - exact) < 4.5 * found.error < 0.1 * exact
    direct = stats.wasserstein_distance(x.ravel(), 1.5 * y.ravel())
    assert found.value == pytest.approx(direct, rel=0.03)  # the outermost cells are wide


def test_wasserstein_where_distributions_cross():
    """By hand: F_a - F_b goes from 0 to 0.3, -0.1 and 0."""
    a, b = (
        Histogram(np.arange(4.0), np.tile(p, (2, 1))) for p in ([0.6, 0.1, 0.3], [0.3, 0.5, 0.2])
    )
    assert wasserstein(a, b).value == pytest.approx(0.15 + (0.09 + 0.01) / 0.8 + 0.05)


@pytest.mark.parametrize("a", [0.0, 0.7])
def test_the_effective_size_of_a_gaussian_process(a):
    """<F (1 - F)> over x falls off like 3 arcsin((1 + a^t) / 2) / pi - 1/2 with t."""
    x = ar1(13, (400, 300), a)
    lags = np.arange(1, 200)
    correlation = 3 * np.arcsin((1 + a**lags) / 2) / math.pi - 0.5
    finite = 1 + 2 * np.sum(correlation * (1 - lags / 300))  # of chains of 300
    found = chains(x, common_edges(x)).effective_size
    assert found == pytest.approx(x.size / finite, rel=4.5 * math.sqrt(2 / 400) / 2)


def test_the_effective_size_of_weighted_draws():
    """sum_x F (1 - F) / sum_x var F by integration, of N(0, 1) weighted with exp(-x^2 / 4)."""
    rng = np.random.default_rng(14)
    x = rng.standard_normal((400, 100))
    found = chains(x, common_edges(x), np.exp(-(x**2) / 4))
    law, square = stats.norm(scale=1.5**-0.5), stats.norm(scale=0.5**0.5)
    edges = found.edges[1:-1]
    f, g = law.cdf(edges), square.cdf(edges)
    mean_square = 1.5 / math.sqrt(2)  # of weights of mean one
    variance = mean_square * (g * (1 - 2 * f) + f**2) / x.size
    exact = np.sum(f * (1 - f)) / np.sum(variance)
    assert found.effective_size == pytest.approx(exact, rel=4.5 * math.sqrt(2 / 400) / 2)


def test_kolmogorov_smirnov_against_scipy_on_independent_draws():
    rng = np.random.default_rng(15)
    for shift in (0.0, 0.1, 0.2):
        x, y = rng.standard_normal((50, 20)), shift + rng.standard_normal((80, 20))
        exact = stats.ks_2samp(x.ravel(), y.ravel(), method="asymp")
        fine = kolmogorov_smirnov(*both(x, y, n_cells=4096))
        assert exact.statistic - 1 / 500 < fine.value <= exact.statistic + 1e-12
        found = kolmogorov_smirnov(*both(x, y))
        assert exact.statistic - 2 / 256 < found.value <= exact.statistic + 1e-12
        assert abs(found.where - exact.statistic_location) < 0.5
        ratio = math.log(found.p_value) / math.log(exact.pvalue)
        assert 0.5 < ratio < 1.1 or max(found.p_value, exact.pvalue) > 0.1


def test_kolmogorov_smirnov_against_a_known_distribution():
    x = np.random.default_rng(16).standard_normal((100, 40))
    for law in (stats.norm(), stats.norm(0.08), stats.norm(scale=1.1)):
        exact = stats.ks_1samp(x.ravel(), law.cdf, method="asymp")
        found = kolmogorov_smirnov(chains(x, common_edges(x)), law.cdf)
        assert abs(found.value - exact.statistic) < 2 / 256 and found.n_eff_b == math.inf
        ratio = math.log(found.p_value) / math.log(exact.pvalue)
        assert 0.5 < ratio < 1.1 or max(found.p_value, exact.pvalue) > 0.1

    end = x.max()
    cut = kolmogorov_smirnov(
        chains(x, common_edges(x)), lambda z: np.where(z < end, stats.norm.cdf(z), 0.0)
    )
    assert cut.value < 0.03, "what F does beyond the sample is not judged"


def test_few_draws_have_the_correction_of_stephens():
    x, y = np.random.default_rng(20).random((2, 5, 2))
    a, b = both(x, y)
    found = kolmogorov_smirnov(a, b)
    k = np.argmax(a.variance + b.variance)
    parts = a.variance[k], b.variance[k]
    root = 1 / math.sqrt(4 * sum(parts))
    law = special.kolmogorov(found.value * (root + 0.12 + 0.11 / root))
    assert found.p_value == pytest.approx(few_stretches(law, parts, (5, 5)), rel=1e-9)


def alarms(make, n=150):
    """p-values of n pairs of one distribution."""
    return np.array([make(seed) for seed in range(n)])


def correlated(seed):
    pair = [ar1((seed, i), (40, 30), 0.8) for i in range(2)]
    return kolmogorov_smirnov(*both(*pair)).p_value


def few(seed):
    pair = [ar1((seed, i), (6, 60), 0.5) for i in range(2)]
    return kolmogorov_smirnov(*both(*pair)).p_value


def weighted(seed):
    """N(0, 1) with weights that make it N(0, 1/1.5), against draws of that."""
    x, y = np.random.default_rng(seed).standard_normal((2, 40, 30))
    w = np.exp(-(x**2) / 4)
    return kolmogorov_smirnov(*both(x, y / math.sqrt(1.5), w, np.ones_like(w))).p_value


def known(seed):
    x = ar1(seed, (40, 30), 0.8)
    return kolmogorov_smirnov(chains(x, common_edges(x)), stats.norm.cdf).p_value


@pytest.mark.parametrize("make", [correlated, few, weighted, known])
def test_false_alarms_are_as_rare_as_p_values_say(make):
    p_values = alarms(make)
    n = len(p_values)
    for level in (0.3, 0.05, 0.01):
        allowed = n * level + 4.5 * math.sqrt(n * level * (1 - level))
        assert np.sum(p_values < level) < allowed, level
    assert np.mean(p_values < 0.5) > 0.1, "nor so rare that nothing is found"


def test_false_alarms_of_frozen_wells_are_rare_in_the_far_tail_too():
    """24 chains, each for ever in a wide well of its choice: the law of p by enumeration."""
    n, edges = 24, np.linspace(-1, 1, 17)
    counts, within = np.arange(n + 1), np.arange(8) / 8
    chance = stats.binom.pmf(counts, n, 0.5)
    wells = [np.where(counts[:n] < k, 0.0, -1.0)[:, None] + within for k in counts]
    sides = [Histogram.of(x, counts[:n], edges) for x in wells]
    p_value = np.array([[kolmogorov_smirnov(a, b).p_value for b in sides] for a in sides])
    for level in (0.05, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        rate = np.sum(np.outer(chance, chance)[p_value < level])
        assert 0.1 * level < rate < (1.1 if level >= 1e-3 else 2) * level, level


def test_a_shift_of_five_errors_is_found():
    """D sqrt(N / 2) is 5 / sqrt(2 pi) = 2 on average, where Kolmogorov's law has 7e-4."""
    p_values = []
    for seed in range(20):
        x, y = (ar1((seed, i), (80, 50), 0.5) for i in range(2))
        error = math.sqrt(2 * 3 / x.size)  # of the difference of the means
        p_values.append(kolmogorov_smirnov(*both(x, y + 5 * error)).p_value)
    assert np.exp(np.mean(np.log(p_values))) < 2e-3 and max(p_values) < 0.1


def test_few_stretches_averages_over_the_law_of_the_variance():
    f, p = 7, 1e-3
    exact = integrate.quad(lambda c: p ** (c / f) * stats.chi2(f).pdf(c), 0, 200)[0]
    assert few_stretches(p, [2.0], [f + 1]) == pytest.approx(exact, rel=1e-9)
    assert few_stretches(p, [1.0, 1.0], [8, 8]) == pytest.approx(
        few_stretches(p, [1.0], [15]), rel=1e-12
    )
    assert few_stretches(p, [1.0, 0.0], [8, 8]) == few_stretches(p, [1.0], [8])
    assert few_stretches(p, [1.0], [10**8]) == pytest.approx(p, rel=1e-5)
    assert few_stretches(1.0, [1.0], [8]) == 1 and 0 < few_stretches(0.0, [1.0], [200]) < 1e-60
    assert math.isnan(few_stretches(math.nan, [1.0], [8]))


def test_one_stretch_has_no_errors():
    x = np.random.default_rng(17).random((8, 10))
    edges = common_edges(x)
    one = Histogram.of(x.ravel() / 2, np.zeros(80, int), edges)
    assert math.isnan(one.effective_size) and np.isnan(one.density()[1]).all()
    for pair in ((one, chains(x, edges)), (chains(x, edges), one)):
        found = kolmogorov_smirnov(*pair)
        assert found.value > 0.3 and math.isnan(found.p_value)
        assert math.isnan(kullback_leibler(*pair).error)
    assert math.isnan(kolmogorov_smirnov(one, lambda x: x / 2).p_value)


def test_constants():
    """Nothing fluctuates: equal, or not."""
    same, other = np.full((4, 5), 1.0), np.full((4, 5), 2.0)
    assert kolmogorov_smirnov(*both(same, same)) == (0, 1.5, math.inf, math.inf, 1)
    for pair in ((same, other), (other, same)):
        found = kolmogorov_smirnov(*both(*pair))
        assert (found.value, found.p_value, found.n_eff_a) == (1, 0, math.inf)
    assert_allclose(common_edges(same, other), [1, 2, 3])
    assert wasserstein(*both(same, same)).value == 0


def test_one_weight_that_outweighs_all_others_gives_no_alarm():
    x = np.random.default_rng(18).standard_normal((2, 20, 30))
    w = np.full((20, 30), 1e-40)
    w[3, 4] = 1.0
    a, b = both(*x, w, np.ones_like(w))
    assert a.effective_size < 3
    assert kolmogorov_smirnov(a, b).p_value > 0.01
    assert math.isfinite(kullback_leibler(a, b).value)


def test_histograms_of_different_cells_are_refused():
    x = np.random.default_rng(19).random((4, 9))
    a, b = chains(x, np.linspace(0, 1, 4)), chains(x, np.linspace(0, 2, 6))
    match = "cell by cell, got 3 cells from 0 to 1 and 5 from 0 to 2"
    for function in (kolmogorov_smirnov, kullback_leibler, jensen_shannon, wasserstein):
        with pytest.raises(ValueError, match=match):
            function(a, b)
