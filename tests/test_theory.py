"""What a theory knows without a network, against the action and numerical integrals."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats
from theories import CRITICAL, critical_theory, free_theory, to_modes, to_sites, two_well_fields

from lattice_ml.actions import FreeField
from lattice_ml.fields.modes import Modes
from lattice_ml.models.measured import fit_mixture, measure_theory
from lattice_ml.models.theory import Theory

pytestmark = pytest.mark.unoptimised

interaction = jax.jit(Theory.interaction)
zero_denoiser = jax.jit(Theory.zero_denoiser)
zero_force = jax.jit(Theory.zero_force)
zero_log_prob = jax.jit(Theory.zero_log_prob)


def test_action_and_interaction_are_those_of_the_couplings():
    theory = critical_theory((4, 6), np.float64)
    phi = two_well_fields((4, 6), 3).astype(float)
    x = np.asarray(to_modes(phi, theory.modes))
    action, gradient = jax.jit(jax.vmap(jax.value_and_grad(CRITICAL)))(phi)
    np.testing.assert_allclose(jax.jit(Theory.action)(theory, x), action, rtol=1e-12)
    np.testing.assert_allclose(
        interaction(theory, x) + x / np.asarray(theory.propagator),
        to_modes(gradient, theory.modes),
        atol=1e-10,
    )


def test_curvature_is_the_trace_of_the_hessian():
    theory = critical_theory((4, 3), np.float64)
    phi = two_well_fields((4, 3), 1)[0].astype(float)
    hessian = np.asarray(jax.jit(jax.hessian(CRITICAL))(phi)).reshape(12, 12)
    one = replace(theory, phi_squared=np.mean(phi**2))
    curvature = np.asarray(jax.jit(lambda theory: theory.curvature)(one))
    np.testing.assert_allclose(np.sum(curvature), np.trace(hessian), rtol=1e-12)


@pytest.mark.parametrize("t", [0.3, 5.0])
def test_the_denoiser_and_density_of_the_zero_mode_are_integrals_over_the_mixture(t):
    theory = critical_theory((4, 4), np.float64)
    weights, means, variances = np.asarray(theory.mixture)
    phi = np.linspace(-30, 30, 20001)
    prior = np.sum(weights * stats.norm.pdf(phi[:, None], means, np.sqrt(variances)), axis=1)
    x = np.array([-7.0, 0.4, 3.0])
    joint = prior * stats.norm.pdf(x[:, None], phi, np.sqrt(t))
    density = np.trapezoid(joint, phi)
    mean = np.trapezoid(joint * phi, phi) / density
    times = np.full(3, t)
    np.testing.assert_allclose(zero_denoiser(theory, x, times), mean, rtol=1e-8)
    np.testing.assert_allclose(zero_log_prob(theory, x, times), np.log(density))
    posterior = 1 / (1 / float(theory.zero_propagator) + 1 / t)
    found = posterior * (x / t - np.asarray(zero_force(theory, x, times)))
    np.testing.assert_allclose(found, mean, rtol=1e-8)


def test_zero_modes_are_drawn_from_the_mixture():
    theory = critical_theory((4, 4), np.float64)
    x = np.sort(jax.jit(Theory.draw_zero)(theory, jax.random.key(1), np.full(4000, 0.7)))
    grid = np.linspace(-25, 25, 5001)
    density = np.exp(zero_log_prob(theory, grid, np.full(5001, 0.7)))
    cumulative = np.cumsum(density) * (grid[1] - grid[0])
    assert stats.kstest(x, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3
    assert cumulative[-1] == pytest.approx(1, abs=1e-3)


def free_draws(shape, n, mass_squared=0.5, seed=3):
    modes = Modes(shape)
    noise = np.random.default_rng(seed).normal(size=(n, *modes.p_hat_squared.shape))
    x = noise / np.sqrt(mass_squared + modes.p_hat_squared)
    return np.asarray(to_sites(x, modes), np.float32)


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
    kinked = to_sites(kink * np.asarray(to_modes(draws, modes)), modes)
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
    x = np.random.default_rng(0).normal(size=(2, 4, 4))
    np.testing.assert_allclose(interaction(theory, x), 0, atol=1e-12)
