"""The real Fourier basis is orthonormal, diagonalises the Laplacian, and knows its symmetries."""

import jax
import numpy as np
from rows import each
from theories import to_modes, to_sites

from lattice_ml.fields.modes import Modes

SHAPES = [(4,), (5,), (4, 4), (6, 4), (5, 2), (4, 3, 2), (2, 3, 4, 5)]


def fields(shape, n=3):
    return np.random.default_rng(1).normal(size=(n, *shape))


@each("shape", SHAPES)
def test_the_transform_is_orthogonal(shape):
    modes, x = Modes(shape), fields(shape)
    y = np.asarray(to_modes(x, modes))
    np.testing.assert_allclose(to_sites(y, modes), x, atol=1e-12)
    np.testing.assert_allclose(np.sum(y**2, modes.axes), np.sum(x**2, modes.axes))


@each("shape", SHAPES)
def test_p_hat_squared_is_the_laplacian(shape):
    modes, x = Modes(shape), fields(shape)
    neighbours = sum(np.roll(x, step, axis) for step in (1, -1) for axis in modes.axes)
    multiplied = modes.p_hat_squared * np.asarray(to_modes(x, modes))
    laplacian = 2 * modes.ndim * x - neighbours
    np.testing.assert_allclose(to_sites(multiplied, modes), laplacian, atol=1e-12)


@each("shape", SHAPES)
def test_the_zero_mode_is_the_mean_times_the_root_of_the_volume(shape):
    modes, x = Modes(shape), fields(shape)
    y, mean = np.asarray(to_modes(x, modes)), np.mean(x, modes.axes)
    np.testing.assert_allclose(y[modes.zero], mean * np.sqrt(modes.volume))


def test_filters_that_are_equal_on_orbits_commute_with_the_symmetries_of_the_lattice():
    modes, x = Modes((4, 4)), fields((4, 4))
    table = np.random.default_rng(2).normal(size=modes.orbits.max() + 1)[modes.orbits]

    @jax.jit
    def smear(x):
        return modes.inverse(table * modes.forward(x))

    smeared = np.asarray(smear(x))
    for change in (
        lambda x: np.roll(x, 1, 1),
        lambda x: x[:, ::-1],
        lambda x: np.swapaxes(x, 1, 2),
    ):
        np.testing.assert_allclose(smear(change(x)), change(smeared), atol=1e-12)


def test_orbits_join_axes_of_equal_extent_only():
    square, oblong = Modes((4, 4)), Modes((4, 6))
    assert len(np.unique(square.orbits)) == 6
    assert len(np.unique(oblong.orbits)) == 3 * 4
    for modes in (square, oblong):
        for orbit in np.unique(modes.orbits):
            assert np.ptp(modes.p_hat_squared[modes.orbits == orbit]) < 1e-12
