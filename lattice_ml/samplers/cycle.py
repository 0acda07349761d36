"""Several updates in turn, as one: each leaves exp(-S) invariant, so their sequence does.

Settings, tuned values and histories of the parts are those of the cycle.  Where a later part uses
a name that is taken, its kind is added to it: `step_size_MALA`.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

import jax
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout
from lattice_ml.fields.randomness import Keys
from lattice_ml.fields.types import Scalar
from lattice_ml.samplers.sampler import Info, Sampler, State, WarmUp

__all__ = ["Cycle", "merged", "own"]

V = TypeVar("V")


def merged(tables: Iterable[tuple[str, Mapping[str, V]]]) -> dict[str, V]:
    """One table of those of several kinds; a name that is taken gets the kind added."""
    found: dict[str, V] = {}
    for kind, table in tables:
        found |= {f"{name}_{kind}" if name in found else name: v for name, v in table.items()}
    return found


def own(table: Mapping[str, V], kind: str, names: Iterable[str] | None = None) -> dict[str, V]:
    """What a kind sees of a merged table: its values by its own names, or by those in `names`."""
    suffix = f"_{kind}"
    mine = {key.removesuffix(suffix): v for key, v in table.items() if key.endswith(suffix)}
    seen = {**table, **mine}
    return seen if names is None else {name: seen[name] for name in names}


@pytree
class Cycle(Sampler):
    """Updates one after another, e.g. `Cycle((HMC(action), Wolff(action)))`.

    Args:
        parts: samplers of the same action and of different kinds.
    """

    parts: tuple[Sampler, ...]

    @property
    def action(self) -> Action:
        return self.parts[0].action

    @property
    def kinds(self) -> list[str]:
        return [type(part).__name__ for part in self.parts]

    @property
    def state_type(self) -> type[State]:
        return _type("State", ("phi", *self._carried()))

    @property
    def per_chain(self) -> tuple[str, ...]:
        return tuple(name for name, of_a_chain in self._carried().items() if of_a_chain)

    @property
    def incomplete(self) -> str:
        reasons = [part.incomplete for part in self.parts]
        return reasons[0] if all(reasons) else ""

    @property
    def splits(self) -> bool:
        return all(part.splits for part in self.parts)

    @property
    def crosses(self) -> bool:
        return any(part.crosses for part in self.parts)

    @property
    def remembers(self) -> str:
        return next((part.remembers for part in self.parts if part.remembers), "")

    @property
    def forces(self) -> int:
        return sum(part.forces for part in self.parts)

    def start(self, phi: jax.Array) -> State:
        """The fields, and what else parts carry from update to update."""
        return self._state(phi, [part.start(phi) for part in self.parts])

    def draw(self, keys: Keys, trajectory: jax.Array) -> tuple[object, ...]:
        each = zip(self.parts, self._keys(keys), strict=True)
        return tuple(part.draw(part_keys, trajectory) for part, part_keys in each)

    def update(
        self,
        layout: Layout,
        keys: Keys,
        trajectory: jax.Array,
        draws: tuple[object, ...],
        state: State,
    ) -> tuple[State, Info]:
        """One update of every part for a group of chains."""
        phi, states, infos = state.phi, [], []
        each = zip(self.kinds, self.parts, self._keys(keys), draws, strict=True)
        for kind, part, part_keys, drawn in each:
            mine = part.state_type(**own(state._asdict() | {"phi": phi}, kind, part.leaves))
            new, info = part.update(layout, part_keys, trajectory, drawn, mine)
            phi = new.phi
            states.append(new)
            infos.append(info._asdict())
        reported = self._merged(infos)
        return self._state(phi, states), _type("Info", tuple(reported))(**reported)

    def check(self) -> None:
        kinds = self.kinds
        if len(set(kinds)) < len(kinds) or not kinds:
            raise ValueError(f"a cycle needs different kinds of updates, got {'+'.join(kinds)}")
        if any(part.action != self.action for part in self.parts):
            raise ValueError(f"the parts of a cycle, {'+'.join(kinds)}, need the same action")
        for part in self.parts:
            if part.temperature != 1:
                raise ValueError(
                    f"sampler.temperature must be 1 in {'+'.join(kinds)}, because the other parts "
                    f"sample exp(-S); got {part.temperature}"
                )
            if len(kinds) > 1 and part.remembers:
                raise ValueError(
                    f"{part.remembers} in {'+'.join(kinds)}, because it goes on with the noise of "
                    "its last update, which does not belong to the fields that other parts have "
                    "changed; euler and heun can"
                )
            part.check()

    @property
    def unsettled(self) -> list[str]:
        return [name for part in self.parts for name in part.unsettled]

    def settled(self) -> "Cycle":
        return Cycle(tuple(part.settled() for part in self.parts))

    def tuner(self, lattice: Lattice, n_thermalise: int) -> "_Tuners":
        self.check()
        return _Tuners([part.tuner(lattice, n_thermalise) for part in self.parts])

    def tuned(self) -> dict[str, float]:
        return self._merged(part.tuned() for part in self.parts)

    def retuned(self, **tuned: Scalar) -> "Cycle":
        each = zip(self.kinds, self.parts, strict=True)
        parts = (part.retuned(**own(tuned, kind, part.tuned())) for kind, part in each)
        return Cycle(tuple(parts))

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        each = zip(self.kinds, self.parts, strict=True)
        problems = (part.diagnose(own(means, kind)) for kind, part in each)
        return next((problem for problem in problems if problem), None)

    def remedy(self) -> str:
        remedies = dict.fromkeys(part.remedy() for part in self.parts)
        return "; or ".join(remedy for remedy in remedies if remedy)

    def _keys(self, keys: Keys) -> list[Keys]:
        """Independent keys of every part; the first has those of the chain."""
        return [randomness.part_keys(keys, i) if i else keys for i in range(len(self.parts))]

    def _merged(self, tables: Iterable[Mapping[str, V]]) -> dict[str, V]:
        return merged(zip(self.kinds, tables, strict=True))

    def _carried(self) -> dict[str, bool]:
        """What parts carry beside the fields, by name: whether it is a number of a chain."""
        return self._merged(
            {name: name in part.per_chain for name in part.leaves if name != "phi"}
            for part in self.parts
        )

    def _state(self, phi: jax.Array, states: Iterable[State]) -> State:
        """One state of those of the parts, which share the fields."""
        rest = [{k: v for k, v in s._asdict().items() if k != "phi"} for s in states]
        return self.state_type(phi=phi, **self._merged(rest))


@dataclass(frozen=True)
class _Tuners:
    """Tuners of the parts, each shown what its part reported."""

    tuners: list[WarmUp]

    @property
    def sampler(self) -> Cycle:
        return Cycle(tuple(tuner.sampler for tuner in self.tuners))

    def update(
        self, done: int, means: Mapping[str, np.ndarray], fields: Callable[[], np.ndarray]
    ) -> None:
        for kind, tuner in zip(self.sampler.kinds, self.tuners, strict=True):
            tuner.update(done, own(means, kind), fields)


@lru_cache
def _type(name: str, fields: tuple[str, ...]) -> type[State]:
    """Equal fields, the same type: JAX compares types of trees."""
    return cast(type[State], namedtuple(name, fields))
