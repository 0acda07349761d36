r"""Classifiers of configurations: which of two ensembles, or phases, does a field come from?

A classifier gives the log odds f(phi) of the class 1, log p(phi | 1) / p(phi | 0) for equal numbers
of both, by minimising the cross entropy with weights w,

    sum_i w_i log(1 + exp(-(2 y_i - 1) f(phi_i))).

`LogisticRegression` is linear in what it is given, the fields themselves or a few of their
`moments`; the minimum is unique, and Newton's method finds it.  `CNN` has two convolutions that
wrap around the lattice, and a mean over all sites: it sees patterns of some sites, wherever they
are.  With `even` it takes f(phi) + f(-phi), which no chain that stays in one well can mislead.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax

from lattice_ml.fields.types import Floats
from lattice_ml.models.diffusion.denoiser import Weights
from lattice_ml.models.diffusion.networks.convnet import neighbourhood
from lattice_ml.models.diffusion.networks.features import contract
from lattice_ml.statistics.series import as_numbers

__all__ = ["CNN", "LogisticRegression", "fit_cnn", "fit_logistic", "log_odds", "moments"]

CHANNELS = 8
LEARNING_RATE = 1e-2
_FEWEST, _MOST, _SITES = 4, 64, 2**13  # fields, and sites, of a batch
_STEPS, _FEWEST_STEPS = 200, 50  # on small lattices, on large ones
_HIDDEN = 16
_NEWTON_STEPS = 50

Parameter = nnx.Param[jax.Array]
Fitted = tuple[Weights, optax.OptState]


@dataclass(frozen=True)
class LogisticRegression:
    """f = bias + weights . (x - centre) / scale.

    Attributes:
        weights, centre, scale: `(k,)`.
        bias: log odds at the centre.
    """

    weights: Floats
    centre: Floats
    scale: Floats
    bias: float

    def __call__(self, x: npt.ArrayLike) -> Floats:
        """Log odds of rows of features `(n, k)`."""
        return np.asarray(self.bias + (np.asarray(x) - self.centre) / self.scale @ self.weights)


def moments(fields: npt.ArrayLike) -> Floats:
    """Numbers of each field that do not change with its sign: `(n, *L)` to `(n, 4 + d)`.

    |M|, M^2, the averages of phi^2 and phi^4, and those of phi_x phi_{x + mu} for every axis.
    """
    phi = as_numbers("fields", fields).astype(np.float64)
    axes = tuple(range(1, phi.ndim))
    magnetisation: Floats = phi.mean(axis=axes)
    powers = [np.mean(phi**n, axis=axes) for n in (2, 4)]
    links = [np.mean(phi * np.roll(phi, -1, axis), axis=axes) for axis in axes]
    return np.stack([np.abs(magnetisation), magnetisation**2, *powers, *links], axis=-1)


def fit_logistic(
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    penalty: float = 1.0,
) -> LogisticRegression:
    """Minimise the cross entropy plus penalty/2 |weights|^2, both classes counting alike.

    Args:
        x: features `(n, k)`; they are brought to mean 0 and variance 1.
        labels: `(n,)` of 0 and 1, both of which occur.
        weights: `(n,)`, up to a constant in each class.
        penalty: in units of one sample; keeps classes that a plane separates finite.

    Raises:
        ValueError: there is one class only, or the penalty is not positive.
    """
    x = as_numbers("x", x).astype(np.float64)
    y, w = _classes(labels, weights)
    if penalty <= 0:
        raise ValueError(f"penalty must be positive, got {penalty:g}")
    centre = x.mean(axis=0)
    scale = x.std(axis=0)
    scale[scale == 0] = 1.0
    z = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    ridge = np.diag(np.append(np.full(x.shape[1], penalty), 0.0))
    beta = np.zeros(z.shape[1])

    def loss(beta: Floats) -> float:
        return float(0.5 * beta @ ridge @ beta + w @ np.logaddexp(0, -(2 * y - 1) * (z @ beta)))

    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -500, 500)))
        gradient = z.T @ (w * (p - y)) + ridge @ beta
        hessian = (z.T * (w * p * (1 - p) + 1e-12)) @ z + ridge
        step = np.linalg.solve(hessian, gradient)
        while loss(beta - step) > loss(beta) and np.max(np.abs(step)) > 1e-10:
            step = step / 2
        beta = beta - step
        if np.max(np.abs(step)) < 1e-10:
            break
    return LogisticRegression(beta[:-1], centre, scale, float(beta[-1]))


class CNN(nnx.Module):
    """A small convolutional network, periodic on every lattice.

    Args:
        ndim: dimensions of the lattice.
        channels: of both convolutions, the second of which skips every other site.
        even: add f(-phi).
        scale: root mean square of the fields; they are divided by it.
        rngs: where the initial weights are drawn from.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        channels: int = CHANNELS,
        even: bool = True,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.ndim, self.even = ndim, even
        self.scale = nnx.Variable(jnp.float32(scale))
        # above two dimensions all neighbours at one distance share a weight
        self.hypercubic = ndim > 2
        taps = ndim + 1 if self.hypercubic else 3**ndim

        def normal(*shape: int) -> Parameter:
            draw = jax.random.normal(rngs.params(), shape, jnp.float32)
            return nnx.Param(draw * (2 / shape[-1]) ** 0.5)

        def zeros(*shape: int) -> Parameter:
            return nnx.Param(jnp.zeros(shape, jnp.float32))

        self.first, self.first_bias = normal(channels, taps), zeros(channels)
        self.second, self.second_bias = normal(channels, taps * channels), zeros(channels)
        self.third, self.third_bias = normal(_HIDDEN, 2 * channels), zeros(_HIDDEN)
        self.last, self.last_bias = zeros(_HIDDEN), zeros()

    def __call__(self, phi: jax.Array) -> jax.Array:
        """Log odds of fields: `(n, *L)` to `(n,)`."""
        y = phi.astype(jnp.float32) / self.scale[...]
        return self._odds(y) + self._odds(-y) if self.even else self._odds(y)

    def _odds(self, y: jax.Array) -> jax.Array:
        h = self._convolve(y[None], self.first, self.first_bias, 1)
        seen = [jnp.mean(h, axis=range(-self.ndim, 0))]
        h = self._convolve(h, self.second, self.second_bias, 2)
        seen.append(jnp.mean(h, axis=range(-self.ndim, 0)))
        pooled = jax.nn.gelu(self.third[...] @ jnp.concatenate(seen) + self.third_bias[:, None])
        return self.last[...] @ pooled + self.last_bias[...]

    def _convolve(
        self, h: jax.Array, weights: Parameter, bias: Parameter, distance: int
    ) -> jax.Array:
        near = jnp.concatenate(neighbourhood(h, self.ndim, distance, self.hypercubic))
        shift = bias[...].reshape(-1, *[1] * (self.ndim + 1))
        return jax.nn.gelu(contract(weights[...], near) + shift)


