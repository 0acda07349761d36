r"""Pointwise pieces of the flow: a monotone map, and a small network whose outputs are its shape.

The map x -> x + gamma (sqrt(1 + x^2) - 1) + delta x / sqrt(1 + x^2) skews and flattens a normal
variable; with |gamma| < 1/2 and |delta| < 2/5 its slope is at least 1/10, whatever the network
says.  Networks are functions of fields that stay as they are while others are mapped: of odd fields
y and one even field e, with hidden units u / sqrt(1 + u^2 + e), odd outputs linear in these and in
y, and even ones in 1 / sqrt(1 + u^2 + e).  So they are equivariant under phi -> -phi.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.models.model import host

__all__ = ["Network", "bend", "bounded", "network", "solve", "solve_bend", "squash"]

_LARGEST_SKEW, _LARGEST_FLATTENING = 0.5, 0.4
_NEWTON_STEPS = 10
_MARGIN = 1e-3  # of a bracket


@pytree
class Network:
    """Weights of a network with `inputs` odd fields and `hidden` units.

    Args:
        inner: `(hidden, inputs)`.
        even_in: `(hidden,)`, squared: how much the even field damps a unit.
        odd_out: `(n_odd, hidden)`.
        skip: `(n_odd, inputs)`.
        even_out: `(n_even, hidden)`.
        bias: `(n_even,)`.
    """

    inner: jax.Array
    even_in: jax.Array
    odd_out: jax.Array
    skip: jax.Array
    even_out: jax.Array
    bias: jax.Array

    @classmethod
    def start(
        cls,
        random: np.random.Generator,
        inputs: int,
        hidden: int,
        n_odd: int,
        n_even: int,
        several: tuple[int, ...] = (),
    ) -> "Network":
        """Random features, and outputs that are zero; of `several` networks if asked."""
        inner = random.normal(size=(*several, hidden, inputs)) * 0.7 / np.sqrt(inputs)
        return cls(
            inner=host(inner),
            even_in=host(random.normal(size=(*several, hidden)) / 2),
            odd_out=host(np.zeros((*several, n_odd, hidden))),
            skip=host(np.zeros((*several, n_odd, inputs))),
            even_out=host(np.zeros((*several, n_even, hidden))),
            bias=host(np.zeros((*several, n_even))),
        )


def network(
    weights: Network, odd: Sequence[jax.Array], even: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Odd and even outputs, fields like the inputs."""

    def wide(per_unit: jax.Array) -> jax.Array:
        return per_unit.reshape(-1, *[1] * even.ndim)

    y = jnp.stack(odd)
    u = jnp.tensordot(weights.inner, y, 1)
    r = lax.rsqrt(1 + u * u + wide(weights.even_in**2) * even)
    odd_out = jnp.tensordot(weights.odd_out, u * r, 1) + jnp.tensordot(weights.skip, y, 1)
    even_out = jnp.tensordot(weights.even_out, r, 1) + wide(weights.bias)
    return list(odd_out), list(even_out)


def squash(x: jax.Array) -> jax.Array:
    """x / sqrt(1 + x^2)."""
    return x * lax.rsqrt(1 + x * x)


def bounded(x: jax.Array, bound: float) -> jax.Array:
    """x for small x, and within +-bound."""
    return bound * squash(x / bound)


def bend(x: jax.Array, skew: jax.Array, flatten: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The monotone map and its derivative; the shape may be any numbers."""
    gamma, delta = bounded(skew, _LARGEST_SKEW), bounded(flatten, _LARGEST_FLATTENING)
    r = lax.rsqrt(1 + x * x)
    s = x * r
    return x + gamma * (x * s + r - 1) + delta * s, 1 + gamma * s + delta * r * r * r


def solve_bend(y: jax.Array, skew: jax.Array, flatten: jax.Array) -> jax.Array:
    """The x that `bend` maps to y."""
    reach = 2 * jnp.abs(y) + 1  # |bend(x)| > |x| / 2 - 0.4
    return solve(lambda x: bend(x, skew, flatten), y, y, (-reach, reach), _NEWTON_STEPS)


def solve(
    function: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    y: jax.Array,
    guess: jax.Array,
    ends: tuple[jax.Array, jax.Array],
    steps: int,
) -> jax.Array:
    """The x between ends that a growing function maps to y: Newton's method kept in a bracket.

    `function` gives its value and its derivative.  Where a step leaves the bracket it is halved
    instead; not where it leaves by rounding, when x is found and the other end may be far.
    """

    def step(_: int, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, low, high = found
        value, slope = function(x)
        low, high = jnp.where(value < y, x, low), jnp.where(value < y, high, x)
        x = x - (value - y) / slope
        margin = _MARGIN * (high - low)
        inside = (x >= low - margin) & (x <= high + margin)
        return jnp.where(inside, x, (low + high) / 2), low, high

    return lax.fori_loop(0, steps, step, (guess, *ends))[0]
