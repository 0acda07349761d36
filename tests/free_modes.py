"""The modes of a free field, for tests that know their variance exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import stats

from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single

N_CHAINS = 128
SQUARE, *OTHERS = (8, 6), (16,), (4, 6, 4), (4, 2, 4, 4)


def with_shapes(names):
    """Each of three names in two dimensions, and each other dimension with one of them."""
    return [*((name, SQUARE) for name in names), *zip(names, OTHERS, strict=True)]


@partial(jax.jit, static_argnames=("layout", "n"))
def bare_run(sampler, keys, phi, layout, n):
    """Fields after each of `n` updates, `(n, *L, n_chains)`: `update` in a loop alone."""
    numbers = jnp.arange(n, dtype=jnp.uint32)
    draws = sampler.draw(keys, numbers)

    def update(state, at):
        number, drawn = at
        state, _ = sampler.update(layout, keys, number, drawn, state)
        return state, state.phi

    return lax.scan(update, sampler.start(phi), (numbers, draws))[1]


def fields(sampler, lattice, n, *, seed=1, n_chains=N_CHAINS, dtype="float32"):
    """Configurations of `n` updates from zero, `(n, n_chains, *L)`."""
    keys = randomness.chain_keys(jax.random.key(seed), n_chains)
    start = np.zeros((*lattice.shape, n_chains), dtype)
    found = bare_run(sampler, keys, start, single(lattice.shape, n_chains), n)
    return np.moveaxis(np.asarray(found), -1, 1)


def pulls(cfgs, lattice, variance):
    """(<|phi(p)|^2> / (V variance) - 1) / error of the independent modes, errors from chains.

    Args:
        cfgs: equilibrium configurations `(n, n_chains, *L)`.
        lattice: their lattice.
        variance: what is expected, `(*L)` in FFT order.
    """
    n_chains = cfgs.shape[1]
    power = np.abs(np.fft.fftn(cfgs, axes=range(2, cfgs.ndim))) ** 2 / lattice.volume
    per_chain = np.mean(power / variance, axis=0).reshape(n_chains, -1)
    error = per_chain.std(axis=0, ddof=1) / np.sqrt(n_chains)
    return ((per_chain.mean(axis=0) - 1) / error)[independent_modes(lattice)]


def independent_modes(lattice):
    """Flat indices of one of each pair p, -p."""
    index = np.arange(lattice.volume).reshape(lattice.shape)
    partner = index[np.ix_(*(-np.arange(extent) % extent for extent in lattice.shape))]
    return np.flatnonzero((index <= partner).ravel())


def agree(pulls):
    """Joint chi^2 over all modes and the largest pull, each at 4.5 sigma or the like."""
    likely = stats.chi2.sf(np.sum(pulls**2), len(pulls)) > 1e-5
    return bool(likely and np.abs(pulls).max() < 4.5)
