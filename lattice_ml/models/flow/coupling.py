r"""Couplings: some grids are mapped site by site, given those that are not.

    x' = c h + width (e^s bend((x - c h) / width) + g),

where h is the mean over the nearest frozen sites, c h that of the site given h and width its
deviation from there in the Gaussian theory, and g, s and the shape of the bend are a
network's of what the frozen ones say: h, the mean of h around, a nonlinear neighbours' mean, and
the mean of all.  Grids take turns; the log determinant is a sum over sites.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.models.flow.gaussian import Scales
from lattice_ml.models.flow.grids import Grids, displaced, neighbours, shifted
from lattice_ml.models.flow.pointwise import Network, bend, network, solve_bend, squash
from lattice_ml.models.flow.sums import site_sum
from lattice_ml.models.model import host

__all__ = ["Coupling", "couple", "uncouple"]

_INPUTS = 5


@pytree
class Coupling:
    """Weights of couplings, one after another: `(n, ...)` each.

    Args:
        inner, outer: `(n,)`, scales of fields under a nonlinear neighbours' mean, and of h.
        network: of g and the skew; of s and how much the bend flattens.
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
    turn, offsets = grids.mapped, grids.known + grids.new
    frozen = [i for i in range(len(offsets)) if i not in turn]
    known, mapped = tuple(offsets[i] for i in frozen), [offsets[i] for i in turn]
    whole = list(fields)
    fields, x = jnp.stack([whole[i] for i in frozen]), jnp.stack([whole[i] for i in turn])

    def near(values: jax.Array) -> jax.Array:
        return neighbours(values, known, mapped)

    h = near(fields)
    mean = jnp.mean(fields, axis=tuple(range(fields.ndim - 1)))
    axes = range(1, h.ndim - 1)
    seen = h / scales.size
    around = [shifted(seen, axis, step) for axis in axes for step in (1, -1)]
    odd = [
        seen,
        sum(around[1:], around[0]) / len(around),
        near(squash(weights.inner / scales.size * fields)),
        squash(weights.outer * seen),
        jnp.broadcast_to(mean / scales.size, h.shape),
    ]
    even = (near(fields * fields) - scales.size**2) / scales.spread
    (g, c, skew), (s, flatten) = network(weights.network, odd, even)
    centre = scales.pull * h
    x = (x - centre) / scales.width
    if inverse:
        x = solve_bend((x - g) * jnp.exp(-s), skew, flatten)
        found, slope = x - c, bend(x, skew, flatten)[1]
    else:
        bent, slope = bend(x + c, skew, flatten)
        found = jnp.exp(s) * bent + g
    found = centre + scales.width * found
    for i, grid in zip(turn, found, strict=True):
        whole[i] = grid
    return jnp.stack(whole), site_sum(s + jnp.log(slope))
