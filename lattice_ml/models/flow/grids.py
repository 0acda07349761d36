r"""The 2^d grids of a lattice of even extents, coarse ones first, and neighbours across them.

A lattice of 2n sites along every axis is 2^d grids of n, each displaced by an *offset* of 0 or 1
along every axis.  The grid without displacement is the lattice of the next coarser level.  Grids
whose offsets have an even sum are the even sites of a checkerboard, the others the odd ones.

Fields have their samples last: a grid is `(*n, samples)`, several of them `(grids, *n, samples)`.
"""

import itertools
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Grids",
    "Offset",
    "displaced",
    "even",
    "merge",
    "nearest",
    "neighbours",
    "odd",
    "shifted",
    "split",
    "steps",
]

Offset = tuple[int, ...]


class Grids(NamedTuple):
    """Grids that are filled in, and who takes turns when all are refined after that.

    Args:
        known: offsets of the grids that there are.
        new: offsets of those to fill in.
        mapped: which of the known and new ones are mapped together, their even sites in a turn.
        moves: by what the lattice is displaced after each turn, so that it is the turn of others;
            after the last move comes the first.
    """

    known: tuple[Offset, ...]
    new: tuple[Offset, ...]
    mapped: tuple[int, ...]
    moves: tuple[Offset, ...]

    @property
    def distances(self) -> list[int]:
        """Along how many axes a new grid is displaced against known ones: near, far."""
        return sorted({sum(apart(self.new[0], other)) for other in self.known})


@cache
def even(ndim: int) -> tuple[Offset, ...]:
    """Offsets of the even sites, that of the coarse lattice first."""
    return tuple(s for s in itertools.product((0, 1), repeat=ndim) if sum(s) % 2 == 0)


@cache
def odd(ndim: int) -> tuple[Offset, ...]:
    """Offsets of the odd sites, each the even one of its place moved along the first axis."""
    return tuple((1 - s[0], *s[1:]) for s in even(ndim))


@cache
def steps(ndim: int, *, finest: bool) -> tuple[Grids, ...]:
    """How a level fills in its grids, one step after another.

    First the other even grids given the coarse one (in one dimension there are none), and they all
    take turns one by one; then, but on the finest level, the odd grids given the even ones, and odd
    and even ones take turns.
    """
    evens, odds = even(ndim), odd(ndim)
    n = len(evens)
    around = tuple(apart(a, b) for a, b in zip(evens, evens[1:] + evens[:1], strict=True))
    half = (2, *(0,) * (ndim - 1))  # so that the other half of the grids has its turn
    to_even = around if len(set(around)) > 1 else around[:1]
    to_odd = (apart(evens[0], odds[0]),)

    def by_halves(moves: tuple[Offset, ...]) -> tuple[Offset, ...]:
        return tuple(step for move in moves for step in (half, move))

    by_coarse = Grids(evens[:1], evens[1:], (0,), by_halves(to_even))
    by_even = Grids(evens, odds, tuple(range(n, 2 * n)), by_halves(to_odd))
    return (by_coarse,) * (n > 1) + (by_even,) * (not finest)


def apart(a: Offset, b: Offset) -> Offset:
    """Along which axes two grids are displaced against each other: 1 where they are."""
    return tuple(abs(x - y) for x, y in zip(a, b, strict=True))


def split(phi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Even and odd grids `(2^(d-1), *n, samples)` of fields `(*L, samples)`."""
    ndim = phi.ndim - 1
    found = [
        jnp.stack([phi[tuple(slice(shift, None, 2) for shift in offset)] for offset in offsets])
        for offsets in (even(ndim), odd(ndim))
    ]
    return found[0], found[1]


def merge(even_grids: jax.Array, odd_grids: jax.Array) -> jax.Array:
    """Fields `(*L, samples)` of even and odd grids: the inverse of `split`."""
    ndim = even_grids.ndim - 2
    extents, samples = even_grids.shape[1:-1], even_grids.shape[-1]
    grids = dict(zip(even(ndim) + odd(ndim), [*even_grids, *odd_grids], strict=True))
    stacked = jnp.stack([grids[s] for s in itertools.product((0, 1), repeat=ndim)])
    stacked = stacked.reshape(*(2,) * ndim, *extents, samples)
    axes = [axis for mu in range(ndim) for axis in (ndim + mu, mu)]
    return stacked.transpose(*axes, 2 * ndim).reshape(*(2 * n for n in extents), samples)


def neighbours(grids: jax.Array, known: tuple[Offset, ...], new: Sequence[Offset]) -> jax.Array:
    """Mean over the nearest known sites of every site of new grids.

    Args:
        grids: the known ones, `(known, *n, samples)`.
        known: their offsets.
        new: offsets of the new grids.

    Returns:
        `(new, *n, samples)`.
    """
    return jnp.stack([_mean(grids, known, offset) for offset in new])


def _mean(grids: jax.Array, known: tuple[Offset, ...], new: Offset) -> jax.Array:
    near = _nearest(known, new)
    parts = []
    for i in near:
        part = grids[i]
        for axis, differs in enumerate(apart(new, known[i])):
            if differs:
                part = part + shifted(part, axis, 1 if new[axis] else -1)
        parts.append(part)
    return sum(parts[1:], parts[0]) * (1 / len(nearest(known, new)))


def _nearest(known: Sequence[Offset], new: Offset) -> list[int]:
    """Which known grids have the nearest sites of a new one."""
    distances = [sum(apart(new, other)) for other in known]
    return [i for i, distance in enumerate(distances) if distance == min(distances)]


def nearest(known: Sequence[Offset], new: Offset) -> list[Offset]:
    """Where the nearest known sites of a site of a new grid are, seen from it."""
    axes = [
        [(-1, 1) if differs else (0,) for differs in apart(new, known[i])]
        for i in _nearest(known, new)
    ]
    return [step for each in axes for step in itertools.product(*each)]


def displaced(
    grids: jax.Array, offsets: tuple[Offset, ...], move: Sequence[int] | np.ndarray
) -> jax.Array:
    """Grids `(grids, *n, samples)` of the lattice whose site x is the site x + move of this one."""
    found = []
    for offset in offsets:
        target = [s + m for s, m in zip(offset, move, strict=True)]
        grid = grids[offsets.index(tuple(x % 2 for x in target))]
        for axis, x in enumerate(target):
            grid = shifted(grid, axis, x // 2) if x // 2 else grid
        found.append(grid)
    return jnp.stack(found)


def shifted(x: jax.Array, axis: int, step: int) -> jax.Array:
    """The values `step` sites ahead along an axis of a grid `(*n, samples)`."""
    return jnp.roll(x, -step, axis)
