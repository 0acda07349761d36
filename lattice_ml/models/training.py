"""What a kind of model sees of its data when it is trained, and what it gives to the trainer.

A training goes through phases, and a phase through blocks of steps.  The trainer (`jobs/train.py`)
keeps the states after them; it knows of a state only that it is a tree of arrays.  All randomness
comes from the seed, the phase and the number of the step, so a training that was interrupted and
resumed ends with the same bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.models.drawer import Drawer
from lattice_ml.models.model import Arrays, Model, Stage
from lattice_ml.runtime.json import JsonTable, Section

__all__ = [
    "JUDGED_SAMPLES",
    "JUDGED_SITES",
    "Block",
    "Data",
    "Judge",
    "Learned",
    "Phase",
    "Plan",
    "Pools",
    "ServedPools",
    "Source",
    "Task",
    "TrainingError",
    "WeightsError",
]

State = TypeVar("State")

JUDGED_SITES = 1 << 20  # of the samples that judge a theory, in all
JUDGED_SAMPLES = 2048  # of them at most


class TrainingError(RuntimeError):
    """The training failed: the message says where and what to change."""


class WeightsError(ValueError):
    """Weights are those of another network than a config describes."""


class Source(Protocol):
    """One ensemble: a part of its fields is to train on, the rest is held out."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def action(self) -> Any:
        """Of its distribution; None where it is not known."""

    @property
    def n_chains(self) -> int:
        """Chains to train on."""

    @property
    def n_configs(self) -> int:
        """Configurations of each to train on."""

    @property
    def doubt(self) -> str | None:
        """Why the weights of the fields to train on leave too few of them, or None."""

    def training(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Fields to train on `(n, *L)` and their weights `(n,)`, block by block."""

    def held_out(self, n_fields: int) -> np.ndarray | None:
        """At most about `n_fields` of the held-out fields, `(chains, configs, *L)`."""


class Pools(Protocol):
    """The fields to train on in pools that fit in memory, numbered without end."""

    @property
    def constant(self) -> bool:
        """Whether all pools are the same: everything fits."""

    @property
    def n_fields(self) -> int:
        """In a pool, of each ensemble."""

    def __getitem__(self, index: int) -> np.ndarray:
        """A pool, `(n_ensembles, n_fields, *L)` in float32."""


class Data(Protocol):
    """The ensembles of one lattice shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the lattice."""

    @property
    def sources(self) -> Sequence[Source]:
        """The ensembles."""

    @property
    def actions(self) -> tuple[Section, ...]:
        """The `[action]` section of each."""

    def held_out(self, n_fields: int) -> np.ndarray | None:
        """Held-out fields of every ensemble, `(n_ensembles, n, *L)`, n at most about `n_fields`."""

    def pools(self, seed: int, pool_bytes: int) -> Pools:
        """The fields as pools that fit in `pool_bytes` together."""


@dataclass(frozen=True)
class Task:
    """What is to be trained, on what.

    Args:
        model: the `[model]` section.
        training: the `[training]` section of the kind.
        seed: of everything.
        data: of each stage, or none where a model learns from its own samples.
        initial: a model whose weights are where the training begins, or None.
        stages: with their theories, once they are measured.
    """

    model: Section
    training: Any
    seed: int
    data: Sequence[Data]
    initial: Model | None
    stages: tuple[Stage[Any], ...] = ()


class Block(NamedTuple, Generic[State]):
    """Consecutive steps that were taken."""

    step: int  # of the training, after the block
    state: State
    found: dict[str, float]  # losses and the like, of the block or after it


class Learned(NamedTuple):
    """What a phase ends with: a network, and what was noted along the way for `history.npz`."""

    network: Any
    history: Arrays | None = None


class Phase(Protocol[State]):
    """Steps of one kind on one lattice."""

    @property
    def name(self) -> str:
        """What people read."""

    @property
    def first(self) -> int:
        """Steps of the training before it."""

    @property
    def total(self) -> int:
        """Its steps."""

    @property
    def evaluations(self) -> int:
        """Fields that the network sees, with the gradient; 0 of what is no network."""

    @property
    def place(self) -> JsonTable:
        """What a line of the metrics says beside the step and what was found."""

    def start(self, network: Any) -> State:
        """The state before the first step, from the network that the phase before ended with."""

    def blocks(self, state: State) -> Iterator[Block[State]]:
        """Take the steps that `state` has not taken yet.

        Raises:
            TrainingError: what is found is not a number; the blocks before are good.
        """

    def end(self, state: State) -> Learned:
        """What is kept of the state after the last step."""


class Plan(NamedTuple):
    """The network that a training begins with, and its phases: each begins where one ended."""

    network: Any
    phases: Sequence[Phase[Any]]


class Judge(Protocol):
    """What samples are worth: by their own action, and by the data held out."""

    def __call__(
        self, drawer: Drawer, action: Any, source: Source | None, n_samples: int
    ) -> JsonTable:
        """Draw `n_samples` or more and judge them; JSON values for an entry of `theories`."""


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
