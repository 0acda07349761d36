r"""The coarsest lattice: Gaussian modes, a zero mode of any shape, and couplings.

Modes are normals times the root of C, times a learned even function of the zero mode and of the
momentum.  The zero mode is a sum of monotone functions of a normal,

    x_0 = sum_j w_j e^{theta_j} z / sqrt(1 + (z / b_j)^2),

whose weights w fit the quantiles of what was measured: one well, two, or in between.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.fields.modes import wave_numbers
from lattice_ml.fields.types import Floats
from lattice_ml.models.flow.coupling import Coupling, couple, uncouple
from lattice_ml.models.flow.gaussian import Scales, features, scales, to_modes, to_sites
from lattice_ml.models.flow.grids import Grids, merge, split, steps
from lattice_ml.models.flow.pointwise import implicit
from lattice_ml.models.flow.sums import site_sum
from lattice_ml.models.model import host

__all__ = ["Base", "BaseTheory", "base_theory", "draw_base", "invert_base"]

# b_j; the last is linear.  Deep wells are a step and a logarithm: widths of all sizes near zero.
_WIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 0.004, 0.015, 0.05, 0.12, 0.25, 0.5, 0.9, 1.7, 1e4)
_SMALLEST = 2e-4  # part of a width in the mean slope: each can be learned that data may need
_NEEDED = 0.05  # part in the mean slope of a width that data do need
_WIDE = 0.9  # widths from here on are kept whatever data need
_SLOPES = 40  # of the quantiles
_FEATURES, _POWERS = 7, 3
_BISECTIONS, _NEWTON_STEPS = 48, 3
_NORMALS = 8.0
_ITERATIONS = 10_000


@pytree
class BaseTheory:
    """What is known of the coarsest lattice; a pytree of arrays.

    Args:
        propagator: C of its modes, `(*n)`.
        zero: w_j of the zero mode, `(widths,)`.
        scales: of its sites, for couplings.
    """

    propagator: jax.Array
    zero: jax.Array
    scales: Scales


@pytree
class Base:
    """Weights of the coarsest lattice; they do not know its extents.

    Args:
        widths: log of what multiplies the modes, `(features, powers)`: in features of the momentum
            and functions of the zero mode.
        zero: theta_j.
        coupling: of its sites, where its extents are even.
    """

    widths: jax.Array
    zero: jax.Array
    coupling: Coupling

    @classmethod
    def start(cls, random: np.random.Generator, n: int, hidden: int) -> "Base":
        """Gaussian modes and the zero mode that was measured."""
        widths, zero = np.zeros((_FEATURES, _POWERS)), np.zeros(len(_WIDTHS))
        return cls(host(widths), host(zero), Coupling.start(random, n, hidden))


def base_theory(propagator: np.ndarray, quantiles: Floats) -> BaseTheory:
    """Prepare the coarsest lattice.

    Args:
        propagator: <|phi(p)|^2>/V, `(*n)` in FFT order.
        quantiles: of the absolute value of its zero mode, at (i + 1/2)/n.
    """
    from scipy.optimize import nnls
    from scipy.special import ndtri

    n = len(quantiles)
    normals = ndtri(0.5 + (np.arange(n) + 0.5) / (2 * n))
    rows = normals[:, None] / np.sqrt(1 + (normals[:, None] / _WIDTHS) ** 2)
    slope = quantiles.mean() / normals.mean()
    weight = _slopes(normals, quantiles) ** -0.5  # an error where it is steep changes log w less
    size = np.linalg.norm(rows * weight[:, None], axis=0)

    def fitted(smallest: Floats) -> Floats:
        rest = quantiles - rows @ smallest
        found, _ = nnls(rows * weight[:, None] / size, rest * weight, maxiter=_ITERATIONS)
        return found / size + smallest

    # a part w of the slope bends log q by w / width^2 near zero: one well keeps no narrow widths
    widths = np.array(_WIDTHS)
    needed = fitted(np.zeros(len(widths))) > _NEEDED * slope
    narrowest = min(widths[np.argmax(needed)], _WIDE)
    zero = fitted(_SMALLEST * slope * np.minimum(1, widths / narrowest) ** 2)
    modes = propagator[np.ix_(*map(wave_numbers, propagator.shape))]
    return BaseTheory(host(modes), host(zero), scales(propagator, _checkerboard(propagator.ndim)))


def _slopes(normals: Floats, quantiles: Floats) -> Floats:
    """The derivative of measured quantiles, smooth: from some differences."""
    n = len(normals)
    some = np.unique(np.geomspace(4, n, _SLOPES).astype(int)) - 1
    change = np.maximum(np.diff(quantiles[some]), 1e-9 * quantiles.mean())
    middle = (normals[some][1:] + normals[some][:-1]) / 2
    slopes = np.log(change / np.diff(normals[some]))
    found: Floats = np.exp(np.interp(np.log(normals), np.log(middle), slopes))
    return found


def draw_base(weights: Base, theory: BaseTheory, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw the coarsest lattice.

    Args:
        weights, theory: of it.
        noise: standard normal, `(*n, samples)`.

    Returns:
        Fields `(*n, samples)` and the log of the Jacobian, `(samples,)`.
    """
    zero = (0,) * (noise.ndim - 1)
    x0, slope = _zero_mode(weights, theory, noise[zero])
    log_width = _log_width(weights, theory, x0, noise.shape[:-1])
    modes = (noise * jnp.exp(log_width)).at[zero].set(x0)
    log_jacobian = site_sum(log_width) - log_width[zero] + jnp.log(slope)
    phi = to_sites(modes, zero)
    if not _even(phi.shape[:-1]):
        return phi, log_jacobian
    grids, more = couple(
        weights.coupling, theory.scales, _checkerboard(phi.ndim - 1), jnp.concatenate(split(phi))
    )
    return merge(*jnp.split(grids, 2)), log_jacobian + more


