"""What a trained model is worth: its own samples, the data held out, its symmetries, its cost.

The verdict is "passed" where nothing speaks against the model.  It is useless where all samples
together are worth next to nothing, or where its distribution misses a part of the data's; and it
is undecided where the numbers that would tell cannot be relied on: weights with a tail too heavy,
or that leave too few samples (`statistics.doubt`), of the model or of its data, and weights that
are those of the integrator's steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lattice_ml.actions import conventions
from lattice_ml.jobs import correction
from lattice_ml.jobs.job import TrainingJob
from lattice_ml.jobs.training_data import Data, Source
from lattice_ml.jobs.training_phases import Phase
from lattice_ml.models.diffusion import equivariance
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.drawing import Drawing, log_weights
from lattice_ml.models.drawers import DiffusionDrawer, Drawer
from lattice_ml.observables import measure_configurations
from lattice_ml.statistics import doubt, estimate
from lattice_ml.storage.model import Stage

__all__ = ["UNDECIDED", "cost", "judge", "report", "seconds", "verdict"]

UNDECIDED = "undecided: "

SITES = 1 << 20  # of the samples that judge a theory, in all
SAMPLES = 2048  # of them at most
_REFERENCE = 512  # held-out fields that the forward ESS is measured on
_FEWEST = 16  # of them and their negatives that show its error
_DOUBLED = 64  # samples whose steps are doubled
_LEAST_SHARE = 0.005  # ESS/n: ten of 2048
_LARGEST_CHANGE = 0.5  # rms change of log w under step doubling
_FARTHEST_IDENTITY = 1.0  # of Schwinger-Dyson from 1, of samples that have no weights


def report(network: Any, stage: Stage, data: Data | None, job: TrainingJob) -> dict[str, Any]:
    """Judge a model on the theories of its last stage.

    Args:
        network: the trained one.
        stage: theories and actions.
        data: what was held out, or None.
        job: of the training.

    Returns:
        JSON values; `verdict` is that of `verdict`.
    """
    key = jax.random.fold_in(jax.random.key(job.seed), 2**31)
    drawing = Drawing.choose(network, stage.shape)
    sources: Sequence[Source | None] = data.sources if data else [None] * len(stage.theories)
    theories = [
        {"shape": list(stage.shape), "action": dict(action)}
        | _judge(DiffusionDrawer(network, theory.astype(jnp.float32), drawing, key), action, source)
        for theory, action, source in zip(stage.theories, stage.actions, sources, strict=True)
    ]
    last = stage.theories[-1].astype(jnp.float32)
    own = type(network).denoise is not Denoiser.denoise  # then F follows from D, and cancels
    return {
        "verdict": verdict(theories),
        "theories": theories,
        "equivariance": equivariance.violations(
            network, last, key, of="denoise" if own else "force"
        ),
        "n_weights": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))),
    }


def cost(phases: Sequence[Phase]) -> dict[str, Any]:
    """Steps and evaluations of the network, of every phase and in all."""
    entries: list[dict[str, Any]] = [
        {
            "phase": phase.name,
            "n_steps": phase.settings.total,
            "evaluations": _evaluations(phase),
        }
        for phase in phases
    ]
    return {"phases": entries, "evaluations": sum(entry["evaluations"] for entry in entries)}


def seconds(phases: Sequence[Phase], spent: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Seconds of the training and of every phase, compilation apart: what `cost.json` has."""
    entries: list[dict[str, Any]] = [
        {
            "phase": phase.name,
            "seconds": round(taken - compiling, 3),
            "compile_seconds": round(compiling, 3),
        }
        for phase, (taken, compiling) in zip(phases, spent, strict=True)
    ]
    totals = {
        name: round(sum(entry[name] for entry in entries), 3)
        for name in ("seconds", "compile_seconds")
    }
    return totals | {"phases": entries}


def _evaluations(phase: Phase) -> int:
    """Fields that the network saw, with the gradient: one per field and step of the flow."""
    settings = phase.settings
    per_field = settings.flow.n_evaluations if phase.kind == "fine-tuning" else 1
    return settings.total * settings.batch_size * per_field


