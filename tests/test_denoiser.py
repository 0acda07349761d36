"""Both regression targets have the mean of V' given x as their mean: quadrature on two sites."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theories import CRITICAL, critical_theory, free_theory, to_modes, to_sites, two_well_fields

from lattice_ml.models.diffusion.denoiser import Denoiser, Zero, action_target
from lattice_ml.models.theory import Theory

pytestmark = pytest.mark.unoptimised

T = 0.6
X = np.array([[1.1, -0.4]])  # one noised field in modes

interaction = jax.jit(Theory.interaction)
target_of = jax.jit(action_target)


@pytest.fixture(scope="module")
def posterior():
    """Theory, a grid of fields in modes `(n, 2)`, and p(phi | x) on it, normalised."""
    theory = critical_theory((2,), np.float64)
    axis = np.linspace(-9, 9, 361)
    phi = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    action = np.asarray(jax.jit(jax.vmap(CRITICAL))(to_sites(phi, theory.modes)))
    log_p = -action - np.sum((X - phi) ** 2, axis=1) / (2 * T)
    weights = np.exp(log_p - log_p.max())
    return theory, phi, weights / weights.sum()


def mean(values, weights):
    return np.sum(np.asarray(values) * weights[:, None], axis=0)


@pytest.mark.parametrize("guess", [0.0, 0.7])
def test_the_action_target_is_unbiased_whatever_the_network_says_now(posterior, guess):
    theory, phi, weights = posterior
    noise, t = (X - phi) / np.sqrt(T), np.full(len(phi), T)
    target = target_of(theory, phi, noise, t, np.full(phi.shape, guess))
    exact = mean(interaction(theory, phi), weights)
    np.testing.assert_allclose(mean(target, weights), exact, atol=1e-9)


def test_control_variates_remove_most_of_the_variance(posterior):
    theory, phi, weights = posterior
    values = np.asarray(interaction(theory, phi))
    exact = mean(values, weights)
    noise, t = (X - phi) / np.sqrt(T), np.full(len(phi), T)
    target = np.asarray(target_of(theory, phi, noise, t, np.broadcast_to(exact, phi.shape)))
    plain = mean((values - exact) ** 2, weights).sum()
    assert mean((target - exact) ** 2, weights).sum() < 0.3 * plain


def test_the_identity_turns_the_mean_interaction_into_the_mean_field(posterior):
    theory, phi, weights = posterior
    force = mean(interaction(theory, phi), weights)
    denoised = np.asarray(jax.jit(theory.posterior)(np.array([T]))) * (X / T - force)
    np.testing.assert_allclose(denoised[0], mean(phi, weights), atol=1e-9)


class Constant(Denoiser):
    def force(self, theory, x, t):
        return jnp.full_like(x, 0.3)


def test_the_loss_on_data_is_the_error_of_the_denoised_field_in_units_of_the_noise():
    theory = critical_theory((4,), np.float64)
    rng = np.random.default_rng(0)
    phi, noise = rng.normal(size=(2, 5, 4))
    t = rng.uniform(0.1, 4, 5)
    network, c = Constant(), np.asarray(theory.propagator)
    loss = jax.jit(network.loss, static_argnums=4)
    denoised = jax.jit(network.denoise)(theory, phi + np.sqrt(t)[:, None] * noise, t)
    np.testing.assert_allclose(
        loss(theory, phi, noise, t, "data"), np.sum((np.asarray(denoised) - phi) ** 2, axis=1) / t
    )
    weight = t[:, None] * (c / (c + t[:, None])) ** 2
    force = np.full((5, 4), 0.3)
    error = (force - np.asarray(target_of(theory, phi, noise, t, force))) ** 2
    np.testing.assert_allclose(
        loss(theory, phi, noise, t, "action"), np.sum(weight * error, axis=1)
    )


def test_the_score_of_a_free_field_is_exact_without_a_network():
    theory = free_theory((4, 3))
    x = np.random.default_rng(1).normal(size=(2, *theory.propagator.shape))
    t = np.array([0.2, 3.0])
    exact = -x / (np.asarray(theory.propagator) + t[:, None, None])
    np.testing.assert_allclose(jax.jit(Zero().score)(theory, x, t), exact, rtol=1e-10)


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_the_trace_without_a_network_is_that_of_the_jacobian(shape):
    theory = critical_theory(shape, np.float64)
    x = to_modes(two_well_fields(shape, 3).astype(float), theory.modes)
    t = np.array([0.4])
    force, trace = jax.jit(Zero().force_and_trace)(theory, x, t)
    generic = jax.jit(partial(Denoiser.force_and_trace, Zero()))(theory, x, t)
    np.testing.assert_allclose(force, generic[0])
    np.testing.assert_allclose(trace, generic[1])
    assert np.abs(trace).min() > 1e-4


def test_probes_estimate_the_trace_without_bias():
    theory = critical_theory((2, 3), np.float64)
    x = to_modes(two_well_fields((2, 3), 2).astype(float), theory.modes)

    class Cubic(Denoiser):
        def force(self, theory, x, t):
            return theory.modes.forward(theory.modes.inverse(x) ** 3)

    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T  # all 64: exact
    probes = np.broadcast_to(signs.reshape(64, 1, *x.shape[1:]), (64, *x.shape))
    exact = jax.jit(Cubic().force_and_trace)(theory, x, np.array([0.4]))
    estimate = jax.jit(Cubic().estimated_trace)(theory, x, np.array([0.4]), probes)
    np.testing.assert_allclose(estimate[0], exact[0])
    np.testing.assert_allclose(estimate[1], exact[1])
