r"""Fourier modes of real fields by an orthogonal transform.

Along every axis the basis is `fourier_basis`.  The product basis is orthonormal:
sums of squares, Gaussian densities and traces look the same in sites and in modes, white noise is
white in both, and every translation-invariant, reflection-symmetric filter is diagonal.  Matrix
products beat a fast Fourier transform on fields of up to about 128 sites along an axis.

Fields are `(..., *L)`; modes are `(..., *modes)`, with the axes of a two-dimensional lattice
interchanged (one transposition fewer), so tables belong to `p_hat_squared` and `keys`.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Modes", "fourier_basis", "wave_numbers"]


@dataclass(frozen=True)
class Modes:
    """The real Fourier modes of a periodic lattice with extents `shape`; static under jit."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def volume(self) -> int:
        return int(np.prod(self.shape))

    @property
    def order(self) -> tuple[int, ...]:
        """Which lattice axis each axis of the modes belongs to."""
        return (1, 0) if self.ndim == 2 else tuple(range(self.ndim))

    @property
    def axes(self) -> tuple[int, ...]:
        """The last `ndim` axes."""
        return tuple(range(-self.ndim, 0))

    @property
    def zero(self) -> tuple[object, ...]:
        """Index of the constant mode, sqrt(V) times the mean of the field."""
        return (..., *[0] * self.ndim)

    @cached_property
    def wave_numbers(self) -> np.ndarray:
        """k of every mode, in mode layout: `(ndim, *modes)`, one row per lattice axis."""
        grid = np.meshgrid(*(wave_numbers(self.shape[mu]) for mu in self.order), indexing="ij")
        return np.asarray(np.stack([grid[self.order.index(mu)] for mu in range(self.ndim)]))

    @property
    def p_hat_mu_squared(self) -> np.ndarray:
        """4 sin^2(p_mu / 2) of every axis: `(ndim, *modes)` in float64."""
        extents = np.reshape(self.shape, (-1,) + (1,) * self.ndim)
        return np.asarray(4 * np.sin(np.pi * self.wave_numbers / extents) ** 2)

    @cached_property
    def p_hat_squared(self) -> np.ndarray:
        """sum_mu 4 sin^2(p_mu / 2): `(*modes)`."""
        return np.asarray(np.sum(self.p_hat_mu_squared, axis=0))

    @cached_property
    def orbits(self) -> np.ndarray:
        """Number of the set of modes that the lattice's symmetries map to each other: `(*modes)`.

        The symmetries are reflections, and exchanges of axes of equal extent.
        """
        rows = self.wave_numbers.reshape(self.ndim, -1)
        keys = np.array(self.shape)[:, None] * (max(self.shape) + 1) + rows
        _, orbit = np.unique(np.sort(keys, axis=0), axis=1, return_inverse=True)
        return orbit.reshape(self.p_hat_squared.shape)

    def forward(self, x: jax.Array) -> jax.Array:
        """Sites `(..., *L)` to modes, in the dtype of `x`."""
        return self._transform(x, [fourier_basis(extent).T for extent in self.shape])

    def inverse(self, modes: jax.Array) -> jax.Array:
        """Modes to sites `(..., *L)`: the transpose of `forward`."""
        return self._transform(modes, [fourier_basis(self.shape[mu]) for mu in self.order])

    def _transform(self, x: jax.Array, matrices: list[np.ndarray]) -> jax.Array:
        """Apply a matrix to each axis, the last one first."""
        for i, matrix in enumerate(reversed(matrices)):
            x = jnp.matmul(x, jnp.asarray(matrix, x.dtype), precision="highest")
            if self.ndim > 2 or (self.ndim == 2 and i == 0):
                x = jnp.moveaxis(x, -1, -self.ndim)
        return x


def fourier_basis(extent: int, shift: float = 0.0) -> np.ndarray:
    """Orthonormal real Fourier modes of one axis, at sites x + shift: rows `(L, L)` in float64.

    They are the constant, sqrt(2/L) cos(p x) and sqrt(2/L) sin(p x) for p = 2 pi k/L with
    0 < k < L/2, and for even L the alternating field, in the order of `wave_numbers`.

    Args:
        extent: L.
        shift: 0, or 1/2 for the sites between.
    """
    x = np.arange(extent) + shift
    rows = [np.full(extent, np.sqrt(1 / extent))]
    for k in range(1, (extent + 1) // 2):
        angle = 2 * np.pi * k * x / extent
        rows += [np.sqrt(2 / extent) * np.cos(angle), np.sqrt(2 / extent) * np.sin(angle)]
    if extent % 2 == 0:
        rows.append(np.sqrt(1 / extent) * (-1.0) ** np.arange(extent))
    return np.array(rows)


def wave_numbers(extent: int) -> np.ndarray:
    """k of every mode of `fourier_basis`: 0, 1, 1, 2, 2, ..., L/2."""
    return (np.arange(extent) + 1) // 2