def verdict(theories: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence whether a model is worth something, from what was found of its theories.

    Returns:
        "passed"; a sentence that begins with "useless: ", or that of `correction.missed_mode`; or
        one that begins with "undecided: " and says what cannot be relied on.
    """
    found = [reason for entry in theories for reason in (*_against(entry), *_open(entry))]
    return min(found, key=lambda reason: reason.startswith(UNDECIDED), default="passed")


def _against(entry: Mapping[str, Any]) -> Iterator[str]:
    """What makes a model useless for one of its theories."""
    n, identity = entry.get("n_samples"), entry.get("schwinger_dyson")
    if bad := entry.get("n_not_finite"):
        yield f"useless: {bad} of {n} samples have an action or a density that is not finite"
    if "ess" not in entry:
        if identity and _far(identity["value"], identity["error"]):
            yield (
                f"useless: Schwinger-Dyson of its samples is {identity['value']:.4g} +- "
                f"{identity['error']:.2g} where 1 is right, and they have no weights; train it "
                f"further"
            )
        return
    if entry.get("missed_mode"):
        yield entry["missed_mode"]
    if entry["ess"] < _LEAST_SHARE:
        yield (
            f"useless: {n} samples are worth {n * entry['ess']:.3g} (ESS/n {entry['ess']:.2g}, "
            f"Pareto k {entry['pareto_k']:.2f}, log Z {entry['log_z']:.4g}), and no weights bring "
            f"such samples back; train it further, and look at its settings and its data"
        )
    forward = not entry.get("data_doubt") and entry.get("forward_ess")  # of the data's weights
    if forward and forward["value"] + 4.5 * forward["error"] < _LEAST_SHARE:
        yield (
            f"useless: the forward ESS/n on configurations held out is {forward['value']:.2g} +- "
            f"{forward['error']:.2g}; train it further, on all of the distribution"
        )


def _open(entry: Mapping[str, Any]) -> Iterator[str]:
    """What leaves open whether a model is worth something for one of its theories."""
    if entry.get("data_doubt"):
        yield f"{UNDECIDED}of its data {entry['data_doubt']}"
    if "ess" not in entry:
        return
    n = entry["n_samples"]
    if reason := doubt(n, n * entry["ess"], entry["pareto_k"]):
        yield f"{UNDECIDED}{reason}"
    change = entry.get("log_weight_change")
    if change and not change["rms"] <= _LARGEST_CHANGE:
        yield (
            f"{UNDECIDED}log w changes by {change['rms']:.3g} rms when the steps are doubled, "
            f"allowed is {_LARGEST_CHANGE}: ESS, k and log Z are those of the steps and not of the "
            f"model; train it further, or sample with more steps"
        )


def _far(value: float, error: float) -> bool:
    return not abs(value - 1) - 4.5 * error <= _FARTHEST_IDENTITY


def _judge(
    drawer: DiffusionDrawer, section: Mapping[str, Any], source: Source | None
) -> dict[str, Any]:
    """Samples of one theory, with the error that the integrator makes."""
    modes = drawer.theory.modes
    per_sample = modes.volume ** (1 if drawer.network.exact_trace else 2)
    n_samples = max(4 * drawer.batch_size, min(SAMPLES, SITES // per_sample))
    action = conventions.from_config(section, modes.ndim)
    found = judge(drawer, action, source, n_samples) | {"n_steps": drawer.drawing.n_steps}
    if drawer.density:
        change = drawer.step_error(action, drawer.key, _DOUBLED)
        found["log_weight_change"] = {
            "rms": float(np.sqrt(np.mean(change**2))),
            "mean": float(np.mean(change)),
            "error": float(np.std(change) / math.sqrt(len(change))),
        }
    return found


def judge(drawer: Drawer, action: Any, source: Source | None, n_samples: int) -> dict[str, Any]:
    """Judge samples by their own action, and by the data held out.

    Args:
        drawer: of the samples.
        action: of the theory.
        source: of what was held out, or None.
        n_samples: to draw, at least.

    Returns:
        JSON values: the Schwinger-Dyson identity, and where there is a density the worth of the
        weights, the forward ESS and `missed_mode`; or the number of samples that have none of them.
    """
    drawn = drawer.draw(0, -(-n_samples // drawer.batch_size))
    series = measure_configurations(action, drawn.fields)
    found: dict[str, Any] = {"n_samples": len(drawn.fields)}
    if source is not None and (reason := source.doubt):
        found["data_doubt"] = reason
    with np.errstate(invalid="ignore"):  # infinity minus infinity is counted below
        weights = log_weights(drawn, series["action"]) if drawer.density else None
        judged = series["schwinger_dyson"] + (0 if weights is None else weights)
    if bad := int(np.count_nonzero(~np.isfinite(judged))):
        return found | {"n_not_finite": bad}
    raw = estimate(series["schwinger_dyson"][None])
    found["schwinger_dyson"] = {"value": raw.value, "error": raw.error}
    if weights is None:
        return found
    found |= vars(correction.reweight(weights))
    fields = None if source is None else source.held_out(_REFERENCE)
    if fields is not None:
        # and their negatives, in the same chains
        both = np.concatenate([fields, -fields], axis=1).astype(np.float32)
        flat = both.reshape(-1, *drawer.shape)
        if len(flat) < _FEWEST:  # few data tell nothing
            return found
        logs = -measure_configurations(action, flat)["action"] - drawer.log_prob(flat)
        reference = logs.reshape(both.shape[:2])
        forward = correction.forward_ess(reference)
        found["forward_ess"] = {"value": forward.value, "error": forward.error}
        found["missed_mode"] = correction.missed_mode(weights, reference)
    return found
