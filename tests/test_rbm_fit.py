"""Training of the Gaussian RBM: gradients, and the fixed points of the reference file."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rbms import (
    WIDE,
    begin,
    dense,
    divergence,
    draw,
    exact_moments,
    fit,
    free_fields,
    kernel,
    machine,
    random_rbm,
    spectrum,
)
from references import RBM_CASES

from lattice_ml.models.rbm import fit as rbm_fit
from lattice_ml.models.rbm.fit import gradient, initial, log_likelihood
from lattice_ml.models.rbm.moments import measure_moments

CHAIN = np.array(RBM_CASES["rbm1d"]["values"]["spectrum"])
# Tests share shapes and settings, and so the compiled programs.
CD, CD_3, PCD = (
    replace(WIDE, batch_size=2048, method=method, n_gibbs=n_gibbs)
    for method, n_gibbs in (("cd", 1), ("cd", 3), ("pcd", 1))
)
N_BATCHES, N_FIELDS = 100, 400_000
sampled = jax.jit(rbm_fit._sampled, static_argnums=0)
fields_of_chain = lru_cache(free_fields)


# ------------------------------------------------------------------------------------ gradients


def free_parts(rbm):
    """What is trained."""
    return {"w": rbm.w, "mu_squared": rbm.mu_squared, "eta": rbm.eta}


@jax.jit
def by_autodiff_and_in_closed_form(rbm, data, fields):
    def mean_log_prob(parts):
        return jnp.mean(replace(rbm, **parts).log_prob(fields))

    expected = jax.value_and_grad(mean_log_prob)(free_parts(rbm))
    return expected, (log_likelihood(rbm, data), free_parts(gradient(rbm, data)))


@pytest.mark.parametrize(
    ("shape", "per_site"), [((6, 4), True), ((6, 4), False), ((5, 5), True), ((4, 7), False)]
)
def test_the_gradient_is_that_of_the_mean_log_density(shape, per_site):
    rbm = random_rbm(*shape, per_site=per_site)
    fields = np.random.default_rng(4).normal(size=(50, shape[0])) + 0.5
    data = measure_moments([(fields, None)])
    (mean, expected), (found, parts) = by_autodiff_and_in_closed_form(rbm, data, fields)
    for name, value in parts.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-8, err_msg=name)
    assert float(found) == pytest.approx(float(mean), rel=1e-12)


def test_the_gradient_vanishes_where_the_data_are_the_model():
    rbm = random_rbm()
    kernel, mean, *_ = dense(rbm)
    data = exact_moments(np.linalg.inv(kernel), mean)
    for value in free_parts(jax.jit(gradient)(rbm, data)).values():
        np.testing.assert_allclose(value, 0, atol=1e-11)


def batches(settings, rbm, fields):
    """Gradients of independent batches, with chains of PCD that are the model's own fields."""
    rng, found = np.random.default_rng(2), []
    state = begin(settings, *rbm.w.shape, rbm.mu_squared, dtype=rbm.w.dtype)._replace(rbm=rbm)
    for seed in range(N_BATCHES):
        if settings.method == "pcd":
            state = state._replace(chains=jnp.asarray(draw(rbm, 2048, rng), rbm.w.dtype))
        gradient_, _ = sampled(settings, state, fields, jax.random.key(seed))
        found.append(jax.device_get(free_parts(gradient_)))
    return {name: np.array([parts[name] for parts in found], float) for name in found[0]}


@pytest.mark.parametrize("settings", [CD, CD_3, PCD], ids=["cd-1", "cd-3", "pcd-1"])
def test_the_expected_sampled_gradient_is_the_exact_one_times_what_gibbs_forgets(settings):
    """In common eigenvectors, CD-k sees (1 - r^2k) (C - 1/k) with r = 1 - k/mu^2; PCD all of it."""
    target, mu_squared, n = kernel((10,), 1.0), 6.0, 2048 * N_BATCHES
    values, vectors = np.linalg.eigh(target)
    learned = np.linspace(1.5, 4.5, 10)  # eigenvalues of K
    singular = np.sqrt(mu_squared - learned)
    pcd = settings.method == "pcd"
    mass = np.full(10, mu_squared) if pcd else mu_squared
    rbm = machine(vectors * singular, mass, dtype=jnp.float32)
    found = batches(settings, rbm, fields_of_chain(N_FIELDS, mass_squared=1.0))
    forgotten = 1 if pcd else 1 - (1 - learned / mu_squared) ** (2 * settings.n_gibbs)
    expected = np.diag(forgotten * (1 / values - 1 / learned) * singular)
    in_modes = vectors.T @ found["w"].mean(axis=0)
    # variances of <x_i x_j> s_j in both phases, as if they were independent: an upper bound
    of_data, of_model = 1 / n + 1 / N_FIELDS, 1 / n
    spread = np.outer(1 / values, 1 / values) * of_data
    spread += np.outer(1 / learned, 1 / learned) * of_model
    error = np.sqrt(spread * (1 + np.eye(10))) * singular
    assert np.abs((in_modes - expected) / error).max() < 4.5
    excess = np.sum(forgotten * (1 / values - 1 / learned))
    mass_error = np.sqrt(np.sum(2 / values**2 * of_data + 2 / learned**2 * of_model)) / 2
    slope = found["mu_squared"].reshape(N_BATCHES, -1).sum(axis=1).mean()
    assert abs(slope + 0.5 * excess) < 4.5 * mass_error


