"""What a kind of model sees of its data when it is trained, and what it gives to the trainer.

A training goes through phases, and a phase through blocks of steps.  The trainer (`jobs/train.py`)
keeps the states after them; it knows of a state only that it is a tree of arrays.  All randomness
comes from the seed, the phase and the number of the step, so a training that was interrupted and
resumed ends with the same bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.models.drawer import Drawer
from lattice_ml.models.model import Arrays, Model, Stage, Table

__all__ = [
    "Block",
    "Data",
    "Learned",
    "Phase",
    "Pools",
    "ServedPools",
    "Source",
    "Task",
    "TrainingError",
    "Trial",
    "WeightsError",
]

State = TypeVar("State")


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
    def actions(self) -> tuple[Mapping[str, Any], ...]:
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
        data: of each stage; none where a model learns from its own samples.
        initial: a model whose weights are where the training begins, or None.
        stages: with their theories, once they are measured.
    """

    model: Mapping[str, Any]
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
    def place(self) -> Table:
        """What a line of the metrics says beside the step and what was found."""

    def start(self, network: Any) -> State:
        """The state before the first step: from the network before, None for the first phase."""

    def blocks(self, state: State) -> Iterator[Block[State]]:
        """Take the steps that `state` has not taken yet.

        Raises:
            TrainingError: what is found is not a number; the blocks before are good.
        """

    def end(self, state: State) -> Learned:
        """What the state after the last step is worth keeping."""


class Trial(NamedTuple):
    """How samples of a theory are drawn to be judged, and what is known of it without them."""

    drawer: Drawer
    n_samples: int
    found: Table


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
