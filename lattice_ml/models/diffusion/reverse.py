r"""From noise to fields: the reverse process of a denoiser, step by step.

With the score of the noised density, grad log p_s(x) = (D(x/scale, t) - x/scale) / (scale t), the
forward process dx = f x ds + g dW of a schedule (`noise.py`) is undone from s = 1 to s = 0 by

    dx = [f x - g^2 score] ds + g dW          `euler_maruyama`, `predictor_corrector`
    dx = [f x - g^2 score / 2] ds             `heun`, the probability flow

(arXiv:2011.13456 eqs. 6 and 13).  These take any function `denoise(x, t) -> D` of noised fields
`(n, ...)` and variances `(1,)`, in sites or in modes, and know nothing of the density of what they
return: their bias is that of the steps, and noise of sigma(0) that a schedule may leave.

`path_weights` makes samples that can be made exact.  The Gaussian part of a `Theory`, with the
mixture of its zero mode, has a reverse process p_ref in closed form.  A network shifts the mean of
each of its kernels p_ref(x_k | x_{k+1}) by what its F adds to the score.  Since p_ref starts at pi
and has the noise's forward kernels q, the weight of a path is

    exp(-S(x_0)) prod_k q(x_{k+1} | x_k) / [pi(x_K) prod_k p(x_k | x_{k+1})]
        = exp(-S(x_0)) / p_ref(x_0) prod_k p_ref(x_k | x_{k+1}) / p(x_k | x_{k+1}),

which has the mean Z for any network and any number of steps, and is constant for a Gaussian.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from lattice_ml.fields.layout import widest
from lattice_ml.models.diffusion.denoiser import Denoiser, Zero
from lattice_ml.models.diffusion.noise import Schedule
from lattice_ml.models.theory import Theory

__all__ = [
    *("Path", "draw_noise", "euler_maruyama", "frame_steps", "heun", "path_grid", "path_weights"),
    *("predictor_corrector", "uniform_grid"),
]

Grid = np.ndarray | jax.Array  # falling times
Denoise = Callable[[jax.Array, jax.Array], jax.Array]
State = tuple[jax.Array, jax.Array]  # fields, and the logarithms of their weights so far
Tree = TypeVar("Tree", jax.Array, State)
Step = Callable[[Tree, jax.Array, jax.Array, jax.Array], Tree]


class Path(NamedTuple):
    """Ends of reverse paths and their weights.

    Attributes:
        x: fields in modes, `(n, *modes)`.
        log_weight: `(n,)`, in float64 where x64 is on.
        snapshots: fields in modes along the way, `(snapshots, n, *modes)`.
    """

    x: jax.Array
    log_weight: jax.Array
    snapshots: jax.Array


def uniform_grid(n_steps: int) -> np.ndarray:
    """Pseudo-times 1, 1 - 1/n, ..., 0: `(n_steps + 1,)`."""
    return np.linspace(1.0, 0.0, n_steps + 1)


def frame_steps(n_steps: int, n_frames: int) -> np.ndarray:
    """Steps after which frames are kept, evenly spread up to the last one: `(n_frames,)`."""
    steps: np.ndarray = np.linspace(n_steps, 0, n_frames).round().astype(int)[::-1]
    return steps


def draw_noise(
    key: jax.Array, schedule: Schedule, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    """Draw where the reverse process starts: N(0, scale^2 sigma^2) at s = 1, of `shape`.

    What is missing is scale times the field itself: a bias that falls as 1 / sigma(1)^2.
    """
    s = jnp.ones((), dtype)
    return schedule.scale(s) * schedule.sigma(s) * jax.random.normal(key, shape, dtype)


def euler_maruyama(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x: jax.Array,
    grid: Grid,
    *,
    snapshots: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Step the reverse process by Euler and Maruyama; weak order 1.

    x <- x + h (g^2 score - f x) + sqrt(h) g eta; the last step returns its mean, without noise.

    Args:
        key: of all noise; step k uses `fold_in(key, k)`.
        denoise: D = E[phi | x] of noised fields `(n, ...)` and variances `(1,)`.
        schedule: of the noise.
        x: fields at the first pseudo-time, `(n, ...)`, as from `draw_noise`.
        grid: falling pseudo-times, `(n_steps + 1,)`; `denoise` is not called at the last.
        snapshots: how many fields to keep along the way, the last one included.

    Returns:
        Fields `(n, ...)` and snapshots `(snapshots, n, ...)`, in the dtype of `x`.

    Raises:
        ValueError: no step, or more snapshots than there are fields along the way.
    """

    def step(x: jax.Array, i: jax.Array, s: jax.Array, s_next: jax.Array) -> jax.Array:
        noise = _normal(jax.random.fold_in(key, i), x) * (i < len(grid) - 2)
        return _predict(schedule, x, _score(denoise, schedule, x, s), noise, s, s_next)

    return _march(step, x, grid, snapshots)


