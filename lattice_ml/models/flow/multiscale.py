r"""The multiscale flow: fields drawn from coarse to fine in one pass, with their exact density.

A lattice of even extents is coarsened by keeping every second site along each axis until its
extents are small or odd.  The coarsest is drawn first (`base.py`).  A level then adds the other
even sites given the coarse lattice, and the odd sites given the even ones,

    p(coarse) p(even | coarse) p(odd | even),

each by `filling.py` and refined by couplings.  On the finest level the odd sites are independent
given the even ones and drawn from their exact distribution (`heat_bath.py`).  All maps are odd, so
the density is even.

Fields are in units in which the site term is (1 - 2 b) phi^2 + b phi^4, with the samples last.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.fields.types import Scalar
from lattice_ml.models.flow.base import Base, BaseTheory, draw_base, invert_base
from lattice_ml.models.flow.coupling import Coupling, couple, uncouple
from lattice_ml.models.flow.filling import Filling, empty, fill
from lattice_ml.models.flow.gaussian import Conditional
from lattice_ml.models.flow.grids import even, merge, neighbours, odd, split, steps
from lattice_ml.models.flow.heat_bath import HeatBath, draw_sites, log_partition, solve_sites
from lattice_ml.models.flow.sums import site_sum

__all__ = ["Step", "Tables", "Weights", "draw", "invert", "log_weight"]


@pytree
class Step:
    """Weights of a step of a level, by which grids are filled in and then all are refined."""

    filling: Filling
    coupling: Coupling


@pytree
class Weights:
    """All weights; `levels` begins with the finest, each has its steps in order."""

    levels: tuple[tuple[Step, ...], ...]
    base: Base


@pytree
class Tables:
    """What a theory says to the flow on one lattice; a pytree of arrays.

    Args:
        levels: the Gaussian part of every step, as in `Weights`.
        base: of the coarsest lattice.
        heat_bath: of the finest odd sites.
        h, a, b: couplings in the flow's units.
        unit: fields are this times those of the flow.
    """

    levels: tuple[tuple[Conditional, ...], ...]
    base: BaseTheory
    heat_bath: HeatBath
    h: Scalar
    a: Scalar
    b: Scalar
    unit: Scalar

    def astype(self, dtype: jax.typing.DTypeLike) -> "Tables":
        """All numbers in another precision."""
        found: Tables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self)
        return found

    @property
    def dtype(self) -> np.dtype:
        return jnp.asarray(self.base.propagator).dtype

    @property
    def base_extents(self) -> tuple[int, ...]:
        return self.base.propagator.shape

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n << len(self.levels) for n in self.base_extents)


def draw(weights: Weights, tables: Tables, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw fields.

    Args:
        weights: of the flow.
        tables: of the theory.
        noise: standard normal, `(V, samples)`, coarse sites first.

    Returns:
        Fields `(*L, samples)` in the units of the action, and their log density `(samples,)`, in
        float64 where x64 is on.
    """
    even_sites, log_jacobian, rest = _draw_even(weights, tables, noise)
    field = _field(tables, even_sites)
    odd_sites, slope = draw_sites(tables.heat_bath, field, rest.reshape(field.shape))
    log_jacobian = log_jacobian + site_sum(jnp.log(slope)) + _log_units(tables)
    return tables.unit * merge(even_sites, odd_sites), _log_normal(noise) - log_jacobian


def invert(weights: Weights, tables: Tables, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The noise that `draw` makes fields `(*L, samples)` of, and their log density: its inverse."""
    sites, odd_sites = split(phi / tables.unit)
    z, slope = solve_sites(tables.heat_bath, _field(tables, sites), odd_sites)
    log_jacobian = site_sum(jnp.log(slope)) + _log_units(tables)
    parts = [z]  # from fine to coarse
    for number, (level, theories) in enumerate(zip(weights.levels, tables.levels, strict=True)):
        if number:
            sites = jnp.concatenate(split(sites[0]))
        each = zip(level, theories, steps(phi.ndim - 1, finest=not number), strict=True)
        for step, theory, grids in reversed(list(each)):
            sites, more = uncouple(step.coupling, theory.scales, grids, sites)
            sites, new = jnp.split(sites, [len(grids.known)])
            z, also = empty(step.filling, theory, grids, sites, new)
            parts.append(z)
            log_jacobian = log_jacobian + more + also
    z, more = invert_base(weights.base, tables.base, sites[0])
    noise = jnp.concatenate([part.reshape(-1, phi.shape[-1]) for part in [z, *parts[::-1]]])
    return noise, _log_normal(noise) - log_jacobian - more


def log_weight(weights: Weights, tables: Tables, noise: jax.Array) -> jax.Array:
    """Log of exp(-S) / q of the even sites, the odd ones integrated out: `(samples,)`.

    Args:
        weights, tables: as of `draw`.
        noise: `(V / 2, samples)`: that of the even sites.
    """
    even_sites, log_jacobian, _ = _draw_even(weights, tables, noise)
    square = even_sites * even_sites
    action = square * (tables.a + tables.b * square)
    odd_sites = log_partition(tables.heat_bath, _field(tables, even_sites))
    log_jacobian = log_jacobian + _log_units(tables)
    return site_sum(odd_sites - action) + log_jacobian - _log_normal(noise)


def _draw_even(
    weights: Weights, tables: Tables, noise: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Even grids of the finest level, the log of their Jacobian, and the noise that is left."""

    def take(grids: int, like: jax.Array) -> jax.Array:
        nonlocal noise
        n = grids * math.prod(like.shape[:-1])
        taken, noise = noise[:n], noise[n:]
        return taken.reshape(grids, *like.shape)

    extents = tables.base_extents
    n = math.prod(extents)
    first, noise = noise[:n].reshape(*extents, -1), noise[n:]
    phi, log_jacobian = draw_base(weights.base, tables.base, first)
    for number in range(len(weights.levels) - 1, -1, -1):
        sites = phi[None]
        each = zip(weights.levels[number], tables.levels[number], strict=True)
        places = steps(len(extents), finest=not number)
        for (step, theory), grids in zip(each, places, strict=True):
            z = take(len(grids.new), phi)
            new, more = fill(step.filling, theory, grids, sites, z)
            sites, also = couple(step.coupling, theory.scales, grids, jnp.concatenate([sites, new]))
            log_jacobian = log_jacobian + more + also
        if number:
            phi = merge(*jnp.split(sites, 2))
    return sites, log_jacobian, noise


def _field(tables: Tables, even_sites: jax.Array) -> jax.Array:
    """h times the sum of the neighbours of odd sites, like them."""
    ndim = even_sites.ndim - 2
    return 2 * ndim * tables.h * neighbours(even_sites, even(ndim), odd(ndim))


def _log_normal(noise: jax.Array) -> jax.Array:
    return -0.5 * site_sum(noise * noise) - 0.5 * math.log(2 * math.pi) * len(noise)


def _log_units(tables: Tables) -> jax.Array:
    return math.prod(tables.shape) * jnp.log(tables.unit)
