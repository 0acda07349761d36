"""What a sampler is: the one page that a new algorithm answers to, and all that runs know of it.

A sampler is a frozen dataclass pytree whose fields are its settings, those of the config.  `update`
advances a group of chains, laid out in memory as a `Layout` says; `start` and `draw` prepare for
it.  That is enough: all else has a default.  Update and draws are pure functions of the keys of the
chains and of the number of the trajectory, so whatever runs them, in whatever blocks, gets the same
numbers.

`init` and `step` are the same update of one chain, for use under the `jit`, `vmap` and `scan` of
others; `chains.run` is several times as fast, because its chains lie side by side in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lattice_ml._pytree import pytree
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, single
from lattice_ml.fields.randomness import Keys
from lattice_ml.fields.types import Scalar
from lattice_ml.runtime.json import Section
from lattice_ml.samplers import settings
from lattice_ml.samplers.tuning import Fixed, Lengths, Tuner

__all__ = ["FieldState", "Info", "Sampler", "State", "WarmUp"]

T = TypeVar("T")


class State(Protocol):
    """What the next update needs: a named tuple with the fields of a group, `field_shape`, first.

    Further leaves are fields too, `(..., *field_shape)`, or numbers `(..., group)` of the chains:
    those that `Sampler.per_chain` names.  Their names are those in the files.
    """

    def __init__(self, *leaves: jax.Array, **named: jax.Array) -> None: ...

    @property
    def phi(self) -> jax.Array:
        """The fields that are kept and measured."""

    def _asdict(self) -> dict[str, jax.Array]: ...


class Info(Protocol):
    """What an update reports: a named tuple of numbers per chain, `(group,)` each.

    They become histories, averaged over the updates between configurations; where the name begins
    with `max_`, the largest.  `acceptance` is what tuners go by.
    """

    def _asdict(self) -> dict[str, jax.Array]: ...


class WarmUp(Protocol):
    """What adapts a sampler while chains thermalise."""

    @property
    def sampler(self) -> "Sampler":
        """The sampler as tuned so far."""

    def update(
        self, done: int, means: Mapping[str, np.ndarray], fields: Callable[[], np.ndarray]
    ) -> None:
        """Learn from a chunk that ended at trajectory `done`.

        Args:
            done: trajectories so far.
            means: history averages over the chunk, `(n_chains,)` each.
            fields: gives the current fields `(n_chains, *L)` when called.
        """


class FieldState(NamedTuple):
    """The state of a sampler that carries nothing but the fields."""

    phi: jax.Array


@pytree
class Sampler(ABC):
    """An update that leaves exp(-S) invariant, or nearly so.

    Attributes:
        tunes: names of the settings that may be "auto" and that a warm-up fixes.
        config_types: types of settings in a config where they differ from those of the fields.
    """

    tunes: ClassVar[tuple[str, ...]] = ()
    config_types: ClassVar[Mapping[str, type]] = {}

    if TYPE_CHECKING:  # at run time dataclasses would take a property for a field's default

        @property
        def action(self) -> Action:
            """S, the first field of every sampler; a cycle has that of its parts."""

    # The update

    def start(self, phi: jax.Array) -> State:
        """The state of chains that begin at these fields, `field_shape`."""
        return self.state_type(phi)

    @abstractmethod
    def draw(self, keys: Keys, trajectory: jax.Array) -> object:
        """Random numbers per chain that are drawn outside the loop over updates.

        Args:
            keys: of the chains, two words `(group,)`.
            trajectory: numbers of updates, of any shape.

        Returns:
            A pytree of arrays `(*trajectory.shape, ..., group)`.
        """

    @abstractmethod
    def update(
        self,
        layout: Layout,
        keys: Keys,
        trajectory: jax.Array,
        draws: Any,  # what its own `draw` and ...
        state: Any,  # ... `start` gave
    ) -> tuple[State, Info]:
        """One update of a group of chains, traced.

        Args:
            layout: of the group.
            keys: of its chains, for all noise that `draw` did not draw.
            trajectory: the number of the update, a scalar.
            draws: those of this number.
            state: as the update before left it.
        """

    @property
    @abstractmethod
    def forces(self) -> int:
        """Force evaluations per update, or what takes as long."""

    @property
    def state_type(self) -> type[State]:
        """The class of its state."""
        return FieldState

    @property
    def per_chain(self) -> tuple[str, ...]:
        """Names of the leaves of the state that are numbers of chains, not fields."""
        return ()

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all leaves of the state."""
        return vars(self.state_type)["_fields"]

    # What it is

    @property
    def kinds(self) -> list[str]:
        """Names of its kind, or of those of its parts."""
        return [type(self).__name__]

    @property
    def splits(self) -> bool:
        """Whether a lattice may be spread over devices: it asks `Layout` alone for other sites."""
        return False

    @property
    def crosses(self) -> bool:
        """Whether it moves fields between wells."""
        return False

    @property
    def temperature(self) -> float:
        """The alpha of exp(-S/alpha), which is what it samples."""
        return 1.0

    @property
    def order(self) -> int | None:
        """The bias is of this order in the step size; None where there is no bias."""
        return None

    @property
    def incomplete(self) -> str:
        """Why it does not sample by itself; empty where it does."""
        return ""

    @property
    def remembers(self) -> str:
        """How a refusal begins, where an update goes on with noise of the last one; else empty."""
        return ""

    # Settings

    @classmethod
    def from_config(cls, action: Action, settings: Section, theory: Section, ndim: int) -> Self:
        """A sampler of the settings of a config.

        Args:
            action: what is sampled.
            settings: by the names of the fields.
            theory: the section `[action]`, for settings that speak of its keys.
            ndim: of the lattice.
        """
        make: Callable[..., Self] = cls
        return make(action, **settings)

    def check(self) -> None:
        """Refuse settings that make no sense: here those with names that several samplers share.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        settings.check(vars(self), self.tunes)
        if lengths := self.lengths():
            lengths.check()

    def lengths(self) -> Lengths | None:
        """What a tuner starts from; None if nothing is tuned."""
        return None

    def built(self, length: float, n_steps: int, step_size: float, **learned: float) -> Self:
        """This sampler with lengths that a tuner has found."""
        return self

    def tuner(self, lattice: Lattice, n_thermalise: int) -> WarmUp:
        """What adapts the "auto" settings in the warm-up, all settings checked."""
        self.check()
        lengths = self.lengths()
        if lengths is None:
            return Fixed(self)
        return Tuner(self.built, lengths, self.action, lattice, n_thermalise)

    def tuned(self) -> dict[str, float]:
        """The settings that the warm-up fixed."""
        return {name: vars(self)[name] for name in self.tunes}

    def retuned(self, **tuned: Scalar) -> Self:
        """The sampler with settings that `tuned` gave."""
        return replace(self, **tuned)

    # When it fails

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        """Say what is wrong, from the averages of all histories so far; None where nothing is."""
        return None

    def remedy(self) -> str:
        """What a user can do when `diagnose` finds something, or fields are not finite."""
        return ""

    # For the loops of others

    def init(
        self,
        key: jax.Array,
        lattice: Lattice,
        fields: jax.Array | np.ndarray | None = None,
        dtype: DTypeLike = "float32",
    ) -> State:
        """The state of one chain, as `step` takes it; may be traced, and mapped over keys.

        Args:
            key: of threefry, e.g. `jax.random.key(1)`.
            lattice: of the fields.
            fields: to begin from, `(*L)`; by default standard normals, on which a warm-up follows.
            dtype: of the fields.

        Returns:
            A named tuple with `phi` of shape `(*L)`.
        """
        layout = single(lattice.shape)
        if fields is None:
            phi = layout.normals(randomness.chain_keys(key, 1), jnp.uint32(0))
        elif np.shape(fields) != lattice.shape:
            raise ValueError(f"init takes fields of shape {lattice.shape}, got {np.shape(fields)}")
        else:
            phi = jnp.asarray(fields)[..., None]
        return _of_one(self.start(phi.astype(dtype)))

    def step(self, key: jax.Array, state: State) -> tuple[State, Info]:
        """One update of one chain, for use under the `jit`, `vmap` and `lax.scan` of others.

        Args:
            key: another one for every step.
            state: from `init` or another step.

        Returns:
            The new state, and what the update reports, a number each.

        Raises:
            ValueError: a setting is "auto" and needs a warm-up, or the update needs to know which
                one was before.
        """
        if self.remembers:
            raise ValueError(
                f"{self.remembers} in step(key, state), because it goes on with the noise of its "
                "last update, which the key of the next does not know; run(...) does"
            )
        sampler, keys = self.settled(), randomness.chain_keys(key, 1)
        number = 1 + (keys[0][0] & 1)  # even or odd, as pairs of replicas swap in turn
        group = jax.tree.map(lambda leaf: leaf[..., None], state)
        draws, layout = sampler.draw(keys, number), single(state.phi.shape)
        return _of_one(sampler.update(layout, keys, number, draws, group))

    @property
    def unsettled(self) -> list[str]:
        """Names of the settings that are "auto"."""
        return [name for name in self.tunes if isinstance(vars(self)[name], str)]

    def settled(self) -> Self:
        """This sampler with lengths that follow from each other.

        Raises:
            ValueError: naming the settings that are "auto" and need a warm-up.
        """
        lengths, found = self.lengths(), self
        if lengths and not (lengths.tunes_length or lengths.tunes_step):
            found = self.built(*lengths.resolve(1.0, 1.0))
        if names := found.unsettled:
            raise ValueError(
                f"sampler.{names[0]} of {'+'.join(self.kinds)} is auto and needs a warm-up: "
                "tune(key, sampler, lattice, n_chains=64, n_thermalise=500) gives the sampler with "
                f"numbers for {' and '.join(names)}"
            )
        return found


def _of_one(tree: T) -> T:
    """What belongs to a group of one chain, without the axis of chains."""
    return jax.tree.map(lambda x: x[..., 0], tree)
