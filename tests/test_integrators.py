"""Integrators: what symplectic composition promises, and the exact numbers of one mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.polynomial import Polynomial

from lattice_ml.actions import Phi4
from lattice_ml.samplers.integrators import integrate, leapfrog, omelyan2, omelyan4

SCHEMES = {"leapfrog": leapfrog, "omelyan2": omelyan2, "omelyan4": omelyan4}
ACTION = Phi4(0.5, 0.9, 0.05)
force = ACTION.force

every_scheme = pytest.mark.parametrize("name", SCHEMES)


def start(shape=(4, 4), dtype=np.float64):
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))


@jax.jit(static_argnames="name")
def trajectory(name, phi, pi, step_size, n_steps):
    return integrate(force, phi, pi, step_size, n_steps, SCHEMES[name])


def energy(phi, pi):
    return ACTION(phi) + jnp.sum(pi * pi) / 2


def energy_error(name, n_steps, length=1.0):
    """Root mean square of dH over starts."""
    rng = np.random.default_rng(2)
    return float(_energy_error(*rng.normal(size=(2, 64, 4, 4)), length / n_steps, n_steps, name))


@jax.jit(static_argnames="name")
def _energy_error(phi, pi, step_size, n_steps, name):
    def one(phi, pi):
        end = trajectory(name, phi, pi, step_size, n_steps)
        return energy(*end) - energy(phi, pi)

    return jnp.sqrt(jnp.mean(jax.vmap(one)(phi, pi) ** 2))


@every_scheme
def test_a_scheme_is_a_consistent_palindrome(name):
    kicks, drifts, _ = SCHEMES[name]
    assert kicks == pytest.approx(kicks[::-1], rel=1e-14) and len(kicks) == len(drifts) + 1
    assert drifts == pytest.approx(drifts[::-1], rel=1e-14)
    assert sum(kicks) == pytest.approx(1) and sum(drifts) == pytest.approx(1)


def test_omelyan2_minimises_its_leading_error():
    """The coefficients of the two commutators of third order, added in squares."""
    first, second = Polynomial([1, -6, 6]) / 12, Polynomial([1, -6]) / 24
    extrema = (first**2 + second**2).deriv().roots()
    assert omelyan2.kicks[0] == pytest.approx(extrema[extrema.imag == 0].real, rel=1e-13)


@every_scheme
def test_trajectories_are_reversible(name):
    phi, pi = start()
    there, pi_there = trajectory(name, phi, pi, 0.1, 10)
    back, pi_back = trajectory(name, there, -pi_there, 0.1, 10)
    assert np.abs(there - phi).max() > 0.1
    np.testing.assert_allclose(back, phi, rtol=0, atol=1e-12)
    np.testing.assert_allclose(-pi_back, pi, rtol=0, atol=1e-12)


@every_scheme
def test_trajectories_preserve_phase_space_volume(name):
    """The Jacobian J is symplectic, J^T W J = W, so its determinant is 1."""
    flat, unravel = ravel_pytree(start((3,)))

    def flow(flat):
        return ravel_pytree(trajectory(name, *unravel(flat), 0.3, 4))[0]

    jacobian = jax.jacfwd(flow)(flat)
    form = np.kron([[0, 1], [-1, 0]], np.eye(3))
    np.testing.assert_allclose(jacobian.T @ form @ jacobian, form, rtol=0, atol=1e-12)
    assert np.linalg.det(jacobian) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "name, n_steps, tolerance", [("leapfrog", 16, 0.1), ("omelyan2", 16, 0.1), ("omelyan4", 8, 0.2)]
)
def test_the_order_is_that_of_step_halving(name, n_steps, tolerance):
    coarse, fine = energy_error(name, n_steps), energy_error(name, 2 * n_steps)
    order = np.log2(coarse / fine)
    assert order == pytest.approx(SCHEMES[name].order, abs=tolerance), f"{coarse=} {fine=}"


def test_omelyan_schemes_are_more_accurate_at_equal_cost():
    errors = [
        energy_error("leapfrog", 20),
        energy_error("omelyan2", 10),
        energy_error("omelyan4", 4),
    ]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


@every_scheme
def test_many_steps_are_a_composition_of_single_ones(name):
    phi, pi = start()
    at_once = trajectory(name, phi, pi, 0.2, 5)
    for _ in range(5):
        phi, pi = trajectory(name, phi, pi, 0.2, 1)
    np.testing.assert_allclose(at_once, (phi, pi), rtol=0, atol=1e-13)


@every_scheme
@pytest.mark.parametrize("n_steps", [1, 3])
def test_n_steps_of_m_drifts_cost_n_m_plus_1_forces(name, n_steps):
    calls = []

    def counted(phi):
        calls.append(phi)
        return -phi

    with jax.disable_jit():
        integrate(counted, *start((2,)), 0.1, n_steps, SCHEMES[name])
    assert len(calls) == n_steps * len(SCHEMES[name].drifts) + 1


def test_the_number_of_steps_is_traced():
    traces = []

    @jax.jit
    def rotate(phi, pi, n_steps):
        traces.append(n_steps)
        return integrate(lambda x: -x, phi, pi, 0.01, n_steps)

    for n_steps in (1, 20, 300):
        angle = 0.01 * n_steps
        assert rotate(1.0, 0.0, n_steps) == pytest.approx((np.cos(angle), -np.sin(angle)), abs=1e-4)
    assert len(traces) == 1


def test_every_chain_may_have_its_own_step_size():
    phi, pi = start((6,))
    sizes = jnp.array([0.1, 0.2, 0.3])
    together = integrate(lambda x: -x, phi.reshape(2, 3), pi.reshape(2, 3), sizes, 4)
    for chain, size in enumerate(sizes):
        alone = integrate(lambda x: -x, phi[chain::3], pi[chain::3], size, 4)
        np.testing.assert_array_equal(np.asarray(together)[..., chain], alone)


def test_float32_dynamics_stay_in_float32():
    phi, pi = trajectory("omelyan4", *start(dtype=np.float32), 0.1, 3)
    assert phi.dtype == pi.dtype == jnp.float32


@pytest.mark.parametrize(
    "step_size, n_steps, mean_dh, acceptance",
    [
        (0.5, 4, 0.00168812274933, 0.981509656013),  # hmc_gauss_om=1.0_eps=0.5_n=4
        (1.0, 3, 0.0, 1.0),  # hmc_gauss_om=1.0_eps=1.0_n=3
    ],
)
def test_one_mode_has_the_exact_energy_error_and_acceptance(
    step_size, n_steps, mean_dh, acceptance
):
    """The flow is linear, so dH = z.(J^T J - 1).z/2 for z = (phi, pi) ~ N(0, 1)."""
    columns = integrate(lambda x: -x, jnp.array([1.0, 0]), jnp.array([0, 1.0]), step_size, n_steps)
    jacobian = np.array(columns)
    form = jacobian.T @ jacobian - np.eye(2)
    assert np.trace(form) / 2 == pytest.approx(mean_dh, abs=1e-13)
    # <min(1, exp(-r^2 q/2))> over the radius is 1/(1 + max(q, 0)), left is the angle.
    angle = 2 * np.pi * np.arange(4096) / 4096
    z = np.array([np.cos(angle), np.sin(angle)])
    q = np.einsum("ia,ij,ja->a", z, form, z)
    assert np.mean(1 / (1 + np.maximum(q, 0))) == pytest.approx(acceptance, abs=1e-6)
