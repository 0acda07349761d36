r"""Quartic actions of nearest neighbours: phi^4 theory and free fields.

All are written in three couplings,

    S = sum_x [ -h sum_mu phi_x phi_{x+mu} + a phi_x^2 + b phi_x^4 ],

and the conventions of the literature are maps into (h, a, b) (`actions/conventions.py`).
"""

import contextlib
import math
from abc import ABC, abstractmethod
from dataclasses import field
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree, static
from lattice_ml.actions import site_term
from lattice_ml.actions.action import Action, Hop
from lattice_ml.fields.lattice import Lattice, as_field, hop
from lattice_ml.fields.types import Floats, Scalar

__all__ = [
    *("FreeField", "Phi4", "Quartic", "hopping_scale", "number", "quadratic_form", "quartic")
]


_LARGEST = 1e15  # of a coupling: forces and their squares have room in float32


class Quartic(Action, ABC):
    """Density and force of the quartic nearest-neighbour action in (h, a, b)."""

    reach = 1
    z2 = True

    @abstractmethod
    def couplings(self) -> tuple[Scalar, Scalar, Scalar]:
        """(h, a, b)."""

    def quadratic_form(self, lattice: Lattice) -> Floats:
        """2a - 2dh + h p_hat^2 of every momentum, `(*L)` in FFT order."""
        h, a, _ = map(float, self.couplings())
        return quadratic_form(h, a, lattice.ndim, lattice.p_hat_squared)

    def density(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        phi = as_field(phi)
        h, a, b = (jnp.asarray(c, phi.dtype) for c in self.couplings())
        square = phi * phi
        return square * (a + b * square) - 0.5 * h * phi * hop(phi)

    def force(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """-dS/dphi = h sum_{+-mu} phi_{x+mu} - 2 a phi - 4 b phi^3: an array like `phi`."""
        phi = as_field(phi)
        h, a, b = (jnp.asarray(c, phi.dtype) for c in self.couplings())
        return h * hop(phi) - phi * (2 * a + 4 * b * phi * phi)

    def of_means(self, phi2: jax.Array, phi4: jax.Array, link_sum: jax.Array) -> jax.Array:
        h, a, b = self.couplings()
        return a * phi2 + b * phi4 - h * link_sum

    def hot(self, normals: np.ndarray) -> np.ndarray:
        """A hot start: draws from exp(-a phi^2 - b phi^4), one for every standard normal."""
        _, a, b = map(float, self.couplings())
        return site_term.from_normals(normals, a, b) if b > 0 else super().hot(normals)

    @property
    def barrier(self) -> float:
        """Height of the site term a phi^2 + b phi^4 between its two wells; 0 where there is one."""
        _, a, b = map(float, self.couplings())
        return a * a / (4 * b) if a < 0 < b else 0.0

    def site_width(self) -> float:
        """Root mean square of phi under the site term exp(-a phi^2 - b phi^4) alone."""
        _, a, b = map(float, self.couplings())
        phi = np.linspace(-12, 12, 4001) * math.sqrt(hopping_scale(a, b))
        log_weight = -a * phi**2 - b * phi**4
        weight = np.exp(log_weight - log_weight.max())
        return math.sqrt(np.sum(weight * phi**2) / np.sum(weight))

    def minimum(self, ndim: int) -> float:
        h, a, b = map(float, self.couplings())
        return math.sqrt((ndim * h - a) / (2 * b)) if b > 0 and a < ndim * h else 0.0

    def check(self, ndim: int) -> None:
        """Refuse couplings for which exp(-S) cannot be normalised.

        Raises:
            ValueError: another dimension, a coupling that is no finite number, b < 0, or b = 0 and
                a <= ndim |h|.
        """
        super().check(ndim)
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
class Phi4(Quartic):
    """S = sum_x [-h sum_mu phi_x phi_{x+mu} + a phi^2 + b phi^4]; Z2 symmetric.

    `Phi4(h=2 * kappa, a=1 - 2 * lam, b=lam)` is the hopping-parameter form;
    `conventions.action` builds one from any named convention, and only for lattices of the
    dimension that it was told, in which (h, a, b) mean what the convention says.
    """

    h: Scalar
    a: Scalar
    b: Scalar
    ndim: int | None = field(default=None, compare=False, metadata={"static": True})

    def couplings(self) -> tuple[Scalar, Scalar, Scalar]:
        return self.h, self.a, self.b


@pytree
class FreeField(Quartic):
    """S = sum_x [1/2 sum_mu (phi_{x+mu} - phi_x)^2 + 1/2 m^2 phi^2] in `ndim` dimensions.

    Modes are independent Gaussians: <|phi(p)|^2>/V = 1/(m^2 + p_hat^2), the test of all samplers.
    """

    mass_squared: float
    ndim: int = static()

    def couplings(self) -> tuple[Scalar, Scalar, Scalar]:
        return 1.0, self.ndim + 0.5 * self.mass_squared, 0.0

    def check(self, ndim: int) -> None:
        number("mass_squared", self.mass_squared)
        super().check(ndim)

    def propagator(self, lattice: Lattice) -> np.ndarray:
        """Exact G(p) = 1/(m^2 + p_hat^2), `(*L)` in FFT order."""
        propagator: np.ndarray = 1 / (self.mass_squared + lattice.p_hat_squared)
        return propagator


def number(name: str, value: object) -> float:
    """A coupling as a float.

    Raises:
        ValueError: text, a truth value, an array of several, or what is not finite.
    """
    found = math.nan
    if not isinstance(value, str | bytes | bool | np.bool_):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            array = np.asarray(value)
            found = math.nan if array.ndim else float(array)
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return found


def quartic(action: Action | None, what: str) -> Quartic:
    """The action, where `what` needs one in (h, a, b).

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(action, Quartic):
        got = "action.kind = none" if action is None else type(action).__name__
        raise ValueError(f"{what} of actions in (h, a, b), got {got}: Phi4 and FreeField are such")
    return action


@overload
def quadratic_form(h: float, a: float, ndim: int, p_hat_squared: Floats) -> Floats: ...
@overload
def quadratic_form(h: Scalar, a: Scalar, ndim: int, p_hat_squared: jax.Array) -> jax.Array: ...
def quadratic_form(
    h: Scalar, a: Scalar, ndim: int, p_hat_squared: Floats | jax.Array
) -> Floats | jax.Array:
    """A = 2a - 2dh + h p_hat^2 of S = sum_p 1/2 A |phi(p)|^2/V + b sum_x phi^4; may be traced."""
    return 2 * a - 2 * ndim * h + h * p_hat_squared


def hopping_scale(a: float, b: float) -> float:
    """s^2 > 0 with s^2 a = 1 - 2 s^4 b: phi / s has the site term of the kappa convention."""
    if a >= 0:  # the form without cancellation
        return 2 / (math.sqrt(a * a + 8 * b) + a)
    return (math.sqrt(a * a + 8 * b) - a) / (4 * b)
