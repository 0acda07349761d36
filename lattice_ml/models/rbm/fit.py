r"""Training a Gaussian RBM: maximum likelihood, and contrastive divergence where it is sampled.

With the covariance B = <phi phi^T>_data - <phi phi^T>_model and b = <phi>_data - <phi>_model the
gradient of the mean log-likelihood is, in closed form (arXiv:2309.15002, section 3),

    dw = sigma^2 B w + b eta^T,    deta = w^T b,    dmu_i^2 = -1/2 B_ii,

where phi is measured from the centre.  Three estimates of it: `exact` uses the data's two moments
and the model's; `cd` estimates both from a batch and from the batch after k steps of block Gibbs
sampling; `pcd` does so from chains that go on from step to step.

The natural gradient divides by the Fisher metric of the joint model p(phi, h), without its exchange
term: cov(phi_i h_a, phi_j h_b) = (K^-1)_ij (sigma^2 A^-1)_ab + ..., so

    w += r K dw A / sigma^2,    eta += r sigma^2 A deta,    log mu_i^2 += 2 r (dL/dlog mu_i^2),

the last at fixed w / mu.  Then every mode of the kernel converges at the rate 2 r (1 - kappa/mu^2),
whatever its eigenvalue kappa; the plain gradient's rate goes as 1/kappa^2.

No step leaves the set where exp(-S) can be normalised: it is halved until the margin A keeps at
least a tenth of what it was, A_new > A_old / 10 as matrices, and with the exact gradient until the
likelihood does not fall.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.models.augmentation import transform
from lattice_ml.models.rbm import GaussianRBM, matmul
from lattice_ml.models.rbm.moments import Moments

__all__ = ["RBMSettings", "RBMState", "fit", "gradient", "initial", "log_likelihood", "step"]

_KEPT = 0.1  # share of the margin that a step leaves
_HALVINGS = 40
_LARGEST = 1.0  # change of log mu^2 in a step


@dataclass(frozen=True)
class RBMSettings:
    """Settings of a fit; static under jit but for the learning rate, which is an argument.

    Args:
        method: "exact", "cd" or "pcd".
        natural: use the natural gradient.
        n_gibbs: steps k of block Gibbs sampling between the two phases.
        batch_size: fields per step of cd and pcd, and number of persistent chains.
        train_mu: adapt mu^2.
        train_eta: adapt the hidden means.
        symmetries: lattice shape whose random symmetries, and phi -> -phi, are applied to the
            batches of cd and pcd; empty for none.
    """

    method: str = "exact"
    natural: bool = True
    n_gibbs: int = 1
    batch_size: int = 512
    train_mu: bool = False
    train_eta: bool = True
    symmetries: tuple[int, ...] = ()


class RBMState(NamedTuple):
    """Everything that a resumed fit needs; arrays only."""

    rbm: GaussianRBM
    chains: jax.Array  # (batch_size, N_v) of pcd, which begin with the model's own fields
    step: jax.Array
    halvings: jax.Array  # of the last step
    mu_range: jax.Array  # (2,), of mu^2, which would grow for ever where the data do not vary


def initial(
    key: jax.Array,
    centre: jax.Array,
    n_hidden: int,
    mu_squared: jax.Array,
    sigma: float,
    scale: float,
    settings: RBMSettings,
    mu_range: tuple[float, float] = (0.0, np.inf),
) -> RBMState:
    """Begin with sigma w / mu = `scale` times orthonormal rows or columns, and eta = 0.

    Raises:
        ValueError: scale is not between 0 and 1, or sigma or mu_squared not positive.
    """
    if not 0 < scale < 1:
        raise ValueError(f"the initial scale of sigma w / mu must be in (0, 1), got {scale}")
    mass = np.broadcast_to(np.asarray(mu_squared, centre.dtype), (len(centre),))
    frame = np.asarray(_frame(key, len(centre), n_hidden, centre.dtype))
    w = jnp.asarray(scale * np.sqrt(mass)[:, None] * frame) / sigma
    rbm = GaussianRBM.of(w, mu_squared, sigma, None, centre)
    n_chains = settings.batch_size if settings.method == "pcd" else 1  # files hold no empty arrays
    zero = jnp.zeros((), int)
    limits = jnp.asarray(mu_range, centre.dtype)
    return RBMState(rbm, _first_chains(rbm, key, n_chains), zero, zero, limits)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _frame(key: jax.Array, n_visible: int, n_hidden: int, dtype: jnp.dtype) -> jax.Array:
    """Orthonormal columns, or rows where there are more hidden fields: `(N_v, N_h)`."""
    shape = (max(n_visible, n_hidden), min(n_visible, n_hidden))
    frame = jnp.linalg.qr(jax.random.normal(key, shape, dtype))[0]
    return frame if n_visible >= n_hidden else frame.T


_first_chains = jax.jit(lambda rbm, key, n: rbm.sample(key, n), static_argnums=2)


def log_likelihood(rbm: GaussianRBM, data: Moments) -> jax.Array:
    """Mean of log p(phi) over data with these moments, a scalar; NaN where A is not positive."""
    about = data.about(rbm.centre)
    quadratic = jnp.sum(rbm.mass * jnp.diagonal(about.second)) - rbm.sigma**2 * jnp.sum(
        rbm.w * matmul(about.second, rbm.w)
    )
    constant = rbm.log_prob(rbm.centre[None])[0]
    return constant - 0.5 * quadratic + jnp.dot(matmul(rbm.w, rbm.eta), about.mean)


def gradient(rbm: GaussianRBM, data: Moments) -> GaussianRBM:
    """The gradient of `log_likelihood` with respect to w, mu_squared and eta; the rest is 0.

    A scalar mu_squared has the sum of the derivatives of all sites.
    """
    about = data.about(rbm.centre)
    mean = rbm.mean() - rbm.centre
    # K^-1 w = mu^-2 w A^-1: no N_v x N_v matrix of the model is formed
    kernel_inverse_w = jnp.linalg.solve(rbm.margin(), (rbm.w / rbm.mass[:, None]).T).T
    difference_w = matmul(about.second, rbm.w) - kernel_inverse_w
    difference_w -= jnp.outer(mean, matmul(mean, rbm.w))
    variance = 1 / rbm.mass + rbm.sigma**2 * jnp.sum(
        kernel_inverse_w * rbm.w / rbm.mass[:, None], axis=1
    )
    excess = jnp.diagonal(about.second) - variance - mean**2
    return _gradient(rbm, rbm.sigma**2 * difference_w, about.mean - mean, excess)


def step(
    settings: RBMSettings,
    state: RBMState,
    data: Moments | jax.Array,
    key: jax.Array,
    learning_rate: jax.Array,
) -> RBMState:
    """One step uphill.

    Args:
        settings: how.
        state: where from.
        data: moments for the exact gradient; fields `(n, N_v)` that batches are drawn from else.
        key: of this step.
        learning_rate: of this step.
    """
    if isinstance(data, Moments):
        found, chains = gradient(state.rbm, data), state.chains
    else:
        found, chains = _sampled(settings, state, data, key)
    move = _direction(settings, state.rbm, found)
    rbm, halvings = _backtrack(
        settings, state, move, learning_rate, data if isinstance(data, Moments) else None
    )
    return RBMState(rbm, chains, state.step + 1, halvings, state.mu_range)


@partial(jax.jit, static_argnames="settings")
def fit(
    settings: RBMSettings,
    state: RBMState,
    data: Moments | jax.Array,
    key: jax.Array,
    learning_rate: jax.Array,
    decay: jax.Array,
    n: jax.Array,
) -> RBMState:
    """Take `n` steps; step i has the rate r / (1 + i/decay), and a key made of its number."""

    def body(_: jax.Array, state: RBMState) -> RBMState:
        rate = (learning_rate / (1 + state.step / decay)).astype(state.rbm.w.dtype)
        return step(settings, state, data, jax.random.fold_in(key, state.step), rate)

    return lax.fori_loop(0, n, body, state)


def _sampled(
    settings: RBMSettings, state: RBMState, fields: jax.Array, key: jax.Array
) -> tuple[GaussianRBM, jax.Array]:
    """The gradient from a batch and from Gibbs sampling, and the persistent chains after it.

    Hidden fields are replaced by their means, in both phases: less noise, the same expectation.
    """
    rbm = state.rbm
    choice, symmetry, moving = jax.random.split(key, 3)
    batch = fields[jax.random.randint(choice, (settings.batch_size,), 0, len(fields))]
    if settings.symmetries:
        shaped = batch.reshape(-1, *settings.symmetries)
        batch = transform(symmetry, shaped, settings.symmetries).reshape(batch.shape)
    start = state.chains if settings.method == "pcd" else batch
    model = rbm.gibbs(moving, start, settings.n_gibbs)
    x, y = batch - rbm.centre, model - rbm.centre
    n = settings.batch_size
    correlation = matmul(x.T, rbm.hidden_means(batch)) - matmul(y.T, rbm.hidden_means(model))
    shift = jnp.mean(x, 0) - jnp.mean(y, 0)
    # <phi h^T> = sigma^2 <phi phi^T> w + <phi> eta^T: the second term is added by `_gradient`
    second = correlation / n - jnp.outer(shift, rbm.eta)
    found = _gradient(rbm, second, shift, jnp.mean(x * x, 0) - jnp.mean(y * y, 0))
    return found, model if settings.method == "pcd" else state.chains


def _gradient(
    rbm: GaussianRBM, second_w: jax.Array, shift: jax.Array, excess: jax.Array
) -> GaussianRBM:
    """The gradient from sigma^2 B w, b and the diagonal of B."""
    zeros = jax.tree.map(jnp.zeros_like, rbm)
    mass = -0.5 * (excess if np.ndim(rbm.mu_squared) else jnp.sum(excess))
    return GaussianRBM(
        w=second_w + jnp.outer(shift, rbm.eta),
        mu_squared=mass,
        sigma=zeros.sigma,
        eta=matmul(shift, rbm.w),
        centre=zeros.centre,
    )


def _direction(settings: RBMSettings, rbm: GaussianRBM, found: GaussianRBM) -> GaussianRBM:
    """What is added to w, log mu^2 (in the place of mu^2) and eta for a learning rate of 1."""
    dw, d_log_mass, deta = found.w, rbm.mu_squared * found.mu_squared, found.eta
    if settings.natural:
        # at fixed w / mu, mu^2 moves w too
        moved = 0.5 * jnp.sum(rbm.w * found.w, axis=1)
        total = np.ndim(rbm.mu_squared) == 0
        d_log_mass += jnp.sum(moved) if total else moved
        d_log_mass *= 2 / (rbm.n_visible if total else 1)
        margin = rbm.margin()
        dw = matmul(rbm.apply_kernel(found.w), margin) / rbm.sigma**2
        deta = rbm.sigma**2 * matmul(margin, deta)
    else:
        d_log_mass = d_log_mass / rbm.mu_squared**2  # dmu^2 = rate * dL/dmu^2 for small rates
    zeros = jnp.zeros_like
    return GaussianRBM(
        w=dw,
        mu_squared=d_log_mass if settings.train_mu else zeros(d_log_mass),
        sigma=zeros(rbm.sigma),
        eta=deta if settings.train_eta else zeros(deta),
        centre=zeros(rbm.centre),
    )


def _moved(
    settings: RBMSettings, state: RBMState, move: GaussianRBM, rate: jax.Array
) -> GaussianRBM:
    """The RBM after a step of that size."""
    rbm = state.rbm
    change = jnp.clip(rate * move.mu_squared, -_LARGEST, _LARGEST)
    mu_squared = jnp.clip(rbm.mu_squared * jnp.exp(change), *state.mu_range)
    if not settings.train_mu:
        mu_squared = rbm.mu_squared
    w = rbm.w + rate * move.w
    if settings.natural and settings.train_mu:
        ratio = jnp.sqrt(mu_squared / rbm.mu_squared)
        w = w * (ratio[:, None] if np.ndim(ratio) else ratio)
    return GaussianRBM(w, mu_squared, rbm.sigma, rbm.eta + rate * move.eta, rbm.centre)


def _backtrack(
    settings: RBMSettings, state: RBMState, move: GaussianRBM, rate: jax.Array, data: Moments | None
) -> tuple[GaussianRBM, jax.Array]:
    """Halve the step until it is allowed, at first two times fewer than the last step was.

    After many halvings stay.
    """
    rbm = state.rbm
    # and as much as rounding can tell from 0
    rounding = 32 * np.finfo(rbm.w.dtype).eps * jnp.eye(rbm.n_hidden, dtype=rbm.w.dtype)
    kept = _KEPT * rbm.margin() + rounding
    before = jnp.zeros(()) if data is None else log_likelihood(rbm, data)
    tolerance = 100 * np.finfo(rbm.w.dtype).eps * (jnp.abs(before) + rbm.n_visible)

    def allowed(new: GaussianRBM) -> jax.Array:
        inside = jnp.all(jnp.isfinite(jnp.linalg.cholesky(new.margin() - kept)))
        if data is None:
            return inside
        return inside & (log_likelihood(new, data) >= before - tolerance)

    def again(trial: tuple[GaussianRBM, jax.Array]) -> jax.Array:
        new, halvings = trial
        return ~allowed(new) & (halvings < _HALVINGS)

    def halve(trial: tuple[GaussianRBM, jax.Array]) -> tuple[GaussianRBM, jax.Array]:
        halvings = trial[1] + 1
        return _moved(settings, state, move, jnp.ldexp(rate, -halvings)), halvings

    first = jnp.maximum(state.halvings - 2, 0)
    start = (_moved(settings, state, move, jnp.ldexp(rate, -first)), first)
    new, halvings = lax.while_loop(again, halve, start)
    stay = halvings >= _HALVINGS
    return jax.tree.map(lambda a, b: jnp.where(stay, b, a), new, rbm), halvings