def test_the_expected_gradient_of_persistent_chains_is_the_exact_one():
    rbm = random_rbm(10, 10, dtype=jnp.float32)
    rng = np.random.default_rng(5)
    fields = (rng.normal(size=(N_FIELDS, 10)) * np.linspace(0.5, 1.5, 10) + 1).astype(np.float32)
    precision, mean, *_ = dense(rbm)
    x, w, sigma = fields.astype(float) - rbm.centre, np.asarray(rbm.w, float), float(rbm.sigma)
    shift = mean - np.asarray(rbm.centre)
    second = x.T @ x / N_FIELDS - np.linalg.inv(precision) - np.outer(shift, shift)
    first = x.mean(axis=0) - shift
    exact = {
        "w": sigma**2 * second @ w + np.outer(first, rbm.eta),
        "mu_squared": -0.5 * np.diagonal(second),
        "eta": w.T @ first,
    }
    for name, found in batches(PCD, rbm, jnp.asarray(fields)).items():
        z = (found.mean(axis=0) - exact[name]) / (found.std(axis=0) / np.sqrt(N_BATCHES))
        assert np.abs(z).max() < 4.5, name


def test_persistent_chains_go_on():
    fields = fields_of_chain(N_FIELDS)
    state = begin(PCD, 10, 10, np.full(10, 9.0), dtype=jnp.float32)
    one = fit(PCD, state, fields, 1)
    again = sampled(PCD, state, fields, jax.random.fold_in(jax.random.key(1), 0))[1]
    assert np.array_equal(one.chains, again)
    assert not np.any(np.asarray(one.chains) == np.asarray(state.chains))
    two = fit(PCD, one, fields, 1)
    assert np.array_equal(two.chains, fit(PCD, state, fields, 2).chains)


@pytest.mark.parametrize(("n_hidden", "settings"), [(4, PCD), (9, CD)])
def test_a_fit_begins_with_equal_singular_values_and_chains_of_the_model(n_hidden, settings):
    mu_squared, n = np.linspace(1, 2, 6), 2048 if settings is PCD else 1
    arguments = (n_hidden, jnp.asarray(mu_squared), 0.7, 0.3, settings, (0.1, 10.0))
    state = initial(jax.random.key(0), jnp.ones(6), *arguments)
    whitened = 0.7 * np.asarray(state.rbm.w) / np.sqrt(mu_squared)[:, None]
    np.testing.assert_allclose(np.linalg.svd(whitened)[1], 0.3, rtol=1e-12)
    assert not np.any(state.rbm.eta) and np.all(np.asarray(state.rbm.centre) == 1)
    assert state.chains.shape == (n, 6) and state.mu_range.tolist() == [0.1, 10]
    covariance = np.linalg.inv(dense(state.rbm)[0])
    x = np.asarray(state.chains) - 1
    error = np.sqrt((np.outer(*[np.diagonal(covariance)] * 2) + covariance**2) / n)
    assert np.abs((x.T @ x / n - covariance) / error).max() < 4.5


# ---------------------------------------------------------------------------------- fixed points


