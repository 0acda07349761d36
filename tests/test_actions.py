"""Actions: against loops over sites and links, and forces against automatic differentiation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import each
from scipy.integrate import quad
from users_actions import SineGordon

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action, FreeField, Phi4, as_action
from lattice_ml.fields.lattice import Lattice, hop
from lattice_ml.fields.layout import Layout

SHAPES = [(2,), (5,), (2, 3), (4, 2), (3, 2, 2), (2, 3, 2, 2)]
PHI4 = Phi4(0.54, 0.956, 0.022)


def field(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def links(shape):
    """Every site with each of its forward neighbours."""
    for x in np.ndindex(shape):
        for mu, extent in enumerate(shape):
            yield x, (*x[:mu], (x[mu] + 1) % extent, *x[mu + 1 :])


def quartic(phi, h, a, b):
    sites = sum(a * value**2 + b * value**4 for value in phi.flat)
    return sites - h * sum(phi[x] * phi[y] for x, y in links(phi.shape))


def free(phi, mass_squared):
    gradients = sum((phi[y] - phi[x]) ** 2 for x, y in links(phi.shape))
    return 0.5 * gradients + 0.5 * mass_squared * sum(value**2 for value in phi.flat)


@pytree
class LocalSineGordon:
    """SineGordon as a density, with each link shared by its ends."""

    beta: float = 1.0
    ndim: int = static(default=3)

    def density(self, phi, hop):
        return phi * (self.ndim * phi - hop(phi) / 2) + 1 - jnp.cos(self.beta * phi)


def sine_gordon(phi):
    return free(phi, 0) + sum(1 - math.cos(1.3 * value) for value in phi.flat)


def sine_gordon_force(phi):
    return hop(jnp.asarray(phi)) - 2 * phi.ndim * phi - 1.3 * np.sin(1.3 * phi)


@jax.jit
def evaluate(action, phi):
    return action(phi), action.density(phi)


@each("shape", SHAPES)
def test_phi4_is_a_sum_over_sites_and_links(shape):
    phi = field(shape)
    total, density = evaluate(PHI4, phi)
    expected = quartic(phi, *PHI4.couplings())
    assert float(total) == pytest.approx(expected, rel=1e-13)
    assert float(np.sum(density)) == pytest.approx(expected, rel=1e-13)


@each("shape", SHAPES)
def test_the_free_field_has_the_derivative_form(shape):
    phi = field(shape)
    total, _ = evaluate(FreeField(0.3, len(shape)), phi)
    assert float(total) == pytest.approx(free(phi, 0.3), rel=1e-13)


def test_a_float32_field_is_summed_in_float64():
    phi = field((64, 64)).astype(np.float32)
    exact = PHI4(jnp.asarray(phi, jnp.float64))
    assert PHI4(jnp.asarray(phi)) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["Phi4", "FreeField"])
def test_the_force_is_minus_the_gradient(kind, shape):
    action = PHI4 if kind == "Phi4" else FreeField(0.3, len(shape))
    force, gradient = force_and_gradient(action, jnp.asarray(field(shape)))
    np.testing.assert_allclose(force, -gradient, rtol=0, atol=1e-12)


@jax.jit
def force_and_gradient(action, phi):
    return action.force(phi), jax.grad(lambda phi: action(phi))(phi)


def test_the_quartic_actions_are_symmetric_under_a_global_sign_flip():
    phi = jnp.asarray(field((4, 3)))
    for action in (PHI4, FreeField(0.3, 2)):
        assert action.z2
        assert np.array_equal(action.density(-phi), action.density(phi))
        assert np.array_equal(action.force(-phi), -action.force(phi))


@pytest.mark.parametrize("merged", [False, True], ids=["lanes", "merged"])
@pytest.mark.parametrize(
    "action, total, force",
    [
        (SineGordon(1.3), sine_gordon, sine_gordon_force),
        (LocalSineGordon(1.3, 3), sine_gordon, sine_gordon_force),
        (PHI4, lambda phi: quartic(phi, *PHI4.couplings()), PHI4.force),
    ],
    ids=["only a call", "only a density", "density and force"],
)
def test_a_group_of_chains_has_the_forces_and_actions_of_its_members(action, total, force, merged):
    layout = Layout((2, 3, 2), 3, merged)
    old, new = field((3, *layout.shape)), field((3, *layout.shape), seed=2)

    @jax.jit
    def measure(old, new):
        change = layout.site_sum(actions.difference(action, new, old, layout))
        return actions.force(action, old, layout), actions.total(action, old, layout), change

    forces, totals, change = measure(layout.pack(old)[0], layout.pack(new)[0])

    forces = layout.unpack(np.asarray(forces)[None])
    np.testing.assert_allclose(forces, [force(phi) for phi in old], rtol=0, atol=1e-12)
    expected = np.array([total(phi) for phi in old])
    np.testing.assert_allclose(totals, expected, rtol=1e-12)
    np.testing.assert_allclose(change, [total(phi) for phi in new] - expected, rtol=1e-12)


# The contract: what a subclass of `Action` inherits, and what is made of anything else.


@pytree
class Total(SineGordon, Action):
    """Nothing but a total."""


@pytree
class Local(LocalSineGordon, Action):
    """Nothing but a density."""


@pytree
class Both(SineGordon, LocalSineGordon, Action):
    """Total and density, and a barrier that cannot be computed of a traced coupling."""

    @property
    def barrier(self):
        return float(self.beta)


CONTRACT = {
    "total": Total(1.3),
    "density": Local(1.3, ndim=2),
    "both": Both(ndim=2, beta=1.3),
    "a foreign total": as_action(SineGordon(1.3)),
    "a foreign density": as_action(LocalSineGordon(1.3, ndim=2)),
    "a function": as_action(lambda phi: SineGordon(1.3)(phi)),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_an_action_of_either_formula_has_all_members(name):
    action, phi = CONTRACT[name], jnp.asarray(field((3, 4)))
    assert float(action(phi)) == pytest.approx(sine_gordon(np.asarray(phi)), rel=1e-12)
    np.testing.assert_allclose(action.force(phi), sine_gordon_force(phi), rtol=0, atol=1e-12)
    assert action.has_density == (name not in ("total", "a foreign total", "a function"))
    assert (action.reach, action.z2, action.minimum(2), action.site_width()) == (0, False, 0, 1)
    assert action.of_means(phi, phi, phi) is None
    assert np.array_equal(action.hot(np.ones(3)), np.ones(3))
    assert action.barrier == (1.3 if name == "both" else 0)
    action.check(2)
    if action.ndim:
        with pytest.raises(ValueError, match="ndim = 2 cannot live in 3 dimensions"):
            action.check(3)


def test_an_action_without_a_formula_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match=r"density\(phi, hop\); Action has neither"):
        Action()(jnp.ones(3))


def test_what_a_foreign_action_has_is_used_and_no_sooner_than_needed():
    class Foreign:
        z2, reach = True, 2
        barrier = property(lambda self: float(self.beta))  # fails of a traced coupling
        beta = 1.3

        def density(self, phi, hop):
            return self.beta * phi

        def force(self, phi, hop):
            return hop(phi)

    @jax.jit
    def evaluate(beta, phi):
        foreign = Foreign()
        foreign.beta = beta
        layout = Layout((3,), 2)
        return actions.force(foreign, phi, layout), actions.total(foreign, phi, layout)

    phi = jnp.asarray(field((3, 2)))
    force, total = evaluate(0.5, phi)
    np.testing.assert_allclose(force, hop(phi, 1))
    np.testing.assert_allclose(total, 0.5 * phi.sum(axis=0))
    del Foreign.density  # a force by hand serves all chains without one, too
    np.testing.assert_allclose(actions.force(Foreign(), phi, Layout((3,), 2)), hop(phi, 1))
    known = as_action(Foreign())
    assert (known.z2, known.reach, known.barrier, type(known).__name__) == (True, 2, 1.3, "Foreign")
    assert as_action(PHI4) is PHI4


def test_the_quadratic_form_is_the_inverse_of_the_free_propagator():
    lattice, free = Lattice((3, 4)), FreeField(0.3, 2)
    np.testing.assert_allclose(free.quadratic_form(lattice) * free.propagator(lattice), 1)


def test_a_new_coupling_does_not_compile_again():
    traces = []

    @jax.jit
    def force(action, phi):
        traces.append(action)
        return action.force(phi)

    phi = jnp.ones((4, 4))
    strengths = [float(force(Phi4(2 * kappa, 0.9, 0.05), phi)[0, 0]) for kappa in (0.2, 0.25, 0.3)]
    assert strengths == pytest.approx([8 * kappa - 2 for kappa in (0.2, 0.25, 0.3)])
    assert len(traces) == 1


def test_the_free_propagator_inverts_the_action():
    lattice, action = Lattice((3, 4)), FreeField(0.3, 2)
    phi = jnp.asarray(field(lattice.shape))
    response = np.fft.fftn(-action.force(phi)) * action.propagator(lattice)
    np.testing.assert_allclose(response, np.fft.fftn(phi), rtol=0, atol=1e-12)


# Starts: the width of one site alone and the minimum of the potential.


@pytest.mark.parametrize(
    "name, a, b, square",
    [
        ("single_mu2=1_g=2.4", 0.5, 0.1, 0.615527185733),  # of the reference file
        ("wang_toy_mu2=-1_g=0.4", -0.5, 0.4 / 24, 13.6730337539),
        ("Gaussian", 0.7, 0, 0.5 / 0.7),
        ("nearly Gaussian", 0.7, 1e-18, 0.5 / 0.7),
    ],
)
def test_the_site_width_is_that_of_one_site(name, a, b, square):
    assert Phi4(0.5, a, b).site_width() ** 2 == pytest.approx(square, rel=1e-10)


@each("a, b", [(3, 0.01), (1, 1), (-1, 0.1), (-8, 1), (0, 2)])
def test_the_site_width_is_a_quadrature(a, b):
    def moment(power):
        return quad(lambda x: x**power * math.exp(-a * x**2 - b * x**4), 0, 9, epsrel=1e-11)[0]

    assert Phi4(0.5, a, b).site_width() ** 2 == pytest.approx(moment(2) / moment(0), rel=1e-9)


@pytest.mark.parametrize("shape", [(4,), (4, 4), (2, 3, 2)])
def test_the_minimum_is_the_uniform_field_of_least_action(shape):
    action = Phi4(0.6, -0.2, 0.05)
    least = action.minimum(len(shape))
    assert least > 0
    at, below, above, zero = (
        evaluate(action, np.full(shape, f * least))[0] for f in (1, 0.99, 1.01, 0)
    )
    assert at < min(below, above, zero)


def test_the_minimum_is_zero_where_the_symmetry_is_not_broken():
    assert Phi4(0.4, 0.9, 0.05).minimum(2) == 0
    assert Phi4(0.4, 0.7, 0.05).minimum(2) > 0
    assert FreeField(0.1, 3).minimum(3) == 0


# Couplings that define no theory.


@each(
    "action, message",
    [
        (Phi4(math.nan, 1, 1), "h must be a finite number, got nan"),
        (Phi4(1, math.inf, 1), "a must be a finite number, got inf"),
        (Phi4(1, 3, -0.5), r"not bounded below: .* must be >= 0, got h = 1, a = 3, b = -0.5"),
        (Phi4(1, 2, 0), r"cannot be normalised in 2 dimensions: .* needs a > 2 \|h\|"),
        (Phi4(-1, 1.9, 0), r"cannot be normalised in 2 dimensions: .* needs a > 2 \|h\|"),
        (FreeField(0.0, 2), r"needs a > 2 \|h\|, got h = 1, a = 2, b = 0"),
    ],
)
def test_an_action_that_cannot_be_normalised_is_refused(action, message):
    with pytest.raises(ValueError, match=message):
        action.check(2)


@pytest.mark.parametrize("action", [PHI4, Phi4(2, -4, 0.1), Phi4(1, 2.01, 0), FreeField(0.01, 2)])
def test_an_action_that_can_be_normalised_is_accepted(action):
    action.check(2)
