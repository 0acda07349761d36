"""The convolutional network: its symmetries, its range, and what it adds to the Gaussian theory."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion.denoiser import Zero
from lattice_ml.models.diffusion.equivariance import violations
from lattice_ml.models.diffusion.networks.convnet import ConvNet
from lattice_ml.models.theory import Theory

pytestmark = pytest.mark.unoptimised

KEY = jax.random.key(5)
SMALL = {"channels": 4, "n_layers": 2}


def theory(shape, dtype="float32", h=0.54):
    modes = Modes(shape)
    propagator = 1 / (0.4 + h * modes.p_hat_squared)
    propagator[modes.zero] = 4.0
    mixture = np.array([[0.5, 0.5], [1.8, -1.8], [0.76, 0.76]])
    couplings = h, 0.956, 0.022
    measured = Theory(*couplings, propagator, mixture, 0.9, 0.05, np.zeros(1), modes=modes)
    return measured.astype(dtype)


@cache
def build(ndim=2, **settings):
    """A network with weights from NumPy, which has nothing to compile for each shape."""
    make = partial(ConvNet, ndim=ndim, **SMALL | settings)
    graph, weights = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(lambda leaf: normal(leaf.shape, leaf.dtype, 0.3), weights))


def normal(shape, dtype="float32", scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(5).normal(size=shape), dtype)


@nnx.jit
def force(network, theory, x, t):
    return network.force(theory, x, t)


@nnx.jit
def convolve(network, y):
    return network.network(y, jnp.ones((1, 9), y.dtype))


def draw(on, n=3):
    """Noised fields of order one, and their variance."""
    return normal((n, *on.propagator.shape), on.dtype), jnp.full(n, 0.3, on.dtype)


@pytest.mark.parametrize("shape", [(8,), (6, 8), (4, 4, 4)])
def test_all_symmetries_are_exact_in_float32(shape):
    network = build(len(shape))
    assert network.equivariant
    assert max(violations(network, theory(shape), KEY, n_variances=3).values()) < 1e-5


def test_what_is_released_is_released_and_nothing_else():
    found = violations(build(hypercubic=False, odd=False), theory((6, 6)), KEY, n_variances=2)
    assert found["translation"] < 1e-5
    assert found["z2"] > 1e-4
    assert found["hypercubic"] > 1e-2
    assert not build(odd=False).equivariant


def test_an_output_site_sees_the_receptive_field_and_nothing_beyond():
    network = build(1, n_layers=3)
    y = normal((2, 1, 40))
    difference = convolve(network, y.at[0, 0, 20].add(1.0)) - convolve(network, y)
    seen = np.flatnonzero(np.abs(np.asarray(difference[0])) > 0)
    assert network.receptive_field == 15
    assert (seen.min(), seen.max()) == (20 - 7, 20 + 7)


def test_the_same_weights_on_a_larger_volume_continue_periodic_fields():
    network = build()
    y = normal((2, 3, 4, 6))
    tiled = convolve(network, jnp.tile(y, (1, 1, 2, 3)))
    np.testing.assert_allclose(tiled, jnp.tile(convolve(network, y), (1, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_variance_for_all_is_the_same_as_one_for_each(dtype):
    on, network = theory((4, 4), dtype), build()
    x, t = draw(on)
    shared, each = force(network, on, x, t[:1]), force(network, on, x, t)
    assert shared.dtype == each.dtype == dtype
    np.testing.assert_allclose(shared, each, rtol=2e-5, atol=1e-6)


def test_without_its_output_weights_only_the_gaussian_theory_is_left():
    graph, weights = nnx.split(build())
    on = theory((4, 4))
    x, t = draw(on)
    gaussian = Zero().force(on, x, t)
    assert jnp.max(jnp.abs(force(build(), on, x, t) - gaussian)) > 1e-3
    mute = nnx.merge(graph, jax.tree.map(jnp.zeros_like, weights))
    np.testing.assert_allclose(force(mute, on, x, t), gaussian, rtol=1e-6)


def test_the_force_is_smooth_down_to_no_noise():
    on, network = theory((4, 4), "float64"), build()
    x, _ = draw(on)
    at_zero, near, nearer = (force(network, on, x, jnp.full(1, t)) for t in (0.0, 2e-4, 1e-4))
    assert jnp.all(jnp.isfinite(at_zero))
    ratio = jnp.linalg.norm(near - at_zero) / jnp.linalg.norm(nearer - at_zero)
    assert ratio == pytest.approx(2, abs=0.05)


def test_only_a_conditional_network_knows_the_couplings():
    on = theory((4, 4))
    x, t = draw(on)
    other = Theory(**vars(on) | {"h": 1.2 * on.h})
    plain, conditional = build(), build(conditional=True)
    np.testing.assert_array_equal(force(plain, on, x, t), force(plain, other, x, t))
    change = force(conditional, on, x, t) - force(conditional, other, x, t)
    assert jnp.max(jnp.abs(change)) > 1e-6


def test_all_weights_learn():
    on, network = theory((4, 4)), ConvNet(**SMALL, conditional=True, odd=False, rngs=nnx.Rngs(3))
    x, t = draw(on)
    gradient = nnx.jit(nnx.grad(lambda network: jnp.sum(network.force(on, x, t) ** 2)))(network)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ndim": 4}, "1, 2 or 3 dimensions, got ndim = 4"),
        ({"channels": 0}, "at least one layer and channel, got n_layers=2, channels=0"),
    ],
)
def test_impossible_networks_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build(**settings)


def test_another_dimension_is_refused():
    on = theory((4, 4))
    with pytest.raises(ValueError, match=r"built with ndim = 1, the lattice is \(4, 4\); build it"):
        build(1).force(on, jnp.zeros((1, 4, 4)), jnp.ones(1))


def test_a_lattice_that_the_layers_do_not_span_brings_a_warning():
    on = theory((16,))
    trace = partial(jax.eval_shape, build(1, n_layers=1).force, on)
    with pytest.warns(UserWarning, match=r"receptive field of 1 layers, 3 sites.*raise n_layers"):
        trace(jnp.zeros((1, 16)), jnp.ones(1))
