"""The shallow network: exact divergence, exact symmetries, any volume, smooth at t = 0."""

import jax
import numpy as np
import pytest
from flax import nnx
from theories import CRITICAL, critical_theory, to_modes, two_well_fields

from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.networks.shallow import Shallow
from lattice_ml.models.measured import measure_theory

pytestmark = pytest.mark.unoptimised

T = np.array([0.3], np.float32)

force = nnx.jit(Shallow.force)
force_and_trace = nnx.jit(Shallow.force_and_trace)
by_jacobian = nnx.jit(Denoiser.force_and_trace)


def untrained(**settings):
    """A network whose weights are shapes without values."""
    return nnx.eval_shape(lambda: Shallow(rngs=nnx.Rngs(0), **settings))


def rough(**settings):
    """A network with weights from NumPy, all far from where training starts."""
    rng = np.random.default_rng(1)
    graph, weights = nnx.split(untrained(**settings))
    weights = jax.tree.map(lambda w: rng.normal(scale=0.25, size=w.shape).astype(w.dtype), weights)
    return nnx.merge(graph, weights)


def noised(theory, n=3, seed=1):
    phi = two_well_fields(theory.modes.shape, n, seed)
    return to_modes(phi.astype(theory.dtype), theory.modes)


def test_the_default_has_1272_weights():
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(untrained()))) == 1272


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4)])
def test_the_trace_is_that_of_the_jacobian(shape, conditional):
    theory = critical_theory(shape)
    network = rough(conditional=conditional, n_channels=3)
    x = noised(theory)
    found, trace = force_and_trace(network, theory, x, T)
    expected, expected_trace = by_jacobian(network, theory, x, T)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(trace, expected_trace, rtol=1e-4, atol=1e-4)


def test_one_variance_for_all_equals_one_for_each():
    theory, network = critical_theory((4, 4)), rough()
    x = noised(theory)
    each, trace = force_and_trace(network, theory, x, np.repeat(T, 3))
    shared, expected = force_and_trace(network, theory, x, T)
    np.testing.assert_allclose(each, shared, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trace, expected, rtol=1e-4, atol=1e-4)


def test_one_set_of_weights_serves_lattices_of_any_size():
    small = critical_theory((4, 4))
    large = measure_theory(CRITICAL, [(np.tile(two_well_fields((4, 4)), (1, 2, 2)), None)])
    assert large.modes.shape == (8, 8)
    network = rough()
    x = noised(critical_theory((8, 8)))
    assert force(network, large.astype(np.float32), x, T).shape == x.shape
    assert force(network, small, noised(small), T).shape == (3, 4, 4)


def test_it_is_smooth_where_the_noise_vanishes():
    theory, network = critical_theory((4, 4)), rough()
    x = noised(theory)
    at_zero, near = (np.asarray(force(network, theory, x, np.float32([t]))) for t in (0.0, 1e-5))
    assert np.all(np.isfinite(at_zero))
    np.testing.assert_allclose(at_zero, near, atol=1e-3 * np.abs(near).max())


def test_a_conditional_network_tells_couplings_apart_and_another_does_not():
    theory = critical_theory((4, 4))
    other = jax.tree.map(lambda leaf: leaf, theory)
    x = noised(theory)
    hotter = type(theory)(**{**vars(other), "b": 1.3 * theory.b})
    for conditional, differs in ((True, True), (False, False)):
        network = rough(conditional=conditional)
        change = np.asarray(force(network, hotter, x, T)) - force(network, theory, x, T)
        assert (np.abs(change).max() > 1e-3) == differs
