"""Reverse processes on a free field, whose score is exact, and path weights on exact log Z."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import CASES
from scipy import stats

from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion import reverse
from lattice_ml.models.diffusion.denoiser import Denoiser, Zero
from lattice_ml.models.diffusion.noise import VarianceExploding, VariancePreserving
from lattice_ml.models.theory import Theory

MASS_SQUARED = 0.5
C = 1 / (MASS_SQUARED + Modes((4, 4)).p_hat_squared.ravel())  # variance of each mode
SNR = 0.3

SCHEDULES = {"exploding": VarianceExploding(25.0), "preserving": VariancePreserving(0.1, 20.0)}


def coefficients(name, s):
    """scale^2, t, f and g^2 as the papers print them."""
    if name == "exploding":
        return 1.0, (25.0 ** (2 * s) - 1) / (2 * np.log(25.0)), 0.0, 25.0 ** (2 * s)
    beta = 0.1 + 19.9 * s
    scale_squared = np.exp(-0.5 * s**2 * 19.9 - 0.1 * s)
    return scale_squared, 1 / scale_squared - 1, -beta / 2, beta


def exact_denoiser(x, t):
    """E[phi | x] of independent Gaussians, in no network's form."""
    return C.astype(x.dtype) / (C.astype(x.dtype) + t) * x


SAMPLERS = {
    "euler_maruyama": reverse.euler_maruyama,
    "predictor_corrector": partial(reverse.predictor_corrector, snr=SNR),
    "heun": lambda key, *args, **kwargs: reverse.heun(*args, **kwargs),
}


def predicted(scheme, name, v, grid, variance=C):
    """Variance of each mode after the steps of a scheme: a linear map, and added noise."""
    for k, (s, s_next) in enumerate(pairwise(grid)):
        h, last = s - s_next, k == len(grid) - 2
        scale_squared, t, f, g_squared = coefficients(name, s)
        pull = 1 / (scale_squared * (variance + t))  # the score is -pull x
        if scheme == "heun":
            first = -h * (f + g_squared * pull / 2)
            scale_squared, t, f, g_squared = coefficients(name, s_next)
            second = -h * (f + g_squared / (scale_squared * (variance + t)) / 2)
            v = v * (1 + (first if last else (first + second + first * second) / 2)) ** 2
            continue
        if scheme == "predictor_corrector":
            eps = 2 * SNR**2 / np.mean(v * pull**2)
            v = (1 - eps * pull) ** 2 * v + 2 * eps
        v = (1 - h * (f + g_squared * pull)) ** 2 * v + h * g_squared * (not last)
    return v


def start_variance(name):
    scale_squared, t, _, _ = coefficients(name, 1.0)
    return scale_squared * (C + t)


def error(scheme, name, n_steps):
    """Largest relative error of a variance."""
    v = predicted(scheme, name, start_variance(name), reverse.uniform_grid(n_steps))
    return np.max(np.abs(v / C - 1))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("scheme", sorted(SAMPLERS))
def test_every_mode_has_the_variance_of_its_scheme(scheme, name):
    n, grid = 20_000, reverse.uniform_grid(12)
    start, steps = jax.random.split(jax.random.key(5))
    first = start_variance(name)
    x = np.sqrt(first) * jax.random.normal(start, (n, len(C)), jnp.float32)

    @jax.jit
    def sample(key, schedule, x):
        return SAMPLERS[scheme](key, exact_denoiser, schedule, x, grid, snapshots=1)

    end, frames = sample(steps, SCHEDULES[name], jnp.asarray(x, jnp.float32))
    assert end.dtype == jnp.float32
    np.testing.assert_array_equal(frames, end[None])
    ratio = np.mean(np.square(end, dtype=float), 0) / predicted(scheme, name, first, grid)
    pulls = (ratio - 1) / np.sqrt(2 / n)
    assert np.abs(pulls).max() < 4.5
    assert stats.chi2.sf(np.sum(pulls**2), len(C)) > 1e-5


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize(("scheme", "order"), [("euler_maruyama", 1), ("heun", 2)])
def test_the_predicted_variances_converge_at_the_order_of_the_scheme(scheme, order, name):
    coarse, fine = error(scheme, name, 400), error(scheme, name, 800)
    assert fine < 0.05
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.12)


