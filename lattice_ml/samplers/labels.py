"""Connected components of bonds on a periodic lattice, for many chains at once.

Every site takes the smallest label of the sites that bonds connect it with.  A sweep goes once
forth and back along every axis, row by row, so that a label follows a straight line of bonds to its
end within a sweep: as many sweeps are needed as the way to the smallest label has turns, and one
more to see that nothing changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.fields.layout import Layout
from lattice_ml.samplers.flood import any_bit

__all__ = ["smallest_labels"]


def smallest_labels(layout: Layout, labels: jax.Array, bonds: list[jax.Array]) -> jax.Array:
    """The smallest label of every site's cluster.

    Args:
        layout: of a group of chains.
        labels: integers, none negative and all of a chain different, `(*L, group)`.
        bonds: per axis, whether a site is connected with its next one, `(*L, group)`.
    """
    largest = np.iinfo(labels.dtype).max
    walls = [jnp.where(bond, 0, largest).astype(labels.dtype) for bond in bonds]

    def sweep(label: jax.Array) -> jax.Array:
        for axis, wall in enumerate(walls):
            label = _backward(_forward(label, wall, axis), wall, axis)
        return label

    def sweeps(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        label, _ = carry
        new = sweep(label)
        return new, any_bit(new ^ label)

    return lax.while_loop(lambda carry: carry[1], sweeps, (labels, jnp.bool_(True)))[0]


def _forward(label: jax.Array, wall: jax.Array, axis: int) -> jax.Array:
    """Rows take the smaller labels of those before them, in order."""
    n = label.shape[axis]

    def row(i: jax.Array, label: jax.Array) -> jax.Array:
        before = jnp.where(i == 0, n - 1, i - 1)
        return _take(label, i, before, _row(wall, before, axis), axis)

    return lax.fori_loop(0, n, row, label)


def _backward(label: jax.Array, wall: jax.Array, axis: int) -> jax.Array:
    """Rows take the smaller labels of those behind them, in reverse order."""
    n = label.shape[axis]

    def row(k: jax.Array, label: jax.Array) -> jax.Array:
        i = n - 1 - k
        return _take(label, i, jnp.where(k == 0, 0, i + 1), _row(wall, i, axis), axis)

    return lax.fori_loop(0, n, row, label)


def _take(label: jax.Array, i: jax.Array, of: jax.Array, wall: jax.Array, axis: int) -> jax.Array:
    new = jnp.minimum(_row(label, i, axis), _row(label, of, axis) | wall)
    return lax.dynamic_update_index_in_dim(label, new, i, axis)


def _row(x: jax.Array, i: jax.Array, axis: int) -> jax.Array:
    return lax.dynamic_index_in_dim(x, i, axis, keepdims=False)
