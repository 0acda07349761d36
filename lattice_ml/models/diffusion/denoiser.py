r"""The interface of everything that denoises, and the denoiser without a network.

A denoiser knows D(x, t) = E[phi | x] for x = phi + sqrt(t) eps and with it the score of the noised
density, (D - x) / t.  The Schwinger-Dyson form needs F(x, t) = E[V'(phi) | x] only,

    D = P_t (x / t - F),

and F is small, bounded down to t = 0, and zero for a Gaussian theory: networks learn F.  All take
the `Theory` as an argument, so the same weights serve every volume and coupling.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lattice_ml.models.theory import Theory

__all__ = ["Denoiser", "Weights", "Zero", "slope_of"]

Weights = nnx.State[str, nnx.Variable[jax.Array]]  # what `nnx.split` parts from a network


class Denoiser(nnx.Module):
    """A denoiser in Schwinger-Dyson form; subclasses define `force`.

    Throughout, `x` is a batch of noised fields in modes `(n, *modes)`, and `t` the variances of
    their noise, `(n,)` or `(1,)` for one variance that all share.
    """

    exact_trace = False  # whether `force_and_trace` costs no more than a few forces
    equivariant = False  # whether all symmetries of the lattice and phi -> -phi are built in

    @property
    def own(self) -> Literal["force", "denoise"]:
        """What the network gives; F that follows from D cancels ever worse at small t."""
        return "force" if type(self).denoise is Denoiser.denoise else "denoise"

    @abstractmethod
    def force(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        """F = E[V'(phi) | x] in modes, `(n, *modes)`."""

    def force_and_trace(
        self, theory: Theory, x: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """F, and Tr[C/(C+t) dF/dx] of each sample `(n,)`; here by V forward derivatives."""

        def whole(one: jax.Array, t: jax.Array) -> jax.Array:
            return self.force(theory, one[None], t[None])[0]

        def trace(one: jax.Array, t: jax.Array) -> jax.Array:
            jacobian = jax.jacfwd(whole)(one, t).reshape(one.size, one.size)
            share = theory.propagator / (theory.propagator + t)
            return jnp.sum(jnp.diagonal(jacobian) * share.ravel())

        t = jnp.broadcast_to(t, x.shape[:1])
        return self.force(theory, x, t), jax.vmap(trace)(x, t)

    def estimated_trace(
        self, theory: Theory, x: jax.Array, t: jax.Array, probes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """F, and Hutchinson's estimate of the trace from probes `(n_probes, n, *modes)`.

        An unbiased estimate of log q is a biased one of q: weights made of it are approximate.
        """
        share = theory.propagator / (theory.propagator + theory.spread(t))
        force, product = jax.linearize(lambda x: self.force(theory, x, t), x)
        terms = jax.lax.map(lambda v: jnp.sum(v * share * product(v), theory.modes.axes), probes)
        return force, jnp.mean(terms, axis=0)

    def denoise(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        """D = E[phi | x] in modes, `(n, *modes)`."""
        return theory.posterior(t) * (x / theory.spread(t) - self.force(theory, x, t))

    def t_range(self, theory: Theory) -> tuple[jax.Array, jax.Array]:
        """Variances between which it is trained."""
        return 0.01 * theory.c_min, theory.t_max

    def loss(
        self, theory: Theory, phi: jax.Array, noise: jax.Array, t: jax.Array, target: str
    ) -> jax.Array:
        """Weighted squared error of F for each sample, `(n,)`; `phi` and `noise` are modes.

        Half its integral over log t bounds the Kullback-Leibler divergence of the reverse
        diffusion's paths, and it is finite down to t = 0.
        """
        spread = theory.spread(t)
        x = phi + jnp.sqrt(spread) * noise
        force = self.force(theory, x, t)
        if target == "action":
            wanted = action_target(theory, phi, noise, t, jax.lax.stop_gradient(force))
        else:
            wanted = x / spread - phi / theory.posterior(t)
        share = theory.propagator / (theory.propagator + spread)
        return jnp.sum(spread * share**2 * (force - wanted) ** 2, theory.modes.axes)

    def score(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        """Gradient of the log density of the noised field, (D - x) / t, `(n, *modes)`."""
        return (self.denoise(theory, x, t) - x) / theory.spread(t)


class Zero(Denoiser):
    """No network: Gaussian modes with the measured propagator, and the zero mode's mixture.

    The baseline that every network has to beat; exact for a free field.
    """

    exact_trace = True
    equivariant = True

    def __init__(self, *, rngs: nnx.Rngs | None = None) -> None:
        """Take the random generators that all networks take; there is nothing to draw."""

    def force(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        t = jnp.broadcast_to(t, x.shape[:1])
        zero = theory.modes.zero
        return jnp.zeros_like(x).at[zero].set(theory.zero_force(x[zero], t))

    def force_and_trace(
        self, theory: Theory, x: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        t = jnp.broadcast_to(t, x.shape[:1])
        zero = theory.modes.zero
        force, slope = slope_of(theory.zero_force, x[zero], t)
        c = theory.zero_propagator
        return jnp.zeros_like(x).at[zero].set(force), c / (c + t) * slope


def slope_of(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A function of one mode and its derivative, elementwise: `(n,)` each."""
    return jax.jvp(lambda value: function(value, t), (x,), (jnp.ones_like(x),))


def action_target(
    theory: Theory, phi: jax.Array, noise: jax.Array, t: jax.Array, force: jax.Array
) -> jax.Array:
    r"""An estimate of F from one configuration: V'(phi) less control variates, `(n, *modes)`.

    r = dS/dphi - (x - phi)/t has mean zero under the posterior p(phi | x) (Stein), and so has any
    function of x times r.  With G = 1/(<S''> + 1/t) and the present estimate y of the posterior
    mean, the estimate V' - (<S''> - 1/C) G r - (1/C + 1/t) G [12 b (y^2 - <y^2>) . G r] keeps
    its mean F, and its variance falls by a factor of 4 near criticality.
    """
    modes, spread = theory.modes, theory.spread(t)
    c = theory.propagator
    cubic = 4 * theory.b * modes.forward(modes.inverse(phi) ** 3)
    x = phi + jnp.sqrt(spread) * noise
    inverse_posterior = 1 / c + 1 / spread
    y = modes.inverse((x / spread - force) / inverse_posterior)
    y_squared = theory.spread(jnp.mean(c * c / (c + spread), modes.axes))
    smoothed = 1 / (theory.curvature + 1 / spread)
    stein = smoothed * (theory.bare * phi + cubic - noise / jnp.sqrt(spread))
    local = modes.forward(12 * theory.b * (y * y - y_squared) * modes.inverse(stein))
    interaction = cubic + (theory.bare - 1 / c) * phi
    return interaction - (theory.curvature - 1 / c) * stein - inverse_posterior * smoothed * local
