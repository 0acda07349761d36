r"""Fourier acceleration: a kernel C(p) that makes slow modes as fast as the others.

Langevin dynamics with drift C K and noise covariance C has the stationary distribution of C = 1
for every positive C (G. G. Batrouni et al., Phys. Rev. D 32 (1985) 2736).  With

    C(p) = (p_hat_max^2 + m^2) / (p_hat^2 + m^2)

all modes of a free field of mass m relax at the rate of the fastest, and the largest stable step
stays what it was: C = 1 at the highest momentum.  Along each axis fields are transformed by an
orthonormal real basis, so white noise is white in modes too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.lattice import fourier_basis, wave_numbers
from lattice_ml.layout import Layout

__all__ = ["accelerate", "colour"]


def accelerate(drift: jax.Array, mass_squared: Any, layout: Layout) -> jax.Array:
    """C applied to the fields of a group."""
    kernel = _kernel(mass_squared, layout).astype(drift.dtype)
    return _to_sites(kernel * _to_modes(drift, layout), layout)


def colour(white: jax.Array, mass_squared: Any, layout: Layout) -> jax.Array:
    """Noise of covariance C from white noise of a group's shape."""
    kernel = jnp.sqrt(_kernel(mass_squared, layout)).astype(white.dtype)
    modes = kernel * white.reshape(*layout.shape, layout.group)
    return _to_sites(modes, layout)


def _kernel(mass_squared: Any, layout: Layout) -> jax.Array:
    """C in the order of the modes, `(*L, 1)`."""
    axes = [4 * np.sin(np.pi * wave_numbers(n) / n) ** 2 for n in layout.shape]
    p_hat_squared = np.sum(np.meshgrid(*axes, indexing="ij"), axis=0)[..., None]
    return jnp.asarray((p_hat_squared.max() + mass_squared) / (p_hat_squared + mass_squared))


def _to_modes(fields: jax.Array, layout: Layout) -> jax.Array:
    return _transform(fields, [fourier_basis(n) for n in layout.shape], layout)


def _to_sites(modes: jax.Array, layout: Layout) -> jax.Array:
    bases = [fourier_basis(n).T for n in layout.shape]
    return _transform(modes, bases, layout).reshape(layout.field_shape)


def _transform(x: jax.Array, matrices: list[np.ndarray], layout: Layout) -> jax.Array:
    """Apply a matrix along each lattice axis: `(*L, group)` whatever the shape of `x`."""
    x = x.reshape(*layout.shape, layout.group)
    for axis, matrix in enumerate(matrices):
        product = jnp.tensordot(jnp.asarray(matrix, x.dtype), x, (1, axis), precision="highest")
        x = jnp.moveaxis(product, 0, axis)
    return x