def fit_cnn(
    key: jax.Array,
    fields: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    even: bool = True,
    n_steps: int | None = None,
) -> CNN:
    """Train a `CNN` by Adam on batches of random fields, shifted, half of each class.

    Args:
        key: of the initial weights and the batches.
        fields: `(n, *L)`, all of them in memory.
        labels, weights: as for `fit_logistic`; fields are drawn in proportion to their weights.
        even: whether f(-phi) = f(phi).
        n_steps: gradient steps; 200, and fewer above 2^14 sites.

    Raises:
        ValueError: there is one class only.
    """
    phi = as_numbers("fields", fields).astype(np.float32, copy=False)
    y, w = _classes(labels, weights)
    init, batches = jax.random.split(key)
    network = CNN(
        ndim=phi.ndim - 1,
        even=even,
        scale=float(np.sqrt(np.mean(np.square(phi, dtype=np.float64)))) or 1.0,
        rngs=nnx.Rngs(init),
    )
    batch = int(np.clip(_SITES // phi[0].size, _FEWEST, _MOST)) // 2 * 2
    chances = np.stack([np.cumsum(np.where(y == label, w, 0.0)) for label in (0, 1)])
    chances /= chances[:, -1:]
    if n_steps is None:
        n_steps = int(np.clip(8 * _STEPS * _SITES // (batch * phi[0].size), _FEWEST_STEPS, _STEPS))
    graph, params, *rest = nnx.split(network, nnx.Param, nnx.Variable)
    arrays = jnp.asarray(phi), jnp.asarray(chances, jnp.float32)
    params = _descend(batches, *arrays, graph, params, rest, batch=batch, n_steps=n_steps)
    return nnx.merge(graph, params, *rest)


@partial(jax.jit, static_argnames=("graph", "batch", "n_steps"))
def _descend(
    key: jax.Array,
    phi: jax.Array,
    chances: jax.Array,
    graph: nnx.GraphDef[CNN],
    params: Weights,
    rest: list[Weights],
    *,
    batch: int,
    n_steps: int,
) -> Weights:
    """The weights after all steps."""
    warm_up = max(1, n_steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, warm_up, n_steps + 1)
    optimiser = optax.adam(schedule)
    half = batch // 2
    signs = jnp.repeat(jnp.array([-1.0, 1.0], jnp.float32), half)

    def step(carry: Fitted, i: jax.Array) -> tuple[Fitted, None]:
        params, memory = carry
        draw, move = jax.random.split(jax.random.fold_in(key, i))
        u = jax.random.uniform(draw, (2, half), chances.dtype)
        chosen = jax.vmap(jnp.searchsorted)(chances, u).ravel()
        shifts = jax.random.randint(move, (phi.ndim - 1,), 0, max(phi.shape[1:]))
        x = jnp.roll(phi[chosen], shifts, range(1, phi.ndim))

        def loss(params: Weights) -> jax.Array:
            return jnp.mean(jax.nn.softplus(-signs * nnx.merge(graph, params, *rest)(x)))

        updates, memory = optimiser.update(jax.grad(loss)(params), memory, params)
        return (optax.apply_updates(params, updates), memory), None

    (params, _), _ = lax.scan(step, (params, optimiser.init(params)), jnp.arange(n_steps))
    return params


def log_odds(network: CNN, fields: npt.ArrayLike) -> Floats:
    """Log odds of many fields, a batch at a time: `(n, *L)` to `(n,)`."""
    phi = as_numbers("fields", fields).astype(np.float32, copy=False)
    batch = int(np.clip(_SITES // phi[0].size, _FEWEST, len(phi)))
    graph, state = nnx.split(network)
    full = np.resize(phi, (-(-len(phi) // batch) * batch, *phi.shape[1:]))  # no program for a rest
    return np.asarray(_odds(jnp.asarray(full), graph, state, batch)[: len(phi)], np.float64)


@partial(jax.jit, static_argnames=("graph", "batch"))
def _odds(phi: jax.Array, graph: nnx.GraphDef[CNN], state: Weights, batch: int) -> jax.Array:
    network = nnx.merge(graph, state)
    return lax.map(lambda one: network(one[None])[0], phi, batch_size=batch)


def _classes(labels: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """Labels, and weights with a sum of half the number of samples in each class."""
    y = np.asarray(labels).astype(int)
    given = np.ones(len(y)) if weights is None else weights
    w = as_numbers("weights", given).astype(np.float64)
    if not (np.all(np.isfinite(w)) and np.all(w >= 0)):
        raise ValueError("weights must be finite and not negative")
    for label in (0, 1):
        if not np.sum(w[y == label]) > 0:
            raise ValueError(
                f"a classifier needs samples of two classes, got none of class {label}"
            )
        w[y == label] *= 0.5 * len(y) / np.sum(w[y == label])
    return y, w