def test_the_flow_of_each_field_converges_at_second_order():
    """x(0) = x(1) sqrt(C / (C + t)), without statistics."""
    schedule = VarianceExploding(25.0)
    t = schedule.variance(1.0)
    x = jnp.ones((1, len(C)), jnp.float64)

    @jax.jit
    def end(grid):
        return reverse.heun(exact_denoiser, schedule, x, grid)[0]

    def worst(n_steps):
        exact = np.sqrt(C / (C + t))
        return np.max(np.abs(end(reverse.uniform_grid(n_steps)) / exact - 1))

    assert np.log2(worst(200) / worst(400)) == pytest.approx(2, abs=0.1)


def test_the_prediction_equals_an_independent_value():
    """sigma = 25, unit data, 500 steps from s = 1 to 0.001 and one beyond, as public code does."""
    grid = np.linspace(1, 1e-3, 500)
    grid = np.append(grid, grid[-1] - (grid[0] - grid[1]))
    start = coefficients("exploding", 1.0)[1]
    v = predicted("euler_maruyama", "exploding", start, grid, variance=1.0)
    assert v == pytest.approx(0.99783955818, rel=1e-10)


def test_noise_is_drawn_with_the_variance_of_the_schedule():
    schedule = VariancePreserving(0.1, 2.0)
    x = reverse.draw_noise(jax.random.key(0), schedule, (400, 250), jnp.float32)
    expected = schedule.scale(1.0) ** 2 * schedule.variance(1.0)
    assert x.dtype == jnp.float32
    assert float(jnp.mean(x**2) / expected) == pytest.approx(1, abs=4.5 * np.sqrt(2 / x.size))


def test_snapshots_are_spread_from_the_start_to_the_end():
    x = jax.random.normal(jax.random.key(1), (3, len(C)), jnp.float32)

    def sample(snapshots):
        grid = reverse.uniform_grid(6)
        return reverse.heun(exact_denoiser, SCHEDULES["exploding"], x, grid, snapshots=snapshots)

    end, every = jax.jit(sample, static_argnums=0)(7)
    np.testing.assert_array_equal(every[0], x)
    np.testing.assert_array_equal(every[-1], end)
    np.testing.assert_array_equal(jax.jit(sample, static_argnums=0)(3)[1], every[::3])
    assert jax.eval_shape(partial(sample, 0))[1].shape == (0, *x.shape)


@pytest.mark.parametrize(
    ("n_steps", "snapshots", "message"),
    [
        (0, 0, "at least 2 times, got 1"),
        (4, 6, "4 steps pass 5 fields, so 0 <= snapshots <= 5, got 6"),
        (4, -1, "4 steps pass 5 fields, so 0 <= snapshots <= 5, got -1"),
    ],
)
def test_impossible_grids_and_snapshots_are_refused(n_steps, snapshots, message):
    grid = reverse.uniform_grid(n_steps)
    with pytest.raises(ValueError, match=message):
        reverse.heun(
            exact_denoiser, SCHEDULES["exploding"], jnp.ones((1, 16)), grid, snapshots=snapshots
        )


# ------------------------------------------------------------------------------- path weights


def theory(shape, h, a, b, propagator, mixture=None, dtype=jnp.float32):
    """A theory with made numbers: path weights are right for any."""
    modes = Modes(shape)
    zero = propagator.ravel()[0]
    mixture = [[0.5, 0.5], [0, 0], [zero, zero]] if mixture is None else mixture
    made = Theory(h, a, b, propagator, np.array(mixture), 1.0, 1.0, np.zeros(1), modes)
    return made.astype(dtype)


def free(shape, mass_squared, dtype=jnp.float32):
    exact = 1 / (mass_squared + Modes(shape).p_hat_squared)
    return theory(shape, 1.0, len(shape) + mass_squared / 2, 0.0, exact, dtype=dtype)


@partial(jax.jit, static_argnames=("network", "n_steps"))
def paths(key, network, theory, n_steps):
    grid = reverse.path_grid(theory, n_steps)
    return reverse.path_weights(key, network, theory, 20_000, grid, snapshots=2)


def test_weights_of_a_free_field_are_its_partition_function():
    for made, n_steps in ((free((2, 3, 4), 1.0), 1), (free((4, 4), 0.5), 6)):
        path = paths(jax.random.key(0), ZERO, made, n_steps)
        exact = 0.5 * np.sum(np.log(2 * np.pi * np.asarray(made.propagator, float)))
        np.testing.assert_allclose(path.log_weight, exact, atol=1e-4)
        assert path.log_weight.dtype == jnp.float64


