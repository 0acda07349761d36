r"""Fill in new grids given known ones: p(new | known), its draw, its inverse and their Jacobian.

The new sites are

    x = m + g + width e^s bend(T e^t eps + c),

with the conditional mean m and the covariance root T of the Gaussian theory
(`gaussian.py`), both times learned functions of the momentum, white noise eps, and a bend
(`pointwise.py`) whose shape, like g, c, s and t, is a network's of the known fields alone.  So the
log determinant is a sum over sites plus one over momenta, and no network costs a determinant.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.models.flow.gaussian import Conditional, features, to_modes, to_sites
from lattice_ml.models.flow.grids import Grids, Offset, apart, neighbours
from lattice_ml.models.flow.pointwise import Network, bend, network, solve_bend, squash
from lattice_ml.models.flow.sums import site_sum
from lattice_ml.models.model import host

__all__ = ["Filling", "empty", "fill"]

_FEATURES = 7


@pytree
class Filling:
    """Weights of p(new | known); they do not know the volume.

    Args:
        filters: `(channels, distances, features)`: what multiplies K; the first channel is the
            mean, the others are for the network.
        root: `(features,)`: log of what multiplies T.
        scale: of the fields under a nonlinear neighbours' mean.
        network: of g, the bend's centre c and its skew; of s, t and how much it flattens.
    """

    filters: jax.Array
    root: jax.Array
    scale: jax.Array
    network: Network

    @classmethod
    def start(
        cls, random: np.random.Generator, grids: Grids, hidden: int, channels: int
    ) -> "Filling":
        """Weights of the Gaussian theory, with random filters for the network."""
        filters = np.zeros((channels, len(grids.distances), _FEATURES))
        filters[1:] = random.normal(size=filters[1:].shape) / 2
        found = Network.start(random, channels + 1, hidden, n_odd=3, n_even=3)
        return cls(host(filters), host(np.zeros(_FEATURES)), host(np.ones(())), found)


class _Given(NamedTuple):
    """What the known grids say about the new ones, `(new, *n, samples)` each."""

    mean: jax.Array
    log_width: jax.Array
    log_noise: jax.Array
    centre: jax.Array
    skew: jax.Array
    flatten: jax.Array
    root: jax.Array  # T / width, `(new, new, *n)`
    log_root: jax.Array  # log |det T|


def fill(
    weights: Filling, theory: Conditional, grids: Grids, known: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draw new grids.

    Args:
        weights, theory: of the level.
        grids: which.
        known: `(known, *n, samples)`.
        noise: standard normal, `(new, *n, samples)`.

    Returns:
        The grids, an array like `noise`, and the log of the Jacobian, `(samples,)`.
    """
    given = _given(weights, theory, grids, known)
    modes = _modes(noise * jnp.exp(given.log_noise), grids.new)
    x = _sites(_times(given.root, modes), grids.new)
    bent, slope = bend(x + given.centre, given.skew, given.flatten)
    new = given.mean + theory.width * jnp.exp(given.log_width) * bent
    return new, _log_jacobian(given, slope)


def empty(
    weights: Filling, theory: Conditional, grids: Grids, known: jax.Array, new: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inverse of `fill`: the noise of new grids, and the log of the Jacobian of `fill`."""
    given = _given(weights, theory, grids, known)
    bent = (new - given.mean) * jnp.exp(-given.log_width) / theory.width
    x = solve_bend(bent, given.skew, given.flatten)
    matrices = jnp.moveaxis(given.root, (0, 1), (-2, -1))
    modes = _modes(x - given.centre, grids.new)
    modes = jnp.linalg.solve(matrices, jnp.moveaxis(modes, 0, -2))
    noise = _sites(jnp.moveaxis(modes, -2, 0), grids.new) * jnp.exp(-given.log_noise)
    return noise, _log_jacobian(given, bend(x, given.skew, given.flatten)[1])


def _log_jacobian(given: _Given, slope: jax.Array) -> jax.Array:
    return site_sum(given.log_width + given.log_noise + jnp.log(slope)) + given.log_root


def _given(weights: Filling, theory: Conditional, grids: Grids, known: jax.Array) -> _Given:
    extents, dtype = known.shape[1:-1], known.dtype
    tables = _filters(weights.filters, extents, grids).astype(dtype)
    tables = theory.mean * tables.at[0].add(1)
    modes = _modes(known, grids.known)
    odd = [_sites(_times(table, modes), grids.new) for table in tables]
    means = jnp.mean(known, axis=tuple(range(1, known.ndim - 1)))
    well = jnp.tanh(theory.lean @ means)
    odd[0] += jnp.expand_dims(theory.well[:, None] * well, tuple(range(1, known.ndim - 1)))

    size = theory.scales.size

    def near(fields: jax.Array) -> jax.Array:
        return neighbours(fields, grids.known, grids.new)

    (shift, centre, skew), (log_width, log_noise, flatten) = network(
        weights.network,
        [*(field / size for field in odd), near(squash(weights.scale / size * known))],
        (near(known * known) - size**2) / theory.scales.spread,
    )
    isotropic = jnp.asarray(features(extents, (0,) * len(extents)), dtype)
    log_scale = jnp.tensordot(weights.root, isotropic, 1)
    return _Given(
        odd[0] + theory.width * shift,
        log_width,
        log_noise,
        centre,
        skew,
        flatten,
        theory.root * jnp.exp(log_scale),
        theory.log_root + len(grids.new) * jnp.sum(log_scale),
    )


def _filters(weights: jax.Array, extents: tuple[int, ...], grids: Grids) -> jax.Array:
    """What multiplies K in every channel, `(channels, new, known, *n)`."""
    table = [
        [
            jnp.tensordot(
                weights[:, grids.distances.index(sum(apart(new, known)))],
                jnp.asarray(features(extents, apart(new, known)), weights.dtype),
                1,
            )
            for known in grids.known
        ]
        for new in grids.new
    ]
    return jnp.moveaxis(jnp.stack([jnp.stack(row) for row in table]), 2, 0)


def _times(matrices: jax.Array, modes: jax.Array) -> jax.Array:
    """A small matrix on every mode: `(rows, columns, *n)` on `(columns, *n, samples)`."""
    rows = [
        sum(entry[..., None] * mode for entry, mode in zip(row, modes, strict=True))
        for row in matrices
    ]
    return jnp.stack(rows)


def _modes(grids: jax.Array, offsets: Sequence[Offset]) -> jax.Array:
    return jnp.stack([to_modes(g, offset) for g, offset in zip(grids, offsets, strict=True)])


def _sites(modes: jax.Array, offsets: Sequence[Offset]) -> jax.Array:
    return jnp.stack([to_sites(g, offset) for g, offset in zip(modes, offsets, strict=True)])