@pytest.mark.parametrize("mu_squared", [9.0, 7.8, 7.1, 4.8])
def test_the_mass_is_an_ultraviolet_regulator(mu_squared):
    expected = RBM_CASES[f"rbm1d.fixed_mu2={mu_squared}"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    state = begin(WIDE, 10, 10, mu_squared)
    state = fit(WIDE, state, exact_moments(covariance), 300)
    found = spectrum(state.rbm)
    np.testing.assert_allclose(found, expected["lambda"], rtol=1e-3)
    assert divergence(covariance, state.rbm) == pytest.approx(expected["KL"], abs=1e-6)
    assert int(np.sum(np.abs(found / CHAIN - 1) < 1e-3)) == expected["nmodes"]


@pytest.mark.parametrize(("n_hidden", "n_columns"), [(9, 10), (7, 10), (5, 10), (3, 10), (3, 3)])
def test_fewer_hidden_fields_learn_the_infrared_and_the_common_mass(n_hidden, n_columns):
    expected = RBM_CASES[f"rbm1d.Nh={n_hidden}_learn_mu2"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    settings = replace(WIDE, train_mu=True)
    state = begin(settings, 10, n_hidden, 9.0, n_columns=n_columns)
    state = fit(settings, state, exact_moments(covariance), 1000)
    assert float(state.rbm.mu_squared) == pytest.approx(expected["mu2"], rel=1e-4)
    assert divergence(covariance, state.rbm) == pytest.approx(expected["KL"], abs=1e-6)
    np.testing.assert_allclose(spectrum(state.rbm)[:n_hidden], CHAIN[:n_hidden], rtol=1e-3)


@pytest.mark.parametrize("n_hidden", [9, 7, 5, 3])
def test_fewer_hidden_fields_at_a_fixed_mass(n_hidden):
    expected = RBM_CASES[f"rbm1d.Nh={n_hidden}_mu2=9"]["values"]
    covariance = np.linalg.inv(kernel((10,), 4.0))
    state = begin(WIDE, 10, n_hidden, 9.0, n_columns=10)
    state = fit(WIDE, state, exact_moments(covariance), 300)
    assert divergence(covariance, state.rbm) == pytest.approx(expected["KL"], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "mass_squared", "mu_squared", "n"), [((10,), 4.0, 9.0, 12), ((8, 8), 0.25, 16.5, 30)]
)
def test_the_natural_gradient_takes_few_steps(shape, mass_squared, mu_squared, n):
    target = kernel(shape, mass_squared)
    state = begin(WIDE, len(target), len(target), mu_squared)
    state = fit(WIDE, state, exact_moments(np.linalg.inv(target)), n)
    exact = np.linalg.eigvalsh(target)
    np.testing.assert_allclose(spectrum(state.rbm), exact, rtol=1e-2)


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
    np.testing.assert_allclose(spectrum(state.rbm), mu_squared - y, rtol=1e-3)


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
    assert divergence(covariance, state.rbm, mean) < tolerance
    found = dense(state.rbm)[1]
    np.testing.assert_allclose(found, mean, rtol=10 * tolerance, atol=10 * tolerance)


def test_factor_analysis_is_reached_where_every_site_has_a_mass():
    """Data of two factors and independent noise: K^-1 = noise + factors, exactly representable."""
    rng = np.random.default_rng(0)
    noise, factors = rng.uniform(0.5, 1.5, 6), rng.normal(size=(6, 2))
    covariance = np.diag(noise) + factors @ factors.T
    settings = replace(WIDE, train_mu=True)
    state = begin(settings, 6, 2, np.full(6, 4.0), n_columns=6)
    state = fit(settings, state, exact_moments(covariance), 2000)
    assert divergence(covariance, state.rbm) < 1e-8
    np.testing.assert_allclose(1 / state.rbm.mu_squared, noise, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "mu_squared"), [(CD, 9.0), (PCD, np.full(10, 9.0))])
def test_contrastive_divergence_reaches_one_per_cent(settings, mu_squared):
    state = begin(settings, 10, 10, mu_squared, dtype=jnp.float32)
    state = fit(settings, state, fields_of_chain(N_FIELDS), 2000, decay=10.0)
    np.testing.assert_allclose(spectrum(state.rbm), CHAIN, rtol=1e-2)


def test_batches_under_the_symmetries_of_the_lattice_teach_the_symmetrised_moments():
    fields = free_fields(32)
    settings = replace(WIDE, method="cd", batch_size=2048, symmetries=(10,))
    state = fit(settings, begin(settings, 10, 10, 20.0, dtype=jnp.float32), fields, 600, decay=10.0)
    moments = measure_moments([(np.asarray(fields), None)])
    of_data = np.sort(1 / np.linalg.eigvalsh(moments.second))
    symmetrised = np.sort(1 / np.linalg.eigvalsh(moments.symmetrised((10,)).second))
    np.testing.assert_allclose(spectrum(state.rbm), symmetrised, rtol=0.03)
    assert np.abs(of_data / symmetrised - 1).max() > 0.2
