"""Sites, momenta and the sum over neighbours of periodic lattices."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from rows import each

from lattice_ml.fields.lattice import Lattice, hop

SHAPES = [(2,), (5,), (2, 2), (3, 4), (2, 3, 4), (3, 3, 2), (2, 3, 2, 3), (4, 2, 3, 2)]


def field(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def sum_of_neighbours(phi):
    """Site by site, one step forward and one back along every axis."""
    out = np.zeros_like(phi)
    for x in np.ndindex(phi.shape):
        for mu, extent in enumerate(phi.shape):
            for step in (1, -1):
                y = list(x)
                y[mu] = (y[mu] + step) % extent
                out[x] += phi[tuple(y)]
    return out


@each("shape", SHAPES)
def test_hop_is_the_sum_over_neighbours(shape):
    phi = field(shape)
    np.testing.assert_allclose(hop(jnp.asarray(phi)), sum_of_neighbours(phi), rtol=0, atol=1e-14)


def test_an_extent_of_two_has_two_links():
    assert hop(jnp.array([1.0, 10.0])).tolist() == [20, 2]


def test_hop_leaves_axes_behind_the_lattice_alone():
    phi = field((2, 3, 5))
    chains = [sum_of_neighbours(phi[..., chain]) for chain in range(5)]
    np.testing.assert_allclose(hop(jnp.asarray(phi), 2), np.stack(chains, -1), rtol=0, atol=1e-14)


@each("shape", SHAPES)
def test_plane_waves_are_eigenvectors_of_hop(shape):
    phi, lattice = field(shape), Lattice(shape)
    eigenvalues = 2 * lattice.ndim - lattice.p_hat_squared
    np.testing.assert_allclose(
        np.fft.fftn(hop(jnp.asarray(phi))), eigenvalues * np.fft.fftn(phi), rtol=0, atol=1e-12
    )


def test_momenta_are_those_of_the_forward_fourier_transform():
    phi, lattice = field((3, 4)), Lattice((3, 4))
    sites = np.indices(lattice.shape)
    for k in np.ndindex(lattice.shape):
        p = lattice.momenta()[(slice(None), *k)]
        direct = np.sum(phi * np.exp(-1j * np.tensordot(p, sites, 1)))
        np.testing.assert_allclose(direct, np.fft.fftn(phi)[k], rtol=0, atol=1e-12)


def test_momenta_lie_in_the_first_brillouin_zone():
    momenta = Lattice((4, 5)).momenta()
    assert momenta.shape == (2, 4, 5)
    assert momenta[0, :, 0] == pytest.approx([0, np.pi / 2, -np.pi, -np.pi / 2])
    assert np.abs(momenta).max() == pytest.approx(np.pi)


def test_shells_collect_momenta_of_equal_p_hat_squared():
    values, index = Lattice((4, 4)).shells
    assert values.tolist() == [0, 2, 4, 6, 8]
    assert np.bincount(index.ravel()).tolist() == [1, 4, 6, 4, 1]
    lattice = Lattice((3, 4, 6))
    values, index = lattice.shells
    assert np.all(np.diff(values) > 1e-9)
    np.testing.assert_allclose(values[index], lattice.p_hat_squared, rtol=0, atol=1e-9)


def test_a_lattice_knows_its_size_and_its_longest_axes():
    lattice = Lattice([4, np.int64(8), 8.0])
    assert (lattice.ndim, lattice.volume, lattice.longest_axes) == (3, 256, (1, 2))
    assert lattice.shape == (4, 8, 8) and all(type(extent) is int for extent in lattice.shape)
    assert lattice == Lattice((4, 8, 8)) and hash(lattice) == hash(Lattice((4, 8, 8)))


@each(
    "shape",
    [
        (),
        (1,),
        (4, 1),
        (4, 0),
        (4, -4),
        (2.5, 4),
        (2,) * 5,
        8,
        None,
        "44",
        (math.nan,),
        (math.inf,),
    ],
)
def test_other_shapes_are_refused(shape):
    message = "lattice.shape must be 1 to 4 whole extents of at least 2, got "
    with pytest.raises(ValueError) as caught:
        Lattice(shape)
    assert str(caught.value) == message + str(shape)
