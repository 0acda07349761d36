r"""Gauss-Newton steps on log w of the flow's own samples.

With r = log w of samples and J its derivatives in the weights at fixed noise, both centred, the
variance of log w falls fastest along

    theta <- theta - (J^t J + damping)^-1 J^t r,

and the reverse Kullback-Leibler divergence, -<log w> up to a constant, with -<J> in the place of
J^t r; it is convex where the variance has lost a part of the distribution, and comes first.  J^t J
and J^t (r - J theta) are averaged over the steps, older ones with less weight.  The damping is that
of a few which does best on fresh samples, or the step is not taken.

Samples come in chunks, each of one theory, and every chunk's numbers depend on the key, the step
and the number of the chunk alone.  Chunks are spread over the devices of all processes and summed
in their order, by each; process 0 solves and tells the others, whose machines may round otherwise.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from lattice_ml.fields import randomness
from lattice_ml.fields.types import Floats
from lattice_ml.models.flow.conditioned import Flow
from lattice_ml.models.flow.multiscale import Tables, Weights, log_weight
from lattice_ml.runtime import collectives
from lattice_ml.statistics import kish

__all__ = ["CHUNK", "Fit", "Found", "Settings", "fitted", "loss", "start", "step"]

CHUNK = 256  # samples
_OUTLIER = 3.0  # standard deviations beyond which a residual counts less
_HEAVY = 2.0  # the same of log w, where a step is judged
_DAMPING, _ALLOWED = 0.1, (1e-5, 1e4)  # of the first step; least and most
_LENGTHS = (1.0, 0.4)  # of a step, that are tried
_LESS, _MORE = 0.1, (10.0, 100.0, 1000.0)  # damping, times that of the step before

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """How steps are taken.

    Args:
        by_kl: minimise the reverse Kullback-Leibler divergence instead of the variance.
        n_samples: per step, in whole chunks.
        memory: of the averages.
    """

    by_kl: bool
    n_samples: int
    memory: float

    def chunks(self, n_theories: int) -> int:
        """How many: the same number for each theory."""
        return n_theories * max(1, round(self.n_samples / (CHUNK * n_theories)))


class Fit(NamedTuple):
    """The state of a fit; arrays only."""

    weights: np.ndarray  # all, in a row, float32
    normal: np.ndarray  # of J^t J, `(weights, weights)` in float32
    slope: np.ndarray  # of J^t (r - J theta)
    worth: np.ndarray  # how many steps both are
    damping: np.ndarray
    done: np.ndarray  # steps taken


class Found(NamedTuple):
    """What a step saw."""

    loss: float  # on fresh samples, after it
    variance: float  # of log w before it
    ess: float  # of its samples, a share


def start(flow: Flow) -> Fit:
    """Begin with the weights of a flow."""
    weights = _flat(flow).ravel().astype(np.float32)
    n = len(weights)
    zero = np.zeros(n), np.zeros(()), np.full((), _DAMPING), np.zeros((), np.int64)
    return Fit(weights, np.zeros((n, n), np.float32), *zero)


def fitted(flow: Flow, fit: Fit) -> Flow:
    """The flow with the weights of a fit."""
    return _with(flow, fit.weights)


def step(
    flow: Flow, theories: Sequence[Tables], fit: Fit, key: jax.Array, settings: Settings
) -> tuple[Fit, Found]:
    """Take a step.

    Args:
        flow: what is fitted; its weights are those of the fit.
        theories: of the stage, in float32.
        fit: where to go on.
        key: of the phase.
        settings: of the phase.

    Returns:
        The next state, and what was seen; its numbers are none where log w is not finite.
    """
    fit = Fit(*map(np.asarray, fit))  # what was restored from a checkpoint is of JAX
    drawing, judging = jax.random.split(jax.random.fold_in(key, int(fit.done)))
    normal, slope, log_w = _equations(fitted(flow, fit), theories, drawing, settings)
    if not np.all(np.isfinite(slope)) or not all(np.all(np.isfinite(x)) for x in log_w):
        return fit, Found(np.nan, np.nan, 0.0)
    at, memory = fit.weights.astype(np.float64), settings.memory
    slope = memory * fit.slope + slope - normal @ at
    normal += memory * fit.normal
    worth = memory * fit.worth + 1
    kept = normal.astype(np.float32)
    known = np.divide(normal, worth, out=normal)  # the largest arrays that there are: in place
    downhill = slope / worth + known @ at

    def judged(weights: np.ndarray) -> float:
        return loss(_with(flow, weights), theories, judging, settings)

    def tried(factor: float) -> _Trial:
        damping = np.clip(fit.damping * factor, *_ALLOWED)
        change = collectives.told(partial(_solve, known, damping, downhill), downhill)
        trials = [(length, (at - length * change).astype(np.float32)) for length in _LENGTHS]
        return min((_Trial(judged(w), w, damping, n) for n, w in trials), key=_loss_of)

    here = judged(fit.weights)
    best = tried(1.0)
    if best.loss < here:  # with less where the whole step is good, else with more
        best = min(best, tried(_LESS if best.length == 1 else _MORE[0]), key=_loss_of)
    else:
        more = (tried(factor) for factor in _MORE)
        stay = _Trial(here, fit.weights, np.clip(fit.damping * _MORE[-1], *_ALLOWED), 0.0)
        best = next((trial for trial in more if trial.loss < here), stay)
    state = Fit(best.weights, kept, slope, np.asarray(worth), best.damping, fit.done + 1)
    return state, _found(best.loss, log_w)


class _Trial(NamedTuple):
    """Weights after a step, and how it was taken."""

    loss: float
    weights: np.ndarray
    damping: np.ndarray
    length: float


_loss_of = itemgetter(0)


def _equations(
    flow: Flow, theories: Sequence[Tables], key: jax.Array, settings: Settings
) -> tuple[Floats, Floats, list[Floats]]:
    """J^t J and the downhill slope, averaged over the chunks, and log w of each theory."""
    n_theories, n_chunks = len(theories), settings.chunks(len(theories))
    terms, each = _flat(flow).shape
    normals, slopes = np.zeros((n_theories, each, each)), np.zeros((n_theories, each))
    log_w: list[list[np.ndarray]] = [[] for _ in theories]
    for i, (normal, of_kl, of_variance, logs) in _chunks(
        _derivatives, flow, theories, key, n_chunks
    ):
        normals[i] += normal / n_chunks
        slopes[i] += (of_kl if settings.by_kl else of_variance) / n_chunks
        log_w[i].append(logs)
    # a derivative in all weights is that at the couplings times each monomial
    whole, downhill = np.zeros((terms, each, terms, each)), np.zeros((terms, each))
    for tables, normal, slope in zip(theories, normals, slopes, strict=True):
        term = np.asarray(flow.terms(tables), np.float64)
        for i, j in itertools.product(range(terms), repeat=2):
            whole[i, :, j] += term[i] * term[j] * normal
        downhill += term[:, None] * slope
    square = whole.reshape(terms * each, -1)
    return square, downhill.ravel(), [np.concatenate(logs).astype(np.float64) for logs in log_w]


def loss(flow: Flow, theories: Sequence[Tables], key: jax.Array, settings: Settings) -> float:
    """What is minimised, on half as many samples; the variance grows linearly in the tails.

    Infinite where log w is not finite.
    """
    n_chunks = max(len(theories), settings.chunks(len(theories)) // 2)
    log_w: list[list[np.ndarray]] = [[] for _ in theories]
    for i, logs in _chunks(_log_weights, flow, theories, key, n_chunks):
        log_w[i].append(logs)
    costs = []
    for logs in log_w:
        x = np.concatenate(logs).astype(np.float64)
        apart = (x - np.median(x)) / _HEAVY
        heavy = 2 * _HEAVY**2 * np.mean(np.sqrt(1 + apart**2) - 1)
        costs.append(-x.mean() if settings.by_kl else heavy)
    found = float(np.mean(costs))
    return found if np.isfinite(found) else np.inf


def _chunks(
    program: Callable[..., Result],
    flow: Flow,
    theories: Sequence[Tables],
    key: jax.Array,
    n_chunks: int,
) -> Iterator[tuple[int, Result]]:
    """Run a program on every chunk; chunk i is of theory i modulo their number."""
    mesh = Mesh(collectives.devices().T.ravel(), ("chunks",))
    given = [jax.tree.map(np.asarray, (flow.at(tables), tables)) for tables in theories]
    for first in range(0, n_chunks, mesh.size):
        numbers = range(first, first + mesh.size)
        keys = [randomness.chain_keys(jax.random.fold_in(key, n), CHUNK) for n in numbers]
        each = [(*given[n % len(theories)], own) for n, own in zip(numbers, keys, strict=True)]
        found = collectives.in_order(program(*collectives.spread(each, mesh), mesh=mesh))
        for number, result in itertools.islice(zip(numbers, found, strict=True), n_chunks - first):
            yield number % len(theories), result


@partial(jax.jit, static_argnames="mesh")
def _derivatives(
    weights: Weights, tables: Tables, keys: randomness.Keys, *, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """J^t J, the slopes of divergence and variance, and log w of a chunk on every device."""

    def chunk(
        weights: Weights, tables: Tables, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        def one(weights: Weights, noise: jax.Array) -> jax.Array:
            return log_weight(weights, tables, noise[:, None])[0]

        log_w, rows = jax.vmap(jax.value_and_grad(one), (None, -1))(weights, noise)
        rows = jnp.concatenate([r.reshape(CHUNK, -1) for r in jax.tree.leaves(rows)], axis=1)
        mean = jnp.mean(rows, axis=0)
        rows = rows - mean
        apart = (log_w - jnp.median(log_w)) / (_OUTLIER * jnp.std(log_w))
        residual = ((log_w - jnp.mean(log_w)) / jnp.sqrt(1 + apart**2)).astype(rows.dtype)
        return rows.T @ rows / CHUNK, -mean, residual @ rows / CHUNK, log_w

    return _on_devices(chunk, mesh)(weights, tables, keys)


@partial(jax.jit, static_argnames="mesh")
def _log_weights(
    weights: Weights, tables: Tables, keys: randomness.Keys, *, mesh: Mesh
) -> jax.Array:
    """Log w of a chunk on every device, `(devices, CHUNK)`."""
    return _on_devices(log_weight, mesh)(weights, tables, keys)


def _on_devices(
    chunk: Callable[[Weights, Tables, jax.Array], Result], mesh: Mesh
) -> Callable[[Weights, Tables, randomness.Keys], Result]:
    """Each device's chunk, from its own weights, tables and keys of noise."""

    def share(weights: Weights, tables: Tables, keys: randomness.Keys) -> Result:
        mine, theory, own = jax.tree.map(itemgetter(0), (weights, tables, keys))
        noise = randomness.normals(own, jnp.uint32(0), math.prod(theory.shape) // 2)
        found: Result = jax.tree.map(lambda x: x[None], chunk(mine, theory, noise))
        return found

    spread = PartitionSpec("chunks")
    return jax.shard_map(share, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)


def _found(loss: float, log_w: Sequence[Floats]) -> Found:
    return Found(
        loss=float(loss),
        variance=float(np.mean([np.var(x) for x in log_w])),
        ess=float(np.mean([kish(x) / len(x) for x in log_w])),
    )


def _solve(normal: Floats, damping: Floats, slope: Floats) -> Floats:
    from scipy.linalg import cho_factor, cho_solve

    damped = normal.copy()
    damped.flat[:: len(damped) + 1] += damping * (np.diag(normal) + 1)
    found: Floats = cho_solve(cho_factor(damped, overwrite_a=True, check_finite=False), slope)
    return found


def _flat(flow: Flow) -> np.ndarray:
    """All weights, `(terms, weights)`."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(flow.weights)]
    return np.concatenate(leaves, axis=1)


def _with(flow: Flow, weights: np.ndarray) -> Flow:
    """The flow with other weights, in a row."""
    leaves, structure = jax.tree.flatten(flow.weights)
    ends = np.cumsum([np.size(leaf[0]) for leaf in leaves])
    parts = np.split(weights.reshape(len(flow.powers), -1), ends[:-1], axis=1)
    new = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    return replace(flow, weights=jax.tree.unflatten(structure, new))
