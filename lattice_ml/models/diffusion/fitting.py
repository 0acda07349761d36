r"""Training: regression on noised configurations, and fine-tuning through the sampler.

`denoise` minimises the denoiser's loss over configurations, white noise and log-uniform noise
variances; the variances are drawn more often where the loss is large (density ~ sqrt(loss), kept
in bins of log t), stratified over the batch, and reweighted, so that the estimate stays unbiased.
`fine_tune` needs no configurations: it minimises the variance of log w = -S - log q over samples
of the model itself, by gradients through the flow.

Both run many steps in one compiled program.  A step's random numbers depend on the seed and its
number alone, so a run cut anywhere and continued has the same weights to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from lattice_ml.models.augmentation import transform
from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.theory import Theory

__all__ = [
    *("Settings", "TrainState", "averaged", "denoise", "fine_tune", "stack"),
    *("start", "validation_loss"),
]

Inputs = TypeVar("Inputs")
Other = TypeVar("Other")
Piece = tuple[jax.Array, jax.Array]  # its number, and its key

_N_BINS = 12  # of log t
_CACHE_SITES = 4096  # sites per gradient piece: what keeps its intermediates in the cache


@dataclass(frozen=True)
class Settings:
    """How the weights are found; static under jit.

    Args:
        total: steps of this stage; the learning rate falls to a hundredth over them.
        batch_size: samples per step.
        learning_rate: of Adam, after a warm-up of a twentieth of the steps.
        clip: largest norm of the gradient.
        b2: decay of Adam's second moment.
        average: decay of the running average of the weights, at most 1 - 10 / total.
        target: what F is learned from, "action" or "data".
        augment: draw a random symmetry of lattice and action for every piece of a batch.
        flow: how samples are drawn while fine-tuning.
    """

    total: int
    batch_size: int = 128
    learning_rate: float = 3e-3
    clip: float = 1.0
    b2: float = 0.999
    average: float = 0.999
    target: str = "action"
    augment: bool = False
    flow: Flow = field(default_factory=Flow)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        warm_up = max(1, self.total // 20)
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=self.learning_rate / warm_up,
            peak_value=self.learning_rate,
            warmup_steps=warm_up,
            decay_steps=max(self.total, warm_up + 1),
            end_value=0.01 * self.learning_rate,
        )
        rule = optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(schedule, b2=self.b2))
        return optax.flatten(rule)  # a few small arrays update faster as one


class TrainState(NamedTuple):
    """Everything that a resumed run needs; arrays only."""

    weights: Weights
    average: Weights
    optimiser: optax.OptState
    bins: jax.Array  # running loss per bin of log t
    step: jax.Array  # of this stage


def start(network: Denoiser, settings: Settings) -> TrainState:
    """Begin a stage from the weights of `network`."""
    weights = nnx.state(network)
    return TrainState(
        weights=weights,
        average=weights,
        optimiser=settings.optimiser.init(weights),
        bins=jnp.ones(_N_BINS, jnp.float32),
        step=jnp.zeros((), jnp.int32),
    )


def averaged(network: Denoiser, state: TrainState) -> Denoiser:
    """The network with the running average of the weights."""
    return nnx.merge(nnx.graphdef(network), state.average)


def stack(theories: list[Theory]) -> Theory:
    """Theories on one lattice as one pytree with a leading axis."""
    return jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *theories
    )


@partial(jax.jit, static_argnames=("graph", "n", "settings"))
def denoise(
    graph: nnx.GraphDef[Denoiser],
    state: TrainState,
    theories: Theory,
    pool: jax.Array,
    key: jax.Array,
    *,
    n: int,
    settings: Settings,
) -> tuple[TrainState, jax.Array]:
    """Take `n` steps of regression.

    Args:
        graph: structure of the network.
        state: where to go on.
        theories: of `stack`; every piece of a batch draws one of them.
        pool: configurations, `(n_theories, n_configs, *L)`.
        key: of the stage.
        n: steps; static, as settings.
        settings: of the stage.

    Returns:
        The state after them, and their losses `(n,)`.
    """
    pieces, size = _pieces(settings.batch_size, theories.modes.volume)

    def gradient(state: TrainState, key: jax.Array) -> tuple[Weights, jax.Array, jax.Array]:
        def loss(weights: Weights, inputs: Piece) -> tuple[jax.Array, jax.Array]:
            i, key = inputs
            which, where, rest = jax.random.split(key, 3)
            k = jax.random.randint(which, (), 0, len(pool))
            theory = jax.tree.map(lambda leaf: leaf[k], theories)
            rows = jax.random.randint(where, (size,), 0, pool.shape[1])
            network = nnx.merge(graph, weights)
            return _regression(
                network, theory, pool[k, rows], rest, state.bins, (i, pieces), settings
            )

        inputs = (jnp.arange(pieces), jax.random.split(key, pieces))
        slope, values, bins = _mean_gradient(loss, state.weights, inputs, pieces)
        seen, squares = jnp.sum(bins, axis=0)
        fresh = jnp.where(seen > 0, squares / jnp.maximum(seen, 1), state.bins)
        return slope, jnp.mean(values), 0.97 * state.bins + 0.03 * fresh

    return _steps(gradient, state, key, n, settings)


@partial(jax.jit, static_argnames=("graph", "n", "settings"))
def fine_tune(
    graph: nnx.GraphDef[Denoiser],
    state: TrainState,
    theories: Theory,
    key: jax.Array,
    *,
    n: int,
    settings: Settings,
) -> tuple[TrainState, jax.Array]:
    """Take `n` steps on the variance of log w, as `denoise` without configurations.

    The variance is that within pieces of a batch, so that each piece is differentiated by itself.
    """
    size = max(4, _pieces(settings.batch_size, theories.modes.volume)[1])
    count = len(jax.tree.leaves(theories)[0])
    n_pieces = max(1, settings.batch_size // size)

    def gradient(state: TrainState, key: jax.Array) -> tuple[Weights, jax.Array, jax.Array]:
        def loss(weights: Weights, key: jax.Array) -> tuple[jax.Array, None]:
            which, draw = jax.random.split(key)
            k = jax.random.randint(which, (), 0, count)
            theory = jax.tree.map(lambda leaf: leaf[k], theories)
            x, log_q = settings.flow.sample(nnx.merge(graph, weights), theory, draw, size)
            return jnp.var(-theory.action(x) - log_q, ddof=1), None

        keys = jax.random.split(key, n_pieces)
        slope, values, _ = _mean_gradient(loss, state.weights, keys, n_pieces)
        return slope, jnp.mean(values), state.bins

    return _steps(gradient, state, key, n, settings)


def validation_loss(
    network: Denoiser, theory: Theory, phi: jax.Array, key: jax.Array, target: str
) -> jax.Array:
    """Mean loss over fields `(n, *L)` and variances even in log t."""
    t_key, noise_key = jax.random.split(key)
    n = len(phi)
    u = (jnp.arange(n) + jax.random.uniform(t_key, (n,), theory.dtype)) / n
    low, high = network.t_range(theory)
    noise = jax.random.normal(noise_key, phi.shape, theory.dtype)
    t = (low * (high / low) ** u).astype(theory.dtype)
    return jnp.mean(network.loss(theory, theory.modes.forward(phi), noise, t, target))


def _steps(
    gradient: Callable[[TrainState, jax.Array], tuple[Weights, jax.Array, jax.Array]],
    state: TrainState,
    key: jax.Array,
    n: int,
    settings: Settings,
) -> tuple[TrainState, jax.Array]:
    """Adam steps with a running average of the weights."""
    optimiser = settings.optimiser
    decay = min(settings.average, 1 - 10 / max(settings.total, 20))

    def step(state: TrainState, _: None) -> tuple[TrainState, jax.Array]:
        slope, value, bins = gradient(state, jax.random.fold_in(key, state.step))
        change, memory = optimiser.update(slope, state.optimiser, state.weights)
        weights = optax.apply_updates(state.weights, change)
        average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state.average, weights)
        return TrainState(weights, average, memory, bins, state.step + 1), value

    return lax.scan(step, state, length=n)


def _mean_gradient(
    loss: Callable[[Weights, Inputs], tuple[jax.Array, Other]],
    weights: Weights,
    inputs: Inputs,
    n: int,
) -> tuple[Weights, jax.Array, Other]:
    """Gradient averaged over `n` pieces, one at a time; their losses `(n,)` and other results."""

    def add(total: Weights, piece: Inputs) -> tuple[Weights, tuple[jax.Array, Other]]:
        found, slope = jax.value_and_grad(loss, has_aux=True)(weights, piece)
        return jax.tree.map(jnp.add, total, slope), found

    total, (values, others) = lax.scan(add, jax.tree.map(jnp.zeros_like, weights), inputs)
    return jax.tree.map(lambda leaf: leaf / n, total), values, others


def _regression(
    network: Denoiser,
    theory: Theory,
    fields: jax.Array,
    key: jax.Array,
    bins: jax.Array,
    stratum: tuple[jax.Array, int],
    settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    """Importance-weighted loss of one piece, and (count, loss) per bin `(2, bins)`."""
    t_key, noise_key, symmetry_key = jax.random.split(key, 3)
    if settings.augment:
        fields = transform(symmetry_key, fields, theory.modes.shape)
    n = len(fields)
    i, pieces = stratum
    u = (jnp.arange(n) * pieces + i + jax.random.uniform(t_key, (n,), theory.dtype)) / (n * pieces)
    density = jnp.sqrt(bins) + 0.1 * jnp.mean(jnp.sqrt(bins))
    density = density / jnp.sum(density)
    edges = jnp.concatenate([jnp.zeros(1, density.dtype), jnp.cumsum(density)])
    bin_ = jnp.clip(jnp.searchsorted(edges, u) - 1, 0, _N_BINS - 1)
    low, high = network.t_range(theory)
    t = low * (high / low) ** ((bin_ + (u - edges[bin_]) / density[bin_]) / _N_BINS)
    noise = jax.random.normal(noise_key, fields.shape, theory.dtype)
    phi = theory.modes.forward(fields)
    loss = network.loss(theory, phi, noise, t.astype(theory.dtype), settings.target)
    seen = jnp.zeros(_N_BINS, bins.dtype).at[bin_].add(1)
    squares = jnp.zeros(_N_BINS, bins.dtype).at[bin_].add(lax.stop_gradient(loss))
    return jnp.mean(loss / (density[bin_] * _N_BINS)), jnp.stack([seen, squares])


def _pieces(batch_size: int, volume: int) -> tuple[int, int]:
    """How many pieces a batch is cut into, and their size."""
    size = int(np.clip(_CACHE_SITES // volume, 4, batch_size))
    pieces = max(1, batch_size // size)
    return pieces, batch_size // pieces
