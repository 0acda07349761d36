"""`train` of a Gaussian RBM: gradient steps in blocks, the kernel's spectrum noted along the way.

Blocks end at fixed steps, spaced evenly in the logarithm at first, so that a training which was
interrupted and resumed ends with the same bits.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.layout import widest
from lattice_ml.jobs import rbm_report
from lattice_ml.jobs.job import TrainingJob
from lattice_ml.jobs.training_data import Data, check_agreement, identify, open_data
from lattice_ml.jobs.training_phases import ServedPools, TrainingError
from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm import fit as rbm_fit
from lattice_ml.models.rbm.fit import RBMSettings, RBMState
from lattice_ml.models.rbm.moments import Moments
from lattice_ml.runtime.session import Progress, compile_times, provenance, watching
from lattice_ml.storage.ensemble import Ensemble
from lattice_ml.storage.model import Model, Stage, digest
from lattice_ml.storage.model_run import ModelRun, open_model_run

__all__ = ["train"]

_BLOCKS = 20  # at least so many, whatever the snapshots
_MU_RANGE = 1e-3, 1e6  # over the inverse mean variance of the data
_TRUSTED = 1e-10  # least eigenvalue of the data's second moment over the largest


class _Progress(NamedTuple):
    """What a checkpoint holds; arrays only."""

    fit: RBMState
    eigenvalues: jax.Array  # (snapshots, N_v), NaN where none was taken yet
    log_likelihood: jax.Array  # (snapshots,) on the data to train on


def train(
    job: TrainingJob,
    out: str | os.PathLike[str],
    ensembles: Sequence[Ensemble],
    *,
    initial: Model | None,
    time_limit: float | None,
    on_progress: Callable[[Progress], None],
) -> None:
    """Train a Gaussian RBM; arguments and errors are those of `training.train`."""
    data = _open(job, ensembles)
    _check(job.model, data, initial)

    def measure() -> list[Stage]:
        moments = data.moments(symmetric=job.training.augment)
        return [Stage(data.shape, data.actions[:1], (moments,))]

    run = open_model_run(
        out,
        job.config,
        [{"shape": data.shape, "actions": data.actions[:1]}],
        measure=measure,
        provenance=provenance("train") | {"data": [str(e.directory) for e in ensembles]},
        parent=digest([identify(ensembles), None if initial is None else initial.hash]),
    )
    with run, watching(time_limit) as watch:
        if run.finished:
            return
        moments = _cast(run.stages[0].theories[0], job)
        settings, state = _begin(job, data, moments, initial)
        ends, kept = _schedule(job.training.n_steps, job.training.snapshots)
        log = _Log(run, job.training.checkpoint_every)
        progress = _Progress(
            state,
            jnp.full((len(kept), len(moments.mean)), jnp.nan, moments.mean.dtype),
            jnp.full(len(kept), jnp.nan, moments.mean.dtype),
        )
        progress = run.restore(progress) if run.step else _note(progress, 0, moments)
        for block in _blocks(job, settings, data, moments, progress, ends, kept):
            progress, done = block.progress, int(block.progress.fit.step)
            log.note(done, block, stop=watch.reason is not None)
            on_progress(Progress("training", done, job.training.n_steps, block.found))
            watch.stop(
                f": step {done} of {job.training.n_steps} is safe in {run.directory}; the same "
                f"command goes on from there"
            )
        log.commit()
        rbm = progress.fit.rbm
        history = {
            "step": np.array(kept),
            "eigenvalues": np.asarray(progress.eigenvalues),
            "log_likelihood": np.asarray(progress.log_likelihood),
        }
        report = rbm_report.report(rbm, moments, data, job)
        run.finish(rbm, report, history, rbm_report.seconds(log.spent))


class _Block(NamedTuple):
    """Consecutive steps that were taken."""

    progress: _Progress
    found: dict[str, float]
    seconds: float
    compile_seconds: float


def _blocks(
    job: TrainingJob,
    settings: RBMSettings,
    data: Data,
    moments: Moments,
    progress: _Progress,
    ends: Sequence[int],
    kept: Sequence[int],
) -> Iterator[_Block]:
    """Take the steps that `progress` has not taken yet.

    Raises:
        TrainingError: the weights are not finite.
    """
    training = job.training
    pools = ServedPools(data, job.seed, training.pool_bytes, training.batch_size)
    held_out = data.held_out(512) if settings.method == "exact" else None
    key = jax.random.fold_in(jax.random.key(job.seed), 1)
    rate, decay = (jnp.asarray(x, moments.mean.dtype) for x in (training.learning_rate, np.inf))
    if training.decay:
        decay = jnp.asarray(training.decay, moments.mean.dtype)
    done = int(progress.fit.step)
    for end in (step for step in ends if step > done):
        begin = time.monotonic()
        with compile_times() as compiling:
            source: Any = moments
            if settings.method != "exact":
                pool = pools.at(done)
                source = pool.reshape(-1, len(moments.mean)).astype(moments.mean.dtype)
            fit = rbm_fit.fit(settings, progress.fit, source, key, rate, decay, end - done)
            progress = progress._replace(fit=fit)
            if end in kept:
                progress = _note(progress, kept.index(end), moments)
            found = _worth(fit.rbm, moments, held_out)
        if not np.isfinite(found["log_likelihood"]):
            raise TrainingError(
                f"the log-likelihood is {found['log_likelihood']} after step {end}: are the data "
                f"finite and of order one? make training.learning_rate smaller"
            )
        yield _Block(progress, found, time.monotonic() - begin, compiling())
        done = end


def _note(progress: _Progress, index: int, moments: Moments) -> _Progress:
    """Take a snapshot of the spectrum and of the likelihood."""
    rbm = progress.fit.rbm
    eigenvalues, likelihood = _snapshot(rbm, moments)
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


def _schedule(n_steps: int, snapshots: int) -> tuple[list[int], list[int]]:
    """Steps at which blocks end, and those after which the spectrum is noted, 0 among them."""
    kept = {0, n_steps}
    if snapshots and n_steps:
        kept |= set(np.unique(np.geomspace(1, n_steps, snapshots).round().astype(int)).tolist())
    even = np.linspace(0, n_steps, _BLOCKS + 1).round().astype(int).tolist()
    return sorted(kept | set(even)), sorted(kept)


def _begin(
    job: TrainingJob, data: Data, moments: Moments, initial: Model | None
) -> tuple[RBMSettings, RBMState]:
    """Settings and first state of the fit that a job asks for.

    Raises:
        ValueError: data that do not vary.
    """
    model, training = job.model, job.training
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
    mu_range = (_MU_RANGE[0] / scale, _MU_RANGE[1] / scale)
    n_visible, n_hidden = _sizes(model, data)
    mu_squared = jnp.asarray(_mass(model["mu_squared"], second), centre.dtype)
    if model["per_site"]:
        mu_squared = jnp.full(n_visible, mu_squared)
    key = jax.random.key(job.seed)
    numbers = (n_hidden, mu_squared, model["sigma"], model["initial"], settings, mu_range)
    state = rbm_fit.initial(key, centre, *numbers)
    if initial is not None:
        rbm: GaussianRBM = replace(initial.network, centre=centre)
        state = state._replace(rbm=jax.tree.map(lambda x: jnp.asarray(x, centre.dtype), rbm))
    return settings, state


def _check(model: Mapping[str, Any], data: Data, initial: Model | None) -> None:
    """Refuse settings and weights that cannot be, before anything is written."""
    for key in ("mu_squared", "sigma"):
        if not isinstance(model[key], str) and not model[key] > 0:
            raise ValueError(f"model.{key} must be positive, got {model[key]}")
    if initial is not None and initial.network.w.shape != (needed := _sizes(model, data)):
        raise ValueError(
            f"the data need weights {needed}, but {initial.directory} has {initial.network.w.shape}"
        )


def _sizes(model: Mapping[str, Any], data: Data) -> tuple[int, int]:
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


def _open(job: TrainingJob, ensembles: Sequence[Ensemble]) -> Data:
    """The data: ensembles of one lattice and one action.

    Raises:
        ValueError: none, or several lattices or actions.
    """
    if not ensembles:
        raise ValueError("nothing to train on: give --data ENSEMBLE")
    check_agreement(job.config, ensembles)
    data_sets = open_data(ensembles, job.training.validation)
    actions = [e.config["action"] for e in ensembles]
    if len(data_sets) > 1 or any(action != actions[0] for action in actions):
        raise ValueError(
            "an RBM learns one distribution on one lattice, but --data have several actions or "
            "shapes: train one model for each"
        )
    if job.training.augment and not getattr(ensembles[0].action, "z2", False):
        raise ValueError(
            "training.augment needs data with an action that the lattice's symmetries and "
            "phi -> -phi leave alone, got action.kind = none"
        )
    return data_sets[0]


def _cast(moments: Moments, job: TrainingJob) -> Moments:
    """Moments on the device: as precise as possible for the exact gradient, else in float32."""
    dtype = widest(jnp.float32) if job.training.method == "exact" else jnp.float32
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), moments)


class _Log:
    """Metrics and seconds, committed together with the state that they lead to."""

    def __init__(self, run: ModelRun, every: float) -> None:
        self.run, self.every = run, every
        self.lines: list[dict[str, Any]] = []
        self.last: _Block | None = None
        self.committed = time.monotonic()
        self.spent: list[float] = run.notes().get("spent", [0.0, 0.0])

    def note(self, step: int, block: _Block, *, stop: bool) -> None:
        """Take down a block; commit where that is due."""
        self.lines.append({"step": step} | block.found)
        self.last = block
        self.spent = [self.spent[0] + block.seconds, self.spent[1] + block.compile_seconds]
        if stop or time.monotonic() - self.committed > self.every:
            self.commit()

    def commit(self) -> None:
        """Keep the last block's state and all metrics until then."""
        if self.last is not None:
            state = self.last.progress
            self.run.commit(int(state.fit.step), state, self.lines, {"spent": self.spent})
        self.lines, self.last, self.committed = [], None, time.monotonic()
