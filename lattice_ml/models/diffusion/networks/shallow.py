r"""A denoiser with one pointwise nonlinearity between two filters, whose divergence is exact.

Let m be the posterior mean of the Gaussian part, its fluctuation divided by its own rms and its
zero mode (of the mixture) by a scale of its own.  Then

    y_c = H_c(p^2, t) m,      g_f(x) = odd multilayer perceptron of the y_c at the same site,
    F = scale(t) sum_f K_f(p^2, t) g_f + F_0 of the mixture,

with filters H and K that combine fixed resolvents 1/(1 + p_hat^2/mu_j).  Translations, the
hypercubic group and phi -> -phi are exact symmetries, and the weights do not know the volume.  As
the nonlinearity acts site by site, its derivative is diagonal in sites and the filters in modes:

    Tr[C/(C+t) dF/dx] = scale sum_{c,f} [1/V sum_p K_f H_c (C/(C+t))^2 / rms] sum_x dg_f/dy_c + ...
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lattice_ml.models.diffusion.denoiser import Denoiser, slope_of
from lattice_ml.models.diffusion.networks.features import (
    activation,
    all_features,
    contract,
    scales,
    weights,
)
from lattice_ml.models.theory import Theory

__all__ = ["Shallow"]

_MASSES = (0.03, 0.15, 0.6, 2.0, 6.0)  # of the resolvents, in units of p_hat^2
_TIME_HIDDEN = 24


class _Terms(NamedTuple):
    """What lies between x and the fields g_f; fields are `(channels, n, sites)`."""

    fluctuation: jax.Array  # scales, (n,)
    zero: jax.Array
    strength: jax.Array  # of F
    inner: jax.Array  # filters H, (channels, n, *modes)
    outer: jax.Array  # filters K
    share: jax.Array  # C / (C + t)
    hidden1: jax.Array  # before the activations
    hidden2: jax.Array
    gain1: jax.Array
    gain2: jax.Array
    g: jax.Array


class Shallow(Denoiser):
    """Filters, a pointwise odd perceptron, filters; volume independent.

    Args:
        n_channels: number of filtered fields y_c that the perceptron sees.
        n_hidden: width of its two hidden layers.
        n_outputs: number of fields g_f.
        conditional: whether the filters and gains know the couplings as well as t.
        rngs: of the initial weights.
    """

    exact_trace = True
    equivariant = True

    def __init__(
        self,
        *,
        n_channels: int = 2,
        n_hidden: int = 16,
        n_outputs: int = 2,
        conditional: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        n_filters = 1 + len(_MASSES)
        n_features = 9 + 2 * conditional
        normal = partial(weights, rngs)
        start = 0.3 * jax.random.normal(rngs.params(), (n_channels, n_filters), jnp.float32)
        self.conditional = conditional
        self.inner = nnx.Param(start.at[0].set(0).at[0, 0].set(1))  # H_0 begins as the identity
        self.inner_time = normal(0.05, n_features, n_channels * n_filters)
        self.first = normal(n_channels**-0.5, n_channels, n_hidden)
        self.first_gain = normal(0.05, n_features, n_hidden)
        self.second = normal(n_hidden**-0.5, n_hidden, n_hidden)
        self.second_gain = normal(0.05, n_features, n_hidden)
        self.third = normal(n_hidden**-0.5, n_hidden, n_outputs)
        self.skip = normal(0.1, n_channels, n_outputs)
        self.outer = normal(0.1, n_outputs, n_filters)
        self.outer_time = normal(0.3, n_features, _TIME_HIDDEN)
        self.outer_bias = nnx.Param(jnp.zeros(_TIME_HIDDEN, jnp.float32))
        self.outer_mix = normal(0.02, _TIME_HIDDEN, n_outputs * n_filters)

    def force(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        terms = self._terms(theory, x, t)
        return self._assemble(theory, x, t, terms)

    def force_and_trace(
        self, theory: Theory, x: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if len(t) != 1:
            return super().force_and_trace(theory, x, t)
        terms = self._terms(theory, x, t)
        return self._assemble(theory, x, t, terms), self._trace(theory, x, t, terms)

    def _terms(self, theory: Theory, x: jax.Array, t: jax.Array) -> _Terms:
        """Everything between x and the fields g_f."""
        modes, n = theory.modes, len(x)
        features = all_features(theory, t, self.conditional)
        inner, outer = self._filters(theory, features)
        share = theory.propagator / (theory.propagator + theory.spread(t))
        fluctuation, zero, strength = scales(theory, t)
        x_0 = theory.zero_denoiser(x[modes.zero], jnp.broadcast_to(t, (n,))) / zero
        mean = (share * x / theory.spread(fluctuation)).at[modes.zero].set(x_0)
        y = modes.inverse(inner * mean).reshape(len(inner), n, modes.volume)
        gain1, gain2 = (
            (1 + features @ gain[...]).T[:, :, None] for gain in (self.first_gain, self.second_gain)
        )
        hidden1 = contract(self.first.T, y) * gain1
        hidden2 = contract(self.second.T, activation(hidden1)) * gain2
        g = contract(self.third.T, activation(hidden2)) + contract(self.skip.T, y)
        return _Terms(
            fluctuation, zero, strength, inner, outer, share, hidden1, hidden2, gain1, gain2, g
        )

    def _assemble(self, theory: Theory, x: jax.Array, t: jax.Array, terms: _Terms) -> jax.Array:
        modes, n = theory.modes, len(x)
        g = modes.forward(terms.g.reshape(-1, n, *modes.shape))
        force = jnp.sum(terms.outer * g, axis=0) * theory.spread(terms.strength)
        zero = theory.zero_force(x[modes.zero], jnp.broadcast_to(t, (n,)))
        return force.at[modes.zero].add(zero)

    def _trace(self, theory: Theory, x: jax.Array, t: jax.Array, terms: _Terms) -> jax.Array:
        """Tr[C/(C+t) dF/dx] of each sample, `(n,)`, for one t."""
        modes, n = theory.modes, len(x)
        inner, outer, share = terms.inner[:, 0], terms.outer[:, 0], terms.share[0]
        # what a unit change of y_c's fluctuation, or of its zero mode, does per dg_f/dy_c
        weight = share**2 / terms.fluctuation * theory.fluctuating
        fluctuating = jnp.einsum("c...,f...,...->cf", inner, outer, weight) / modes.volume
        at_zero = inner[modes.zero][:, None] * outer[modes.zero]
        at_zero = at_zero * share[modes.zero] / terms.zero / modes.volume
        kernels = jnp.stack([fluctuating, at_zero])  # (2, channels, outputs)
        slope1 = _slope(terms.hidden1) * terms.gain1
        slope2 = _slope(terms.hidden2) * terms.gain2
        products = jnp.einsum("inx,jnx->nij", slope1, slope2)  # sum over sites
        paths = jnp.einsum(
            "kcf,ci,ij,jf->kij", kernels, self.first[...], self.second[...], self.third[...]
        )
        straight = modes.volume * jnp.einsum("kcf,cf->k", kernels, self.skip[...])
        traces = jnp.einsum("kij,nij->kn", paths, products) + straight[:, None]
        shared = jnp.broadcast_to(t, (n,))
        _, rise = slope_of(theory.zero_denoiser, x[modes.zero], shared)
        _, slope = slope_of(theory.zero_force, x[modes.zero], shared)
        return (traces[0] + traces[1] * rise) * terms.strength + share[modes.zero] * slope

    def _filters(self, theory: Theory, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """H_c and K_f on all modes: `(channels, n, *modes)` and `(outputs, n, *modes)`."""
        p_hat_squared = theory.modes.p_hat_squared
        resolvents = np.stack([1 / (1 + p_hat_squared / mass) for mass in _MASSES])
        table = jnp.asarray(
            np.concatenate([np.ones_like(resolvents[:1]), resolvents]), theory.dtype
        )

        def filters(constant: jax.Array, varying: jax.Array) -> jax.Array:
            coefficients = constant + varying.reshape(-1, *constant.shape)
            return jnp.tensordot(jnp.moveaxis(coefficients, 0, 1), table, 1)

        hidden = jnp.tanh(features @ self.outer_time[...] + self.outer_bias[...])
        return (
            filters(self.inner[...], features @ self.inner_time[...]),
            filters(self.outer[...], hidden @ self.outer_mix[...]),
        )


def _slope(x: jax.Array) -> jax.Array:
    inverse = 1 / (1 + x * x)
    return 1.3 + inverse * (1 - 2 * inverse)
