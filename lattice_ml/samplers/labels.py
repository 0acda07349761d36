"""Connected components of bonds on a periodic lattice, for many chains at once.

Every site takes the smallest label of the sites that bonds connect it with.  A sweep goes once
forth and back along every axis, row by row, so that a label crosses the lattice along a straight
line of bonds in one sweep, and as many sweeps are needed as the path from a site to the smallest
one has turns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.samplers.flood import Grid, any_bit

__all__ = ["smallest_labels"]


def smallest_labels(grid: Grid, labels: jax.Array, bonds: list[jax.Array]) -> jax.Array:
    """The smallest label of every site's cluster.

    Args:
        grid: of the sites.
        labels: different integers of all sites of a chain, none negative, `grid.shape`.
        bonds: per axis, whether a site is connected with its next one.
    """
    largest = np.iinfo(labels.dtype).max
    walls = [
        lax.optimization_barrier(jnp.where(bond, 0, largest).astype(labels.dtype)) for bond in bonds
    ]
    pairs = [
        (axis, wall, lax.optimization_barrier(grid.shift(wall, -1, axis)))
        for axis, wall in enumerate(walls)
    ]

    def step(label: jax.Array) -> jax.Array:
        least = label
        for axis, wall, behind in pairs:
            ahead = grid.shift(label, 1, axis) | wall
            least = jnp.minimum(least, jnp.minimum(ahead, grid.shift(label, -1, axis) | behind))
        return least

    def steps(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        label = new = carry[0]
        for _ in range(4):
            new = lax.optimization_barrier(step(new))
        return new, any_bit(new ^ label)

    return lax.while_loop(lambda carry: carry[1], steps, (labels, jnp.bool_(True)))[0]
