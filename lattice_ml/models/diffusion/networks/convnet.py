r"""A periodic convolutional network in Schwinger-Dyson form, without strides.

    F(x, t) = force_rms (s / s_0)^2 net(y) + F_0(x_0, t)

`y` are two fields: the fluctuation of the Gaussian posterior mean C/(C+t) x over its root mean
square s(t), s_0 = s(0), and the zero mode's posterior mean under the mixture over its own scale.
F_0 is the force of the mixture; the network adds the rest.  Layer i looks 2^i sites far, so n
layers see 2^(n+1) - 1 sites along each axis: more than half the lattice up to extents of 60 for
4 layers.  There are no strides and all convolutions wrap around: translation equivariance is
exact on every volume.  It is odd in x (odd activations, no biases) and has kernels that depend on
the offset's |components| in any order (d + 1 weights instead of 3^d per pair of channels, and as
much faster), so Z2, reflections and exchanges of axes are exact too; `odd` and `hypercubic`
release either.
"""

import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.networks.features import (
    activation,
    all_features,
    contract,
    scales,
    weights,
)
from lattice_ml.models.theory import Theory

__all__ = ["ConvNet", "neighbourhood"]

_HIDDEN = 32  # width of the network that turns time into gains


class ConvNet(Denoiser):
    """F by residual dilated convolutions.

    Args:
        ndim: dimensions of the lattice, 1 to 3.
        channels: fields per layer.
        n_layers: convolutions, the i-th with dilation 2^i; see `receptive_field`.
        hypercubic: exactly equivariant under the lattice's reflections and axis exchanges.
        odd: exactly equivariant under phi -> -phi.
        conditional: also a function of the couplings, for training at several of them.
        rngs: where the initial weights are drawn from.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        channels: int = 16,
        n_layers: int = 4,
        hypercubic: bool = True,
        odd: bool = True,
        conditional: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if ndim not in (1, 2, 3):
            raise ValueError(f"a ConvNet lives in 1, 2 or 3 dimensions, got ndim = {ndim}")
        if min(channels, n_layers) < 1:
            raise ValueError(
                f"a ConvNet needs at least one layer and channel, got {n_layers=}, {channels=}"
            )
        self.ndim, self.channels, self.n_layers = ndim, channels, n_layers
        self.hypercubic, self.odd, self.conditional = hypercubic, odd, conditional
        self.equivariant = hypercubic and odd
        parts = ndim + 1 if hypercubic else 3**ndim
        normal = partial(weights, rngs)
        n_features = 9 + 2 * conditional
        n_gains = n_layers * channels
        self.lift = normal(0.7, channels, 2)
        size = 0.5 * (channels * 3**ndim) ** -0.5
        self.mix = normal(size, n_layers, channels, parts * channels)
        self.out = normal(0.1 * channels**-0.5, channels)
        self.skip = normal(0.1, 2)
        self.embed = normal(n_features**-0.5, n_features, _HIDDEN)
        self.embed_bias = normal(0.3, _HIDDEN)
        self.gain = normal(0.1 * _HIDDEN**-0.5, _HIDDEN, n_gains)
        self.shift = None if odd else normal(0.1 * _HIDDEN**-0.5, _HIDDEN, n_gains)

    @property
    def receptive_field(self) -> int:
        """Sites along an axis that a site of the output sees, itself in the middle."""
        return int(2 ** (self.n_layers + 1) - 1)

    def force(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        self._check(theory.modes.shape)
        modes = theory.modes
        fluctuation, zero, scale = scales(theory, t)
        smooth = theory.propagator / (theory.propagator + theory.spread(t)) * x
        y = modes.inverse(smooth * theory.fluctuating / theory.spread(fluctuation))
        every_t = jnp.broadcast_to(t, x.shape[:1])
        x_0 = x[modes.zero]
        y_0 = theory.zero_denoiser(x_0, every_t) / (zero * modes.volume**0.5)
        inputs = jnp.stack([y, jnp.broadcast_to(theory.spread(y_0), y.shape)])
        net = self.network(inputs, all_features(theory, t, self.conditional).astype(x.dtype))
        force = theory.spread(scale) * modes.forward(net)
        return force.at[modes.zero].add(theory.zero_force(x_0, every_t))

    def network(self, y: jax.Array, features: jax.Array) -> jax.Array:
        """The convolutions alone.

        Args:
            y: input fields, `(2, n, *L)`.
            features: of time and couplings, `(n, n_features)` or `(1, n_features)`.

        Returns:
            Output field, `(n, *L)`.
        """
        dtype = y.dtype
        hidden = jnp.tanh(features @ self.embed.astype(dtype) + self.embed_bias.astype(dtype))
        gains = 1 + self._per_layer(hidden, self.gain)
        shifts = None if self.shift is None else self._per_layer(hidden, self.shift)
        h = contract(self.lift[...], y)
        for i in range(self.n_layers):
            u = h * gains[i] if shifts is None else h * gains[i] + shifts[i]
            near = neighbourhood(activation(u), self.ndim, 2**i, self.hypercubic)
            h = h + contract(self.mix[i], jnp.concatenate(near))
        return contract(self.out[...], activation(h)) + contract(self.skip[...], y)

    def _per_layer(self, hidden: jax.Array, weights: nnx.Param[jax.Array]) -> jax.Array:
        """`(n_layers, channels, n, 1, ...)`."""
        table = (hidden @ weights.astype(hidden.dtype)).T
        return table.reshape(self.n_layers, self.channels, -1, *[1] * self.ndim)

    def _check(self, shape: tuple[int, ...]) -> None:
        """Refuse another dimension; warn of a lattice that the layers do not span."""
        if len(shape) != self.ndim:
            raise ValueError(
                f"this ConvNet was built with ndim = {self.ndim}, the lattice is {shape}; "
                f"build it with ndim = {len(shape)}"
            )
        if 2 * self.receptive_field < max(shape):
            warnings.warn(
                f"the receptive field of {self.n_layers} layers, {self.receptive_field} sites, is "
                f"less than half of the lattice {shape}: raise n_layers",
                stacklevel=3,
            )


def neighbourhood(x: jax.Array, ndim: int, distance: int, hypercubic: bool) -> Sequence[jax.Array]:
    """What a kernel of 3^d taps adds up with weights: fields like `x`.

    With `hypercubic` the k-th field is the sum over all neighbours that are off along k axes.
    """
    parts = [x]
    for axis in range(-ndim, 0):
        forward = [jnp.roll(part, -distance, axis) for part in parts]
        backward = [jnp.roll(part, distance, axis) for part in parts]
        if hypercubic:
            off = [a + b for a, b in zip(forward, backward, strict=True)]
            parts = [parts[0], *(a + b for a, b in zip(parts[1:], off, strict=False)), off[-1]]
        else:
            parts = [*parts, *forward, *backward]
    return parts
