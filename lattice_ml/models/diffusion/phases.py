"""The phases of a training, and the blocks of steps that each consists of.

A stage is a lattice shape with its theories.  Its first phase is denoising, regression on the
data's configurations; its second, where asked for, fine-tuning on the model's own samples.  Each
begins with the averaged weights of the one before.  All randomness comes from the key of the phase
and the number of the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lattice_ml.models.data import check_actions
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.diffusion.drawing import flow_steps
from lattice_ml.models.diffusion.fitting import Settings, TrainState
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.diffusion.networks import initial_network
from lattice_ml.models.diffusion.sections import TrainingSection
from lattice_ml.models.theory import Theory
from lattice_ml.models.training import Block, Learned, Phase, Plan, Task, TrainingError

__all__ = ["DiffusionPhase", "check", "plan"]

_BLOCKS = 20  # per phase: how often there is something to report
_VALIDATION_FIELDS = 512
_SAMPLED, _FEW_STEPS = 5, 4  # blocks between looks at samples; steps of the flow that makes them
_SAMPLES = 64
_FINE_TUNING_B2, _FINE_TUNING_AVERAGE = 0.99, 0.95  # its gradients are few and accurate


@dataclass(frozen=True)
class DiffusionPhase(Phase[TrainState]):
    """Steps of one kind on one stage.

    Args:
        kind: "denoising" or "fine-tuning".
        number: of its stage.
        settings: of the fit.
        network: what is trained; of its weights those in the state count.
    """

    kind: str
    number: int
    settings: Settings
    network: Denoiser

    @property
    def block(self) -> int:
        """Steps per compiled call, a divisor of the total where one is near."""
        most = -(-self.total // _BLOCKS)
        return next((n for n in range(most, most // 2, -1) if self.total % n == 0), most)

    def start(self, network: Denoiser) -> TrainState:
        return fitting.start(network, self.settings)

    def end(self, state: TrainState) -> Learned:
        return Learned(fitting.averaged(self.network, state))

    def blocks(self, state: TrainState) -> Iterator[Block[TrainState]]:
        graph, settings, task = nnx.graphdef(self.network), self.settings, self.task
        theories = fitting.stack(list(task.stages[self.number].theories)).astype(jnp.float32)
        key = jax.random.fold_in(jax.random.key(task.seed), self.first)
        pools = held_out = None
        if self.kind == "denoising":
            data = task.data[self.number]
            pools = data.pools(task.seed, task.training.pool_bytes, settings.batch_size)
            held_out = data.held_out(_VALIDATION_FIELDS)
        done = int(state.step)
        while done < settings.total:
            n = min(self.block, settings.total - done)
            given = graph, state, theories
            if pools is None:
                state, losses = fitting.fine_tune(*given, key, n=n, settings=settings)
            else:
                pool = pools.at(done)
                state, losses = fitting.denoise(*given, pool, key, n=n, settings=settings)
            found = {"loss": self._mean(np.asarray(losses), done)}
            if held_out is not None:
                validation = _validation_loss(
                    graph, state.average, theories, held_out, target=settings.target
                )
                found["validation_loss"] = float(validation)
            if (done + n) // self.block % _SAMPLED == 0 or done + n == settings.total:
                flow = Flow(_FEW_STEPS, n_probes=0 if self.network.exact_trace else 1)
                identity = _identity(graph, state.average, theories, key, flow=flow)
                found["schwinger_dyson"] = float(identity)
            done += n
            yield Block(self.first + done, state, found)

    def _mean(self, losses: np.ndarray, done: int) -> float:
        """Mean loss of a block that began after `done` steps, all of them finite."""
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            key = "fine_tune_learning_rate" if self.kind == "fine-tuning" else "learning_rate"
            raise TrainingError(
                f"the loss is {losses[bad[0]]} at step {self.first + done + int(bad[0]) + 1} "
                f"({self.name}): make training.{key} or training.clip smaller"
            )
        return float(np.mean(losses, dtype=np.float64))


def plan(task: Task) -> Plan:
    """The first network, and the phases that a task asks for, those without steps left out.

    Raises:
        ValueError: a key of [training] with a number of values that is not that of the stages.
    """
    training: TrainingSection = task.training
    model, stages = task.model, task.stages
    network: Denoiser = (
        initial_network(model, len(stages[0].shape), task.seed)
        if task.initial is None
        else task.initial.network
    )
    shared = {"clip": training.clip, "target": model["target"]}
    augment = training.augment and model["symmetric"] and not network.equivariant
    phases: list[DiffusionPhase] = []

    def add(kind: str, number: int, settings: Settings) -> None:
        if settings.total and jax.tree.leaves(nnx.state(network)):
            name = f"{' x '.join(map(str, stages[number].shape))} {kind}"
            first = phases[-1].first + phases[-1].total if phases else 0
            # fields that the network sees: one per field and step of the flow
            per_field = settings.flow.n_evaluations if kind == "fine-tuning" else 1
            seen = settings.total * settings.batch_size * per_field
            place = {"stage": number, "phase": kind}
            steps = name, first, settings.total, seen, place
            phases.append(DiffusionPhase(task, *steps, kind, number, settings, network))

    for i, stage in enumerate(stages):
        numbers = training.of_stage(i, len(stages))
        if task.data:
            settings = Settings(
                total=numbers["n_steps"],
                batch_size=numbers["batch_size"],
                learning_rate=numbers["learning_rate"],
                average=training.ema,
                augment=augment,
                **shared,
            )
            add("denoising", i, settings)
        if training.fine_tune:
            n_steps = numbers["flow_steps"]
            settings = Settings(
                total=numbers["fine_tune_steps"],
                batch_size=numbers["fine_tune_batch"],
                learning_rate=numbers["fine_tune_learning_rate"],
                flow=Flow(flow_steps(max(stage.shape)) if n_steps == "auto" else n_steps),
                b2=_FINE_TUNING_B2,
                average=_FINE_TUNING_AVERAGE,
                **shared,
            )
            add("fine-tuning", i, settings)
    return Plan(network, phases)


def check(task: Task) -> None:
    """Refuse a task that has nothing to learn from, or several couplings and a network of one.

    Raises:
        ValueError: saying what is missing.
    """
    if not task.data and not (task.initial is not None and task.training.fine_tune):
        raise ValueError(
            "nothing to train on: give --data ENSEMBLE, or --init-from MODEL with "
            "--training.fine-tune to train a model on its own samples"
        )
    for data in task.data:
        check_actions(data, "a diffusion model")
    model = task.model
    knows = model["denoiser"] == "zero" or model.get("conditional", False)
    if knows or all(len(data.sources) == 1 for data in task.data):
        return
    remedy = f"the {model['denoiser']} network cannot: use shallow or convnet"
    if "conditional" in model:
        remedy = "set model.conditional = true, or train on one ensemble per lattice shape"
    raise ValueError(
        f"several ensembles have one lattice shape, and the network does not know the couplings: "
        f"{remedy}"
    )


@partial(jax.jit, static_argnames=("graph", "target"))
def _validation_loss(
    graph: nnx.GraphDef[Denoiser],
    weights: Weights,
    theories: Theory,
    fields: jax.Array,
    *,
    target: str,
) -> jax.Array:
    """Mean loss on fields `(n_theories, n, *L)`, always with the same noise."""
    network = nnx.merge(graph, weights)

    def loss(inputs: tuple[Theory, jax.Array]) -> jax.Array:
        theory, phi = inputs
        return fitting.validation_loss(network, theory, phi, jax.random.key(0), target)

    return jnp.mean(lax.map(loss, (theories, fields)))


@partial(jax.jit, static_argnames=("graph", "flow"))
def _identity(
    graph: nnx.GraphDef[Denoiser], weights: Weights, theories: Theory, key: jax.Array, *, flow: Flow
) -> jax.Array:
    """<phi dS/dphi> / V of a few samples, averaged over the theories: 1 in equilibrium."""
    network = nnx.merge(graph, weights)

    def one(theory: Theory) -> jax.Array:
        x, _ = flow.sample(network, theory, key, _SAMPLES)
        gradient = theory.interaction(x) + x / theory.propagator
        return jnp.sum(x * gradient) / (_SAMPLES * theory.modes.volume)

    return jnp.mean(lax.map(one, theories))
