"""Conditional means of fields that are normal around one of two wells: exact, in closed form."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.models.flow.filling import Filling, fill
from lattice_ml.models.flow.gaussian import conditional
from lattice_ml.models.flow.grids import even, merge, split, steps
from lattice_ml.models.flow.tables import _well


def free_propagator(shape, mass_squared=0.8):
    axes = [4 * np.sin(np.pi * np.arange(n) / n) ** 2 for n in shape]
    return 1 / (mass_squared + sum(np.meshgrid(*axes, indexing="ij")))


@pytest.mark.parametrize("well", [0.0, 0.15, 2.0])
@pytest.mark.parametrize("shape", [(8,), (4, 6), (4, 4, 4)])
def test_the_mean_of_new_sites_is_that_of_a_mixture_of_two_wells(shape, well):
    volume, ndim = int(np.prod(shape)), len(shape)
    inside = free_propagator(shape)
    propagator = inside.copy()
    propagator.flat[0] += volume * well**2
    sites = np.array(list(itertools.product(*map(range, shape))))
    correlation = np.fft.ifftn(inside).real
    covariance = correlation[tuple(np.moveaxis((sites[:, None] - sites) % shape, -1, 0))]
    phi = np.linalg.cholesky(covariance) @ np.random.default_rng(0).normal(size=(volume, 5)) + well

    grids = steps(ndim, finest=False)[-1]  # odd sites given the even ones
    random = np.random.default_rng(1)
    weights, theory = Filling.start(random, grids, 3, 2), conditional(propagator, grids, well)
    evens, odds = split(jnp.asarray(phi.reshape(*shape, -1)))
    found, _ = fill(weights, theory, grids, evens, jnp.zeros_like(odds))

    known = sites.sum(axis=1) % 2 == 0
    inverse = np.linalg.inv(covariance[np.ix_(known, known)])
    around = {s: phi[known] - s * well for s in (1, -1)}
    means = {
        s: s * well + covariance[np.ix_(~known, known)] @ inverse @ x for s, x in around.items()
    }
    logs = {s: -0.5 * np.sum(x * (inverse @ x), axis=0) for s, x in around.items()}
    up = 1 / (1 + np.exp(logs[-1] - logs[1]))
    exact = np.zeros_like(phi)
    exact[~known] = up * means[1] + (1 - up) * means[-1]
    zero = jnp.zeros_like(evens)
    np.testing.assert_allclose(merge(zero, found), exact.reshape(*shape, -1), atol=1e-10)
    assert len(even(ndim)) == len(grids.known)


@pytest.mark.parametrize(("mean", "found"), [(0.0, 0.0), (1.0, 0.0), (5.0, 5.0), (40.0, 40.0)])
def test_wells_are_seen_where_they_are_apart(mean, found):
    """Deviations of 1 around +-1 have a kurtosis of 2.5: between one well and two."""
    x = np.abs(mean + np.random.default_rng(2).normal(size=100_000))
    quantiles = np.quantile(x, (np.arange(1024) + 0.5) / 1024)
    if mean == 1.0:
        assert 0 < _well(quantiles) < mean
    else:
        assert _well(quantiles) == pytest.approx(found, rel=1e-3, abs=1e-12)
