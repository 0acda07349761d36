r"""Actions of lattice scalar fields, weight exp(-S).

Every quartic action is written in three couplings,

    S = sum_x [ -h sum_mu phi_x phi_{x+mu} + a phi_x^2 + b phi_x^4 ],

and the conventions of the literature are maps into (h, a, b) (`actions/conventions.py`).

An action is any pytree with `__call__(phi)`, the total action of one configuration `(*L)`; that
is enough for every sampler, by automatic differentiation.  What it may add:

* `density(phi, hop)`: a local density that sums to S, given `hop(phi)`, the sum of the nearest
  neighbours; energies are then accurate in float32 (differences per site before the sum);
* `force(phi, hop)`: -dS/dphi written by hand, about twice as fast;
* `of_means(phi2, phi4, link_sum)`: S/V where it is linear in these, which are measured anyway;
* `reach`: how many sites away from its own the force looks; a lattice that is split over devices
  then exchanges rows once for many steps;
* `z2 = True` if S(-phi) = S(phi);
* `hot(normals)` or else `site_width()`, and `minimum(ndim)`: hot and cold starts.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree, static
from lattice_ml.actions import site_term
from lattice_ml.fields.lattice import Lattice, as_field, hop
from lattice_ml.fields.layout import Layout, widest

__all__ = [
    *("Action", "FreeField", "Phi4", "check_dimension", "difference", "force", "hopping_scale"),
    *("number", "total"),
]


_LARGEST = 1e15  # of a coupling: forces and their squares have room in float32

Hop = Callable[[jax.Array], jax.Array]


class Action(Protocol):
    """What every sampler needs: the total action of one configuration."""

    def __call__(self, phi: jax.Array) -> jax.Array: ...


class _NearestNeighbour(ABC):
    """Density and force of the quartic nearest-neighbour action in (h, a, b)."""

    reach: ClassVar[int] = 1
    z2: ClassVar[bool] = True

    @abstractmethod
    def couplings(self) -> tuple[Any, Any, Any]:
        """(h, a, b)."""

    def density(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """Action per site, each link shared by its two ends: an array like `phi`."""
        phi = as_field(phi)
        h, a, b = (jnp.asarray(c, phi.dtype) for c in self.couplings())
        square = phi * phi
        return square * (a + b * square) - 0.5 * h * phi * hop(phi)

    def force(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """-dS/dphi = h sum_{+-mu} phi_{x+mu} - 2 a phi - 4 b phi^3: an array like `phi`."""
        phi = as_field(phi)
        h, a, b = (jnp.asarray(c, phi.dtype) for c in self.couplings())
        return h * hop(phi) - phi * (2 * a + 4 * b * phi * phi)

    def of_means(self, phi2: Any, phi4: Any, link_sum: Any) -> Any:
        """S/V of a configuration from its means over the sites, links counted once."""
        h, a, b = self.couplings()
        return a * phi2 + b * phi4 - h * link_sum

    def __call__(self, phi: jax.Array) -> jax.Array:
        phi = as_field(jnp.asarray(phi))
        check_dimension(self, phi.ndim)
        return jnp.sum(self.density(jnp.asarray(phi, widest(phi.dtype))))

    def hot(self, normals: np.ndarray) -> np.ndarray:
        """A hot start: draws from exp(-a phi^2 - b phi^4), one for every standard normal."""
        _, a, b = map(float, self.couplings())
        return site_term.from_normals(normals, a, b) if b > 0 else self.site_width() * normals

    @property
    def barrier(self) -> float:
        """Height of the site term a phi^2 + b phi^4 between its two wells; 0 where there is one."""
        _, a, b = map(float, self.couplings())
        return site_term.barrier(a, b)

    def site_width(self) -> float:
        """Root mean square of phi under the site term exp(-a phi^2 - b phi^4) alone."""
        _, a, b = self.couplings()
        phi = np.linspace(-12, 12, 4001) * math.sqrt(hopping_scale(a, b))
        log_weight = -a * phi**2 - b * phi**4
        weight = np.exp(log_weight - log_weight.max())
        return math.sqrt(np.sum(weight * phi**2) / np.sum(weight))

    def minimum(self, ndim: int) -> float:
        """The uniform field phi >= 0 of least action in `ndim` dimensions."""
        h, a, b = self.couplings()
        return math.sqrt((ndim * h - a) / (2 * b)) if b > 0 and a < ndim * h else 0.0

    def check(self, ndim: int) -> None:
        """Refuse couplings for which exp(-S) cannot be normalised.

        Raises:
            ValueError: another dimension, a coupling that is no finite number, b < 0, or b = 0 and
                a <= ndim |h|.
        """
        check_dimension(self, ndim)
        h, a, b = map(number, ("h", "a", "b"), self.couplings())
        form = f"h = {h:.6g}, a = {a:.6g}, b = {b:.6g}"
        if max(abs(h), abs(a), abs(b)) >= _LARGEST:
            raise ValueError(f"the action's couplings must be below {_LARGEST:g}, got {form}")
        if b < 0:
            raise ValueError(
                f"the action is not bounded below: the coefficient b of phi^4 must be >= 0, "
                f"got {form}"
            )
        if b == 0 and a <= ndim * abs(h):
            raise ValueError(
                f"the free action cannot be normalised in {ndim} dimensions: without phi^4 it "
                f"needs a > {ndim} |h|, got {form}"
            )


@pytree
class Phi4(_NearestNeighbour):
    """S = sum_x [-h sum_mu phi_x phi_{x+mu} + a phi^2 + b phi^4]; Z2 symmetric.

    `Phi4(h=2 * kappa, a=1 - 2 * lam, b=lam)` is the hopping-parameter form;
    `conventions.action` builds one from any named convention, and only for lattices of the
    dimension that it was told, in which (h, a, b) mean what the convention says.
    """

    h: Any
    a: Any
    b: Any
    ndim: int | None = field(default=None, compare=False, metadata={"static": True})

    def couplings(self) -> tuple[Any, Any, Any]:
        return self.h, self.a, self.b


@pytree
class FreeField(_NearestNeighbour):
    """S = sum_x [1/2 sum_mu (phi_{x+mu} - phi_x)^2 + 1/2 m^2 phi^2] in `ndim` dimensions.

    Modes are independent Gaussians: <|phi(p)|^2>/V = 1/(m^2 + p_hat^2), the test of all samplers.
    """

    mass_squared: float
    ndim: int = static()

    def couplings(self) -> tuple[Any, Any, Any]:
        return 1.0, self.ndim + 0.5 * self.mass_squared, 0.0

    def check(self, ndim: int) -> None:
        """As for any action, and `mass_squared` must be a number."""
        number("mass_squared", self.mass_squared)
        super().check(ndim)

    def propagator(self, lattice: Lattice) -> np.ndarray:
        """Exact G(p) = 1/(m^2 + p_hat^2), `(*L)` in FFT order."""
        propagator: np.ndarray = 1 / (self.mass_squared + lattice.p_hat_squared)
        return propagator


def number(name: str, value: Any) -> float:
    """A coupling as a float.

    Raises:
        ValueError: text, a truth value, an array of several, or what is not finite.
    """
    text = isinstance(value, str | bytes | bool | np.bool_)
    try:
        found = math.nan if text or np.ndim(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return found


def check_dimension(action: Any, ndim: int) -> None:
    """Refuse an action that was made for lattices of another dimension.

    Raises:
        ValueError: naming both.
    """
    own = getattr(action, "ndim", None)
    if own not in (None, ndim):
        raise ValueError(
            f"a {type(action).__name__} with ndim = {own} cannot live in {ndim} dimensions: its "
            f"couplings mean another theory there"
        )


def hopping_scale(a: float, b: float) -> float:
    """s^2 > 0 with s^2 a = 1 - 2 s^4 b: phi / s has the site term of the kappa convention."""
    if a >= 0:  # the form without cancellation
        return 2 / (math.sqrt(a * a + 8 * b) + a)
    return (math.sqrt(a * a + 8 * b) - a) / (4 * b)


def force(action: Action, phi: jax.Array, layout: Layout) -> jax.Array:
    """-dS/dphi of a group of chains, an array like `phi`: by hand, or by differentiation."""
    if hasattr(action, "force"):
        return action.force(phi, layout.hop)
    if hasattr(action, "density"):
        return -jax.grad(lambda x: jnp.sum(action.density(x, layout.hop)))(phi)
    return -layout.map_chains(jax.grad(lambda x: jnp.sum(action(x))), phi)


def total(action: Action, phi: jax.Array, layout: Layout) -> jax.Array:
    """S of every chain of a group, `(group,)`, summed accurately."""
    if hasattr(action, "density"):
        return layout.site_sum(action.density(phi, layout.hop))
    phi = as_field(phi)
    wide = phi.astype(widest(phi.dtype))
    return layout.map_chains(lambda x: jnp.sum(action(x)), wide)


def difference(action: Action, new: jax.Array, old: jax.Array, layout: Layout) -> jax.Array:
    """Action per site `new` minus `old`, a field to be summed; see `layout.site_sum`.

    Without a density the total is put on the first site of each chain: float64 where x64 is on,
    and without it only as accurate as the difference of two float32 sums.
    """
    if hasattr(action, "density"):
        return action.density(new, layout.hop) - action.density(old, layout.hop)
    change = total(action, new, layout) - total(action, old, layout)
    sites = jnp.zeros((layout.volume, layout.group), change.dtype).at[0].set(change)
    return sites.reshape(layout.field_shape)
