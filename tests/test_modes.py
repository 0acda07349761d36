"""The real Fourier basis is orthonormal, diagonalises the Laplacian, and knows its symmetries."""

import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.lattice import hop
from lattice_ml.models.modes import Modes

SHAPES = [(4,), (5,), (4, 4), (6, 4), (5, 2), (4, 3, 2), (2, 3, 4, 5)]


def fields(shape, n=3):
    return jnp.asarray(np.random.default_rng(1).normal(size=(n, *shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_transform_is_orthogonal(shape):
    modes, x = Modes(shape), fields(shape)
    y = modes.forward(x)
    np.testing.assert_allclose(modes.inverse(y), x, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(y**2, modes.axes), jnp.sum(x**2, modes.axes))


@pytest.mark.parametrize("shape", SHAPES)
def test_p_hat_squared_is_the_laplacian(shape):
    modes, x = Modes(shape), fields(shape)
    laplacian = 2 * modes.ndim * x - jnp.stack([hop(one) for one in x])
    np.testing.assert_allclose(
        modes.inverse(modes.p_hat_squared * modes.forward(x)), laplacian, atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_zero_mode_is_the_mean_times_the_root_of_the_volume(shape):
    modes, x = Modes(shape), fields(shape)
    mean = jnp.mean(x, modes.axes)
    np.testing.assert_allclose(modes.forward(x)[modes.zero], mean * np.sqrt(modes.volume))


def test_filters_that_are_equal_on_orbits_commute_with_the_symmetries_of_the_lattice():
    modes, x = Modes((4, 4)), fields((4, 4))
    table = np.random.default_rng(2).normal(size=modes.orbits.max() + 1)[modes.orbits]

    def smear(x):
        return modes.inverse(table * modes.forward(x))

    for change in (
        lambda x: jnp.roll(x, 1, 1),
        lambda x: x[:, ::-1],
        lambda x: jnp.swapaxes(x, 1, 2),
    ):
        np.testing.assert_allclose(smear(change(x)), change(smear(x)), atol=1e-12)


def test_orbits_join_axes_of_equal_extent_only():
    square, oblong = Modes((4, 4)), Modes((4, 6))
    assert len(np.unique(square.orbits)) == 6
    assert len(np.unique(oblong.orbits)) == 3 * 4
    for modes in (square, oblong):
        for orbit in np.unique(modes.orbits):
            assert np.ptp(modes.p_hat_squared[modes.orbits == orbit]) < 1e-12