def predictor_corrector(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x: jax.Array,
    grid: Grid,
    *,
    snr: float = 0.16,
    snapshots: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Correct by a Langevin step before each step of `euler_maruyama`.

    x <- x + eps score + sqrt(2 eps) eta at fixed s, eps = 2 (snr |eta| / |score|)^2, the rule of
    arXiv:2011.13456 alg. 4, with |eta|^2 replaced by its mean and |score|^2 by the batch's mean, so
    that eps follows no single field.  These steps leave p_s invariant to O(eps) only: a bias of
    relative order snr^2 stays, however many steps there are.

    Takes, returns and raises what `euler_maruyama` does, and

    Args:
        snr: length of the drift over that of the noise in a corrector step.
    """

    def step(x: jax.Array, i: jax.Array, s: jax.Array, s_next: jax.Array) -> jax.Array:
        noise_key, corrector_key = jax.random.split(jax.random.fold_in(key, i))
        score = _score(denoise, schedule, x, s)
        size = 2 * snr**2 / jnp.mean(score**2)
        x = x + size * score + jnp.sqrt(2 * size) * _normal(corrector_key, x)
        noise = _normal(noise_key, x) * (i < len(grid) - 2)
        return _predict(schedule, x, _score(denoise, schedule, x, s), noise, s, s_next)

    return _march(step, x, grid, snapshots)


def heun(
    denoise: Denoise, schedule: Schedule, x: jax.Array, grid: Grid, *, snapshots: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Step the probability flow by Heun's scheme; order 2 (arXiv:2206.00364 alg. 1).

    The last step is Euler's, since the flow's slope is 0/0 where no noise is left.  Takes, returns
    and raises what `euler_maruyama` does, but for the key.
    """

    def slope(x: jax.Array, s: jax.Array) -> jax.Array:
        half = 0.5 * schedule.diffusion(s) ** 2
        return schedule.drift(s) * x - half * _score(denoise, schedule, x, s)

    def step(x: jax.Array, i: jax.Array, s: jax.Array, s_next: jax.Array) -> jax.Array:
        last = i == len(grid) - 2
        first = slope(x, s)
        second = slope(x + (s_next - s) * first, jnp.where(last, s, s_next))
        return x + (s_next - s) * jnp.where(last, first, 0.5 * (first + second))

    return _march(step, x, grid, snapshots)


def path_grid(theory: Theory, n_steps: int) -> jax.Array:
    """Variances from t_max to 0, uniform in log(1 + t/t0), t0 = C_min / 2: `(n_steps + 1,)`."""
    t0 = 0.5 * theory.c_min
    tau = jnp.linspace(jnp.log1p(theory.t_max / t0), 0, n_steps + 1, dtype=theory.dtype)
    return t0 * jnp.expm1(tau)


def path_weights(
    key: jax.Array, network: Denoiser, theory: Theory, n: int, grid: Grid, *, snapshots: int = 0
) -> Path:
    """Draw fields by stochastic steps whose kernels are known, with their weights.

    x_k = y + r, with y drawn from p_ref(y | x_{k+1}) and, at x_{k+1},
    r = -(t_{k+1} - t_k) C / (C + t_{k+1}) (F - F_ref).  The mean of x_k is exact where F is; the
    true kernel's variance differs from field to field, so with an exact F the variance of
    log_weight falls as 1/n_steps, more slowly than the error of the flow (`flow.py`).

    Args:
        key: of all draws; step k uses `fold_in`.
        network: gives F; a poor one costs effective samples, never exactness.
        theory: of the same lattice and couplings; its dtype is that of the fields.
        n: number of fields.
        grid: falling variances of the noise, `(n_steps + 1,)`, as from `path_grid`; the last is 0.
        snapshots: how many fields to keep along the way, the last one included.

    Returns:
        A `Path`.  The mean of exp(log_weight) is Z; there is no log_prob.

    Raises:
        ValueError: no step, or more snapshots than there are fields along the way.
    """
    start, steps = jax.random.split(key)

    def step(state: State, i: jax.Array, t: jax.Array, t_next: jax.Array) -> State:
        x, log_weight = state
        force = network.force(theory, x, t[None]) - Zero().force(theory, x, t[None])
        shift = -(t - t_next) * theory.propagator / (theory.propagator + t) * force
        y = _draw_back(jax.random.fold_in(steps, i), theory, x, t, t_next)
        return y + shift, log_weight + _log_ratio(theory, y, shift, x, t, t_next)

    x = theory.draw(start, jnp.full(n, grid[0], theory.dtype))
    state = x, jnp.zeros(n, widest(theory.dtype))
    (x, log_weight), (frames, _) = _march(step, state, grid, snapshots)
    return Path(
        x, log_weight - theory.action(x) - theory.log_prob(x, jnp.zeros(n, theory.dtype)), frames
    )


# ------------------------------------------------------------------- one step, and all of them


def _score(denoise: Denoise, schedule: Schedule, x: jax.Array, s: jax.Array) -> jax.Array:
    """Gradient of the log density of the noised and scaled field."""
    scale, t = schedule.scale(s), schedule.variance(s)
    field = x / scale
    return (denoise(field, jnp.reshape(t, 1)) - field) / (scale * t)


def _predict(
    schedule: Schedule,
    x: jax.Array,
    score: jax.Array,
    noise: jax.Array,
    s: jax.Array,
    s_next: jax.Array,
) -> jax.Array:
    """One step of Euler and Maruyama."""
    h, g = s - s_next, schedule.diffusion(s)
    return x + h * (g**2 * score - schedule.drift(s) * x) + jnp.sqrt(h) * g * noise


def _normal(key: jax.Array, x: jax.Array) -> jax.Array:
    return jax.random.normal(key, x.shape, x.dtype)


def _march(step: Step[Tree], state: Tree, grid: Grid, snapshots: int) -> tuple[Tree, Tree]:
    """Take `state` along the grid by `step(state, i, grid[i], grid[i + 1])`.

    The dtype of the grid is that of the state's first array.  So many states as `snapshots` says
    are kept, evenly spread up to the last one.
    """
    n_steps = len(grid) - 1
    if n_steps < 1:
        raise ValueError(f"a reverse process needs a grid of at least 2 times, got {len(grid)}")
    if not 0 <= snapshots <= n_steps + 1:
        raise ValueError(
            f"{n_steps} steps pass {n_steps + 1} fields, so 0 <= snapshots <= {n_steps + 1}, "
            f"got {snapshots}"
        )
    grid = jnp.asarray(grid, jax.tree.leaves(state)[0].dtype)
    places = np.full(n_steps + 1, snapshots)  # a last frame takes what is not kept
    places[frame_steps(n_steps, snapshots)] = np.arange(snapshots)
    frames = jax.tree.map(lambda x: jnp.zeros((snapshots + 1, *x.shape), x.dtype), state)

    def keep(frames: Tree, state: Tree, place: int | jax.Array) -> Tree:
        return jax.tree.map(lambda frame, x: frame.at[place].set(x), frames, state)

    def body(carry: tuple[Tree, Tree], inputs: State) -> tuple[tuple[Tree, Tree], None]:
        (state, frames), (i, place) = carry, inputs
        new = step(state, i, grid[i], grid[i + 1])
        new = jax.tree.map(lambda x, old: x.astype(old.dtype), new, state)
        return (new, keep(frames, new, place)), None

    start = state, keep(frames, state, places[0])
    (state, frames), _ = lax.scan(body, start, (jnp.arange(n_steps), jnp.asarray(places[1:])))
    return state, jax.tree.map(lambda frame: frame[:-1], frames)


# ------------------------------------------------------ p_ref: Gaussian modes, a mixture at p = 0


def _back(prior: jax.Array, t: jax.Array, t_next: jax.Array) -> State:
    """Mean over x, and variance, of x_next | x in a Gaussian whose variance without noise is known.

    Two noisy views of one field: x_next ~ N(0, prior + t_next), x | x_next ~ N(x_next, t - t_next).
    """
    share = (prior + t_next) / (prior + t)
    return share, (t - t_next) * share


def _draw_back(
    key: jax.Array, theory: Theory, x: jax.Array, t: jax.Array, t_next: jax.Array
) -> jax.Array:
    """Draw p_ref(y | x) of the field with less noise: `(n, *modes)`."""
    which, noise_key = jax.random.split(key)
    noise = _normal(noise_key, x)
    share, variance = _back(theory.propagator, t, t_next)
    y = share * x + jnp.sqrt(variance) * noise

    _, means, variances = theory.mixture
    x0 = x[theory.modes.zero]
    i = jax.random.categorical(which, theory.zero_logits(x0, t[None]))
    share, variance = _back(variances[i], t, t_next)
    y0 = means[i] + share * (x0 - means[i]) + jnp.sqrt(variance) * noise[theory.modes.zero]
    return y.at[theory.modes.zero].set(y0)


def _log_ratio(
    theory: Theory, y: jax.Array, shift: jax.Array, x: jax.Array, t: jax.Array, t_next: jax.Array
) -> jax.Array:
    """log p_ref(y + shift | x) - log p_ref(y | x), as differences mode by mode: `(n,)`."""
    share, variance = _back(theory.propagator, t, t_next)
    change = -0.5 * shift * (shift + 2 * (y - share * x)) / variance

    zero = theory.modes.zero
    x0, y0, shift0 = x[zero], y[zero], shift[zero]
    bayes = shift0 * (x0 - y0 - 0.5 * shift0) / (t - t_next)  # of q(x | y), and then of p_ref(y)
    before, after = (theory.zero_log_prob(z, t_next[None]) for z in (y0, y0 + shift0))
    change = change.at[zero].set(bayes + after - before)
    return jnp.sum(change.astype(widest(x.dtype)), theory.modes.axes)
