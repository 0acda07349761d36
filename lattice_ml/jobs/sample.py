"""`sample`: an ensemble of a model's samples, made exact where that is asked for.

The samples of one chain are made unit by unit (`jobs/units.py`) and stored like those of a
Markov chain, so that whatever reads an ensemble reads them.  A run goes on from any sample, and
its files are the same wherever it was interrupted.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np

from lattice_ml.actions import Quartic, conventions
from lattice_ml.jobs.film import write_film
from lattice_ml.jobs.job import SamplingJob
from lattice_ml.jobs.latent import LatentUnits
from lattice_ml.jobs.units import CORRECTIONS, Samples, Units, known_weights
from lattice_ml.models.model import Model
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.runtime.session import Progress, provenance, watching
from lattice_ml.runtime.writing import replacing
from lattice_ml.statistics import estimate, kish, reweight
from lattice_ml.storage.config_file import write_config
from lattice_ml.storage.ensemble import EnsembleOnDisk, open_ensemble
from lattice_ml.storage.run import Run, open_run

__all__ = ["sample", "summary"]

_DOUBLED = 64  # samples whose steps are doubled
_DOUBLING_STREAM = 2**32 - 2  # beyond the numbers of batches
_HONEST = 0.05  # rms change of log w under step doubling
_SNAPSHOTS = "snapshots.npy"


@ordinary()
def sample(
    job: SamplingJob,
    model: Model,
    out: str | os.PathLike[str],
    *,
    n_samples: int,
    correct: str = "none",
    time_limit: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> EnsembleOnDisk:
    """Draw samples of `model` into directory `out`, or go on drawing.

    Args:
        job: lattice, couplings and method, the model's (`SamplingJob.of(model)`) or others.
        model: from `open_model`.
        out: a new or empty directory, or one that an equal call began; `n_samples` may grow.
        n_samples: in all.
        correct: "none", "reweight", "metropolis", "hmc" or "latent"; see `jobs.units`.
        time_limit: seconds after which no new block is started.
        on_progress: called after every block.

    Returns:
        The ensemble.  Its manifest's `tuned` has `log_prob_error`, the rms change of log w when
        the steps are doubled, and `log_prob_change`, its mean, where the method has a density.

    Raises:
        ValueError: the method has no density to correct with, or settings that do not fit.
        StorageError: `out` holds something else, or the config or the model differ.
        Interrupted: SIGINT, SIGTERM or the time limit; call again to go on.
        OSError: the file system refuses.
    """
    whole = isinstance(n_samples, int | np.integer) and not isinstance(n_samples, bool)
    if not whole or n_samples < 1:
        raise ValueError(f"n_samples must be a whole number of at least 1, got {n_samples!r}")
    n_samples = int(n_samples)
    units = _prepare(job, model, correct)
    n_rows = -(-n_samples // units.chains)
    config = _config(job, model, units, n_rows)
    made_by = provenance("sample") | _labels(job, model, units)
    run = open_run(out, config, provenance=made_by, parent=model.hash, free=("sampling.snapshots",))
    with run, watching(time_limit) as watch:
        write_config(run.directory, config)
        if "log_prob_error" not in run.tuned and (change := _step_error(units)):
            run.record(**change)
        for part in _parts(units, run, n_rows):
            if part.tuned and not _sampler_settings(run):
                run.record(**part.tuned)
            rows = part if isinstance(units, LatentUnits) else part.as_chain()
            run.append(
                run.n_done + 1 + np.arange(len(part.cfgs)),
                rows.cfgs if job.output.save_configs else None,
                rows.history,
                part.states[-1],
                log_prob=rows.log_prob,
                log_weight=rows.log_weight,
            )
            done, total = run.n_done * units.chains, n_rows * units.chains
            on_progress(Progress("sampling", done, total, _quality(part)))
            if done < total and watch.reason:
                run.finish()
                watch.stop(
                    f": {done} of {total} samples are safe in {run.directory}; the same "
                    f"command goes on from there"
                )
        run.finish()
        film = units.drawer.film()
        if film is not None and isinstance(job.action, Quartic):
            with replacing(run.directory / _SNAPSHOTS) as temporary, temporary.open("wb") as file:
                np.save(file, film.frames[:, :n_samples])
            write_film(film.frames, film.variances, job.action, run.directory, seed=job.seed)
    return open_ensemble(out)


def summary(ensemble: EnsembleOnDisk) -> list[str]:
    """Lines on what sampled configurations are worth, with warnings where they are due."""
    lines = []
    action = ensemble.series("action") if "action" in ensemble.history else None
    weights = known_weights(ensemble.log_weight, ensemble.log_prob, action)
    log_z_error = math.inf
    if weights is not None:
        worth = reweight(weights)
        log_z_error = worth.log_z_error
        lines.append(str(worth))
    if "acceptance" in ensemble.history:
        accepted = ensemble.series("acceptance")
        lines.append(f"acceptance {accepted.mean():.3f}")
        if ensemble.config["sampling"]["correct"] == "latent":
            squares = estimate(ensemble.series("magnetisation") ** 2)
            lines[-1] += (
                f", of HMC {ensemble.series('acceptance_HMC').mean():.3f}; tau_int of M^2 "
                f"{squares.tau_int:.2f} +- {squares.tau_int_error:.2f} steps"
            )
        if ensemble.config["sampling"]["correct"] == "metropolis":
            moves = np.flatnonzero(accepted[0])
            stay = int(np.diff(moves, prepend=0, append=accepted.shape[1]).max())
            lines[-1] += f", longest stay {stay} of {accepted.shape[1]} steps"
    if (rms := ensemble.tuned.get("log_prob_error")) is not None:
        mean = ensemble.tuned["log_prob_change"]
        lines.append(
            f"log w changes by {rms:.4f} rms and {mean:+.4f} in the mean when the steps are doubled"
        )
        if rms > _HONEST:
            lines.append(
                f"warning: that is more than {_HONEST} rms: these weights are not those of the "
                f"model; raise sampling.n_steps"
            )
        elif abs(mean) > log_z_error:
            lines.append(
                "warning: log Z moves by more than its error when the steps are doubled; raise "
                "sampling.n_steps where log Z matters"
            )
    labels = ensemble.provenance[-1]["made_by"]
    if labels["extrapolated"]:
        words = " and ".join(labels["extrapolated"])
        lines.append(f"extrapolated: the model was trained on other {words}")
    if labels["approximate"]:
        lines.append("approximate: the density is estimated, and so are all weights made of it")
    return lines


def _prepare(job: SamplingJob, model: Model, correct: str) -> Units:
    """Check what is asked for, and fill in what is left to be chosen."""
    if correct not in CORRECTIONS:
        raise ValueError(f"correct must be one of {', '.join(CORRECTIONS)}, got {correct!r}")
    asked = job.lattice.shape, job.action, job.sampling
    drawer = model.drawer(*asked, jax.random.key(job.seed), job.output.dtype)
    why = f"{drawer.unweighted}; use --sampling.method path, or --correct none"
    if job.action is None:
        why = "the action of the data is not known (action.kind = none)"
    if correct != "none" and (job.action is None or drawer.unweighted):
        raise ValueError(f"cannot correct by {correct}: {why}")
    if correct == "latent" and drawer.program is None:
        raise ValueError(
            f"cannot correct by latent: chains need the density of every field that they move to, "
            f"and {drawer.no_program}; use metropolis, hmc or reweight"
        )
    kind = LatentUnits if correct == "latent" else Units
    return kind(drawer, job.action, correct, job.sampling.n_updates, job.seed, {})


def _config(job: SamplingJob, model: Model, units: Units, n_rows: int) -> JsonTable:
    """The resolved config of the ensemble."""
    section = model.config["model"]
    return {
        **job.config,
        "sampler": {key: section[key] for key in ("kind", "denoiser") if key in section},
        "sampling": {**job.config["sampling"], **units.drawer.settings, "correct": units.correct},
        "chain": {"n_chains": units.chains, "n_configs": n_rows, "thin": 1},
    }


def _labels(job: SamplingJob, model: Model, units: Units) -> JsonTable:
    """Where the samples come from, and what they are not."""
    known = [(s.shape, _couplings(a, len(s.shape))) for s in model.stages for a in s.actions]
    couplings = _couplings(job.config["action"], job.lattice.ndim)
    extrapolated = {
        "lattices": all(shape != job.lattice.shape for shape, _ in known),
        "couplings": not any(
            len(c) == len(couplings) and np.allclose(c, couplings, rtol=1e-12) for _, c in known
        ),
    }
    return {
        "model": str(model.directory),
        "extrapolated": [name for name, is_other in extrapolated.items() if is_other],
        "approximate": units.drawer.approximate,
    }


def _couplings(section: Section, ndim: int) -> list[float]:
    """(h, a, b) of an `[action]` section; nothing where it has none."""
    action = conventions.from_config(section, ndim)
    return [float(c) for c in action.couplings()] if isinstance(action, Quartic) else []


def _parts(units: Units, run: Run, n_rows: int) -> Iterator[Samples]:
    """The configurations that `run` does not hold yet, a shard at a time.

    Shards end at fixed samples, wherever the run was interrupted and however fast the machine is.
    """
    per_shard = units.per_shard
    while run.n_done < n_rows:
        first, skip = divmod(run.n_done, units.rows)
        n = min(per_shard - first % per_shard, -(-n_rows // units.rows) - first)
        units = replace(units, tuned=_sampler_settings(run))
        made = units.make(first, n, run.state() or {})
        whole = n_rows >= (first + n) * units.rows
        stop = None if whole else n_rows - first * units.rows
        yield made.cut(slice(skip, stop), made.states[-1 if whole else -2])


def _quality(part: Samples) -> dict[str, float]:
    """What a block of samples is worth."""
    weights = known_weights(part.log_weight, part.log_prob, part.history.get("action"))
    found = {} if weights is None else {"ess": kish(weights) / len(weights)}
    if "acceptance" in part.history:
        found["acceptance"] = float(np.mean(part.history["acceptance"]))
    return found


def _sampler_settings(run: Run) -> dict[str, float]:
    """What the sampler that corrects has fixed, as the run recorded it."""
    names = ("trajectory_length", "n_steps", "step_size")
    return {name: run.tuned[name] for name in names if name in run.tuned}


def _step_error(units: Units) -> dict[str, float]:
    """Change of log w under step doubling: its rms and its mean, where there are steps."""
    key = jax.random.fold_in(units.key, _DOUBLING_STREAM)
    change = None if units.action is None else units.drawer.step_error(units.action, key, _DOUBLED)
    if change is None:
        return {}
    rms, mean = float(np.sqrt(np.mean(change**2))), float(np.mean(change))
    return {"log_prob_error": rms, "log_prob_change": mean}
