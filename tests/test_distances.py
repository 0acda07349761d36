"""Distances of sets of vectors: direct sums, closed forms, and p-values that are honest."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from synthetic import ar1

from lattice_ml.statistics.distances import Sample, energy_distance, maximum_mean_discrepancy
from lattice_ml.statistics.distributions import few_stretches

BOTH = (energy_distance, maximum_mean_discrepancy)


def vectors(chains, weights=None):
    """Of chains `(n_chains, n, V)`, which are the stretches."""
    stretch = np.repeat(np.arange(chains.shape[0]), chains.shape[1])
    flat = None if weights is None else weights.ravel()
    return Sample(chains.reshape(-1, chains.shape[-1]), stretch, flat)


def mean_distance(shift, variance):
    """<|N(shift, variance)|>."""
    width = math.sqrt(variance)
    folded = width * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * variance))
    return folded + shift * math.erf(shift / (width * math.sqrt(2)))


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_direct_double_sums(weighted):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 3, 4)), 0.3 + rng.standard_normal((9, 2, 4))
    w = [rng.random(n) if weighted else np.ones(n) for n in (24, 18)]
    a, b = vectors(x, w[0] if weighted else None), vectors(y, w[1] if weighted else None)
    shares = np.concatenate([w[0] / w[0].sum(), -w[1] / w[1].sum()])
    joined = np.concatenate([a.vectors, b.vectors])
    pairs = [(i, j) for i in range(42) for j in range(42)]
    apart = np.array([math.dist(joined[i], joined[j]) for i, j in pairs]).reshape(42, 42)
    assert energy_distance(a, b).value == pytest.approx(-shares @ apart @ shares, rel=1e-9)
    width = np.median(apart[np.triu_indices(42, 1)]) ** 2
    exact = shares @ np.exp(-(apart**2) / width) @ shares
    assert maximum_mean_discrepancy(a, b).value == pytest.approx(exact, rel=1e-3)


def test_what_does_not_matter():
    """Order, exchange, a common shift; weights of two are two copies."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((8, 4, 3)), 0.5 + rng.standard_normal((10, 4, 3))
    w = 1.0 + (rng.random((8, 4)) < 0.5)
    order = rng.permutation(32)
    twice = np.repeat(np.arange(32), w.ravel().astype(int))
    for function in BOTH:
        a, b = vectors(x), vectors(y)
        found = function(a, b)
        shuffled = Sample(a.vectors[order], 7 * a.stretch[order] + 3)
        assert_allclose(function(shuffled, b), found, rtol=1e-9)
        assert_allclose(function(b, a), found, rtol=1e-9)
        assert_allclose(function(vectors(x + 9), vectors(y + 9)), found, rtol=1e-6)
        copies = Sample(a.vectors[twice], a.stretch[twice])
        if function is energy_distance:  # the median of the other counts copies
            assert_allclose(function(copies, b), function(vectors(x, w), b), rtol=1e-9)
    same = energy_distance(a, a)
    assert abs(same.value) < 1e-9 and same.p_value > 0.99


def test_two_gaussians_and_what_is_expected_of_equal_ones():
    """E^2 by <|N(shift, variance)|>; V-statistics add <|x - x'|> (1 / n_a + 1 / n_b)."""
    rng = np.random.default_rng(3)
    shift, width, found, equal = 0.8, 1.5, [], []
    for _ in range(30):
        x, y, z = (vectors(rng.standard_normal((60, 1, 1))) for _ in range(3))
        other = Sample(shift + width * y.vectors, y.stretch)
        found.append(energy_distance(x, other).value)
        equal.append((energy_distance(x, z).value, energy_distance(x, z).expected))
    alone = mean_distance(0, 2), mean_distance(0, 2 * width**2)
    exact = 2 * mean_distance(shift, 1 + width**2) - sum(alone) + sum(alone) / 60
    assert abs(np.mean(found) - exact) < 4.5 * np.std(found) / math.sqrt(30)
    counting = 2 * alone[0] / 60
    for values in np.transpose(equal):
        assert abs(np.mean(values) - counting) < 4.5 * np.std(values) / math.sqrt(30)
    assert np.std(equal, axis=0)[1] < 0.15 * counting


def frozen(k, n):
    """n chains of one configuration in one of two wells, k of them in that of +1."""
    return vectors(np.where(np.arange(n) < k, 1.0, -1.0)[:, None, None])


def test_two_points_are_a_test_of_one_share():
    """E^2 = 2 d (p_a - p_b)^2 at distance d = 2: its law is chi^2 of one degree of freedom."""
    for k, m in ((3, 9), (10, 12), (8, 8), (1, 15)):
        found = energy_distance(frozen(k, 16), frozen(m, 20))
        p, q = k / 16, m / 20
        assert found.value == pytest.approx(4 * (p - q) ** 2, abs=1e-9)
        parts = p * (1 - p) / 15, q * (1 - q) / 19
        assert found.expected == pytest.approx(4 * sum(parts), rel=1e-9)
        known = 2 * stats.norm.sf(abs(p - q) / math.sqrt(sum(parts)))
        exact = few_stretches(known, parts, (16, 20))
        assert found.p_value == pytest.approx(exact, rel=1e-6)


