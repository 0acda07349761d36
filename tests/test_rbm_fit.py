"""Training of the Gaussian RBM: gradients, and the fixed points of the reference file."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rbms import WIDE, begin, exact_moments, fit, free_fields, kernel, random_rbm

from lattice_ml.models import rbm_fit
from lattice_ml.models.moments import measure_moments
from lattice_ml.models.rbm import GaussianRBM, gaussian_kl
from lattice_ml.models.rbm_fit import RBMState, gradient, log_likelihood

REFERENCE = json.loads((Path(__file__).parent / "data" / "rbm_reference.json").read_text())["cases"]
CHAIN = np.array(REFERENCE["rbm1d"]["values"]["spectrum"])
sampled = jax.jit(rbm_fit._sampled, static_argnums=0)


# ------------------------------------------------------------------------------------ gradients


def free_parts(rbm):
    """What is trained."""
    return {"w": rbm.w, "mu_squared": rbm.mu_squared, "eta": rbm.eta}


@pytest.mark.parametrize(
    ("shape", "per_site"), [((6, 4), True), ((6, 4), False), ((5, 5), True), ((4, 7), False)]
)
def test_the_gradient_is_that_of_the_mean_log_density(shape, per_site):
    rbm = random_rbm(*shape, per_site=per_site)
    fields = jnp.asarray(np.random.default_rng(4).normal(size=(50, shape[0])) + 0.5)
    data = measure_moments([(np.asarray(fields), None)])

    def mean_log_prob(parts):
        return jnp.mean(replace(rbm, **parts).log_prob(fields))

    expected = jax.jit(jax.grad(mean_log_prob))(free_parts(rbm))
    for name, value in free_parts(jax.jit(gradient)(rbm, data)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-8, err_msg=name)
    assert float(log_likelihood(rbm, data)) == pytest.approx(
        float(mean_log_prob(free_parts(rbm))), rel=1e-12
    )


def test_the_gradient_vanishes_where_the_data_are_the_model():
    rbm = random_rbm()
    data = exact_moments(np.asarray(rbm.covariance()), np.asarray(rbm.mean()))
    for value in free_parts(gradient(rbm, data)).values():
        np.testing.assert_allclose(value, 0, atol=1e-11)


@pytest.mark.parametrize(("method", "n_gibbs"), [("cd", 1), ("cd", 3), ("pcd", 1)])
def test_the_expected_sampled_gradient_is_the_exact_one_times_what_gibbs_forgets(method, n_gibbs):
    """In common eigenvectors, CD-k sees (1 - r^2k) (C - 1/k) with r = 1 - k/mu^2; PCD all of it."""
    target, mu_squared, n = kernel((4,), 1.0), 6.0, 200_000
    values, vectors = np.linalg.eigh(target)
    learned = np.linspace(1.5, 4.5, 4)  # eigenvalues of K
    w = jnp.asarray(vectors * np.sqrt(mu_squared - learned))
    rbm = GaussianRBM.of(w, mu_squared)
    root = vectors / np.sqrt(values)
    fields = jnp.asarray(np.random.default_rng(1).normal(size=(n, 4)) @ root.T)
    settings = replace(WIDE, method=method, n_gibbs=n_gibbs, batch_size=n)
    state = begin(settings, 4, 4, mu_squared)._replace(
        rbm=rbm, chains=rbm.sample(jax.random.key(2), n)
    )
    found, _ = sampled(settings, state, fields, jax.random.key(3))
    forgotten = 1 if method == "pcd" else 1 - (1 - learned / mu_squared) ** (2 * n_gibbs)
    singular = np.sqrt(mu_squared - learned)
    expected = np.diag(forgotten * (1 / values - 1 / learned) * singular)
    in_modes = vectors.T @ np.asarray(found.w)
    # variances of <x_i x_j> s_j in both phases, as if they were independent: an upper bound
    spread = (np.outer(1 / values, 1 / values) + np.outer(1 / learned, 1 / learned)) / n
    error = np.sqrt(spread * (1 + np.eye(4))) * singular
    assert np.abs((in_modes - expected) / error).max() < 4.5
    excess = np.sum(forgotten * (1 / values - 1 / learned))
    mass_error = np.sqrt(np.sum(2 / values**2 + 2 / learned**2) / n) / 2
    assert abs(float(found.mu_squared) + 0.5 * excess) < 4.5 * mass_error


def test_the_expected_gradient_of_persistent_chains_is_the_exact_one():
    rbm = random_rbm()
    fields = np.random.default_rng(5).normal(size=(500, 6)) @ np.diag(np.linspace(0.5, 1.5, 6)) + 1
    exact = free_parts(gradient(rbm, measure_moments([(fields, None)])))
    settings = replace(WIDE, method="pcd", batch_size=2048)

    @jax.jit
    @jax.vmap
    def batch(seed):
        chains = rbm.sample(jax.random.key(2 * seed), 2048)
        state = RBMState(rbm, chains, 0, 0, jnp.array([1e-6, 1e6]))
        found, _ = sampled(settings, state, jnp.asarray(fields), jax.random.key(2 * seed + 1))
        return free_parts(found)

    for name, found in batch(jnp.arange(100)).items():
        z = (np.mean(found, 0) - exact[name]) / (np.std(found, 0) / 10)
        assert np.abs(z).max() < 4.5, name


def test_persistent_chains_go_on():
    settings = replace(WIDE, method="pcd", batch_size=16)
    state = begin(settings, 10, 10, 9.0, dtype=jnp.float32)
    one = fit(settings, state, free_fields(64), 1)
    again = sampled(settings, state, free_fields(64), jax.random.fold_in(jax.random.key(1), 0))[1]
    assert np.array_equal(one.chains, again)
    assert not np.any(np.asarray(one.chains) == np.asarray(state.chains))
    two = fit(settings, one, free_fields(64), 1)
    assert np.array_equal(two.chains, fit(settings, state, free_fields(64), 2).chains)


# ---------------------------------------------------------------------------------- fixed points


@pytest.mark.parametrize("mu_squared", [9.0, 7.8, 7.1, 4.8])
def test_the_mass_is_an_ultraviolet_regulator(mu_squared):
    expected = REFERENCE[f"rbm1d.fixed_mu2={mu_squared}"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    state = begin(WIDE, 10, 10, mu_squared)
    state = fit(WIDE, state, exact_moments(covariance), 300)
    np.testing.assert_allclose(state.rbm.eigenvalues(), expected["lambda"], rtol=1e-3)
    assert float(gaussian_kl(state.rbm, covariance)) == pytest.approx(expected["KL"], abs=1e-6)
    assert int(np.sum(np.abs(state.rbm.eigenvalues() / CHAIN - 1) < 1e-3)) == expected["nmodes"]


@pytest.mark.parametrize("n_hidden", [9, 7, 5, 3])
def test_fewer_hidden_fields_learn_the_infrared_and_the_common_mass(n_hidden):
    expected = REFERENCE[f"rbm1d.Nh={n_hidden}_learn_mu2"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    settings = replace(WIDE, train_mu=True)
    state = fit(settings, begin(settings, 10, n_hidden, 9.0), exact_moments(covariance), 1000)
    assert float(state.rbm.mu_squared) == pytest.approx(expected["mu2"], rel=1e-4)
    assert float(gaussian_kl(state.rbm, covariance)) == pytest.approx(expected["KL"], abs=1e-6)
    np.testing.assert_allclose(state.rbm.eigenvalues()[:n_hidden], CHAIN[:n_hidden], rtol=1e-3)


@pytest.mark.parametrize("n_hidden", [9, 7, 5, 3])
def test_fewer_hidden_fields_at_a_fixed_mass(n_hidden):
    expected = REFERENCE[f"rbm1d.Nh={n_hidden}_mu2=9"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    state = fit(WIDE, begin(WIDE, 10, n_hidden, 9.0), exact_moments(covariance), 300)
    assert float(gaussian_kl(state.rbm, covariance)) == pytest.approx(expected["KL"], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "mass_squared", "mu_squared", "n"), [((10,), 4.0, 9.0, 12), ((8, 8), 0.25, 16.5, 30)]
)
def test_the_natural_gradient_takes_few_steps(shape, mass_squared, mu_squared, n):
    target = kernel(shape, mass_squared)
    state = begin(WIDE, len(target), len(target), mu_squared)
    state = fit(WIDE, state, exact_moments(np.linalg.inv(target)), n)
    exact = np.linalg.eigvalsh(target)
    np.testing.assert_allclose(state.rbm.eigenvalues(), exact, rtol=1e-2)


def test_the_plain_gradient_follows_the_gradient_flow():
    """Mode by mode d(s^2)/dt = 2 s^2 (1/kappa - 1/(mu^2 - s^2)); a small step errs by its size."""
    mu_squared, rate, n = 9.0, 0.01, 400
    settings = replace(WIDE, natural=False)
    covariance = np.linalg.inv(kernel((10,), 4.0))
    state = fit(
        settings, begin(settings, 10, 10, mu_squared), exact_moments(covariance), n, rate=rate
    )
    y = np.full(10, 0.09 * mu_squared)
    for _ in range(n):
        for _ in range(20):
            y = y + rate / 20 * 2 * y * (1 / CHAIN - 1 / (mu_squared - y))
    np.testing.assert_allclose(state.rbm.eigenvalues(), mu_squared - y, rtol=1e-3)


@pytest.mark.parametrize("natural", [True, False])
def test_a_mean_and_masses_of_every_site_are_learned(natural):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) / 3 + np.eye(6)
    covariance, mean = root @ root.T, rng.normal(size=6)
    data = exact_moments(covariance, mean)
    settings = replace(WIDE, train_mu=True, natural=natural)
    state = begin(settings, 6, 6, np.full(6, 20.0))
    state = fit(settings, state, data, 1000 if natural else 20_000, rate=1.0 if natural else 0.2)
    tolerance = 1e-6 if natural else 1e-2
    assert float(gaussian_kl(state.rbm, covariance, mean)) < tolerance
    np.testing.assert_allclose(state.rbm.mean(), mean, rtol=10 * tolerance, atol=10 * tolerance)


def test_factor_analysis_is_reached_where_every_site_has_a_mass():
    """Data of two factors and independent noise: K^-1 = noise + factors, exactly representable."""
    rng = np.random.default_rng(0)
    noise, factors = rng.uniform(0.5, 1.5, 8), rng.normal(size=(8, 2))
    covariance = np.diag(noise) + factors @ factors.T
    settings = replace(WIDE, train_mu=True)
    state = fit(settings, begin(settings, 8, 2, np.full(8, 4.0)), exact_moments(covariance), 2000)
    assert float(gaussian_kl(state.rbm, covariance)) < 1e-8
    np.testing.assert_allclose(1 / state.rbm.mass, noise, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "n_hidden", "mu_squared"), [("cd", 10, 9.0), ("pcd", 10, 9.0)])
def test_contrastive_divergence_reaches_one_per_cent(method, n_hidden, mu_squared):
    settings = replace(WIDE, method=method, batch_size=2048)
    state = begin(settings, 10, n_hidden, mu_squared, dtype=jnp.float32)
    fields = free_fields(400_000)
    state = fit(settings, state, fields, 2000, decay=10.0)
    expected = np.minimum(CHAIN, mu_squared)[:n_hidden]
    np.testing.assert_allclose(state.rbm.eigenvalues()[:n_hidden], expected, rtol=1e-2)


def test_batches_under_the_symmetries_of_the_lattice_teach_the_symmetrised_moments():
    fields = free_fields(32)
    settings = replace(WIDE, method="cd", batch_size=2048, symmetries=(10,))
    state = fit(settings, begin(settings, 10, 10, 20.0, dtype=jnp.float32), fields, 600, decay=10.0)
    moments = measure_moments([(np.asarray(fields), None)])
    of_data = np.sort(1 / np.linalg.eigvalsh(moments.second))
    symmetrised = np.sort(1 / np.linalg.eigvalsh(moments.symmetrised((10,)).second))
    np.testing.assert_allclose(state.rbm.eigenvalues(), symmetrised, rtol=0.03)
    assert np.abs(of_data / symmetrised - 1).max() > 0.2
