"""What a theory knows without a network, against the action and numerical integrals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from theories import CRITICAL, critical_theory, free_theory, two_well_fields

from lattice_ml.actions import FreeField
from lattice_ml.models.measured import fit_mixture, measure_theory
from lattice_ml.models.modes import Modes


def test_action_and_interaction_are_those_of_the_couplings():
    theory = critical_theory((4, 6), jnp.float64)
    phi = jnp.asarray(two_well_fields((4, 6), 3), jnp.float64)
    x = theory.modes.forward(phi)
    np.testing.assert_allclose(theory.action(x), [CRITICAL(one) for one in phi], rtol=1e-12)
    gradient = jax.vmap(jax.grad(CRITICAL))(phi)
    np.testing.assert_allclose(
        theory.interaction(x) + x / theory.propagator, theory.modes.forward(gradient), atol=1e-10
    )


def test_curvature_is_the_trace_of_the_hessian():
    theory = critical_theory((4, 3), jnp.float64)
    phi = jnp.asarray(two_well_fields((4, 3), 1)[0], jnp.float64)
    hessian = jax.hessian(CRITICAL)(phi).reshape(12, 12)
    one = replace(theory, phi_squared=jnp.mean(phi**2))
    np.testing.assert_allclose(jnp.sum(one.curvature), jnp.trace(hessian), rtol=1e-12)


@pytest.mark.parametrize("t", [0.3, 5.0])
def test_the_denoiser_and_density_of_the_zero_mode_are_integrals_over_the_mixture(t):
    theory = critical_theory((4, 4), jnp.float64)
    weights, means, variances = np.asarray(theory.mixture)
    phi = np.linspace(-30, 30, 20001)
    prior = np.sum(weights * stats.norm.pdf(phi[:, None], means, np.sqrt(variances)), axis=1)
    x = np.array([-7.0, 0.4, 3.0])
    joint = prior * stats.norm.pdf(x[:, None], phi, np.sqrt(t))
    density = np.trapezoid(joint, phi)
    mean = np.trapezoid(joint * phi, phi) / density
    times = jnp.full(3, t)
    np.testing.assert_allclose(theory.zero_denoiser(jnp.asarray(x), times), mean, rtol=1e-8)
    np.testing.assert_allclose(theory.zero_log_prob(jnp.asarray(x), times), np.log(density))
    posterior = 1 / (1 / theory.zero_propagator + 1 / t)
    np.testing.assert_allclose(
        posterior * (x / t - theory.zero_force(jnp.asarray(x), times)), mean, rtol=1e-8
    )


def test_zero_modes_are_drawn_from_the_mixture():
    theory = critical_theory((4, 4), jnp.float64)
    t = jnp.full(4000, 0.7)
    x = np.sort(theory.draw_zero(jax.random.key(1), t))
    grid = jnp.linspace(-25, 25, 5001)
    density = np.exp(theory.zero_log_prob(grid, jnp.full(5001, 0.7)))
    cumulative = np.cumsum(density) * (grid[1] - grid[0])
    assert stats.kstest(x, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3
    assert cumulative[-1] == pytest.approx(1, abs=1e-3)


def free_draws(shape, n, mass_squared=0.5, seed=3):
    modes = Modes(shape)
    noise = np.random.default_rng(seed).normal(size=(n, *modes.p_hat_squared.shape))
    x = noise / np.sqrt(mass_squared + modes.p_hat_squared)
    return np.asarray(modes.inverse(jnp.asarray(x)), np.float32)


def test_a_measured_free_theory_has_the_exact_propagator_and_next_to_no_interaction():
    n = 4096
    theory = measure_theory(FreeField(0.5, 2), [(free_draws((6, 4), n), None)])
    exact = 1 / (0.5 + theory.modes.p_hat_squared)
    pull = (np.asarray(theory.propagator) / exact - 1) / np.sqrt(2 / n)
    assert np.abs(pull).max() < 4.5
    assert 0.1 < np.std(pull) < 1.5
    assert theory.force_rms < 0.1
    variance = np.sum(theory.mixture[0] * (theory.mixture[1] ** 2 + theory.mixture[2]))
    assert variance == pytest.approx(exact[0, 0], rel=0.1)


def test_many_modes_are_smoothed_where_a_smooth_curve_fits_and_only_there():
    n = 512
    draws = free_draws((32, 32), n)
    theory = measure_theory(FreeField(0.5, 2), [(draws, None)])
    exact = 1 / (0.5 + theory.modes.p_hat_squared)
    moving = theory.modes.p_hat_squared > 0
    error = np.std((np.asarray(theory.propagator) / exact)[moving])
    raw = np.sqrt(2 / n / 8)  # most orbits have eight members
    assert error < 0.5 * raw
    modes = theory.modes
    kink = np.where(modes.p_hat_squared > 2, 1.5, 1.0)  # no short series follows it
    kinked = modes.inverse(kink * modes.forward(jnp.asarray(draws)))
    rough = measure_theory(FreeField(0.5, 2), [(np.asarray(kinked), None)])
    ratio = np.asarray(rough.propagator) / (exact * kink**2)
    assert np.abs(ratio[moving] - 1).max() < 5 * np.sqrt(2 / n / 4)


def test_blocks_and_weights_do_not_change_what_is_measured():
    phi = two_well_fields((4, 4), 200)
    whole = measure_theory(CRITICAL, [(phi, None)])
    parts = measure_theory(CRITICAL, [(phi[:70], np.ones(70)), (phi[70:], np.ones(130))])
    doubled = measure_theory(CRITICAL, [(np.repeat(phi, 2, axis=0), np.full(400, 0.5))])
    once = measure_theory(CRITICAL, [(np.concatenate([phi, 5 + phi]), np.repeat([1.0, 0.0], 200))])
    for other in (parts, doubled, once):
        np.testing.assert_allclose(other.propagator, whole.propagator, rtol=1e-5)
        np.testing.assert_allclose(other.quantiles[:-20], whole.quantiles[:-20], atol=0.2)


def test_a_mixture_finds_its_components():
    rng = np.random.default_rng(5)
    values = np.abs(
        np.where(rng.random(20000) < 0.3, rng.normal(2, 0.5, 20000), rng.normal(6, 1, 20000))
    )
    weights, means, variances = fit_mixture(values, 2)
    order = np.argsort(means)
    np.testing.assert_allclose(means[order], [-6, -2, 2, 6], atol=0.1)
    np.testing.assert_allclose(weights[order], [0.35, 0.15, 0.15, 0.35], atol=0.02)
    np.testing.assert_allclose(np.sqrt(variances[order]), [1, 0.5, 0.5, 1], atol=0.05)


def test_a_mixture_that_need_not_be_symmetric_stays_in_one_well():
    phi = np.abs(two_well_fields((4, 4), 300, magnetisation=4.0))
    theory = measure_theory(CRITICAL, [(phi, None)], symmetric=False)
    assert np.all(theory.mixture[1] > 0)
    assert np.all(measure_theory(CRITICAL, [(phi, None)]).mixture[1][2:] < 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (np.zeros((3, 4, 4), np.float32), "at least 16 configurations, got 3"),
        (np.full((20, 4, 4), np.nan, np.float32), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        measure_theory(CRITICAL, [(fields, None)])


def test_a_free_theory_of_the_tests_is_gaussian():
    theory = free_theory((4, 4))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)))
    np.testing.assert_allclose(theory.interaction(x), 0, atol=1e-12)
