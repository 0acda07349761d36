"""The shallow network: exact divergence, exact symmetries, any volume, smooth at t = 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from theories import CRITICAL, critical_theory, two_well_fields

from lattice_ml.models.denoiser import Denoiser
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.networks.shallow import Shallow


def rough(**settings):
    """A network whose weights are all far from where training starts."""
    network = Shallow(rngs=nnx.Rngs(0), **settings)
    graph, weights = nnx.split(network)
    keys = iter(jax.random.split(jax.random.key(1), 20))
    weights = jax.tree.map(
        lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape, w.dtype), weights
    )
    return nnx.merge(graph, weights)


def noised(theory, n=3, seed=1):
    phi = jnp.asarray(two_well_fields(theory.modes.shape, n, seed), theory.dtype)
    return theory.modes.forward(phi)


def test_the_default_has_1272_weights():
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(Shallow(rngs=nnx.Rngs(0))))) == 1272


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4)])
def test_the_trace_is_that_of_the_jacobian(shape, conditional):
    theory = critical_theory(shape)
    network = rough(conditional=conditional, n_channels=3)
    x, t = noised(theory), jnp.array([0.3], jnp.float32)
    force, trace = jax.jit(network.force_and_trace)(theory, x, t)
    by_jacobian = jax.jit(lambda *a: Denoiser.force_and_trace(network, *a))(theory, x, t)
    np.testing.assert_allclose(force, by_jacobian[0], atol=1e-4)
    np.testing.assert_allclose(trace, by_jacobian[1], rtol=1e-4, atol=1e-4)


def test_one_variance_for_all_equals_one_for_each():
    theory, network = critical_theory((4, 4)), rough()
    x = noised(theory)
    both = jax.jit(lambda t: network.force_and_trace(theory, x, t))
    force, trace = both(jnp.full(3, 0.3, jnp.float32))
    shared, expected = both(jnp.array([0.3], jnp.float32))
    np.testing.assert_allclose(force, shared, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trace, expected, rtol=1e-4, atol=1e-4)


def test_one_set_of_weights_gives_a_tiled_field_the_tiled_force():
    small = critical_theory((4, 4))
    large = measure_theory(CRITICAL, [(np.tile(two_well_fields((4, 4)), (1, 2, 2)), None)])
    assert large.modes.shape == (8, 8)
    network = rough()
    x = noised(critical_theory((8, 8)))
    assert network.force(large.astype(jnp.float32), x, jnp.array([0.3])).shape == x.shape
    assert network.force(small, noised(small), jnp.array([0.3])).shape == (3, 4, 4)


def test_it_is_smooth_where_the_noise_vanishes():
    theory, network = critical_theory((4, 4)), rough()
    x = noised(theory)
    at_zero, near = (network.force(theory, x, jnp.array([t], jnp.float32)) for t in (0.0, 1e-5))
    assert np.all(np.isfinite(at_zero))
    np.testing.assert_allclose(at_zero, near, atol=1e-3 * np.abs(near).max())


def test_a_conditional_network_tells_couplings_apart_and_another_does_not():
    theory = critical_theory((4, 4))
    other = jax.tree.map(lambda leaf: leaf, theory)
    x, t = noised(theory), jnp.array([0.3], jnp.float32)
    hotter = type(theory)(**{**vars(other), "b": 1.3 * theory.b})
    for conditional, differs in ((True, True), (False, False)):
        network = rough(conditional=conditional)
        change = network.force(hotter, x, t) - network.force(theory, x, t)
        assert (np.abs(change).max() > 1e-3) == differs
