r"""Fourier acceleration: a kernel C(p) that makes slow modes as fast as the others.

Langevin dynamics with drift C K and noise covariance C has the stationary distribution of C = 1
for every positive C (G. G. Batrouni et al., Phys. Rev. D 32 (1985) 2736).  With

    C(p) = (p_hat_max^2 + m^2) / (p_hat^2 + m^2)

all modes of a free field of mass m relax at the rate of the fastest, and the largest stable step
stays what it was: C = 1 at the highest momentum.  Along each axis fields are transformed by an
orthonormal real basis, so white noise is white in modes too.  On a CPU products with matrices are
faster than FFTs for extents up to about 64; C^(-1) needs neither, it is a sum over neighbours.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.layout import Layout
from lattice_ml.fields.modes import Modes, fourier_basis
from lattice_ml.fields.types import Scalar

__all__ = ["accelerate", "accelerator", "colour", "kernel", "slow_down"]

_ROWS = 1 << 24  # numbers in the matrices of an `accelerator`: 64 MiB of float32


def accelerate(drift: jax.Array, mass_squared: Scalar, layout: Layout) -> jax.Array:
    """C applied to the fields of a group."""
    diagonal = _kernel(mass_squared, layout).astype(drift.dtype)
    bases = [fourier_basis(n) for n in layout.shape]
    return _to_sites(diagonal * _transform(drift, bases, layout), layout)


def accelerator(
    mass_squared: Scalar, layout: Layout, dtype: jax.typing.DTypeLike
) -> Callable[[jax.Array], jax.Array]:
    """`accelerate` prepared for many calls: both transforms of the last axis and C as one matrix.

    There is such a matrix for every momentum along the other axes, V L numbers in all; where that
    is too much, `accelerate` itself comes back.
    """
    *others, last = layout.shape
    if layout.volume * last > _ROWS:
        return lambda fields: accelerate(fields, mass_squared, layout)
    basis = jnp.asarray(fourier_basis(last), dtype)
    diagonal = _kernel(mass_squared, layout).astype(dtype).reshape(-1, last)
    rows = jnp.einsum("rk,kx,ky->rxy", diagonal, basis, basis, precision="highest")
    bases = [fourier_basis(n) for n in others]

    def apply(fields: jax.Array) -> jax.Array:
        x = _transform(fields, bases, layout)
        x = jnp.matmul(rows, x.reshape(-1, last, layout.group), precision="highest")
        return _transform(x, [basis.T for basis in bases], layout).reshape(layout.field_shape)

    return apply


def slow_down(fields: jax.Array, mass_squared: Scalar, layout: Layout) -> jax.Array:
    """C^(-1) applied to the fields of a group: (m^2 - Laplacian) / (p_hat_max^2 + m^2)."""
    diagonal = 2 * len(layout.shape) + jnp.asarray(mass_squared, fields.dtype)
    scale = jnp.asarray(_p_hat_squared(layout.shape).max() + mass_squared, fields.dtype)
    return (diagonal * fields - layout.hop(fields)) / scale


def kernel(p_hat_squared: np.ndarray, mass_squared: Scalar) -> np.ndarray | jax.Array:
    """C at all momenta of a lattice, in the order of their p_hat^2."""
    return (p_hat_squared.max() + mass_squared) / (p_hat_squared + mass_squared)


def colour(white: jax.Array, mass_squared: Scalar, layout: Layout) -> jax.Array:
    """Noise of covariance C from white noise of a group's shape."""
    diagonal = jnp.sqrt(_kernel(mass_squared, layout)).astype(white.dtype)
    modes = diagonal * white.reshape(*layout.shape, layout.group)
    return _to_sites(modes, layout)


def _kernel(mass_squared: Scalar, layout: Layout) -> jax.Array:
    """C in the order of the modes, `(*L, 1)`."""
    return jnp.asarray(kernel(_p_hat_squared(layout.shape), mass_squared))[..., None]


def _p_hat_squared(shape: tuple[int, ...]) -> np.ndarray:
    """p_hat^2 in the order of the modes, `(*L)`."""
    modes = Modes(shape)
    return modes.p_hat_squared.transpose(modes.order)


def _to_sites(modes: jax.Array, layout: Layout) -> jax.Array:
    bases = [fourier_basis(n).T for n in layout.shape]
    return _transform(modes, bases, layout).reshape(layout.field_shape)


def _transform(x: jax.Array, matrices: list[np.ndarray], layout: Layout) -> jax.Array:
    """Apply a matrix along each of the first lattice axes: `(*L, group)` whatever `x` is like."""
    for axis, matrix in enumerate(matrices):
        extent, before = len(matrix), math.prod(layout.shape[:axis])
        # One matrix per row of a batch: a single one would make XLA transpose the fields.
        batch = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (before, extent, extent))
        x = jnp.matmul(batch, x.reshape(before, extent, -1), precision="highest")
    return x.reshape(*layout.shape, layout.group)
