"""Cluster updates: clusters are those of a graph, and signs have the exact Ising distribution."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from phi4_by_hand import LATTICE, PHI4, advance, assert_exact
from rows import each
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components

from lattice_ml import HMC, Cycle, Phi4, SwendsenWang, Wolff, measure, run
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout
from lattice_ml.samplers import cluster
from lattice_ml.samplers.components import Grid, flood, smallest_labels

GROUP = 5
SHAPES = [(1,), (7,), (32, 3), (33, 4), (37, 2), (64, 5), (6, 5, 4), (2, 3, 2, 3), (1, 6)]
KINDS = [Wolff, SwendsenWang]


LAYOUTS = [  # in one dimension both kinds are the same
    Layout(shape, GROUP, merged)
    for shape in SHAPES
    for merged in (False, True)[: 1 + (len(shape) > 1)]
]


def random_bonds(layout, seed=3):
    """Bonds `(ndim, *L, group)`, about as many as at percolation."""
    rng = np.random.default_rng(seed)
    ndim = len(layout.shape)
    return rng.random((ndim, *layout.shape, GROUP)) < min(0.7, 1.1 / ndim)


def components(bonds, shape, chain):
    """The number of every site's cluster by SciPy, `(volume,)`."""
    site = np.arange(np.prod(shape)).reshape(shape)
    pairs = [
        (site[bond[..., chain]], np.roll(site, -1, axis)[bond[..., chain]])
        for axis, bond in enumerate(bonds)
    ]
    here, there = (np.concatenate(part) for part in zip(*pairs, strict=True))
    graph = sparse.coo_matrix((np.ones(len(here)), (here, there)), (site.size, site.size))
    return connected_components(graph, directed=False)[1]


@partial(jax.jit, static_argnums=0)
def flooded(layout, u, bonds):
    """The seeds of uniforms and their clusters, `(volume, group)` each."""
    grid = Grid(layout)
    seed = grid.seed(u)
    wet = flood(grid, seed, [grid.pack(bond.reshape(grid.shape)) for bond in bonds])
    return [grid.unpack(words).reshape(-1, GROUP) for words in (seed, wet)]


@each("layout", LAYOUTS)
def test_a_flood_finds_the_cluster_of_its_seed(layout):
    bonds = random_bonds(layout)
    u = np.random.default_rng(4).random((len(layout.shape), GROUP)).astype(np.float32)
    start, wet = map(np.asarray, flooded(layout, u, bonds))
    place = (u * np.array(layout.shape)[:, None]).astype(int)
    assert_array_equal(start.argmax(axis=0), np.ravel_multi_index(place, layout.shape))
    assert_array_equal(start.sum(axis=0), 1)
    for chain in range(GROUP):
        number = components(bonds, layout.shape, chain)
        assert_array_equal(wet[:, chain], number == number[start[:, chain].argmax()])


labelled = jax.jit(smallest_labels, static_argnums=0)


# Layouts and types do not know of each other: one after the other, and both of either once.
LABELLED = [*zip(LAYOUTS, itertools.cycle([np.int16, np.int32])), (LAYOUTS[3], np.int16)]


@each(("layout", "dtype"), LABELLED)
def test_labels_are_the_smallest_of_their_cluster(layout, dtype):
    shape, bonds = (*layout.shape, GROUP), random_bonds(layout)
    site = np.arange(layout.volume, dtype=dtype).reshape(*layout.shape, 1)
    found = labelled(layout, np.broadcast_to(site, shape), list(bonds))
    assert found.dtype == dtype
    label = np.asarray(found).reshape(-1, GROUP)
    for chain in range(GROUP):
        number = components(bonds, layout.shape, chain)
        _, first = np.unique(number, return_index=True)
        assert_array_equal(label[:, chain], first[number])


# Signs on 2x3 with |phi| held fixed: 64 states, enumerated.

SMALL = (2, 3)
SIZES = np.array([[0.9, 0.4, 1.3], [0.7, 1.1, 0.8]])
STATES = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1).reshape(64, *SMALL)


def probabilities(h):
    phi = STATES * SIZES
    links = sum(np.sum(phi * np.roll(phi, -1, axis), axis=(1, 2)) for axis in (1, 2))
    weight = np.exp(h * links)
    return weight / weight.sum()


def numbers(phi):
    """Which of the states fields `(..., *L, group)` are in."""
    signs = (phi < 0).astype(int).reshape(*phi.shape[:-3], 6, phi.shape[-1])
    return np.einsum("...sg,s->...g", signs, 1 << np.arange(6))


