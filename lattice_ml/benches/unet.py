"""Training and sampling of the U-Net as in arXiv:2309.17082, without the package's own training.

The noise is variance exploding, dx = base^s dW, and its levels s are even in [0, 1], stratified
over a batch.  The reverse process is stepped by Euler and Maruyama.  Fields are what they are:
scale them first where they should lie between -1 and 1, as in the paper.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.optimize import brentq

from lattice_ml.models.augmentation import transform
from lattice_ml.models.diffusion.denoiser import Weights
from lattice_ml.models.diffusion.networks.unet import UNet
from lattice_ml.models.diffusion.noise import VarianceExploding
from lattice_ml.models.diffusion.reverse import draw_noise, euler_maruyama, uniform_grid
from lattice_ml.models.theory import Theory

__all__ = ["Effort", "noise_schedule", "sample", "train"]

_PIECE = 8  # fields differentiated at once; more do not fit the cache
_TOGETHER = 16  # fields sampled at once, likewise
_FIRST = 1e-3  # smallest s

Fitted = tuple[Weights, Weights, optax.OptState]  # weights, their average, of the optimiser


class Effort(NamedTuple):
    """How much is done."""

    train_steps: int  # of Adam, at up to 2e-3
    batch_size: int  # fields per step, a multiple of 8
    n_samples: int  # drawn
    sde_steps: int  # of the reverse process


def noise_schedule(theory: Theory) -> VarianceExploding:
    """Variance exploding until no two fields can be told apart.

    The largest sigma is the distance between the ends of the zero mode's distribution, or ten
    times the spread of any other mode.
    """
    largest = max(2 * float(theory.quantiles.max()), 10 * math.sqrt(float(theory.c_max)))
    return VarianceExploding(
        brentq(lambda base: (base**2 - 1) / (2 * math.log(base)) - largest**2, 1.01, 1e6)
    )


def train(
    key: jax.Array,
    network: UNet,
    theory: Theory,
    schedule: VarianceExploding,
    fields: jax.Array,
    effort: Effort,
) -> tuple[UNet, jax.Array]:
    """Return the network with the running average of its weights, and the losses `(train_steps,)`.

    Every field comes with its mirror image and the mirrored noise, so that what the network has
    of even parts is unlearned without noise; shifts and reflections are drawn at random.
    The theory is measured on the fields `(n, *L)`; the network takes their scale from it.

    Raises:
        RuntimeError: a loss is not finite.
    """
    graph, weights = nnx.split(network)
    n_steps = effort.train_steps
    rate = optax.warmup_cosine_decay_schedule(1e-4, 2e-3, n_steps // 20, n_steps, 1e-5)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    decay = 1 - 10 / n_steps

    def loss(weights: Weights, key: jax.Array) -> jax.Array:
        rows, symmetry, level, noise = jax.random.split(key, 4)
        phi = fields[jax.random.randint(rows, (_PIECE // 2,), 0, len(fields))]
        phi = theory.modes.forward(transform(symmetry, phi, theory.modes.shape))
        steps = jnp.arange(_PIECE // 2) + jax.random.uniform(level, (_PIECE // 2,), jnp.float32)
        t = schedule.variance(_FIRST + (1 - _FIRST) * steps / (_PIECE // 2))
        eps = jax.random.normal(noise, phi.shape, jnp.float32)
        phi, eps, t = jnp.concatenate([phi, -phi]), jnp.concatenate([eps, -eps]), jnp.tile(t, 2)
        each = nnx.merge(graph, weights).loss(theory, phi, eps, t, "data")
        return jnp.mean(each) / theory.modes.volume

    def step(state: Fitted, key: jax.Array) -> tuple[Fitted, jax.Array]:
        weights, average, memory = state

        def add(total: Weights, key: jax.Array) -> tuple[Weights, jax.Array]:
            value, slope = jax.value_and_grad(loss)(weights, key)
            return jax.tree.map(jnp.add, total, slope), value

        zeros = jax.tree.map(jnp.zeros_like, weights)
        keys = jax.random.split(key, effort.batch_size // _PIECE)
        slope, values = jax.lax.scan(add, zeros, keys)
        change, memory = optimiser.update(slope, memory, weights)
        weights = optax.apply_updates(weights, change)
        average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)
        return (weights, average, memory), jnp.mean(values)

    @jax.jit
    def run(state: Fitted, keys: jax.Array) -> tuple[Fitted, jax.Array]:
        return jax.lax.scan(step, state, keys)

    keys = jax.random.split(key, n_steps)
    state, losses = run((weights, weights, optimiser.init(weights)), keys)
    if not bool(jnp.all(jnp.isfinite(losses))):
        raise RuntimeError("the loss is not finite; lower the learning rate")
    return nnx.merge(graph, state[1]), losses


def sample(
    key: jax.Array, network: UNet, theory: Theory, schedule: VarianceExploding, effort: Effort
) -> np.ndarray:
    """Fields `(n_samples, *L)` from noise."""
    graph, weights = nnx.split(network)
    shape = (_TOGETHER, *theory.propagator.shape)

    @jax.jit
    def draw(weights: Weights, keys: jax.Array) -> jax.Array:
        def batch(key: jax.Array) -> jax.Array:
            start, steps = jax.random.split(key)
            x = draw_noise(start, schedule, shape, jnp.float32)
            denoise = partial(nnx.merge(graph, weights).denoise, theory)
            x, _ = euler_maruyama(steps, denoise, schedule, x, uniform_grid(effort.sde_steps))
            return theory.modes.inverse(x)

        return jax.lax.map(batch, keys)

    keys = jax.random.split(key, -(-effort.n_samples // _TOGETHER))
    drawn = np.asarray(jax.device_get(draw(weights, keys)))
    return drawn.reshape(-1, *theory.modes.shape)[: effort.n_samples]
