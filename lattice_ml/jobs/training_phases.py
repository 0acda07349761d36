"""The phases of a training, and the blocks of steps that each consists of.

A stage is a lattice shape with its theories.  Its first phase is denoising, regression on the
data's configurations; its second, where asked for, fine-tuning on the model's own samples.  Each
begins with the averaged weights of the one before.  All randomness comes from the key of the phase
and the number of the step.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lattice_ml.jobs.job import TrainingJob
from lattice_ml.jobs.training_data import Data
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.diffusion.drawing import flow_steps
from lattice_ml.models.diffusion.fitting import Settings, TrainState
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.diffusion.theory import Theory
from lattice_ml.runtime.session import compile_times
from lattice_ml.storage.model import Stage

__all__ = ["Block", "Phase", "ServedPools", "TrainingError", "blocks", "plan"]

_BLOCKS = 20  # per phase: how often there is something to report
_VALIDATION_FIELDS = 512
_SAMPLED, _FEW_STEPS = 5, 4  # blocks between looks at samples; steps of the flow that makes them
_SAMPLES = 64
_FINE_TUNING_B2, _FINE_TUNING_AVERAGE = 0.99, 0.95  # its gradients are few and accurate


class TrainingError(RuntimeError):
    """The training failed: the message says where and what to change."""


@dataclass(frozen=True)
class Phase:
    """Steps of one kind on one stage.

    Attributes:
        kind: "denoising" or "fine-tuning".
        stage: its number.
        shape: of its lattice.
        first: steps of the training before it.
        settings: of the fit.
    """

    kind: str
    stage: int
    shape: tuple[int, ...]
    first: int
    settings: Settings

    @property
    def name(self) -> str:
        return f"{' x '.join(map(str, self.shape))} {self.kind}"

    @property
    def last(self) -> int:
        return self.first + self.settings.total

    @property
    def block(self) -> int:
        """Steps per compiled call, a divisor of the total where one is near."""
        total = self.settings.total
        most = -(-total // _BLOCKS)
        return next((n for n in range(most, most // 2, -1) if total % n == 0), most)


class Block(NamedTuple):
    """Consecutive steps of a phase that were taken, and the state after them."""

    step: int  # of the training, after the block
    state: TrainState
    losses: dict[str, float]  # mean over the block, on the data held out; now and then, of samples
    seconds: float
    compile_seconds: float  # of them


def plan(
    job: TrainingJob, network: Any, shapes: Sequence[tuple[int, ...]], *, denoising: bool
) -> list[Phase]:
    """The phases that a job asks for, those without steps left out.

    Raises:
        ValueError: a key of [training] with a number of values that is not that of the stages.
    """
    training, model = job.training, job.model
    shared: dict[str, Any] = {"clip": training.clip, "target": model["target"]}
    phases: list[Phase] = []

    def add(kind: str, stage: int, settings: Settings) -> None:
        if settings.total and jax.tree.leaves(nnx.state(network)):
            first = phases[-1].last if phases else 0
            phases.append(Phase(kind, stage, tuple(shapes[stage]), first, settings))

    for i, shape in enumerate(shapes):
        numbers = training.of_stage(i, len(shapes))
        if denoising:
            settings = Settings(
                total=numbers["n_steps"],
                batch_size=numbers["batch_size"],
                learning_rate=numbers["learning_rate"],
                average=training.ema,
                augment=training.augment and model["symmetric"] and not network.equivariant,
                **shared,
            )
            add("denoising", i, settings)
        if training.fine_tune:
            n_steps = numbers["flow_steps"]
            settings = Settings(
                total=numbers["fine_tune_steps"],
                batch_size=numbers["fine_tune_batch"],
                learning_rate=numbers["fine_tune_learning_rate"],
                flow=Flow(flow_steps(max(shape)) if n_steps == "auto" else n_steps),
                b2=_FINE_TUNING_B2,
                average=_FINE_TUNING_AVERAGE,
                **shared,
            )
            add("fine-tuning", i, settings)
    return phases


def blocks(
    network: Any,
    phase: Phase,
    stage: Stage,
    data: Data | None,
    state: TrainState,
    *,
    seed: int,
    pool_bytes: int,
) -> Iterator[Block]:
    """Take the steps of a phase that `state` has not taken yet.

    Raises:
        TrainingError: a loss is not a number; the blocks before are good.
    """
    graph = nnx.graphdef(network)
    theories = fitting.stack(list(stage.theories)).astype(jnp.float32)
    key = jax.random.fold_in(jax.random.key(seed), phase.first)
    settings = phase.settings
    denoising = phase.kind == "denoising" and data is not None
    pools = ServedPools(data, seed, pool_bytes, settings.batch_size) if data and denoising else None
    held_out = data.held_out(_VALIDATION_FIELDS) if data and denoising else None
    done = int(state.step)
    while done < settings.total:
        begin, n = time.monotonic(), min(phase.block, settings.total - done)
        with compile_times() as compiling:
            if pools is not None:
                state, losses = fitting.denoise(
                    graph, state, theories, pools.at(done), key, n=n, settings=settings
                )
            else:
                state, losses = fitting.fine_tune(
                    graph, state, theories, key, n=n, settings=settings
                )
            found = {"loss": _mean(np.asarray(losses), phase, done)}
            if held_out is not None:
                validation = _validation_loss(
                    graph, state.average, theories, held_out, target=settings.target
                )
                found["validation_loss"] = float(validation)
            if (done + n) // phase.block % _SAMPLED == 0 or done + n == settings.total:
                probes = 0 if network.exact_trace else 1
                identity = _identity(
                    graph, state.average, theories, key, flow=Flow(_FEW_STEPS, n_probes=probes)
                )
                found["schwinger_dyson"] = float(identity)
        done += n
        yield Block(phase.first + done, state, found, time.monotonic() - begin, compiling())


class ServedPools:
    """The pool that serves a step: the next one when as many fields were drawn as it holds."""

    def __init__(self, data: Data, seed: int, pool_bytes: int, batch_size: int) -> None:
        self._pools = data.pools(seed, pool_bytes)
        self._batch_size = batch_size
        self._loaded: tuple[int, jax.Array] | None = None

    def at(self, step: int) -> jax.Array:
        """Fields `(n_theories, n_fields, *L)` on the device."""
        drawn = step * self._batch_size
        index = 0 if self._pools.constant else drawn // self._pools.n_fields
        if self._loaded is None or self._loaded[0] != index:
            self._loaded = index, jnp.asarray(self._pools[index])
        return self._loaded[1]


@partial(jax.jit, static_argnames=("graph", "target"))
def _validation_loss(
    graph: Any, weights: Any, theories: Theory, fields: jax.Array, *, target: str
) -> jax.Array:
    """Mean loss on fields `(n_theories, n, *L)`, always with the same noise."""
    network = nnx.merge(graph, weights)

    def loss(inputs: tuple[Theory, jax.Array]) -> jax.Array:
        theory, phi = inputs
        return fitting.validation_loss(network, theory, phi, jax.random.key(0), target)

    return jnp.mean(lax.map(loss, (theories, fields)))


@partial(jax.jit, static_argnames=("graph", "flow"))
def _identity(
    graph: Any, weights: Any, theories: Theory, key: jax.Array, *, flow: Flow
) -> jax.Array:
    """<phi dS/dphi> / V of a few samples, averaged over the theories: 1 in equilibrium."""
    network = nnx.merge(graph, weights)

    def one(theory: Theory) -> jax.Array:
        x, _ = flow.sample(network, theory, key, _SAMPLES)
        gradient = theory.interaction(x) + x / theory.propagator
        return jnp.sum(x * gradient) / (_SAMPLES * theory.modes.volume)

    return jnp.mean(lax.map(one, theories))


def _mean(losses: np.ndarray, phase: Phase, done: int) -> float:
    """Mean loss of a block that began after `done` steps, all of them finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        key = "fine_tune_learning_rate" if phase.kind == "fine-tuning" else "learning_rate"
        raise TrainingError(
            f"the loss is {losses[bad[0]]} at step {phase.first + done + int(bad[0]) + 1} "
            f"({phase.name}): make training.{key} or training.clip smaller"
        )
    return float(np.mean(losses, dtype=np.float64))
