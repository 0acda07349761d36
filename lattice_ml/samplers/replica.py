r"""Replica exchange: HMC at several values of a coupling, and swaps of neighbouring fields.

K. Hukushima and K. Nemoto, J. Phys. Soc. Jpn. 65 (1996) 1604; R. H. Swendsen and J.-S. Wang,
Phys. Rev. Lett. 57 (1986) 2607.  A chain carries R fields that follow prod_r exp(-S_r(phi_r)):
S_0 is the action, S_1, S_2, ... are the same action at the values of the ladder.  One update is an
HMC trajectory of every field and an attempt to swap the fields of neighbours a and b = a + 1,
accepted with probability

    min(1, e^(-D)),   D = S_a(phi_b) + S_b(phi_a) - S_a(phi_a) - S_b(phi_b),

for even a and odd a in turn, summed as one difference per site.  Fields that are stuck at the
action leave along the ladder for where they move, and others come back.
"""

import math
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import lax

from lattice_ml import actions
from lattice_ml._pytree import pytree
from lattice_ml.actions import Action, conventions
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.randomness import Keys
from lattice_ml.fields.types import Scalar
from lattice_ml.runtime.json import Section
from lattice_ml.samplers import hmc
from lattice_ml.samplers.hmc import Trajectories
from lattice_ml.samplers.sampler import Info, WarmUp

__all__ = ["Coupling", "Draws", "ReplicaExchange", "State", "travel"]

T = TypeVar("T")

_OUT, _BACK = 1, 2  # of a walker; 0 before it was at the action for the first time
_KEYS = 2**32 - 2  # the trajectory number that makes the replicas' keys
_MOST = 256  # values of a ladder: see `randomness.uniforms`
_LOWER, _UPPER = slice(None, -1), slice(1, None)  # of all pairs
_FEWEST_SWAPS, _SAMPLES = 1e-4, 1000  # a smaller acceptance, seen so often, stops the run


class State(NamedTuple):
    """What the next update needs: the fields of a group of chains, and where walkers head."""

    phi: jax.Array  # at the action
    others: jax.Array  # (R - 1, *field_shape), in the order of the ladder
    heading: jax.Array  # (R, group), see `travel`


# Of the replica that comes next action, keys, draws and field; all fields; what was reported.
_Carry = tuple[tuple[Action, Keys, hmc.Draws, jax.Array], jax.Array, hmc.Info]


class Draws(NamedTuple):
    """Random numbers of one update, drawn outside the loop over updates."""

    replicas: hmc.Draws  # (R, group) each
    threshold: jax.Array  # (R - 1, group): swap where D < threshold = -log u


class Coupling(Protocol):
    """What varies along a ladder of actions of one class; `conventions.Parameter` is one."""

    def of(self, action: Any) -> float:
        """The value that an action has."""

    def at(self, action: Any, value: Scalar) -> Action:
        """The action with another value, which may be traced."""


@dataclass(frozen=True)
class _Field:
    """A field of the action as the coupling that varies."""

    name: str

    def of(self, action: Action) -> float:
        return float(vars(action)[self.name])

    def at(self, action: Any, value: Scalar) -> Action:  # of any dataclass
        return replace(action, **{self.name: value})

    def __str__(self) -> str:
        return self.name