def invert_base(weights: Base, theory: BaseTheory, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The noise of given fields, and the log of the Jacobian of `draw_base`: its inverse."""
    more = jnp.zeros(phi.shape[-1])
    if _even(phi.shape[:-1]):
        grids, more = uncouple(
            weights.coupling,
            theory.scales,
            _checkerboard(phi.ndim - 1),
            jnp.concatenate(split(phi)),
        )
        phi = merge(*jnp.split(grids, 2))
    zero = (0,) * (phi.ndim - 1)
    modes = to_modes(phi, zero)
    x0 = modes[zero]
    z0 = _solve_zero(weights, theory, x0)
    log_width = _log_width(weights, theory, x0, phi.shape[:-1])
    log_jacobian = site_sum(log_width) - log_width[zero]
    log_jacobian += jnp.log(_zero_mode(weights, theory, z0)[1])
    return (modes * jnp.exp(-log_width)).at[zero].set(z0), log_jacobian + more


def _even(extents: Sequence[int]) -> bool:
    return all(n % 2 == 0 for n in extents)


def _checkerboard(ndim: int) -> Grids:
    return steps(ndim, finest=False)[-1]


def _zero_mode(weights: Base, theory: BaseTheory, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The zero mode of normals `(samples,)`, and its derivative."""
    w = (theory.zero * jnp.exp(weights.zero))[:, None]
    r = lax.rsqrt(1 + (z / jnp.asarray(_WIDTHS, z.dtype)[:, None]) ** 2)
    return z * jnp.sum(w * r, axis=0), jnp.sum(w * r * r * r, axis=0)


def _solve_zero(weights: Base, theory: BaseTheory, x0: jax.Array) -> jax.Array:
    """Normals of zero modes: bisection, because the map may be steep, and Newton's method."""

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        below = _zero_mode(weights, theory, middle)[0] < x0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    def newton(_: int, z: jax.Array) -> jax.Array:
        value, slope = _zero_mode(weights, theory, z)
        return z - (value - x0) / slope

    def find(_: object, reach: jax.Array) -> jax.Array:
        low, high = lax.fori_loop(0, _BISECTIONS, halve, (-reach, reach))
        return lax.fori_loop(0, _NEWTON_STEPS, newton, (low + high) / 2)

    reach = jnp.full_like(x0, _NORMALS)
    return implicit(lambda z: _zero_mode(weights, theory, z)[0] - x0, reach, find)


def _log_width(
    weights: Base, theory: BaseTheory, x0: jax.Array, extents: Sequence[int]
) -> jax.Array:
    """Log of what multiplies the normal of every mode, `(*n, samples)`."""
    zero = (0,) * len(extents)
    q = x0 * x0 / theory.propagator[zero]
    powers = jnp.stack([jnp.ones_like(q), q / (1 + q), 1 / (1 + 4 * q)])
    table = jnp.asarray(features(extents, zero), x0.dtype)
    learned = jnp.einsum("f...,fp,ps->...s", table, weights.widths, powers)
    return learned + 0.5 * jnp.log(theory.propagator)[..., None]
