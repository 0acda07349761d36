r"""The Gaussian part of a level: conditional means and covariance roots from the propagator.

Grids of a lattice with the propagator C(p) are jointly Gaussian in its Gaussian theory, and their
covariances <a_s a_t> depend on the distance alone.  In the real Fourier modes of the grids, those
of displaced ones with displaced sines and cosines, all of them are diagonal: a mode of each grid
couples to the same mode of the others.  So the conditional distribution of new grids given known
ones is one small matrix per mode,

    <new | known> = K known,   K = C_nk C_kk^-1,   T T^t = C_nn - K C_kn,   T symmetric.

Where the mean of all sites has two wells +-m, C is that within one, C(0) - V m^2 of the zero mode,
and the mean of uniform fields is what known ones say of the well:

    <new | known> = K known + (1 - K 1) m tanh(m 1^t C_kk^-1 known).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.fields.modes import fourier_basis, wave_numbers
from lattice_ml.fields.types import Scalar
from lattice_ml.models.flow.grids import Grids, Offset, apart, nearest
from lattice_ml.models.model import host

__all__ = [
    *("Conditional", "Scales", "conditional", "covariances", "features", "scales"),
    *("to_modes", "to_sites"),
]

_SMALLEST = 1e-10  # of an eigenvalue of a conditional covariance, relative to the largest


@pytree
class Scales:
    """What is usual in a lattice, by which networks measure what they see.

    Args:
        size: root mean square of a site.
        spread: deviation of its square.
        pull: the mean of a site of the mapped grids, given that of its nearest others, is this
            times the latter.
        width: its deviation from there.
    """

    size: Scalar
    spread: Scalar
    pull: Scalar
    width: Scalar


@pytree
class Conditional:
    """New grids given known ones, in the Gaussian theory; a pytree of arrays.

    Args:
        mean: K of every mode, `(new, known, *n)`.
        root: T / width, `(new, new, *n)`.
        log_root: log |det T| of all modes.
        width: root mean square of the new sites given the known ones.
        lean: of the mean of every known grid in the evidence for a well, `(known,)`.
        well: what a well adds to the mean of every new grid, `(new,)`.
        scales: of all of them.
    """

    mean: jax.Array
    root: jax.Array
    log_root: Scalar
    width: Scalar
    lean: jax.Array
    well: jax.Array
    scales: Scales


def conditional(propagator: np.ndarray, grids: Grids, well: float) -> Conditional:
    """Condition grids on others.

    Args:
        propagator: <|phi(p)|^2>/V of the lattice that the grids make, `(*L)` in FFT order.
        grids: the known and the new ones.
        well: all sites are normal around plus or minus this.
    """
    inside = np.array(propagator)
    inside.flat[0] = max(inside.flat[0] - well**2 * inside.size, _SMALLEST * inside.max())
    by_distance = covariances(inside)
    offsets = [*grids.known, *grids.new]

    def block(rows: Sequence[Offset], columns: Sequence[Offset]) -> np.ndarray:
        table = [[by_distance[apart(a, b)] for b in columns] for a in rows]
        return np.moveaxis(np.array(table), (0, 1), (-2, -1))  # (*n, rows, columns)

    whole, n = block(offsets, offsets), len(grids.known)
    between = whole[..., n:, :n]
    mean = np.linalg.solve(whole[..., :n, :n], np.swapaxes(between, -1, -2))
    mean = np.swapaxes(mean, -1, -2)
    left = whole[..., n:, n:] - mean @ np.swapaxes(between, -1, -2)
    values, vectors = np.linalg.eigh(left)
    values = np.maximum(values, _SMALLEST * values.max())
    root = (vectors * np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    width = np.sqrt(np.mean(np.sum(root**2, axis=-1)))
    zero = (0,) * propagator.ndim
    known = np.linalg.solve(whole[zero][:n, :n], np.ones(n))
    return Conditional(
        mean=host(np.moveaxis(mean, (-2, -1), (0, 1))),
        root=host(np.moveaxis(root / width, (-2, -1), (0, 1))),
        log_root=float(0.5 * np.sum(np.log(values))),
        width=float(width),
        lean=host(well * whole[..., 0, 0].size * known),
        well=host(well * (1 - mean[zero].sum(axis=-1))),
        scales=scales(propagator, grids),
    )


def scales(propagator: np.ndarray, grids: Grids) -> Scales:
    """Scales of a lattice; the spread is that of normal sites around the mean of all.

    Args:
        propagator: as of `conditional`.
        grids: who is mapped given the others.
    """
    correlation = np.fft.ifftn(propagator).real
    offsets = grids.known + grids.new
    mapped = offsets[grids.mapped[0]]
    others = [offset for i, offset in enumerate(offsets) if i not in grids.mapped]
    around = np.array(nearest(others, mapped))

    def mean(distances: np.ndarray) -> float:
        places = np.moveaxis(distances % propagator.shape, -1, 0)
        return float(np.mean(correlation[tuple(places)]))

    square, of_mean = mean(0 * around), float(propagator.flat[0]) / propagator.size
    together = mean(around[:, None] - around)
    pull = mean(around) / together
    return Scales(
        size=math.sqrt(square),
        spread=math.sqrt(2 * max(square**2 - of_mean**2, 1e-12)),
        pull=pull,
        width=math.sqrt(max(square - pull**2 * together, 1e-12)),
    )


def covariances(propagator: np.ndarray) -> dict[Offset, np.ndarray]:
    """Covariance of two grids in their modes, `(*n)`, by the distance of their offsets."""
    correlation = np.fft.ifftn(propagator).real
    found = {}
    for distance in itertools.product((0, 1), repeat=propagator.ndim):
        part = correlation[tuple(slice(shift, None, 2) for shift in distance)]
        for axis, (extent, shift) in enumerate(zip(part.shape, distance, strict=True)):
            angle = np.outer(wave_numbers(extent), np.arange(extent) + 0.5 * shift)
            cosines = np.cos(2 * np.pi * angle / extent)
            part = np.moveaxis(np.tensordot(cosines, part, (1, axis)), 0, axis)
        found[distance] = part
    return found


def features(extents: Sequence[int], offset: Offset) -> np.ndarray:
    """Smooth functions of the momentum that filters are made of, `(7, *n)`.

    The last is antisymmetric between the axes along which a grid is displaced and the others; it
    is zero where there are none of either.
    """
    cosines = np.stack(
        np.meshgrid(*[np.cos(2 * np.pi * wave_numbers(n) / n) for n in extents], indexing="ij")
    )
    mean = cosines.mean(axis=0)
    p_squared = 2 * len(extents) * (1 - mean)  # of the grid, in units of its own spacing
    along = np.array(offset, bool)
    mixed = 0 * mean
    if along.any() and not along.all():
        mixed = (cosines[along].mean(axis=0) - cosines[~along].mean(axis=0)) / 2
    rational = [1 / (1 + 5 * p_squared), 1 / (1 + p_squared)]
    product = np.prod(cosines, axis=0)
    return np.stack([np.ones_like(mean), mean, mean**2, product, *rational, mixed])


def to_modes(grid: jax.Array, offset: Offset) -> jax.Array:
    """Modes `(*n, samples)` of a grid `(*n, samples)` with an offset, orthonormal."""
    return _transform(grid, [fourier_basis(n, s / 2) for n, s in _axes(grid, offset)])


def to_sites(modes: jax.Array, offset: Offset) -> jax.Array:
    """The grid of modes: the inverse, and the transpose, of `to_modes`."""
    return _transform(modes, [fourier_basis(n, s / 2).T for n, s in _axes(modes, offset)])


def _axes(grid: jax.Array, offset: Offset) -> list[tuple[int, int]]:
    return list(zip(grid.shape[:-1], offset, strict=True))


def _transform(x: jax.Array, matrices: Sequence[np.ndarray]) -> jax.Array:
    for axis, matrix in enumerate(matrices):
        if len(matrix) > 1:
            shape = x.shape
            before = int(np.prod(shape[:axis]))
            table = jnp.asarray(matrix, x.dtype)
            flat = x.reshape(before, shape[axis], -1)
            x = jnp.einsum("lj,bjc->blc", table, flat, precision="highest").reshape(shape)
    return x
