"""The Gaussian RBM as a distribution, against autodiff, dense linear algebra and closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rbms import dense, machine, random_rbm
from rows import each
from scipy import integrate

from lattice_ml.models.rbm import GaussianRBM, gaussian_kl

SHAPES = [(6, 4), (5, 5), (4, 7)]  # fewer, as many and more hidden than visible fields


log_prob = jax.jit(GaussianRBM.log_prob)
draw = jax.jit(GaussianRBM.sample, static_argnums=2)
gibbs = jax.jit(GaussianRBM.gibbs)
kl = jax.jit(gaussian_kl)


@jax.jit
def of_the_marginal(rbm):
    parts = rbm.kernel(), rbm.covariance(), rbm.mean(), rbm.eigenvalues(), rbm.log_z()
    return *parts, rbm.apply_kernel(rbm.w)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_site", [True, False])
def test_the_marginal_is_that_of_the_joint_gaussian(shape, per_site):
    rbm = random_rbm(*shape, per_site=per_site)
    kernel, mean, precision, source = dense(rbm)
    found, covariance, centre, eigenvalues, found_log_z, applied = of_the_marginal(rbm)
    np.testing.assert_allclose(found, kernel, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(covariance, np.linalg.inv(kernel), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(centre, mean, rtol=1e-10)
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(kernel), rtol=1e-9)
    np.testing.assert_allclose(applied, kernel @ np.asarray(rbm.w), rtol=1e-9, atol=1e-10)
    volume = sum(shape)
    log_z = 0.5 * (volume * math.log(2 * math.pi) - np.linalg.slogdet(precision)[1])
    log_z += 0.5 * source @ np.linalg.solve(precision, source)
    log_z -= np.sum(np.asarray(rbm.eta) ** 2) / (2 * float(rbm.sigma) ** 2)
    assert float(found_log_z) == pytest.approx(log_z, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_is_the_normalised_gaussian(shape):
    rbm = random_rbm(*shape)
    kernel, mean, *_ = dense(rbm)
    phi = np.random.default_rng(1).normal(size=(5, shape[0]))
    x = phi - mean
    expected = -0.5 * np.sum(x * (x @ kernel), 1) + 0.5 * (
        np.linalg.slogdet(kernel)[1] - shape[0] * math.log(2 * math.pi)
    )
    np.testing.assert_allclose(log_prob(rbm, phi), expected, rtol=1e-11)


def test_the_integral_over_hidden_fields_gives_the_marginal():
    rbm = random_rbm(1, 1, seed=3)
    phi = jnp.array([[0.3]])
    h = jnp.linspace(-20, 20, 20_001)[:, None]
    weight = np.exp(-np.asarray(jax.jit(GaussianRBM.joint_action)(rbm, phi, h)))
    over_h = integrate.simpson(weight, x=np.asarray(h[:, 0]))
    log_z = float(of_the_marginal(rbm)[4])
    assert math.log(over_h) - log_z == pytest.approx(float(log_prob(rbm, phi)[0]))


def test_joint_action_is_the_negative_log_of_the_conditionals():
    rbm = random_rbm()
    rng = np.random.default_rng(2)
    phi, h = rng.normal(size=(3, 6)), rng.normal(size=(3, 4))

    def conditional(mean, variance, value):
        return -0.5 * np.sum((value - np.asarray(mean)) ** 2 / np.asarray(variance), -1)

    @jax.jit
    def measure(phi, h):
        actions = rbm.joint_action(phi, h), rbm.joint_action(phi, 0 * h)
        return *actions, rbm.joint_action(0 * phi, h), rbm.hidden_means(phi), rbm.visible_means(h)

    both, of_phi_alone, of_h_alone, hidden_means, visible_means = measure(phi, h)
    variance, mass = float(rbm.sigma) ** 2, np.asarray(rbm.mu_squared)
    of_h = conditional(hidden_means, variance, h) - conditional(hidden_means, variance, 0)
    of_phi = conditional(visible_means, 1 / mass, phi) - conditional(visible_means, 1 / mass, 0)
    np.testing.assert_allclose(of_h, of_phi_alone - both, rtol=1e-10)
    np.testing.assert_allclose(of_phi, of_h_alone - both, rtol=1e-10)


def test_only_the_product_of_sigma_and_w_matters():
    rbm = random_rbm(per_site=False)
    w, sigma, eta = (np.asarray(part) for part in (rbm.w, rbm.sigma, rbm.eta))
    other = machine(*(w * sigma, rbm.mu_squared, 1.0, eta / sigma, rbm.centre))
    phi = np.random.default_rng(1).normal(size=(5, 6))
    np.testing.assert_allclose(log_prob(other, phi), log_prob(rbm, phi), rtol=1e-12)


def test_rotated_hidden_fields_make_the_same_distribution():
    rbm = random_rbm()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    other = machine(*(rbm.w @ turn, rbm.mu_squared, rbm.sigma, rbm.eta @ turn, rbm.centre))
    phi = np.random.default_rng(1).normal(size=(5, 6))
    np.testing.assert_allclose(log_prob(other, phi), log_prob(rbm, phi), rtol=1e-12)


def z_scores(fields, rbm):
    """Pulls of all means and second moments about the exact mean, with exact errors."""
    n, n_visible = fields.shape
    kernel, mean, *_ = dense(rbm)
    covariance = np.linalg.inv(kernel)
    x = np.asarray(fields) - mean
    of_mean = x.mean(0) / np.sqrt(np.diagonal(covariance) / n)
    variances = np.diagonal(covariance)
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    of_second = (x.T @ x / n - covariance) / error
    return np.concatenate([of_mean, of_second[np.triu_indices(n_visible)]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_direct_samples_have_the_exact_moments(shape, seed):
    rbm = random_rbm(*shape)
    fields = draw(rbm, jax.random.key(seed), 100_000)
    assert fields.shape == (100_000, shape[0])
    assert np.abs(z_scores(fields, rbm)).max() < 4.5


@pytest.mark.parametrize("seed", [1, 2])
def test_block_gibbs_leaves_the_distribution_alone(seed):
    rbm = random_rbm()
    start = draw(rbm, jax.random.key(seed), 100_000)
    fields = gibbs(rbm, jax.random.key(seed + 10), start, 3)
    assert np.abs(z_scores(fields, rbm)).max() < 4.5


def test_block_gibbs_forgets_a_mode_at_its_predicted_rate():
    rbm = random_rbm(per_site=False, size=0.95)
    kernel, mean, *_ = dense(rbm)
    values, vectors = np.linalg.eigh(kernel)
    n_steps, n = 4, 200_000
    start = np.broadcast_to(mean + 5 * vectors[:, 0], (n, 6))
    fields = gibbs(rbm, jax.random.key(1), start, n_steps)
    left = (np.asarray(fields) - mean) @ vectors
    ratio = 1 - values / float(rbm.mu_squared)
    expected = 5 * np.array([ratio[0] ** n_steps, *[0] * 5])
    error = np.sqrt((1 - ratio ** (2 * n_steps)) / values / n)
    assert np.abs((left.mean(0) - expected) / error).max() < 4.5
    variance_error = (1 - ratio ** (2 * n_steps)) / values * math.sqrt(2 / n)
    variance = left.var(0) - (1 - ratio ** (2 * n_steps)) / values
    assert np.abs(variance / variance_error).max() < 4.5


def test_samples_in_float32_stay_in_float32():
    rbm = random_rbm(dtype=jnp.float32)
    fields = jax.eval_shape(lambda key: rbm.sample(key, 7), jax.random.key(0))
    assert fields.dtype == jnp.float32
    for made in (lambda phi: rbm.gibbs(jax.random.key(1), phi, 2), rbm.log_prob):
        assert jax.eval_shape(made, fields).dtype == jnp.float32


def test_kl_vanishes_at_its_own_moments_and_is_that_of_two_gaussians():
    rbm = random_rbm()
    kernel, mean, *_ = dense(rbm)
    assert float(kl(rbm, np.linalg.inv(kernel), mean)) == pytest.approx(0, abs=1e-12)
    covariance = np.diag(np.linspace(0.5, 2, 6))
    shift = np.linspace(-1, 1, 6)
    expected = 0.5 * (
        np.trace(kernel @ covariance)
        + (shift - mean) @ kernel @ (shift - mean)
        - 6
        - np.linalg.slogdet(kernel @ covariance)[1]
    )
    assert float(kl(rbm, covariance, shift)) == pytest.approx(expected, rel=1e-12)


def test_a_weight_that_cannot_be_normalised_is_refused():
    with pytest.raises(ValueError, match=r"largest singular value of sigma w / mu must be below 1"):
        GaussianRBM.of(1.5 * np.eye(3), 2.0)
    GaussianRBM.of(1.4 * np.eye(3), 2.0)


@each(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), -1.0), r"must be positive, got -1 and 1"),
        ((np.ones((3, 2)), 9.0, 0.0), r"must be positive, got 9 and 0"),
        ((np.ones((3, 2)), np.ones(2)), r"mu_squared must be a number or \(3,\)"),
        ((np.ones((3, 2)), 9.0, 1.0, np.ones(3)), r"eta \(2,\) and centre \(3,\)"),
        ((np.ones((3, 2)), 9.0, 1.0, None, np.ones(2)), r"eta \(2,\) and centre \(3,\)"),
        ((np.full((3, 2), np.nan), 9.0), r"cannot be normalised"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianRBM.of(*arguments)
