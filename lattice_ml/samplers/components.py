r"""Connected sites, for many chains at once: the cluster of one site, or labels of all clusters.

`flood` finds what bonds connect with a site.  Up to 32 sites along the first axis are the bits of
a word, so a step of the flood is a few bit operations per word, neighbouring words and chains side
by side.  All chains of a group flood until the last one is done.

`smallest_labels` gives every site the smallest label of those that bonds connect it with.  A sweep
goes once forth and back along every axis, row by row, so that a label follows a straight line of
bonds to its end within a sweep: as many sweeps are needed as the way to the smallest label has
turns, and one more to see that nothing changes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.fields.layout import Layout

__all__ = ["Grid", "flood", "smallest_labels"]

_FLOOD_STEPS = 4  # between tests whether all chains are done
_WORD = 32


class Grid:
    """Sites of a group with the first axis in words: where they lie and what is beside them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        merged = layout.merged and len(layout.shape) > 1
        self.shape = layout.field_shape if merged else (*layout.shape, layout.group)
        self.strides = [1] * len(layout.shape)
        if merged:
            self.strides[-1] = layout.group
        extent = layout.shape[0]
        self.bits = max(bits for bits in range(1, _WORD + 1) if extent % bits == 0)
        self.words = extent // self.bits
        self.full = np.uint32((1 << self.bits) - 1)

    def shift(self, x: jax.Array, by: int, axis: int) -> jax.Array:
        """What lies `by` sites further along an axis, or words along the first; periodic."""
        n = x.shape[axis]
        by *= self.strides[axis]
        if axis == x.ndim - 1:  # contiguous: two copies, where `take` would go number by number
            parts = [lax.slice_in_dim(x, by % n, n, axis=axis)]
            parts.append(lax.slice_in_dim(x, 0, by % n, axis=axis))
            return lax.optimization_barrier(lax.concatenate(parts, axis))
        return jnp.take(x, (np.arange(n) + by) % n, axis=axis, mode="clip")

    def pack(self, x: jax.Array) -> jax.Array:
        """Bits of the first axis in words: `(L, ...)` of bool to `(words, ...)`."""
        x = lax.optimization_barrier(x)
        parts = x.reshape(self.words, self.bits, *x.shape[1:]).astype(jnp.uint32)
        place = jnp.arange(self.bits, dtype=jnp.uint32).reshape(1, -1, *[1] * (x.ndim - 1))
        parts = parts << place
        while (n := parts.shape[1]) > 1:
            half = n // 2
            both = parts[:, :half] | parts[:, half : 2 * half]
            parts = jnp.concatenate([both, parts[:, 2 * half :]], axis=1) if n % 2 else both
        return lax.optimization_barrier(parts[:, 0])

    def unpack(self, words: jax.Array) -> jax.Array:
        """Invert `pack`."""
        place = jnp.arange(self.bits, dtype=jnp.uint32).reshape(1, -1, *[1] * (words.ndim - 1))
        return ((words[:, None] >> place) & 1).astype(bool).reshape(self.shape)

    def seed(self, uniforms: jax.Array) -> jax.Array:
        """One site of every chain from uniforms `(ndim, group)`, in words."""
        shape = self.layout.shape
        extents = np.array(shape, np.float32).reshape(-1, 1)
        x = jnp.minimum((uniforms * extents).astype(jnp.int32), np.array(shape).reshape(-1, 1) - 1)
        place = x[0] // self.bits
        for axis in range(1, len(shape)):
            place = place * shape[axis] + x[axis]
        n = self.words * self.layout.volume // shape[0]
        bit = jnp.uint32(1) << (x[0] % self.bits).astype(jnp.uint32)
        here = jnp.arange(n)[:, None] == place
        return jnp.where(here, bit, jnp.uint32(0)).reshape(self.words, *self.shape[1:])

    def up(self, words: jax.Array) -> jax.Array:
        """Every bit moved to the next site of the first axis."""
        carried = self.shift(words, -1, 0) >> np.uint32(self.bits - 1)
        return ((words << 1) | carried) & self.full

    def down(self, words: jax.Array) -> jax.Array:
        """Every bit moved to the site before."""
        carried = (self.shift(words, 1, 0) & 1) << np.uint32(self.bits - 1)
        return (words >> 1) | carried


def flood(grid: Grid, seed: jax.Array, bonds: list[jax.Array]) -> jax.Array:
    """All sites that bonds connect with the seed, in words.

    Args:
        grid: of the sites.
        seed: bits to start from.
        bonds: per axis, the bit of a site for the link to its next one.
    """
    first, *others = bonds
    from_below = lax.optimization_barrier(grid.up(first))
    pairs = [
        (axis, bond, lax.optimization_barrier(grid.shift(bond, -1, axis)))
        for axis, bond in enumerate(others, 1)
    ]

    def step(wet: jax.Array) -> jax.Array:
        more = wet | (grid.up(wet) & from_below) | (grid.down(wet) & first)
        for axis, bond, behind in pairs:
            more |= (grid.shift(wet, 1, axis) & bond) | (grid.shift(wet, -1, axis) & behind)
        return more

    def steps(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        wet = new = carry[0]
        for _ in range(_FLOOD_STEPS):
            new = lax.optimization_barrier(step(new))
        return new, _any_bit(new ^ wet)

    return lax.while_loop(lambda carry: carry[1], steps, (seed, jnp.bool_(True)))[0]


def smallest_labels(layout: Layout, labels: jax.Array, bonds: list[jax.Array]) -> jax.Array:
    """The smallest label of every site's cluster.

    Args:
        layout: of a group of chains.
        labels: integers, none negative and all of a chain different, `(*L, group)`.
        bonds: per axis, whether a site is connected with its next one, `(*L, group)`.
    """
    largest = np.iinfo(labels.dtype).max
    walls = [jnp.where(bond, 0, largest).astype(labels.dtype) for bond in bonds]

    def sweep(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        label = carry[0]
        for axis, wall in enumerate(walls):
            label = _backward(_forward(label, wall, axis), wall, axis)
        return label, _any_bit(label ^ carry[0])

    return lax.while_loop(lambda carry: carry[1], sweep, (labels, jnp.bool_(True)))[0]


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


def _any_bit(words: jax.Array) -> jax.Array:
    """Whether any bit is set, by halving: XLA's own reduction is scalar on a CPU."""
    rest = words.reshape(-1)
    while rest.size > 64 and rest.size % 2 == 0:
        rest = rest[: rest.size // 2] | rest[rest.size // 2 :]
    return jnp.any(rest != 0)
