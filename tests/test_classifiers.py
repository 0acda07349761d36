"""Classifiers of configurations: exact log odds, symmetries, and what is refused."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lattice_ml.comparison import classifiers
from lattice_ml.comparison.classifiers import fit_cnn, fit_logistic, log_odds, moments
from lattice_ml.statistics.roc import Scores, auc

pytestmark = pytest.mark.unoptimised

RNG = np.random.default_rng


def smooth(n, mass_squared, seed, shape=(8, 8)):
    """Draws of a free field."""
    from lattice_ml import FreeField, Lattice

    propagator = FreeField(mass_squared, 2).propagator(Lattice(shape))
    noise = np.fft.fft2(RNG(seed).standard_normal((n, *shape)))
    return np.fft.ifft2(np.sqrt(propagator) * noise).real.astype(np.float32)


def test_logistic_regression_finds_the_log_odds_of_two_gaussians():
    """Of equal width s and means -+ m: f(x) = 2 m x / s^2, and AUC = Phi(sqrt(2) m / s)."""
    rng, m, s, n = RNG(1), np.array([0.3, -0.5]), 0.8, 20_000
    x = np.concatenate([rng.normal(sign * m, s, (n, 2)) for sign in (-1, 1)])
    labels = np.repeat([0, 1], n)
    found = fit_logistic(x, labels, penalty=1e-6)
    slopes = found.weights / found.scale
    assert_allclose(slopes, 2 * m / s**2, atol=4.5 * 0.02)
    gradient = np.column_stack([x, np.ones(2 * n)]).T @ (1 / (1 + np.exp(-found(x))) - labels)
    assert_allclose(gradient, 0, atol=1e-4)
    from scipy import stats

    exact = stats.norm.cdf(np.sqrt(2) * np.linalg.norm(m) / s)
    area = auc(Scores(found(x[n:])), Scores(found(x[:n])))
    assert abs(area.value - exact) < 4.5 * area.error < 0.02


def test_logistic_regression_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = RNG(2)
    x = rng.normal(size=(400, 3)) * [1.0, 5.0, 0.1] + 2
    labels = rng.random(400) < 1 / (1 + np.exp(-(x[:, 0] - 2 + 0.1 * x[:, 1])))
    weights = rng.random(400)
    found = fit_logistic(x, labels, weights, penalty=2.0)
    balanced = np.where(labels, weights / weights[labels].sum(), weights / weights[~labels].sum())
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    other = linear_model.LogisticRegression(C=0.5, tol=1e-12, max_iter=1000)
    other.fit(z, labels, 200 * balanced)
    assert_allclose(found.weights, other.coef_[0], rtol=1e-5)
    assert_allclose(found(x), other.decision_function(z), atol=1e-5)


def test_classes_that_a_plane_separates_stay_finite():
    x = np.concatenate([np.full((5, 1), -1.0), np.full((5, 1), 1.0)])
    found = fit_logistic(x, np.repeat([0, 1], 5))
    assert np.all(np.isfinite(found(x))) and np.all(np.sign(found(x)) == x[:, 0])
    constant = fit_logistic(np.column_stack([x, np.ones(10)]), np.repeat([0, 1], 5))
    assert constant.weights[1] == 0


def test_moments_are_even_and_averages_over_sites():
    phi = RNG(3).normal(size=(4, 3, 5))
    found = moments(phi)
    assert found.shape == (4, 6)
    assert_allclose(moments(-phi), found)
    assert_allclose(moments(np.roll(phi, (1, 2), (1, 2))), found)
    assert_allclose(found[:, 0] ** 2, found[:, 1])
    assert_allclose(found[0, 4], np.mean(phi[0] * np.roll(phi[0], -1, 0)))


@pytest.mark.parametrize(("shape", "even"), [((6,), True), ((6, 8), True), ((2, 3, 4), False)])
def test_a_network_sees_no_place_and_where_even_no_sign(shape, even):
    phi = RNG(4).normal(size=(40, *shape)).astype(np.float32)
    labels = np.repeat([0, 1], 20)
    network = fit_cnn(
        jax.random.key(1),
        phi * (1 + labels).reshape(-1, *[1] * len(shape)),
        labels,
        even=even,
        n_steps=20,
    )
    found = log_odds(network, phi)
    assert found.shape == (40,) and np.std(found) > 1e-3
    moved = log_odds(network, np.roll(phi, 1, -1))
    assert_allclose(moved, found, atol=1e-5)
    assert np.allclose(log_odds(network, -phi), found, atol=1e-5) == even


def test_a_network_tells_two_masses_apart_as_well_as_the_exact_odds_nearly():
    """f = (m_a^2 - m_b^2)/2 sum phi^2 + constant is the best that anything can do."""
    train, test = ([smooth(400, m2, seed) for m2 in (0.3, 1.0)] for seed in (5, 6))
    labels = np.repeat([0, 1], 400)
    network = fit_cnn(jax.random.key(2), np.concatenate(train), labels)
    area = auc(*(Scores(log_odds(network, phi)) for phi in test[::-1]))
    best = auc(*(Scores(-np.sum(phi**2, axis=(1, 2))) for phi in test[::-1]))
    assert best.value - 0.03 < area.value < best.value + 0.02
    linear = fit_logistic(np.concatenate(train).reshape(800, -1), labels)
    blind = auc(*(Scores(linear(phi.reshape(400, -1))) for phi in test[::-1]))
    assert abs(blind.value - 0.5) < 4.5 * blind.error, "what is linear in phi sees no even change"


def test_weights_of_the_training_count():
    """The class 1 is the class 0 but for weights of the fields with large phi^2."""
    phi = smooth(600, 0.5, 7)
    fields, labels = np.concatenate([phi, phi]), np.repeat([0, 1], 600)
    squares = np.mean(phi**2, axis=(1, 2))
    weights = np.concatenate([np.ones(600), squares > np.median(squares)])
    odds = log_odds(fit_cnn(jax.random.key(3), fields, labels, weights), phi)
    assert np.corrcoef(odds, squares)[0, 1] > 0.7
    odds = fit_logistic(moments(fields), labels, weights)(moments(phi))
    assert np.corrcoef(odds, squares)[0, 1] > 0.7


def test_a_training_is_the_same_again_and_batches_suit_the_lattice(monkeypatch):
    phi, labels = RNG(8).normal(size=(20, 4, 4)), np.repeat([0, 1], 10)
    twice = [log_odds(fit_cnn(jax.random.key(1), phi, labels, n_steps=5), phi) for _ in range(2)]
    assert_array_equal(*twice)
    seen = []
    monkeypatch.setattr(
        classifiers,
        "_descend",
        lambda *data, batch, n_steps: seen.append((batch, n_steps)) or data[4],
    )
    for extent in (8, 32, 128, 256):
        fit_cnn(jax.random.key(1), np.zeros((2, extent, extent)), [0, 1])
    assert seen == [(64, 200), (8, 200), (4, 200), (4, 50)]


def test_one_class_and_no_penalty_are_refused():
    for fit in (
        lambda y: fit_logistic(np.ones((3, 1)), y),
        lambda y: fit_cnn(jax.random.key(1), np.ones((3, 4)), y),
    ):
        with pytest.raises(ValueError, match="two classes, got none of class 0"):
            fit([1, 1, 1])
    with pytest.raises(ValueError, match="none of class 1"):
        fit_logistic(np.ones((2, 1)), [0, 1], [1.0, 0.0])
    with pytest.raises(ValueError, match="penalty must be positive, got 0"):
        fit_logistic(np.ones((2, 1)), [0, 1], penalty=0)
