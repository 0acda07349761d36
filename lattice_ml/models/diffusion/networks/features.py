"""What networks are told of noise, couplings and scales, and how they bend it."""

import jax
import jax.numpy as jnp
from flax import nnx

from lattice_ml.models.theory import Theory

__all__ = ["activation", "all_features", "contract", "scales", "time_features", "weights"]


def time_features(theory: Theory, t: jax.Array, smooth: float = 0.2) -> jax.Array:
    """Functions of log(t / C_min + smooth) for variances `(n,)`: `(n, 9)`.

    The posterior is analytic in t at 0 on the scale C_min, and so are these: features of log t
    would be extrapolated there, and spoil the order of any integrator that comes near.
    """
    log = jnp.log(t / theory.c_min + smooth)[:, None]
    angles = 0.35 * jnp.arange(1, 5, dtype=log.dtype) * log
    return jnp.concatenate([0.2 * log, jnp.sin(angles), jnp.cos(angles)], axis=-1)


def all_features(theory: Theory, t: jax.Array, conditional: bool) -> jax.Array:
    """Of time `(n, 9)`, and of the couplings where asked `(n, 11)`."""
    features = time_features(theory, t)
    if not conditional:
        return features
    couplings = jnp.broadcast_to(coupling_features(theory), (len(t), 2))
    return jnp.concatenate([features, couplings], -1)


def coupling_features(theory: Theory) -> jax.Array:
    """Two numbers that tell couplings apart, in any normalisation of the field and volume.

    The bare mass squared over the hopping term, and the quartic coupling over its square.
    """
    h, a, b = (jnp.asarray(c, theory.dtype) for c in (theory.h, theory.a, theory.b))
    return jnp.stack([2 * (a / h - theory.modes.ndim), 4 * jnp.log1p(b / h**2)])


def scales(theory: Theory, t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scales per site of the posterior mean's fluctuation and zero mode, and of F: `(n,)` each.

    The zero mode keeps its ratio to the fluctuation, and so its meaning on another volume, until
    it is the larger by half, as in the broken phase.
    """
    c, modes = theory.propagator, theory.modes
    variance = c * c / (c + theory.spread(t)) / modes.volume
    fluctuation = jnp.sqrt(jnp.sum(variance * theory.fluctuating, modes.axes))
    free = jnp.sqrt(jnp.sum(c * theory.fluctuating) / modes.volume)
    zero = jnp.maximum(fluctuation, jnp.sqrt(variance[modes.zero]) / 1.5)
    return fluctuation, zero, theory.force_rms * (fluctuation / free) ** 2


def weights(rngs: nnx.Rngs, scale: float, *shape: int) -> nnx.Param[jax.Array]:
    """Initial weights: normal numbers of this size."""
    return nnx.Param(scale * jax.random.normal(rngs.params(), shape, jnp.float32))


def activation(x: jax.Array) -> jax.Array:
    """0.3 x + x^3/(1 + x^2): odd, smooth, linear at both ends."""
    return x * (1.3 - 1 / (1 + x * x))


def contract(weights: jax.Array, fields: jax.Array) -> jax.Array:
    """Sum over channels: `(..., c)` and `(c, n, *L)` to `(..., n, *L)`, in the fields' dtype."""
    return jnp.tensordot(weights.astype(fields.dtype), fields, 1, precision="highest")
