"""What a trained diffusion model is worth: its samples, their steps, its symmetries, its cost."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lattice_ml.actions import conventions, quartic
from lattice_ml.models.data import Source
from lattice_ml.models.diffusion import equivariance
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.training import Phase, Task
from lattice_ml.models.worth import JUDGED_SAMPLES, JUDGED_SITES, judge
from lattice_ml.runtime.json import JsonTable, Section

__all__ = ["report"]

_DOUBLED = 64  # samples whose steps are doubled


def report(task: Task, network: Denoiser, phases: Sequence[Phase[Any]]) -> JsonTable:
    """Judge a model on the theories of its last stage."""
    stage = task.stages[-1]
    key = jax.random.fold_in(jax.random.key(task.seed), 2**31)
    drawing = Drawing.choose(network, stage.shape)
    sources: Sequence[Source | None] = [None] * len(stage.theories)
    if task.data:
        sources = task.data[-1].sources
    theories = [
        _judged(DiffusionDrawer(network, theory.astype(jnp.float32), drawing, key), action, source)
        for theory, action, source in zip(stage.theories, stage.actions, sources, strict=True)
    ]
    last = stage.theories[-1].astype(jnp.float32)
    return {
        "theories": theories,
        "equivariance": equivariance.violations(network, last, key, of=network.own),
        "n_weights": sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))),
        "phases": [
            {"phase": phase.name, "n_steps": phase.total, "evaluations": phase.evaluations}
            for phase in phases
        ],
        "evaluations": sum(phase.evaluations for phase in phases),
    }


def _judged(drawer: DiffusionDrawer, section: Section, source: Source | None) -> JsonTable:
    """Samples of one theory, with the error that the integrator makes."""
    modes = drawer.theory.modes
    per_sample = modes.volume ** (1 if drawer.network.exact_trace else 2)
    n_samples = max(4 * drawer.batch_size, min(JUDGED_SAMPLES, JUDGED_SITES // per_sample))
    action = quartic(conventions.from_config(section, modes.ndim), "diffusion models are")
    found: JsonTable = {"shape": list(drawer.shape), "action": dict(section)}
    found |= judge(drawer, action, source, n_samples) | {"n_steps": drawer.drawing.n_steps}
    change = drawer.step_error(action, drawer.key, _DOUBLED)
    if change is not None:
        found["log_weight_change"] = {
            "rms": float(np.sqrt(np.mean(change**2))),
            "mean": float(np.mean(change)),
            "error": float(np.std(change) / math.sqrt(len(change))),
        }
    return found
