"""The contract of a kind of model: what can be done with a trained one.

A kind is a folder `models/X/` with `sections.py` (the keys of its config, cheap to import),
`kind.py` (a subclass of `Model`, by the name of `MODEL`), and a row in `kinds.KINDS`.  Training,
storage, sampling and spectra know models by this class alone; what a kind gives to be trained is in
`training.py`.

A model is a network beside what was measured of the data: its *theories*, those of one lattice
shape in one `Stage`.  Whoever stores it sees arrays by name; the kind makes objects of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import jax
import numpy as np

from lattice_ml.runtime.json import JsonTable, Section

if TYPE_CHECKING:
    from lattice_ml.models.data import Data
    from lattice_ml.models.drawer import Drawer
    from lattice_ml.models.training import Phase, Plan, Task

__all__ = ["Arrays", "Model", "Probing", "Stage", "host"]

Arrays = Mapping[str, np.ndarray]


def host(values: np.ndarray) -> jax.Array:
    """An array of NumPy where JAX's are declared; the precision stays, nothing is copied."""
    return cast(jax.Array, values)


Theory_co = TypeVar("Theory_co", covariant=True)


@dataclass(frozen=True)
class Stage(Generic[Theory_co]):
    """The theories of one lattice shape: their `[action]` sections, and what was measured."""

    shape: tuple[int, ...]
    actions: tuple[Section, ...]
    theories: tuple[Theory_co, ...]


@dataclass(frozen=True)
class Probing:
    """How a model is probed for its spectrum, by kinds whose kernel is not known in closed form.

    Args:
        fields: an ensemble at whose configurations it is probed; None for its own samples.
        n_fields: how many; None for as many as are affordable.
        noise: variances of the noise under the score, in units of the smallest propagator; the
            first is the one that the table shows.  None for those that the kind prefers.
        seed: of samples, noise and probes.
    """

    fields: Any = None
    n_fields: int | None = None
    noise: Sequence[float] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Model(ABC):
    """A trained model; `open_model` gives one of its kind.

    Attributes:
        directory: where the model lives; None of one in memory.
        manifest: what `model.json` holds.
        config: the resolved config of the training.
        report: what the training found out about the model at its end.
        history: what was noted along the training, by name.
        seconds: wall time of the training without compilation; None where unknown.
        hash: of all that samples depend on: the network, its weights and the theories.
        stages: in the order of the training; the last is what the model was made for.
        network: the weights, of the class that the kind has for them.
        kind: the name of the kind, `model.kind` in a config.
        pooled: whether ensembles on one lattice are learned as one distribution, which has one
            theory, and not each with its own couplings.
        free_keys: of `[model]`, those that weights do not depend on.
        shared: whether several processes can train one together.
    """

    directory: Path | None
    manifest: JsonTable
    config: JsonTable
    report: JsonTable
    history: Arrays
    seconds: float | None
    hash: str
    stages: tuple[Stage[Any], ...]
    network: Any

    kind: ClassVar[str]
    pooled: ClassVar[bool] = False
    free_keys: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.directory or 'in memory'})"

    @property
    def theories(self) -> tuple[Any, ...]:
        """Those of all stages."""
        return tuple(theory for stage in self.stages for theory in stage.theories)

    @property
    def defaults(self) -> JsonTable:
        """What `sample` takes where it is not told: the last stage, and its couplings if unique."""
        last = self.stages[-1]
        action = {
            key: value
            for key, value in last.actions[-1].items()
            if all(other.get(key) == value for other in last.actions)
        }
        sections = {"lattice": {"shape": list(last.shape)}, "action": action}
        return sections | {"sampling": self.config.get("sampling", {})}

    # ------------------------------------------------------------------------ what it is good for

    @abstractmethod
    def drawer(
        self,
        shape: tuple[int, ...],
        action: Any,
        sampling: Any,
        key: jax.Array,
        dtype: str = "float32",
    ) -> "Drawer":
        """What draws samples on a lattice, and knows their density where the kind has one.

        Args:
            shape: of the lattice.
            action: that is asked for; None where it is not known.
            sampling: the `[sampling]` section of the kind, with "auto" in it.
            key: of all samples.
            dtype: of the samples.

        Raises:
            TypeError: settings of another kind, or no key.
            ValueError: a lattice, an action or settings that the model cannot sample.
        """

    @abstractmethod
    def spectrum(self, probing: Probing) -> JsonTable:
        """What the model has learned, momentum by momentum: the table of `jobs.spectrum`.

        Raises:
            ValueError: fields to probe a model at whose kernel is known in closed form, or that
                live on another lattice.
        """

    # ------------------------------------------------------------------------- to and from arrays

    @staticmethod
    @abstractmethod
    def theory(shape: tuple[int, ...], arrays: Arrays) -> Any:
        """A theory of a lattice, from what `arrays` made of it.

        Raises:
            TypeError: arrays that are none, or of another lattice.
        """

    @staticmethod
    @abstractmethod
    def arrays(theory: Any) -> Arrays:
        """The numbers of a theory, by name."""

    @staticmethod
    @abstractmethod
    def build(section: Section, ndim: int, weights: Arrays) -> Any:
        """The network of a `[model]` section with given weights.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the section describes none.
            WeightsError: weights of another network.
        """

    @staticmethod
    @abstractmethod
    def weights(network: Any) -> Arrays:
        """The weights of a network, by name."""

    # ----------------------------------------------------------------------- how it is trained

    @staticmethod
    @abstractmethod
    def check(task: "Task") -> None:
        """Refuse a training whose settings, data and first weights do not fit together.

        Raises:
            ValueError: saying what and why.
        """

    @staticmethod
    @abstractmethod
    def measure(task: "Task", data: "Data") -> tuple[Any, ...]:
        """Measure the theories of the ensembles of one lattice: one, or one for each."""

    @staticmethod
    @abstractmethod
    def plan(task: "Task") -> "Plan":
        """Where a training begins, and the phases that it goes through.

        Raises:
            ValueError: settings that do not fit the stages.
        """

    @staticmethod
    @abstractmethod
    def worth(task: "Task", network: Any, phases: Sequence["Phase[Any]"]) -> JsonTable:
        """What a trained network is worth: an entry per theory of the last stage, and the rest.

        Returns:
            JSON values; "theories" has `shape`, `action`, and what `worth.judge` says of samples.
        """
