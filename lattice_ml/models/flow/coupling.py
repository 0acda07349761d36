r"""Couplings: some sites are mapped one by one, given all that are not.

    x' = c h + width (e^s bend((x - c h) / width) + g),

where h is the mean over the nearest frozen sites, c h that of the site given h and width its
deviation from there in the Gaussian theory, and g, s and the shape of the bend are a network's of
what the frozen ones say: h, the mean of h around, nonlinear means, and the mean of all.  Grids
take turns, and of each its even and its odd sites: a site sees its neighbours on its own grid, too.
Where an extent is odd there are no such halves.  The log determinant is a sum over sites.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.models.flow.gaussian import Scales
from lattice_ml.models.flow.grids import Grids, displaced, merge, neighbours, shifted, split
from lattice_ml.models.flow.pointwise import Network, bend, network, solve_bend, squash
from lattice_ml.models.flow.sums import site_sum
from lattice_ml.models.model import host

__all__ = ["Coupling", "couple", "uncouple"]

_INPUTS = 6


@pytree
class Coupling:
    """Weights of couplings, one after another: `(n, ...)` each.

    Args:
        inner, outer: `(n,)`, scales of fields under a nonlinear neighbours' mean, and of h.
        network: of g, the bend's centre and its skew; of s and how much it flattens.
    """

    inner: jax.Array
    outer: jax.Array
    network: Network

    @classmethod
    def start(cls, random: np.random.Generator, n: int, hidden: int) -> "Coupling":
        """Couplings that change nothing."""
        found = Network.start(random, _INPUTS, hidden, n_odd=3, n_even=2, several=(n,))
        return cls(host(np.ones(n)), host(np.full(n, 0.5)), found)


def couple(
    weights: Coupling, scales: Scales, grids: Grids, fields: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Map grids in turn.

    Args:
        weights: of the couplings; there may be none.
        scales: of the lattice.
        grids: which, and who is mapped.
        fields: of the known and the new grids, `(grids, *n, samples)`.

    Returns:
        The fields, and the log of the Jacobian, `(samples,)`.
    """
    return _run(weights, scales, grids, fields, inverse=False)


def uncouple(
    weights: Coupling, scales: Scales, grids: Grids, fields: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The inverse of `couple`, and the log of the Jacobian of `couple`."""
    return _run(weights, scales, grids, fields, inverse=True)


def _run(
    weights: Coupling, scales: Scales, grids: Grids, fields: jax.Array, *, inverse: bool
) -> tuple[jax.Array, jax.Array]:
    """All turns by one body: what is compiled does not grow with who takes turns."""
    n, offsets = len(weights.inner), grids.known + grids.new
    moves = np.array(grids.moves) * (-1 if inverse else 1)
    displacements = [partial(displaced, offsets=offsets, move=move) for move in moves]
    whole = moves[np.arange(n) % len(moves)].sum(axis=0)
    if inverse:
        fields = displaced(fields, offsets, -whole)

    def body(
        state: tuple[jax.Array, jax.Array], item: tuple[jax.Array, Coupling]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        number, mine = item
        fields, log_jacobian = state
        if inverse:
            fields = lax.switch(number % len(moves), displacements, fields)
        fields, more = _turn(mine, scales, fields, grids, inverse=inverse)
        if not inverse:
            fields = lax.switch(number % len(moves), displacements, fields)
        return (fields, log_jacobian + more), None

    start = fields, site_sum(0 * fields[0])
    # a loop of one trip would be inlined, and what it computes be computed again by every reader
    (fields, log_jacobian), _ = lax.scan(body, start, (jnp.arange(n), weights), reverse=inverse)
    return fields if inverse else displaced(fields, offsets, -whole), log_jacobian


def _turn(
    weights: Coupling, scales: Scales, fields: jax.Array, grids: Grids, *, inverse: bool
) -> tuple[jax.Array, jax.Array]:
    offsets, turn, whole = grids.known + grids.new, grids.mapped, list(fields)
    frozen = [i for i in range(len(offsets)) if i not in turn]
    x = jnp.stack([whole[i] for i in turn])
    near = partial(
        neighbours, known=tuple(offsets[i] for i in frozen), new=[offsets[i] for i in turn]
    )
    halved = all(extent % 2 == 0 for extent in x.shape[1:-1])
    seen = _seen(weights, scales, jnp.stack([whole[i] for i in frozen]), x * halved, near)
    if halved:
        seen, (x, other) = jax.tree.map(lambda field: _halves(field)[0], seen), _halves(x)
    (g, c, skew), (s, flatten) = network(weights.network, seen.odd, seen.even)
    x = (x - seen.centre) / scales.width
    if inverse:
        bent = (x - g) * jnp.exp(-s)
        x = solve_bend(bent, skew, flatten)
        found, slope = x - c, bend(x, skew, flatten)[1]
    else:
        bent, slope = bend(x + c, skew, flatten)
        found = jnp.exp(s) * bent + g
    found = seen.centre + scales.width * found
    if halved:
        found = jnp.stack(list(map(merge, found, other)))
    for i, grid in zip(turn, found, strict=True):
        whole[i] = grid
    return jnp.stack(whole), site_sum(s + jnp.log(slope))


class _Seen(NamedTuple):
    """What a network sees at the mapped sites, and c h."""

    odd: list[jax.Array]
    even: jax.Array
    centre: jax.Array


def _seen(
    weights: Coupling,
    scales: Scales,
    frozen: jax.Array,
    beside: jax.Array,
    near: Callable[[jax.Array], jax.Array],
) -> _Seen:
    """At all sites of the mapped grids.

    Args:
        weights, scales: as of `couple`.
        frozen: grids that are not mapped.
        beside: those that are; of them a site sees its neighbours, the other half.
        near: mean over the nearest frozen sites.
    """
    h, size = near(frozen), scales.size

    def around(field: jax.Array) -> jax.Array:
        parts = [shifted(field, axis, step) for axis in range(1, h.ndim - 1) for step in (1, -1)]
        return sum(parts[1:], parts[0]) / (len(parts) * size)

    mean = jnp.mean(frozen, axis=tuple(range(h.ndim - 1))) / size
    nonlinear = near(squash(weights.inner / size * frozen)), squash(weights.outer / size * h)
    odd = [h / size, around(h), *nonlinear, jnp.broadcast_to(mean, h.shape), around(beside)]
    even = (near(frozen * frozen) - size**2) / scales.spread
    return _Seen(odd, even, scales.pull * h)


def _halves(grids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Even and odd sites of every grid."""
    evens, odds = zip(*map(split, grids), strict=True)
    return jnp.stack(evens), jnp.stack(odds)
