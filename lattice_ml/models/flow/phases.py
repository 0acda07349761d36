"""The phases of a training: on every lattice reverse KL first, then the variance of log w."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.models.data import check_actions
from lattice_ml.models.flow import fitting
from lattice_ml.models.flow.conditioned import Flow, conditioned
from lattice_ml.models.flow.fitting import Fit, Settings
from lattice_ml.models.flow.multiscale import Tables
from lattice_ml.models.flow.sections import FlowModelSection, FlowTrainingSection
from lattice_ml.models.flow.tables import check_couplings, check_shape, coarsest, make_tables
from lattice_ml.models.flow.weights import faded, grown, initial_weights
from lattice_ml.models.training import Block, Learned, Phase, Plan, Task, TrainingError
from lattice_ml.runtime.json import Section

__all__ = ["FlowPhase", "check", "plan", "sizes"]

_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of what fine levels have learned


@dataclass(frozen=True)
class FlowPhase(Phase[Fit]):
    """Steps of one kind on one stage.

    Args:
        theories: tables of the stage.
        settings: of the fit.
        flow: what is trained, with as many levels as the stage has; of its weights those in the
            state count.
    """

    theories: tuple[Tables, ...]
    settings: Settings
    flow: Flow

    def start(self, network: Flow) -> Fit:
        """Weights of the stage before; where levels are new, as much of the old as they bear.

        Fine levels were trained on what the old coarse ones say, and overdo what they correct where
        new ones say it in another way, most of all at strong coupling.
        """
        fresh, n_levels = self.flow.weights, len(network.weights.levels)
        weights = grown(network.weights, fresh)
        if n_levels >= len(weights.levels):
            return fitting.start(replace(self.flow, weights=weights))
        flows = [replace(self.flow, weights=faded(weights, fresh, n_levels, s)) for s in _SHARES]
        judged = self._theories, jax.random.fold_in(self._key, self.total)
        by_kl = replace(self.settings, by_kl=True)
        return fitting.start(min(flows, key=lambda flow: fitting.loss(flow, *judged, by_kl)))

    def blocks(self, state: Fit) -> Iterator[Block[Fit]]:
        theories, key = self._theories, self._key
        while state.done < self.total:
            state, found = fitting.step(self.flow, theories, state, key, self.settings)
            number = self.first + int(state.done)
            if not np.isfinite(found.variance):
                raise TrainingError(
                    f"log w of samples is not finite at step {number} ({self.name}): look at the "
                    "data, or begin with more training.kl_steps"
                )
            yield Block(number, state, found._asdict())

    @property
    def _key(self) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.task.seed), self.first)

    @property
    def _theories(self) -> list[Tables]:
        return [tables.astype(jnp.float32) for tables in self.theories]

    def end(self, state: Fit) -> Learned:
        return Learned(fitting.fitted(self.flow, state))


def sizes(section: Section) -> FlowModelSection:
    """What a `[model]` section says of the networks."""
    lists = {key: tuple(value) for key, value in section.items() if isinstance(value, list)}
    return FlowModelSection(**{**section, **lists})


def plan(task: Task) -> Plan:
    """The first flow, and the phases that a task asks for, those without steps left out.

    Raises:
        ValueError: a key of [training] with a number of values that is not that of the stages.
    """
    training: FlowTrainingSection = task.training
    tables = [tuple(map(make_tables, stage.theories)) for stage in task.stages]
    every = [theory for stage in tables for theory in stage]

    def initial(shape: Sequence[int]) -> Flow:
        random = np.random.default_rng(task.seed)
        weights = initial_weights(random, len(shape), coarsest(shape)[1], sizes(task.model))
        if task.initial is None:
            return conditioned(weights, every, task.model["degree"])
        return task.initial.network.like(weights)

    network = initial(task.stages[0].shape) if task.initial is None else task.initial.network
    phases: list[FlowPhase] = []
    for i, (stage, theories) in enumerate(zip(task.stages, tables, strict=True)):
        numbers = training.of_stage(i, len(task.stages))
        for by_kl, kind in ((True, "reverse KL"), (False, "variance")):
            total = numbers["kl_steps" if by_kl else "n_steps"]
            if total:
                settings = Settings(by_kl, numbers["n_samples"], training.memory)
                name = f"{' x '.join(map(str, stage.shape))} {kind}"
                first = phases[-1].first + phases[-1].total if phases else 0
                seen = total * settings.chunks(len(theories)) * fitting.CHUNK
                steps = name, first, total, seen, {"stage": i, "phase": kind}
                phases.append(FlowPhase(task, *steps, theories, settings, initial(stage.shape)))
    return Plan(network, phases)


def check(task: Task) -> None:
    """Refuse a task that has nothing to learn from, or lattices and actions that no flow is for.

    Raises:
        ValueError: saying what and why.
    """
    if not task.data and task.initial is None:
        raise ValueError("nothing to train on: give --data ENSEMBLE ..., or --init-from MODEL")
    for data in task.data:
        check_actions(data, "a flow model")
        check_shape(data.shape)
        for source in data.sources:
            check_couplings(float(source.ensemble.action.couplings()[0]))
