"""What draws samples of a model, batch by batch: one interface for all kinds of models.

The numbers of a batch depend on the key and the number of the batch alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml import statistics
from lattice_ml.actions import Action
from lattice_ml.fields.types import Floats

__all__ = ["Drawer", "Drawn", "Film", "Program", "check_drawing"]

Array = TypeVar("Array", bound=np.ndarray | jax.Array)  # on the host, or in a program


class Drawn(NamedTuple, Generic[Array]):
    """Samples, with what the method knows of their density.

    Attributes:
        fields: `(n, *L)`.
        log_prob: `(n,)`, where there is one.
        log_weight: `(n,)` of samples with weights of their own, such as ends of paths.
    """

    fields: Array
    log_prob: Array | None
    log_weight: Array | None

    def log_weights(self, action: Floats) -> Floats:
        """Log w of samples whose action is known, `(n,)`: -S - log_prob, or their own."""
        if self.log_weight is not None:
            return np.asarray(self.log_weight, np.float64)
        assert self.log_prob is not None, "such samples have no weights: `Drawer.weighted`"
        return statistics.log_weights(action, self.log_prob)


class Film(NamedTuple):
    """The samples of the first batch on their way from noise.

    Attributes:
        frames: `(n_frames, batch_size, *L)`.
        variances: of the noise in each frame, falling, `(n_frames,)`.
    """

    frames: np.ndarray
    variances: np.ndarray


class Program(Protocol):
    """Draws and densities as pure functions, hashable, for use within other programs."""

    def __call__(self, given: Any, key: jax.Array) -> Drawn[jax.Array]:
        """A batch of samples."""

    def log_prob(self, given: Any, fields: jax.Array) -> jax.Array:
        """Log density of fields `(n, *L)`: `(n,)`."""


class Drawer(ABC):
    """What draws samples; the last members have defaults.

    Attributes:
        shape: of one sample.
        batch_size: samples drawn together.
        most: batches drawn together, at most.
        work: of a batch, about, in sites at which a small network is evaluated; 10^7 are a second
            of a core.
        density: whether samples come with log_prob.
        unweighted: why samples come with neither log_prob nor log_weight and cannot be made exact;
            empty where they can.
        settings: how they are drawn, for the config of an ensemble.
        approximate: whether the density is an estimate, and so all weights that are made of it.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...
    @property
    @abstractmethod
    def batch_size(self) -> int: ...
    @property
    @abstractmethod
    def most(self) -> int: ...
    @property
    @abstractmethod
    def work(self) -> float: ...
    @property
    @abstractmethod
    def density(self) -> bool: ...
    @property
    @abstractmethod
    def unweighted(self) -> str: ...
    @property
    def approximate(self) -> bool:
        return False

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, int | str]: ...

    @abstractmethod
    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        """Draw `count` batches from number `first` on, on the host."""

    @abstractmethod
    def log_prob(self, fields: np.ndarray) -> Floats:
        """Log density of given fields `(n, *shape)`, where there is one: `(n,)`."""

    def step_error(self, action: Action, key: jax.Array, n_samples: int) -> Floats | None:
        """Change of log w of about `n_samples` when the steps are doubled: `(n,)`.

        None where nothing is integrated, or where there is no density.
        """
        return None

    @property
    def program(self) -> tuple[Program, object] | None:
        """The program of a batch and the pytree it draws from, where densities are cheap."""
        return None

    @property
    def no_program(self) -> str:
        """Why densities of fields are not cheap, or not in a program, where there is none."""
        return "this kind of model gives it outside of their program alone"

    def film(self) -> Film | None:
        """The way of the first batch from noise; None where there is none, or was not asked for."""
        return None


def check_drawing(sampling: object, section: type, key: object, dtype: str) -> None:
    """Refuse what `Model.drawer` cannot draw with.

    Raises:
        TypeError: settings of another kind, or what is no key.
        ValueError: a dtype that is not float32 or float64.
    """
    if not isinstance(sampling, section):
        raise TypeError(f"sampling must be a {section.__name__}, got {sampling!r}")
    given = key.dtype if isinstance(key, jax.Array) else np.dtype(object)
    if not (jnp.issubdtype(given, jax.dtypes.prng_key) or given == np.uint32):
        raise TypeError(f"key must be one of jax.random.key(seed), got {key!r}")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"output.dtype must be float32 or float64, got {dtype!r}")