@pytree
class ReplicaExchange(Trajectories):
    """HMC for `action` that exchanges fields with replicas at other values of a coupling.

    All settings of HMC; step size and trajectory length are tuned at the action and serve the
    whole ladder, whose own acceptance is reported as `ladder_acceptance`.

    Args:
        coupling: what varies: a field of the action, such as "h" of `Phi4`; in a config a parameter
            of its convention, such as "kappa".  Or an object with `of(action)`, the value that an
            action has, and `at(action, value)`; `conventions.Parameter` is one.
        ladder: further values of the coupling, in order, away from that of the action.
    """

    coupling: str | Coupling = field(kw_only=True, metadata={"static": True})
    ladder: tuple[float, ...] = field(kw_only=True)
    splits: ClassVar[bool] = False
    crosses: ClassVar[bool] = True
    state_type: ClassVar[type[State]] = State
    per_chain: ClassVar[tuple[str, ...]] = ("heading",)
    config_types: ClassVar[Mapping[str, type]] = {"coupling": str}

    @classmethod
    def from_config(cls, action: Action, settings: Section, theory: Section, ndim: int) -> Self:
        name, values = settings["coupling"], tuple(settings["ladder"])
        coupling = conventions.coupling(theory, name, ndim)
        for value in values:
            try:
                conventions.from_config({**theory, name: value}, ndim)
            except ValueError as error:
                raise ValueError(f"sampler.ladder, {name} = {value:g}: {error}") from error
        return cls(action, **{**settings, "coupling": coupling, "ladder": values})

    def rungs(self) -> tuple[Action, ...]:
        """The action, and what it is at the values of the ladder."""
        vary = self._vary()
        return self.action, *(vary.at(self.action, value) for value in self.ladder)

    def start(self, phi: jax.Array) -> State:
        n = len(self.ladder)
        heading = jnp.array([[_OUT]] + [[0]] * n, jnp.int32)
        return State(phi, jnp.broadcast_to(phi, (n, *phi.shape)), heading)

    def draw(self, keys: Keys, trajectory: jax.Array) -> Draws:
        """Per-chain draws of the given updates: arrays `(*trajectory.shape, R or R - 1, group)`."""
        n = len(self.ladder)
        of_one: Callable[[Keys], hmc.Draws]
        of_one = jax.vmap(lambda keys: self._draw(keys, trajectory), out_axes=-2)
        u = randomness.uniforms(_derived_keys(keys, jnp.uint32(0)), trajectory, n)
        return Draws(of_one(_replica_keys(keys, n + 1)), -jnp.log(jnp.moveaxis(u, 0, -2)))

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: Draws, state: State
    ) -> tuple[State, Info]:
        """One trajectory of every replica of a group of chains, and one attempt to swap."""
        ladder = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.rungs())
        n = len(self.ladder) + 1
        phi = jnp.concatenate([state.phi[None], state.others])
        parts = ladder, _replica_keys(keys, n), draws.replicas

        def one(r: jax.Array, carry: _Carry) -> _Carry:
            # The next field is carried to have memory of its own: XLA would fuse its slice into
            # the sums over neighbours, which are eight times slower then.
            (action, keys, drawn, mine), phi, report = carry
            moved, info = self._move(action, layout, keys, trajectory, drawn, mine)
            phi = lax.dynamic_update_index_in_dim(phi, moved, r, 0)
            report = jax.tree.map(lambda x, y: x.at[r].set(y), report, info)
            return _at((r + 1) % n, (*parts, phi)), phi, report

        blank = hmc.Info(*[jnp.zeros((n, layout.group), widest(phi.dtype))] * len(hmc.Info._fields))
        first = _at(jnp.int32(0), (*parts, phi)), phi, blank
        _, phi, info = lax.fori_loop(0, n, one, first)
        cost = _swap_costs(ladder, phi, layout)
        turn = (jnp.arange(n - 1, dtype=jnp.uint32) + trajectory) % 2 == 0
        accept = turn[:, None] & (cost < draws.threshold)
        phi = _swap_fields(phi, turn, accept, layout)
        heading = jnp.broadcast_to(state.heading, (n, layout.group))
        heading, trips = travel(_swap_rows(heading, accept))
        swap = jnp.minimum(1, jnp.exp(-cost))
        report = _info_type(n - 1)(
            **{name: value[0] for name, value in info._asdict().items()},
            **{f"swap_{i}": swap[i] for i in range(n - 1)},
            swap_acceptance=jnp.mean(swap, axis=0),
            ladder_acceptance=jnp.mean(info.acceptance[1:], axis=0),
            round_trips=trips.astype(swap.dtype),
        )
        return State(phi[0], phi[1:], heading), report

    @property
    def forces(self) -> int:
        """Force evaluations per update, of all replicas."""
        return (len(self.ladder) + 1) * super().forces

    def check(self) -> None:
        super().check()
        vary = self._vary()
        given: object = self.action  # of a user, and perhaps no dataclass
        parts = fields(given) if is_dataclass(given) else ()
        known = [part.name for part in parts if not part.metadata.get("static")]
        if isinstance(vary, _Field) and vary.name not in known:
            allowed = ", ".join(known) or "the fields of a dataclass"
            raise ValueError(f"sampler.coupling must be one of {allowed}, got {vary}")
        if not 0 < len(self.ladder) <= _MOST:
            raise ValueError(
                f"sampler.ladder must hold 1 to {_MOST} values of {vary}, got {len(self.ladder)}"
            )
        values = self._values()
        steps = [b - a for a, b in pairwise(values)]
        if not all(map(math.isfinite, values)) or min(steps) * max(steps) <= 0:
            raise ValueError(
                f"sampler.ladder must lead away from the action's {vary} = {values[0]:g}, ever "
                f"higher or ever lower, got {', '.join(f'{value:g}' for value in values[1:])}"
            )

    def tuner(self, lattice: Lattice, n_thermalise: int) -> WarmUp:
        self.check()
        for value, action in zip(self.ladder, self.rungs()[1:], strict=True):
            try:
                actions.as_action(action).check(lattice.ndim)
            except ValueError as error:
                raise ValueError(f"sampler.ladder, {self._vary()} = {value:g}: {error}") from error
        return super().tuner(lattice, n_thermalise)

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        if problem := super().diagnose(means):
            return problem
        swaps = [means[f"swap_{i}"] for i in range(len(self.ladder))]
        if means["n_samples"] < _SAMPLES or min(swaps) >= _FEWEST_SWAPS:
            return None
        i = swaps.index(min(swaps))
        a, b = self._values()[i : i + 2]
        return (
            f"the ladder is too wide between {self._vary()} = {a:g} and {b:g}, where "
            f"{min(swaps):.1e} of the swaps are accepted (allowed: {_FEWEST_SWAPS:.0e})"
        )

    def remedy(self) -> str:
        return (
            "put values between into sampler.ladder where it is too wide; where trajectories "
            f"fail, {super().remedy()}"
        )

    def _vary(self) -> Coupling:
        return _Field(self.coupling) if isinstance(self.coupling, str) else self.coupling

    def _values(self) -> list[float]:
        return [float(self._vary().of(self.action)), *map(float, self.ladder)]