@partial(jax.jit, static_argnames=("layout", "n"))
def updates(sampler, keys, phi, layout, n):
    """Fields before and after each of `n` updates."""

    def update(phi, t):
        new = sampler.update(layout, keys, t, (), sampler.start(phi))[0].phi
        return new, (phi, new)

    return jax.lax.scan(update, phi, jnp.arange(n, dtype=jnp.uint32))[1]


def equilibrium_updates(kind, h, n=400, group=512, seed=7):
    """States before and after updates that start from the exact distribution."""
    rng = np.random.default_rng(seed)
    chosen = STATES[rng.choice(64, group, p=probabilities(h))]
    phi = np.moveaxis(chosen * SIZES, 0, -1).astype(np.float32)
    keys = randomness.chain_keys(jax.random.key(seed), group)
    sampler = kind(Phi4(h=h, a=1.0, b=0.1))
    before, after = map(np.asarray, updates(sampler, keys, phi, Layout(SMALL, group), n))
    assert_array_equal(np.abs(after[-1]), np.abs(phi))
    return numbers(before), numbers(after)


def stationary(after, h):
    """chi^2 per degree of freedom of the states, the chains' scatter being the error."""
    share = np.array([np.bincount(chain, minlength=64) for chain in after.T]) / len(after)
    error = share.std(axis=0, ddof=1) / np.sqrt(len(share))
    return ((share.mean(axis=0) - probabilities(h)) / error)[1:] ** 2


def balanced(before, after):
    """p value of as many transitions i -> j as j -> i, in equilibrium."""
    flow = np.zeros((64, 64))
    np.add.at(flow, (before.ravel(), after.ravel()), 1)
    i, j = np.triu_indices(64, 1)
    both = flow[i, j] + flow[j, i]
    seen = both > 20
    chi2 = np.sum((flow[i, j] - flow[j, i])[seen] ** 2 / both[seen])
    return stats.chi2.sf(chi2, seen.sum())


@pytest.mark.parametrize("h", [0.5, -0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_signs_have_the_exact_distribution_and_detailed_balance(kind, h):
    before, after = equilibrium_updates(kind, h)
    pulls = stationary(after, h)
    assert pulls.max() < 4.5**2 and pulls.mean() < 1.6
    assert balanced(before, after) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_sees_bonds_of_half_the_coupling(kind, monkeypatch):
    right = cluster._Clusters._agreement
    monkeypatch.setattr(
        cluster._Clusters, "_agreement", lambda self, x, y: right(self, x, y) ** 0.5
    )
    jax.clear_caches()
    assert stationary(equilibrium_updates(kind, 0.5)[1], 0.5).mean() > 5
    jax.clear_caches()


@pytest.mark.parametrize("kind", KINDS)
def test_with_hmc_it_is_exact_on_a_small_lattice(kind):
    sampler = Cycle((HMC(PHI4), kind(PHI4, n_updates=2)))
    chains = run(jax.random.key(1), sampler, LATTICE, n_chains=256, n_configs=300, n_thermalise=100)
    assert_exact(measure(chains))
    size = chains.series("cluster_size" if kind is Wolff else "clusters")
    assert size.min() >= 1 / 16 and size.max() <= 1 and 0.1 < size.mean() < 0.8


def test_groups_do_not_matter():
    """The same chains in one group and in two, bit for bit."""
    phi = np.random.default_rng(1).normal(size=(6, 4, 128)).astype(np.float32)
    keys = randomness.chain_keys(jax.random.key(2), 128)
    for kind in KINDS:
        sampler, at = kind(PHI4), np.uint32(3)
        both, info = advance(sampler, Layout((6, 4), 128), keys, at, (), sampler.start(phi))
        half, _ = advance(
            sampler,
            Layout((6, 4), 64, merged=True),
            tuple(word[64:] for word in keys),
            at,
            (),
            sampler.start(phi[..., 64:].reshape(6, 256)),
        )
        assert_array_equal(np.asarray(both.phi)[..., 64:].reshape(6, 256), half.phi)
        assert info[0].shape == (128,)


@pytest.mark.parametrize("number", [0, 1.5])
def test_bad_numbers_of_updates_are_refused(number):
    with pytest.raises(ValueError, match=f"n_updates of Wolff must be a whole .* got {number}"):
        Wolff(PHI4, n_updates=number).check()


def test_an_action_without_the_symmetry_is_refused():
    class Tilted:
        def __call__(self, phi):
            return phi.sum()

    with pytest.raises(ValueError, match=r"SwendsenWang needs .* symmetry .*; got Tilted"):
        SwendsenWang(Tilted()).check()
