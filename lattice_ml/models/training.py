"""What a kind of model sees of its data when it is trained, and what it gives to the trainer.

A training goes through phases, and a phase through blocks of steps.  The trainer (`jobs/train.py`)
keeps the states after them; it knows of a state only that it is a tree of arrays.  All randomness
comes from the seed, the phase and the number of the step, so a training that was interrupted and
resumed ends with the same bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from lattice_ml.models.data import Data
from lattice_ml.models.model import Arrays, Model, Stage
from lattice_ml.runtime.json import JsonTable, Section

__all__ = [
    *("Block", "Learned", "Phase", "Plan", "Task", "TrainingError", "WeightsError"),
    "check_weights",
]

State = TypeVar("State")


class TrainingError(RuntimeError):
    """The training failed: the message says where and what to change."""


class WeightsError(ValueError):
    """Weights are those of another network than a config describes."""


def check_weights(found: Arrays, wanted: Arrays) -> None:
    """Refuse weights that are not of a network.

    Raises:
        WeightsError: naming the first that differs.
    """
    shapes = [{name: np.shape(a) for name, a in w.items()} for w in (found, wanted)]
    mine, own = ([f"{n} of shape {s}" for n, s in shape.items()] for shape in shapes)
    extra, missing = (sorted(set(a) - set(b)) for a, b in ((mine, own), (own, mine)))
    if extra or missing:
        several = max(len(extra), len(missing)) - 1
        raise WeightsError(
            f"holds weights {(extra or ['too few'])[0]}, the network of its config has "
            f"{(missing or ['none of them'])[0]}{f', and {several} more differ' * (several > 0)}"
        )


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


@dataclass(frozen=True)
class Phase(ABC, Generic[State]):
    """Steps of one kind on one lattice.

    Args:
        task: of the training.
        name: what people read.
        first: steps of the training before it.
        total: its steps.
        evaluations: fields that the network sees, with the gradient; 0 of what is no network.
        place: what a line of the metrics says beside the step and what was found.
    """

    task: Task
    name: str
    first: int
    total: int
    evaluations: int
    place: JsonTable

    @abstractmethod
    def start(self, network: Any) -> State:
        """The state before the first step, from the network that the phase before ended with."""

    @abstractmethod
    def blocks(self, state: State) -> Iterator[Block[State]]:
        """Take the steps that `state` has not taken yet.

        Raises:
            TrainingError: what is found is not a number; the blocks before are good.
        """

    @abstractmethod
    def end(self, state: State) -> Learned:
        """What is kept of the state after the last step."""


class Plan(NamedTuple):
    """The network that a training begins with, and its phases: each begins where one ended."""

    network: Any
    phases: Sequence[Phase[Any]]
