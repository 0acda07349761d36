r"""Noise schedules: how much noise a field carries at pseudo-time s in [0, 1].

A schedule is a path x_s = scale(s) (phi + sigma(s) eps), eps standard normal per site, and each is
the marginal of the forward process

    dx = f(s) x ds + g(s) dW,      f = d log scale / ds,      g^2 = scale^2 d sigma^2 / ds

(arXiv:2206.00364 eqs. 179 and 184).  Denoisers know t = sigma^2 and x / scale only, so the same
network serves every schedule.  The largest sigma must exceed the largest distance between two
fields, which the zero mode sets: sqrt(V) |M| between the wells of a broken phase.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lattice_ml._pytree import pytree
from lattice_ml.fields.types import Scalar

__all__ = ["KINDS", "Geometric", "PowerLaw", "Schedule", "VarianceExploding", "VariancePreserving"]


class Schedule(ABC):
    """A schedule; subclasses define `variance`, `between`, and `scale` where it is not 1.

    Every method takes and returns scalars or arrays, elementwise.
    """

    def scale(self, s: jax.Array) -> jax.Array:
        """What the noised field is multiplied with."""
        return jnp.ones_like(s)

    @abstractmethod
    def variance(self, s: jax.Array) -> jax.Array:
        """t = sigma^2, the variance of the noise before scaling."""

    def sigma(self, s: jax.Array) -> jax.Array:
        """Standard deviation of the noise before scaling."""
        return jnp.sqrt(self.variance(s))

    def drift(self, s: jax.Array) -> jax.Array:
        """f = d log scale / ds of the forward process."""
        return _slope(lambda s: jnp.log(self.scale(s)), s)

    def diffusion(self, s: jax.Array) -> jax.Array:
        """g = scale sqrt(d sigma^2 / ds) of the forward process."""
        return self.scale(s) * jnp.sqrt(_slope(self.variance, s))

    @classmethod
    @abstractmethod
    def between(cls, low: Scalar, high: Scalar) -> "Schedule":
        """The schedule of this kind whose sigma ends at `high`, and begins at `low` if it can."""

    def check(self) -> None:
        """Refuse parameters for which the noise does not grow.

        Raises:
            ValueError: not 0 <= sigma(0) < sigma(1) < infinity.
        """
        first, last = float(self.sigma(jnp.array(0.0))), float(self.sigma(jnp.array(1.0)))
        if not 0 <= first < last < float("inf"):
            raise ValueError(
                f"a noise schedule needs 0 <= sigma(0) < sigma(1) < infinity, got {self} with "
                f"sigma(0) = {first:.6g} and sigma(1) = {last:.6g}"
            )


@pytree
class VarianceExploding(Schedule):
    """dx = base^s dW: sigma^2 = (base^{2s} - 1) / (2 log base) (arXiv:2309.17082).

    Args:
        base: 25 gives sigma(1) = 9.85.
    """

    base: Scalar = 25.0

    @classmethod
    def between(cls, low: Scalar, high: Scalar) -> "VarianceExploding":
        """Begins without noise; rate = 2 log base solves (e^rate - 1) / rate = high^2 > 1."""
        square = jnp.maximum(jnp.square(high), 1.01)
        rate = jax.lax.fori_loop(
            0, 100, lambda _, rate: jnp.log1p(rate * square), 2 + jnp.log(square)
        )
        return cls(jnp.exp(rate / 2))

    def variance(self, s: jax.Array) -> jax.Array:
        rate = 2 * jnp.log(self.base)
        return jnp.expm1(rate * s) / rate


@pytree
class Geometric(Schedule):
    """sigma = sigma_min (sigma_max / sigma_min)^s (arXiv:2011.13456 eq. 30); never without noise.

    Args:
        sigma_min, sigma_max: at s = 0 and 1; noise of sigma_min is left in the samples.
    """

    sigma_min: Scalar = 0.01
    sigma_max: Scalar = 50.0

    @classmethod
    def between(cls, low: Scalar, high: Scalar) -> "Geometric":
        return cls(low, high)

    def variance(self, s: jax.Array) -> jax.Array:
        return self.sigma_min**2 * (self.sigma_max / self.sigma_min) ** (2 * s)


@pytree
class PowerLaw(Schedule):
    """sigma^{1/rho} is linear in s (arXiv:2206.00364 eq. 5); rho = 1 makes sigma the time.

    Args:
        sigma_min, sigma_max: at s = 0 and 1; noise of sigma_min is left in the samples.
        rho: larger values take smaller steps where there is little noise.
    """

    sigma_min: Scalar = 0.002
    sigma_max: Scalar = 80.0
    rho: Scalar = 7.0

    @classmethod
    def between(cls, low: Scalar, high: Scalar) -> "PowerLaw":
        return cls(low, high)

    def variance(self, s: jax.Array) -> jax.Array:
        first, last = (jnp.power(end, 1 / self.rho) for end in (self.sigma_min, self.sigma_max))
        return (first + s * (last - first)) ** (2 * self.rho)


@pytree
class VariancePreserving(Schedule):
    """dx = -beta/2 x ds + sqrt(beta) dW, beta linear in s (arXiv:2011.13456 eqs. 32-33).

    scale^2 (1 + sigma^2) = 1: data of unit variance keep it.

    Args:
        beta_min, beta_max: beta at s = 0 and 1; their mean is log(1 + sigma(1)^2).
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    @classmethod
    def between(cls, low: Scalar, high: Scalar) -> "VariancePreserving":
        """Begins without noise, with beta = 0.1 there."""
        return cls(0.1, 2 * jnp.log1p(jnp.square(high)) - 0.1)

    def scale(self, s: jax.Array) -> jax.Array:
        return jnp.exp(-0.5 * self._integral(s))

    def variance(self, s: jax.Array) -> jax.Array:
        return jnp.expm1(self._integral(s))

    def _integral(self, s: jax.Array) -> jax.Array:
        """Integral of beta from 0 to s."""
        return s * (self.beta_min + 0.5 * s * (self.beta_max - self.beta_min))


KINDS: dict[str, type[Schedule]] = {
    "exploding": VarianceExploding,
    "geometric": Geometric,
    "power": PowerLaw,
    "preserving": VariancePreserving,
}


def _slope(function: Callable[[jax.Array], jax.Array], s: jax.Array) -> jax.Array:
    """Derivative of an elementwise function."""
    s = jnp.asarray(s)
    slope: jax.Array = jax.jvp(function, (s,), (jnp.ones_like(s),))[1]
    return slope
