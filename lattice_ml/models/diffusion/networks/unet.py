r"""The U-Net of arXiv:2309.17082 and 2311.03578, the usual denoiser of diffusion models.

It knows neither the action nor the propagator and is here to be compared with.  Every convolution
wraps around the lattice.  Each level halves the lattice (stride 2), so translations by one site
are no symmetry of the network, nor is phi -> -phi: both are learned, from augmented data.  It has
no group normalisation, which would hide the size of the field, an observable, from the layers.

Two ways to let a network N make a denoiser, sigma = sqrt(t), sigma_d^2 = <phi^2>:

    "score"  as in those papers: the score is N / sigma, so D = x + sigma N;
    "edm"    D = c_skip x + c_out N, c_skip = sigma_d^2/(t + sigma_d^2),
             c_out = sigma sigma_d/(t + sigma_d^2)^(1/2)  (arXiv:2206.00364, table 1).

N sees x / (t + sigma_d^2)^(1/2) in both.  "score" needs N ever more accurately as sigma exceeds
sigma_d; the zero mode of a broken phase is decided there.
"""

import math
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.networks.features import contract, time_features, weights
from lattice_ml.models.theory import Theory

__all__ = ["UNet"]

_FEATURES = 64  # width of the time embedding


class UNet(Denoiser):
    """D by a U-Net on sites; `force` follows from it.

    F = x/t - D/P_t cancels ever worse as t -> 0 and its trace has no closed form: use it with the
    samplers of `reverse`, not where an exact density is needed.

    Args:
        ndim: dimensions of the lattice, 1 to 3.
        channels: of each level, from the full lattice down; extents must be divisible by
            2^(levels - 1).
        preconditioning: "edm" or "score".
        rngs: where the initial weights are drawn from.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        preconditioning: Literal["edm", "score"] = "edm",
        rngs: nnx.Rngs,
    ) -> None:
        if ndim not in (1, 2, 3):
            raise ValueError(f"a UNet lives in 1, 2 or 3 dimensions, got ndim = {ndim}")
        if not channels or min(channels) < 1:
            raise ValueError(f"a UNet needs at least one channel on each level, got {channels=}")
        if preconditioning not in ("edm", "score"):
            raise ValueError(f"preconditioning must be 'edm' or 'score', got {preconditioning!r}")
        self.ndim, self.channels, self.preconditioning = ndim, tuple(channels), preconditioning
        levels = list(pairwise(channels))
        self.embed = nnx.Linear(9, _FEATURES, rngs=rngs)
        self.first = _Block(ndim, 1, channels[0], rngs=rngs)
        self.down = nnx.List([_Block(ndim, above, below, rngs=rngs) for above, below in levels])
        self.narrow = nnx.List([weights(rngs, n**-0.5, above, n) for above, n in levels])
        self.up = nnx.List([_Block(ndim, 2 * above, above, rngs=rngs) for above, _ in levels])
        self.last = Convolution(ndim, channels[0], 1, rngs=rngs)

    def denoise(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        skip, out = self._coefficients(theory, t)
        net = theory.modes.forward(self._prediction(theory, x, t))
        return theory.spread(skip) * x + theory.spread(out) * net

    def force(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        """F = x/t - D/P_t in modes, `(n, *modes)`."""
        return x / theory.spread(t) - self.denoise(theory, x, t) / theory.posterior(t)

    def t_range(self, theory: Theory) -> tuple[jax.Array, jax.Array]:
        """Up to noise as large as the distance between any two zero modes."""
        low, high = super().t_range(theory)
        return low, jnp.maximum(high, 4 * jnp.max(jnp.abs(theory.quantiles)) ** 2)

    def loss(
        self, theory: Theory, phi: jax.Array, noise: jax.Array, t: jax.Array, target: str = "data"
    ) -> jax.Array:
        """|D - phi|^2 / c_out^2, summed over the sites: `(n,)`.

        That is |N + eps|^2 = |sigma score + eps|^2 for "score", and for "edm" the weight of
        arXiv:2206.00364, eq. 8: N has to be equally accurate at all noise levels.

        Raises:
            ValueError: `target` is not "data"; a UNet does not know the action.
        """
        if target != "data":
            raise ValueError(
                f"a UNet learns from data alone: target must be 'data', got {target!r}"
            )
        sigma = theory.spread(jnp.sqrt(t))
        x = phi + sigma * noise
        skip, out = map(theory.spread, self._coefficients(theory, t))
        wanted = (1 - skip) / out * phi - skip * sigma / out * noise  # (phi - skip x) / out
        net = theory.modes.forward(self._prediction(theory, x, t))
        return jnp.sum((net - wanted) ** 2, theory.modes.axes)

    def network(self, x: jax.Array, features: jax.Array) -> jax.Array:
        """The convolutions alone.

        Args:
            x: fields on sites, `(n, *L)`.
            features: of time, `(n, 9)` or `(1, 9)`.

        Returns:
            Output field, `(n, *L)`.
        """
        embedding = nnx.silu(self.embed(features))
        fields = [self.first(x[None], embedding)]
        for down in self.down:
            fields.append(down(fields[-1], embedding, stride=2))
        h = fields.pop()
        for narrow, up in zip(reversed(self.narrow), reversed(self.up), strict=True):
            wide = _double(contract(narrow[...], h), self.ndim)
            h = up(jnp.concatenate([fields.pop(), wide]), embedding)
        return self.last(h)[0]

    def _prediction(self, theory: Theory, x: jax.Array, t: jax.Array) -> jax.Array:
        """N on sites, `(n, *L)`."""
        self._check(theory.modes.shape)
        scaled = theory.modes.inverse(x / theory.spread(jnp.sqrt(t + theory.phi_squared)))
        return self.network(scaled, time_features(theory, t, smooth=0.02))

    def _coefficients(self, theory: Theory, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """c_skip and c_out, `(n,)` each."""
        if self.preconditioning == "score":
            return jnp.ones_like(t), jnp.sqrt(t)
        skip = theory.phi_squared / (t + theory.phi_squared)
        return skip, jnp.sqrt(t * skip)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != self.ndim:
            raise ValueError(
                f"this UNet was built with ndim = {self.ndim}, the lattice is {shape}; "
                f"build it with ndim = {len(shape)}"
            )
        divisor = 2 ** (len(self.channels) - 1)
        common = math.gcd(*shape)
        if common % divisor:
            raise ValueError(
                f"a UNet of {len(self.channels)} levels needs extents divisible by {divisor}, "
                f"got {shape}; at most {(common & -common).bit_length()} levels fit"
            )


class _Block(nnx.Module):
    """A convolution, scaled and shifted by the time embedding (FiLM), and SiLU."""

    def __init__(self, ndim: int, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> None:
        self.convolution = Convolution(ndim, n_in, n_out, rngs=rngs)
        self.film = nnx.Linear(_FEATURES, 2 * n_out, rngs=rngs)

    def __call__(self, x: jax.Array, embedding: jax.Array, stride: int = 1) -> jax.Array:
        h = self.convolution(x, stride)
        film = self.film(embedding).T
        scale, shift = jnp.split(film.reshape(*film.shape, *[1] * (h.ndim - 2)), 2)
        return nnx.silu(h * (1 + scale) + shift)


class Convolution(nnx.Module):
    """Three sites wide along each axis, around the lattice; channels first.

    The weights mix the three neighbours along the last axis by one matrix product; its products
    for the other axes' neighbours are moved to their sites and added.  On a CPU this is as fast
    as XLA's convolution, whose gradient is twenty times slower inside a loop.
    """

    def __init__(self, ndim: int, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> None:
        self.ndim = ndim
        shape = (3 ** (ndim - 1) * n_out, 3 * n_in)
        scale = (3**ndim * n_in) ** -0.5
        self.weights = weights(rngs, scale, *shape)
        self.bias = nnx.Param(jnp.zeros((n_out, *[1] * (ndim + 1)), jnp.float32))

    def __call__(self, x: jax.Array, stride: int = 1) -> jax.Array:
        """`(n_in, n, *L)` to `(n_out, n, *(L / stride))`."""
        near = jnp.concatenate([x, jnp.roll(x, -1, -1), jnp.roll(x, 1, -1)])
        h = contract(self.weights[...], near[..., ::stride])
        for axis in range(-self.ndim, -1):
            here, after, before = h.reshape(3, -1, *h.shape[1:])
            h = here + jnp.roll(after, -1, axis) + jnp.roll(before, 1, axis)
            h = lax.slice_in_dim(h, 0, None, stride, axis)
        return h + self.bias.astype(h.dtype)


def _double(h: jax.Array, ndim: int) -> jax.Array:
    """Repeat every site along each axis: `(..., *L)` to `(..., *2L)`."""
    for axis in range(-ndim, 0):
        h = jnp.repeat(h, 2, axis)
    return h