def test_path_samples_of_a_free_field_have_its_propagator():
    made = free((4, 4), 0.5)
    path = paths(jax.random.key(1), ZERO, made, 6)
    variance = np.mean(np.square(path.x, dtype=float), 0)
    pulls = (variance / made.propagator - 1) / np.sqrt(2 / len(path.x))
    assert np.abs(pulls).max() < 4.5
    assert path.x.dtype == jnp.float32


def test_both_wells_of_the_zero_mode_are_reached():
    """Moments of the mixture 0.5 N(+-2, 0.3), drawn back through many noise levels."""
    propagator = 1 / (0.5 + Modes((4, 4)).p_hat_squared)
    propagator[0, 0] = 4.3
    mixture = [[0.5, 0.5], [2, -2], [0.3, 0.3]]
    path = paths(jax.random.key(2), ZERO, theory((4, 4), 1.0, 1.0, 0.1, propagator, mixture), 6)
    zero = np.asarray(path.x, float)[:, 0, 0]
    moments = np.stack([zero, zero**2, zero**4, zero > 0])
    expected = np.array([0, 4.3, 2**4 + 6 * 2**2 * 0.3 + 3 * 0.3**2, 0.5])
    pulls = (moments.mean(1) - expected) / (moments.std(1) / np.sqrt(len(zero)))
    assert np.abs(pulls).max() < 4.5


def test_paths_keep_snapshots():
    path = paths(jax.random.key(2), ZERO, free((4, 4), 0.5), 6)
    np.testing.assert_array_equal(path.snapshots[-1], path.x)
    assert float(jnp.std(path.snapshots[0])) > 3 * float(jnp.std(path.x))


class OneLoop(Denoiser):
    """F in first order: E[V'] over Gaussian modes around the Gaussian posterior mean."""

    def force(self, theory, x, t):
        posterior = theory.posterior(t)
        mean = posterior * x / theory.spread(t)
        y = theory.modes.inverse(mean)
        spread = theory.spread(jnp.mean(posterior, theory.modes.axes))
        cubic = theory.modes.forward(y**3 + 3 * spread * y)
        return 4 * theory.b * cubic + (theory.bare - 1 / theory.propagator) * mean


class Guess(Denoiser):
    """A bounded F of no merit."""

    def force(self, theory, x, t):
        phi = jnp.tanh(theory.modes.inverse(x / jnp.sqrt(theory.propagator + theory.spread(t))))
        return Zero().force(theory, x, t) + 0.3 * theory.modes.forward(phi + 0.1)


ZERO, ONE_LOOP, GUESS = Zero(), OneLoop(), Guess()  # one object each, compiled once


def interacting(kappa, lam):
    """Roughly measured propagators of 4x4 lattices."""
    p_hat_squared = Modes((4, 4)).p_hat_squared
    if lam == 0.022:
        propagator = 1 / (0.40 + 0.4225 * p_hat_squared)
        propagator[0, 0] = 2.15
        return theory((4, 4), 2 * kappa, 1 - 2 * lam, lam, propagator)
    propagator = 1 / (0.39 + 0.598 * p_hat_squared)
    propagator[0, 0] = 5.7
    mixture = [[0.5, 0.5], [2.0, -2.0], [1.7, 1.7]]
    return theory((4, 4), 2 * kappa, 1 - 2 * lam, lam, propagator, mixture)


@pytest.mark.parametrize(
    ("kappa", "lam", "network"),
    [(0.2, 0.022, ONE_LOOP), (0.2, 0.022, GUESS), (0.3, 0.5, ZERO), (0.3, 0.5, GUESS)],
)
def test_the_mean_weight_is_the_exact_partition_function(kappa, lam, network):
    """Whatever the network; first order is no good at strong coupling, so not there."""
    exact = CASES[f"torus4x4_kappa_k={kappa}_l={lam}"]["values"]["lnZ"][0]
    path = paths(jax.random.key(3), network, interacting(kappa, lam), 6)
    weights = np.exp(np.asarray(path.log_weight) - exact)
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.05
    assert abs(weights.mean() - 1) < 3 * error


def test_a_better_force_makes_the_weights_more_equal():
    made = interacting(0.2, 0.022)
    spread = [np.std(paths(jax.random.key(4), net, made, 6).log_weight) for net in (ONE_LOOP, ZERO)]
    assert spread[0] < 0.7 * spread[1]
