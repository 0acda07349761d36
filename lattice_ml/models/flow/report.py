"""What a trained flow is worth: its samples, and the data held out."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lattice_ml.actions import conventions, quartic
from lattice_ml.models.data import Source
from lattice_ml.models.flow.conditioned import Flow
from lattice_ml.models.flow.drawer import FlowDrawer, batch_of
from lattice_ml.models.flow.tables import make_tables
from lattice_ml.models.training import Phase, Task
from lattice_ml.models.worth import judge
from lattice_ml.runtime.json import JsonTable

__all__ = ["report"]

_SITES, _FEWEST = 1 << 24, 2048  # of the samples that judge a theory, in all; samples at least


def report(task: Task, network: Flow, phases: Sequence[Phase[Any]]) -> JsonTable:
    """Judge a flow on the theories of its last stage."""
    stage = task.stages[-1]
    key = jax.random.fold_in(jax.random.key(task.seed), 2**31)
    sources: Sequence[Source | None] = [None] * len(stage.theories)
    if task.data:
        sources = task.data[-1].sources
    theories = []
    for theory, section, source in zip(stage.theories, stage.actions, sources, strict=True):
        tables = make_tables(theory).astype(jnp.float32)
        drawer = FlowDrawer(network.at(tables), tables, key, batch_of(stage.shape))
        action = quartic(conventions.from_config(section, len(stage.shape)), "flow models are")
        n_samples = max(_FEWEST, min(16384, _SITES // theory.modes.volume))
        entry: JsonTable = {"shape": list(stage.shape), "action": dict(section)}
        theories.append(entry | judge(drawer, action, source, n_samples))
    return {
        "theories": theories,
        "n_weights": sum(leaf.size for leaf in jax.tree.leaves(network.weights)),
        "phases": [
            {"phase": phase.name, "n_steps": phase.total, "evaluations": phase.evaluations}
            for phase in phases
        ],
        "evaluations": sum(phase.evaluations for phase in phases),
    }