def test_false_alarms_of_frozen_wells_are_rare_in_the_far_tail_too():
    """24 chains in the well of their choice: the law of p by enumeration."""
    n = 24
    counts = np.arange(1, n)
    chance = stats.binom.pmf(counts, n, 0.5)
    sides = [frozen(k, n) for k in counts]
    p_value = np.array([[energy_distance(a, b).p_value for b in sides] for a in sides])
    for level in (0.05, 1e-2, 1e-3, 1e-4, 1e-5):
        rate = np.sum(np.outer(chance, chance)[p_value < level])
        assert 0.1 * level < rate < 1.6 * level, level


def correlated(seed):
    """Chains of 8 configurations; the first mode is wide."""
    modes = ar1(seed, (6, 24, 8), 0.7)
    modes[0] *= 4
    return vectors(np.moveaxis(modes, 0, -1))


def weighted(seed):
    x = np.random.default_rng(seed).standard_normal((24, 8, 6))
    return vectors(x, np.exp(-0.1 * np.sum(x**2, axis=-1)))


def drawn(seed):
    x = np.random.default_rng(seed).standard_normal((24, 8, 6))
    return vectors(x / math.sqrt(1.2))


@pytest.mark.parametrize("pair", [(correlated, correlated), (weighted, drawn)])
def test_false_alarms_are_as_rare_as_p_values_say(pair):
    n = 120
    found = np.array(
        [[f(pair[0]((s, 0)), pair[1]((s, 1))).p_value for f in BOTH] for s in range(n)]
    )
    for p_values in found.T:
        for level in (0.5, 0.1, 0.02):
            error = math.sqrt(n * level * (1 - level))
            assert abs(np.sum(p_values < level) - n * level) < 4.5 * error, level


def test_a_shift_and_a_width_of_five_errors_are_found():
    """A shift along one of six directions costs power: 5 sigma become some 3."""
    found = []
    for seed in range(10):
        a, b = correlated((seed, 0)), correlated((seed, 1))
        error = math.sqrt(2 * 16 * 17 / 3 / len(a.vectors))
        shifted = b.vectors + 5 * error * np.eye(6)[0]
        found.append([f(a, b._replace(vectors=shifted)).p_value for f in BOTH])
    assert (np.mean(np.log(found), axis=0) < math.log(1e-3)).all()
    x = np.random.default_rng(4).standard_normal((2, 24, 8, 6))
    wide = [f(vectors(x[0]), vectors(1.4 * x[1])).p_value for f in BOTH]
    assert max(wide) < 1e-3


def test_fewer_than_eight_stretches_do_not_tell():
    x = np.random.default_rng(5).standard_normal((9, 5, 2))
    for a, b in ((x[:7], x), (x, x[:7])):
        found = energy_distance(vectors(a), vectors(b))
        assert found.value > 0 and math.isnan(found.expected) and math.isnan(found.p_value)
    assert math.isfinite(energy_distance(vectors(x[:8]), vectors(x)).p_value)


def test_constants():
    """Nothing fluctuates: equal, or not."""
    x = np.ones((8, 2, 3))
    for function in BOTH:
        assert function(vectors(x), vectors(x)).p_value > 0.5
        found = function(vectors(x), vectors(2 * x))
        assert found.value > 0.1 and found.p_value < 1e-10


def test_vectors_of_different_length_are_refused():
    x = np.ones((8, 2, 3))
    for function in BOTH:
        with pytest.raises(ValueError, match="vectors of one length, got 3 and 2 numbers"):
            function(vectors(x), vectors(x[..., :2]))


def test_vectors_that_are_masked_or_not_finite_are_refused():
    x = np.ones((8, 2, 3))
    masked = np.ma.masked_array(x, np.arange(48).reshape(x.shape) == 5)
    for function in BOTH:
        with pytest.raises(ValueError, match="vectors must have no mask, got 1 masked"):
            function(vectors(masked), vectors(x))
        with pytest.raises(ValueError, match="vectors must be finite, got 1 of 96 numbers"):
            function(vectors(x), vectors(masked.filled(np.nan)))


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_distances_of_huge_and_tiny_vectors(unit):
    x, y = np.random.default_rng(20).normal(size=(2, 9, 4, 3))
    energy = energy_distance(vectors(x), vectors(y))
    found = energy_distance(vectors(unit * x), vectors(unit * y))
    assert_allclose(found, (unit * energy.value, unit * energy.expected, energy.p_value))
    assert_allclose(
        maximum_mean_discrepancy(vectors(unit * x), vectors(unit * y)),
        maximum_mean_discrepancy(vectors(x), vectors(y)),
    )
