"""Random symmetries of a lattice and of an even action, for fields that a model is trained on."""

from itertools import combinations

import jax
import jax.numpy as jnp

__all__ = ["transform"]


def transform(key: jax.Array, fields: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Apply a random sign to each field, and one random lattice symmetry to all `(n, *L)`."""
    sign_key, exchange_key, axis_key = jax.random.split(key, 3)
    signs = jax.random.rademacher(sign_key, (len(fields),), fields.dtype)
    fields = fields * signs.reshape(-1, *[1] * len(shape))
    for axis, other in combinations(range(1, 1 + len(shape)), 2):
        if shape[axis - 1] == shape[other - 1]:
            exchange = jax.random.bernoulli(jax.random.fold_in(exchange_key, axis + 9 * other))
            fields = jnp.where(exchange, jnp.swapaxes(fields, axis, other), fields)
    for axis, extent in enumerate(shape, start=1):
        shift, flip = jax.random.split(jax.random.fold_in(axis_key, axis))
        fields = jnp.roll(fields, jax.random.randint(shift, (), 0, extent), axis)
        fields = jnp.where(jax.random.bernoulli(flip), jnp.flip(fields, axis), fields)
    return fields
