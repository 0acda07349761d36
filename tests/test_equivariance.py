"""Violations of symmetries that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion.denoiser import Denoiser, Zero
from lattice_ml.models.diffusion.equivariance import symmetries, violations
from lattice_ml.models.theory import Theory

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(2)

draw = jax.jit(Theory.draw)
action = jax.jit(Theory.action)


def theory(shape, dtype="float64"):
    modes = Modes(shape)
    propagator = 1 / (0.4 + 0.5 * modes.p_hat_squared)
    propagator[modes.zero] = 4.0
    mixture = np.array([[0.5, 0.5], [1.8, -1.8], [0.76, 0.76]])
    numbers = 0.5, 0.9, 0.02, propagator, mixture, 0.9, 0.05, np.zeros(1)
    return Theory(*numbers, modes=modes).astype(dtype)


class OnSites(Denoiser):
    """F = function(x) site by site."""

    def __init__(self, function):
        self.function = function

    def force(self, theory, x, t):
        return theory.modes.forward(self.function(theory.modes.inverse(x)))


def test_a_constant_force_breaks_the_sign_symmetry_alone():
    found = violations(OnSites(jnp.ones_like), theory((4, 4)), KEY)
    assert found["z2"] == pytest.approx(2)  # |F(-x) + F(x)| / |F(x)|
    assert max(found["translation"], found["hypercubic"]) < 1e-12


def test_a_marked_site_breaks_translations():
    found = violations(
        OnSites(lambda phi: jnp.zeros_like(phi).at[..., 0].add(1)), theory((4,)), KEY
    )
    assert found["translation"] == pytest.approx(2**0.5)  # the marks before and after


def test_a_directed_derivative_breaks_reflections():
    found = violations(OnSites(lambda phi: jnp.roll(phi, 1, -1)), theory((4,)), KEY)
    assert max(found["z2"], found["translation"]) < 1e-12
    assert found["hypercubic"] > 0.1


@pytest.mark.parametrize(("shape", "broken"), [((4, 4), True), ((4, 6), False)])
def test_axes_are_exchanged_where_they_are_equally_long(shape, broken):
    along_one_axis = OnSites(lambda phi: jnp.roll(phi, 1, -1) + jnp.roll(phi, -1, -1))
    assert (violations(along_one_axis, theory(shape), KEY)["hypercubic"] > 0.1) == broken


def test_the_denoiser_can_be_asked_instead_of_the_force():
    constant, on = OnSites(jnp.ones_like), theory((4, 4))
    found = violations(constant, on, KEY, of="denoise", n_variances=1)
    t = 0.1 * np.asarray(on.propagator).min()[None]
    x = np.asarray(draw(on, jax.random.split(KEY, 1)[0], np.full(16, t[0])))
    denoise = jax.jit(constant.denoise)
    even, whole = (np.linalg.norm(denoise(on, y, t)) for y in (np.zeros_like(x), x))
    assert found["z2"] == pytest.approx(2 * even / whole)


def test_the_gaussian_theory_has_all_symmetries_in_float32():
    assert max(violations(Zero(), theory((2, 4, 5), "float32"), KEY).values()) < 1e-5


def test_every_symmetry_keeps_the_action():
    on = theory((4, 4, 6))
    x = np.random.default_rng(1).normal(size=(3, 4, 4, 6))
    moved = jax.jit(lambda x: [symmetry(x) for _, symmetry in symmetries(on)])(x)
    assert len(moved) == 1 + 3 + 3 + 1
    for y in map(np.asarray, moved):
        assert np.max(np.abs(y - x)) > 0.1
        np.testing.assert_allclose(action(on, y), action(on, x), rtol=1e-12)


def test_noised_fields_have_the_propagator_plus_the_noise():
    on, n = theory((4, 4)), 4000
    x, expected = np.asarray(draw(on, KEY, np.full(n, 0.7))), np.asarray(on.propagator) + 0.7
    gaussian = on.modes.p_hat_squared > 0
    variance = (np.mean(x**2, 0) / expected)[gaussian]
    assert np.max(np.abs(variance - 1)) < 4.5 * (2 / n) ** 0.5
    squares = x[on.modes.zero] ** 2
    error = np.std(squares) / n**0.5
    assert abs(np.mean(squares) - expected[on.modes.zero]) < 4.5 * error
