"""The training of a Gaussian RBM: gradient steps in blocks, the kernel's spectrum noted along.

Blocks end at fixed steps, spaced evenly in the logarithm at first, so that a training which was
interrupted and resumed ends with the same bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.layout import widest
from lattice_ml.models.data import Data
from lattice_ml.models.rbm import fit as rbm_fit
from lattice_ml.models.rbm.fit import RBMSettings, RBMState
from lattice_ml.models.rbm.gaussian import GaussianRBM
from lattice_ml.models.rbm.moments import Moments
from lattice_ml.models.rbm.sections import RBMTrainingSection
from lattice_ml.models.training import Block, Learned, Phase, Plan, Task, TrainingError
from lattice_ml.runtime.json import Section

__all__ = ["RBMPhase", "check", "moments_of", "plan"]

_BLOCKS = 20  # at least so many, whatever the snapshots
_MU_RANGE = 1e-3, 1e6  # over the inverse mean variance of the data
_TRUSTED = 1e-10  # least eigenvalue of the data's second moment over the largest


class _Progress(NamedTuple):
    """What a checkpoint holds; arrays only."""

    fit: RBMState
    eigenvalues: jax.Array  # (snapshots, N_v), NaN where none was taken yet
    log_likelihood: jax.Array  # (snapshots,) on the data to train on


@dataclass(frozen=True)
class RBMPhase(Phase[_Progress]):
    """All steps of a training.

    Args:
        moments: of the fields to train on.
        begin: the first state of the fit.
        settings: of the fit.
    """

    moments: Moments
    begin: RBMState
    settings: RBMSettings

    def start(self, network: GaussianRBM) -> _Progress:
        kept = _schedule(self.task.training)[1]
        nothing = jnp.full((len(kept), len(self.moments.mean)), jnp.nan, self.moments.mean.dtype)
        progress = _Progress(self.begin, nothing, nothing[:, 0])
        return _note(progress, 0, self.moments)

    def blocks(self, state: _Progress) -> Iterator[Block[_Progress]]:
        training, settings, moments = self.task.training, self.settings, self.moments
        (data,), seed = self.task.data, self.task.seed
        pools = data.pools(seed, training.pool_bytes, training.batch_size)
        held_out = data.held_out(512) if settings.method == "exact" else None
        key = jax.random.fold_in(jax.random.key(seed), 1)
        speed = training.learning_rate, training.decay or np.inf
        rate, decay = (jnp.asarray(x, moments.mean.dtype) for x in speed)
        ends, kept = _schedule(training)
        done = int(state.fit.step)
        for end in (step for step in ends if step > done):
            source: Moments | jax.Array = moments
            if settings.method != "exact":
                pool = pools.at(done)
                source = pool.reshape(-1, len(moments.mean)).astype(moments.mean.dtype)
            fit = rbm_fit.fit(settings, state.fit, source, key, rate, decay, end - done)
            state = state._replace(fit=fit)
            if end in kept:
                state = _note(state, kept.index(end), moments)
            found = _worth(fit.rbm, moments, held_out)
            if not np.isfinite(found["log_likelihood"]):
                raise TrainingError(
                    f"the log-likelihood is {found['log_likelihood']} after step {end}: are the "
                    f"data finite and of order one? make training.learning_rate smaller"
                )
            yield Block(end, state, found)
            done = end

    def end(self, state: _Progress) -> Learned:
        history = {
            "step": np.array(_schedule(self.task.training)[1]),
            "eigenvalues": np.asarray(state.eigenvalues),
            "log_likelihood": np.asarray(state.log_likelihood),
        }
        return Learned(state.fit.rbm, history)


def plan(task: Task) -> Plan:
    """The first machine, and the one phase of its training.

    Raises:
        ValueError: data that do not vary.
    """
    moments = moments_of(task)
    settings, begin = _begin(task, moments)
    n_steps = int(task.training.n_steps)
    phase = RBMPhase(task, "training", 0, n_steps, 0, {}, moments, begin, settings)
    return Plan(begin.rbm, [phase])


def moments_of(task: Task) -> Moments:
    """Of the data, as precise as possible for the exact gradient, else in float32."""
    dtype = widest(jnp.float32) if task.training.method == "exact" else jnp.float32
    moments: Moments = task.stages[0].theories[0]
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), moments)


def check(task: Task) -> None:
    """Refuse several distributions, and settings and weights that cannot be.

    Raises:
        ValueError: saying which, and what is needed.
    """
    if not task.data:
        raise ValueError("nothing to train on: give --data ENSEMBLE")
    data, model = task.data[0], task.model
    if len(task.data) > 1 or any(action != data.actions[0] for action in data.actions):
        raise ValueError(
            "an RBM learns one distribution on one lattice, but --data have several actions or "
            "shapes: train one model for each"
        )
    action, kind = data.sources[0].ensemble.action, data.actions[0]["kind"]
    if task.training.augment and (action is None or not action.z2):
        raise ValueError(
            f"training.augment needs data with an action that the lattice's symmetries and "
            f"phi -> -phi leave alone, got action.kind = {kind}"
        )
    for key in ("mu_squared", "sigma"):
        if not isinstance(model[key], str) and not model[key] > 0:
            raise ValueError(f"model.{key} must be positive, got {model[key]}")
    if task.initial is None:
        return
    found, needed = task.initial.network.w.shape, _sizes(model, data)
    if found != needed:
        where = task.initial.directory
        raise ValueError(f"the data need weights {needed}, but {where} has {found}")


def _note(progress: _Progress, index: int, moments: Moments) -> _Progress:
    """Take a snapshot of the spectrum and of the likelihood."""
    eigenvalues, likelihood = _snapshot(progress.fit.rbm, moments)
    return progress._replace(
        eigenvalues=progress.eigenvalues.at[index].set(eigenvalues),
        log_likelihood=progress.log_likelihood.at[index].set(likelihood),
    )


@jax.jit
def _snapshot(rbm: GaussianRBM, moments: Moments) -> tuple[jax.Array, jax.Array]:
    return rbm.eigenvalues(), rbm_fit.log_likelihood(rbm, moments)


_likelihood = jax.jit(rbm_fit.log_likelihood)
_held_out = jax.jit(lambda rbm, fields: jnp.mean(rbm.log_prob(fields)))


def _worth(rbm: GaussianRBM, moments: Moments, held_out: np.ndarray | None) -> dict[str, float]:
    """Mean log density per site of the data, and of the data held out."""
    sites = rbm.n_visible
    found = {"log_likelihood": float(_likelihood(rbm, moments)) / sites}
    if held_out is not None:
        fields = jnp.asarray(held_out.reshape(-1, sites), rbm.w.dtype)
        found["validation_log_likelihood"] = float(_held_out(rbm, fields)) / sites
    return found


def _schedule(training: RBMTrainingSection) -> tuple[list[int], list[int]]:
    """Steps at which blocks end, and those after which the spectrum is noted, 0 among them."""
    n_steps, snapshots = training.n_steps, training.snapshots
    kept = {0, n_steps}
    if snapshots and n_steps:
        kept |= set(np.unique(np.geomspace(1, n_steps, snapshots).round().astype(int)).tolist())
    even = np.linspace(0, n_steps, _BLOCKS + 1).round().astype(int).tolist()
    return sorted(kept | set(even)), sorted(kept)


def _begin(task: Task, moments: Moments) -> tuple[RBMSettings, RBMState]:
    """Settings and first state of the fit."""
    model, training, (data,) = task.model, task.training, task.data
    centre = moments.mean if model["centre"] else jnp.zeros_like(moments.mean)
    second = moments.about(centre).second
    scale = float(jnp.mean(jnp.diagonal(second)))
    if not scale > 0:
        raise ValueError("the fields to train on are all zero or do not vary about their centre")
    settings = RBMSettings(
        method=training.method,
        natural=training.natural,
        n_gibbs=training.n_gibbs,
        batch_size=training.batch_size,
        train_mu=model["train_mu"],
        train_eta=model["train_eta"],
        symmetries=data.shape if training.augment else (),
    )
    mu_range = _MU_RANGE[0] / scale, _MU_RANGE[1] / scale
    n_visible, n_hidden = _sizes(model, data)
    mu_squared = jnp.asarray(_mass(model["mu_squared"], second), centre.dtype)
    if model["per_site"]:
        mu_squared = jnp.full(n_visible, mu_squared)
    key = jax.random.key(task.seed)
    numbers = (n_hidden, mu_squared, model["sigma"], model["initial"], settings, mu_range)
    state = rbm_fit.initial(key, centre, *numbers)
    if task.initial is not None:
        rbm: GaussianRBM = replace(task.initial.network, centre=centre)
        state = state._replace(rbm=jax.tree.map(lambda x: jnp.asarray(x, centre.dtype), rbm))
    return settings, state


def _sizes(model: Section, data: Data) -> tuple[int, int]:
    """Numbers of visible and hidden fields."""
    n_visible = math.prod(data.shape)
    return n_visible, n_visible if model["n_hidden"] == "auto" else model["n_hidden"]


def _mass(asked: float | str, second: jax.Array) -> float:
    """mu^2: what is asked for, or twice the largest eigenvalue of the data's kernel."""
    if not isinstance(asked, str):
        return asked
    spectrum = np.linalg.eigvalsh(np.asarray(second, np.float64))
    if spectrum[0] < _TRUSTED * spectrum[-1]:
        raise ValueError(
            f"model.mu_squared = auto needs data that vary in every direction, but the least "
            f"eigenvalue of <phi phi^T> is {spectrum[0]:.3g} (the largest is {spectrum[-1]:.3g}): "
            f"give a number, or more data"
        )
    return float(2 / spectrum[0])