def travel(heading: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Turn the walkers that have come to an end of the ladder, and count those that are home.

    Args:
        heading: `(R, group)`, of the walker at every value: 1 since it was at the action, 2 since
            it came from there to the other end, 0 if it was never at the action.

    Returns:
        The new headings, and `(group,)` whether a walker has completed a round trip, from the
        action to the other end and back.
    """
    home = heading[0] == _BACK
    far = jnp.where(heading[-1] == _OUT, _BACK, heading[-1])
    return heading.at[-1].set(far).at[0].set(_OUT), home


def _swap_costs(ladder: Action, phi: jax.Array, layout: Layout) -> jax.Array:
    """D of every pair of neighbours, `(R - 1, group)`; infinite where it is not a number."""

    def cost(here: Action, there: Action, own: jax.Array, other: jax.Array) -> jax.Array:
        at_here, at_there = (actions.difference(a, other, own, layout) for a in (here, there))
        return layout.site_sum(at_here - at_there)

    lower, upper = (jax.tree.map(lambda x, s=s: x[s], (ladder, phi)) for s in (_LOWER, _UPPER))
    found = jax.vmap(cost)(lower[0], upper[0], lower[1], upper[1])
    return jnp.where(jnp.isnan(found), jnp.inf, found)


def _swap_fields(phi: jax.Array, turn: jax.Array, accept: jax.Array, layout: Layout) -> jax.Array:
    """Fields `(R, *field_shape)` after the swaps; all chains try the same pairs."""
    partner = _swap_rows(jnp.arange(len(phi))[:, None], turn[:, None])[:, 0]
    moves = _beside(accept, 0) | _beside(accept, 1)

    def one(args: tuple[jax.Array, ...]) -> jax.Array:
        mine, other, moves = args
        return jnp.where(layout.spread(moves), phi[other], phi[mine])

    return lax.map(one, (jnp.arange(len(phi)), partner, moves))


def _swap_rows(rows: jax.Array, accept: jax.Array) -> jax.Array:
    """Rows `(R, group)` after swaps of the accepted, disjoint pairs `(R - 1, group)`."""
    above, below = jnp.roll(rows, -1, 0), jnp.roll(rows, 1, 0)
    return jnp.where(_beside(accept, 1), above, jnp.where(_beside(accept, 0), below, rows))


def _beside(accept: jax.Array, side: int) -> jax.Array:
    """Of every value, whether it swaps with the one before (0) or after (1): `(R, group)`."""
    return jnp.pad(accept, ((1 - side, side), (0, 0)))


def _at(r: jax.Array, tree: T) -> T:
    """Element `r` of every leaf."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, r, 0, keepdims=False), tree)


def _replica_keys(keys: Keys, n: int) -> Keys:
    """Keys `(n, group)`: the action's replica has those of its chain, so it draws what HMC does."""
    derived = _derived_keys(keys, jnp.arange(n)[:, None])
    first = jnp.arange(n)[:, None] == 0
    own, other = (jnp.where(first, key, new) for key, new in zip(keys, derived, strict=True))
    return own, other


def _derived_keys(keys: Keys, number: jax.Array) -> Keys:
    """Further keys of chains: number 0 is that of the swaps."""
    return randomness.step_keys(keys, jnp.uint32(_KEYS), number)


@lru_cache
def _info_type(n_pairs: int) -> Callable[..., Info]:
    """HMC's report of the target, and the swaps: one type per number of pairs."""
    pairs = (f"swap_{i}" for i in range(n_pairs))
    names = (*hmc.Info._fields, "ladder_acceptance", "swap_acceptance", *pairs, "round_trips")
    return cast(Callable[..., Info], namedtuple("Info", names))
