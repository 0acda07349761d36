"""What a kind of model sees of its data when it is trained, and what it gives to the trainer.

A training goes through phases, and a phase through blocks of steps.  The trainer (`jobs/train.py`)
keeps the states after them; it knows of a state only that it is a tree of arrays.  All randomness
comes from the seed, the phase and the number of the step, so a training that was interrupted and
resumed ends with the same bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from lattice_ml.models.data import Data, Source
from lattice_ml.models.drawer import Drawer
from lattice_ml.models.model import Arrays, Model, Stage
from lattice_ml.runtime.json import JsonTable, Section

__all__ = [
    *("JUDGED_SAMPLES", "JUDGED_SITES", "Block", "Judge", "Learned", "Phase", "Plan", "Task"),
    *("TrainingError", "WeightsError"),
]

State = TypeVar("State")

JUDGED_SITES = 1 << 20  # of the samples that judge a theory, in all
JUDGED_SAMPLES = 2048  # of them at most


class TrainingError(RuntimeError):
    """The training failed: the message says where and what to change."""


class WeightsError(ValueError):
    """Weights are those of another network than a config describes."""


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
