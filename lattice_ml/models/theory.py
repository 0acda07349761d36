r"""What a diffusion model knows without a network: the action, and the Gaussian part of its data.

A field is noised to x = phi + sqrt(t) eps, eps standard normal per site: `t` is the variance of
the noise, and every noise schedule is a path through it (`noise.py`).  Split the action's gradient
into a measured Gaussian part and the rest,

    dS/dphi = phi / C(p) + V'(phi),        C(p) = <|phi(p)|^2> / V measured,

and the posterior mean D = E[phi | x], the denoiser, obeys the Schwinger-Dyson identity

    D(x, t) = P_t (x / t - F),   P_t(p) = 1 / (1/C(p) + 1/t),   F(x, t) = E[V'(phi) | x].

`C` and everything else here is diagonal in the real Fourier modes of `modes.py`.  The zero mode,
x_0 = sqrt(V) M, is no Gaussian near or below criticality: its distribution is a symmetric mixture
of Gaussians, w_i at +-mu_i with variances s2_i, whose denoiser is known in closed form.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree, static
from lattice_ml.actions import quadratic_form
from lattice_ml.fields.layout import widest
from lattice_ml.fields.modes import Modes
from lattice_ml.fields.types import Scalar
from lattice_ml.models.model import host

__all__ = ["Theory"]


@pytree
class Theory:
    """Couplings, propagator and zero mode of one theory on one lattice; a pytree.

    Args:
        h, a, b: couplings of the action, as in `actions`.
        propagator: C, `(*modes)`; the zero mode's is the second moment of the mixture.
        mixture: weights, means and variances of the zero mode, `(3, 2 * pairs)`.
        phi_squared: <phi^2>.
        force_rms: root mean square per site of V', zero mode left out; the scale of F.
        quantiles: of |x_0|, `(n,)`, at (i + 1/2)/n: what the mixture was fitted to.
        modes: of the lattice; static.
    """

    h: Scalar
    a: Scalar
    b: Scalar
    propagator: jax.Array
    mixture: jax.Array
    phi_squared: Scalar
    force_rms: Scalar
    quantiles: jax.Array
    modes: Modes = static()

    @classmethod
    def of(cls, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> "Theory":
        """The theory of a lattice that `numbers` took apart.

        Raises:
            TypeError: arrays that are none, or of another lattice.
        """
        modes = Modes(shape)
        lattice = tuple(shape[axis] for axis in modes.order)
        if (found := np.shape(arrays.get("propagator", 0.0))) != lattice:
            raise TypeError(f"of {lattice}, but of {found}")
        return cls(**{name: host(values) for name, values in arrays.items()}, modes=modes)

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        return {name: value for name, value in vars(self).items() if name != "modes"}

    def astype(self, dtype: jax.typing.DTypeLike) -> "Theory":
        """All numbers in another precision."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self)

    @property
    def dtype(self) -> np.dtype:
        return jnp.asarray(self.propagator).dtype

    @property
    def bare(self) -> jax.Array:
        """The quadratic form A of S = sum_p 1/2 A phi^2 + b sum_x phi^4: `(*modes)`."""
        p_hat_squared = jnp.asarray(self.modes.p_hat_squared, self.dtype)
        return quadratic_form(self.h, self.a, self.modes.ndim, p_hat_squared)

    @property
    def curvature(self) -> jax.Array:
        """The averaged Hessian <d^2S/dphi^2> = A + 12 b <phi^2>, exact: `(*modes)`."""
        return self.bare + 12 * self.b * self.phi_squared

    @property
    def zero_propagator(self) -> jax.Array:
        return self.propagator[self.modes.zero]

    @property
    def c_min(self) -> jax.Array:
        """The smallest C: below this variance noise changes nothing any more."""
        return jnp.min(self.propagator)

    @property
    def c_max(self) -> jax.Array:
        """The largest C of the modes other than the zero mode."""
        return jnp.max(self.propagator * self.fluctuating)

    @property
    def fluctuating(self) -> jax.Array:
        """1 on all modes but the zero mode, 0 there."""
        return jnp.ones_like(self.propagator).at[self.modes.zero].set(0)

    @property
    def t_max(self) -> jax.Array:
        """A variance from which on the noised field is known: 30 times the largest C."""
        return 30 * self.c_max

    def spread(self, t: jax.Array) -> jax.Array:
        """Make `t` `(n,)` broadcast against modes or sites: `(n, 1, ...)`."""
        return jnp.reshape(t, (*jnp.shape(t), *[1] * self.modes.ndim))

    def posterior(self, t: jax.Array) -> jax.Array:
        """P_t(p) = 1 / (1/C + 1/t) of variances `(n,)`: `(n, *modes)`."""
        spread = self.spread(t)
        return self.propagator * spread / (self.propagator + spread)

    def action(self, x: jax.Array) -> jax.Array:
        """S of fields `(n, *L)` given in modes, summed in float64 where x64 is on: `(n,)`."""
        wide = widest(x.dtype)
        phi = self.modes.inverse(x)
        quadratic = jnp.sum((0.5 * self.bare * x * x).astype(wide), self.modes.axes)
        return quadratic + self.b * jnp.sum((phi**4).astype(wide), self.modes.axes)

    def interaction(self, phi: jax.Array) -> jax.Array:
        """V'(phi) = dS/dphi - phi/C of modes `(n, *modes)`, in modes."""
        cubed = self.modes.forward(self.modes.inverse(phi) ** 3)
        return 4 * self.b * cubed + (self.bare - 1 / self.propagator) * phi

    # ---------------------------------------- Gaussian modes, and the mixture at zero momentum

    def draw(self, key: jax.Array, t: jax.Array) -> jax.Array:
        """Draw the Gaussian part, noised by variances `t` `(n,)`: `(n, *modes)`."""
        fluctuation, zero = jax.random.split(key)
        x = jax.random.normal(fluctuation, (*t.shape, *self.propagator.shape), self.dtype)
        x = x * jnp.sqrt(self.propagator + self.spread(t))
        return x.at[self.modes.zero].set(self.draw_zero(zero, t))

    def log_prob(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Log density of the noised Gaussian part, in float64 where x64 is on: `(n,)`."""
        wide = widest(x.dtype)
        c = self.propagator + self.spread(t)
        logs = -0.5 * (x * x / c) * self.fluctuating
        norm = -0.5 * jnp.log(2 * jnp.pi * c.astype(wide)) * self.fluctuating
        zero = self.zero_log_prob(x[self.modes.zero], t)
        return jnp.sum(logs.astype(wide) + norm, self.modes.axes) + zero

    # ------------------------------------------------------------------- the zero mode alone

    def zero_denoiser(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """E[phi_0 | x_0] under the mixture; `x` and `t` are `(n,)`."""
        share, means, variances = self._responsibilities(x, t)
        t = t[..., None]
        return jnp.sum(share * (variances * x[..., None] + t * means) / (variances + t), -1)

    def zero_force(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """F of the zero mode under the mixture, finite at t = 0: `(n,)`."""
        share, means, variances = self._responsibilities(x, t)
        x, t, c = x[..., None], t[..., None], self.zero_propagator
        terms = (x * (c - variances) - means * (c + t)) / (variances + t)  # x/t has cancelled
        return jnp.sum(share * terms, -1) / c

    def zero_log_prob(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Log density of the noised zero mode: `(n,)`."""
        return jax.nn.logsumexp(self.zero_logits(x, t), axis=-1) - 0.5 * jnp.log(2 * jnp.pi)

    def zero_logits(self, x: jax.Array, t: jax.Array) -> jax.Array:
        """Log of each component's part in the density, without 1/sqrt(2 pi): `(n, components)`."""
        weights, means, variances = self.mixture
        noised = variances + t[..., None]
        exponents = -0.5 * (x[..., None] - means) ** 2 / noised
        return jnp.log(weights) - 0.5 * jnp.log(noised) + exponents

    def draw_zero(self, key: jax.Array, t: jax.Array) -> jax.Array:
        """Draw the noised zero mode for variances `t` `(n,)`: `(n,)`."""
        which, noise = jax.random.split(key)
        weights, means, variances = self.mixture
        i = jax.random.choice(which, len(weights), jnp.shape(t), p=weights)
        return means[i] + jnp.sqrt(variances[i] + t) * jax.random.normal(noise, t.shape, self.dtype)

    def _responsibilities(
        self, x: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Share of each component in noised zero modes, `(n, components)`; means; variances."""
        _, means, variances = self.mixture
        return jax.nn.softmax(self.zero_logits(x, t), -1), means, variances
