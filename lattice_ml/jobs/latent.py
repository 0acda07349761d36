r"""Chains that propose samples of a model, and move in between: `--correct latent`.

Many walkers go side by side.  Each step proposes to every walker an independent sample of the
model, which is accepted with probability min(1, w'/w), and then moves them all by HMC of the true
action, with a Wolff update where the action is quartic; log w of what has moved comes from the
model's density of given fields.  All parts leave exp(-S) invariant.  Where the variance of log w is
large the moves keep a walker of large weight from staying where it is.

A step's numbers depend on the seed, its own number and the fields before it alone.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.actions import Action, Quartic, as_action, hopping_scale, total
from lattice_ml.chains.run import tune
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout
from lattice_ml.jobs.units import Samples, State, Units
from lattice_ml.models.drawer import Program
from lattice_ml.models.model import host
from lattice_ml.observables import measure_configurations
from lattice_ml.samplers.cluster import Wolff
from lattice_ml.samplers.cycle import Cycle
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.statistics import weights_of

__all__ = ["LatentUnits"]

_LENGTH = 1.5  # of trajectories, in units in which the site term is (1 - 2 b) phi^2 + b phi^4
_POOL, _DISCARDED = 8, 32  # batches that walkers start from; steps that are thrown away
_BLOCK = 8  # steps in a compiled call, of which the last may be left unused
_TUNING_UPDATES = 200
_TUNING_STREAM, _START_STREAM = 2**32 - 3, 2**32 - 4  # beyond the numbers of steps; a pool's below


class _Walkers(NamedTuple):
    """A step's end."""

    phi: jax.Array  # (walkers, *L)
    log_weight: jax.Array  # (walkers,)


@dataclass(frozen=True)
class LatentUnits(Units):
    """Steps of all walkers: a unit is one, and a chain is a walker."""

    @property
    def chains(self) -> int:
        return self.drawer.batch_size

    @property
    def rows(self) -> int:
        return 1

    @property
    def work(self) -> float:
        moving = self.n_updates * self.size * math.prod(self.drawer.shape)
        return 3 * self.drawer.work + moving

    def make(self, first: int, n: int, state: State) -> Samples:
        """Take `n` steps from number `first` on."""
        assert self.action is not None and self.drawer.program is not None, "checked before"
        program, given = self.drawer.program
        action, tuned = as_action(self.action), dict(self.tuned)
        sampler = _moves(action, len(self.drawer.shape))
        begins = not state
        if begins:
            state = self._start()
            tuned = self._tuned(sampler, state["phi"]).tuned()
        fixed = given, sampler.retuned(**tuned), action, self.key
        advance = partial(_advance, *fixed, program=program, n_updates=self.n_updates)
        if begins:
            walkers = _Walkers(host(state["phi"]), host(state["log_weight"]))
            for number in range(0, _DISCARDED, _BLOCK):
                walkers, _ = advance(_numbers(number), walkers)
            state = {name: np.asarray(leaf) for name, leaf in walkers._asdict().items()}
        walkers = _Walkers(host(state["phi"]), host(state["log_weight"]))
        blocks = []
        for number in range(first, first + n, _BLOCK):
            walkers, steps = advance(_numbers(_DISCARDED + number), walkers)
            blocks.append(jax.tree.map(np.asarray, steps))
        whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *blocks)
        (cfgs, log_weight), accepted, moved = whole
        history = {
            name: values.reshape(n, -1)
            for name, values in measure_configurations(
                self.action, cfgs.reshape(-1, *self.drawer.shape)
            ).items()
        }
        history["acceptance"] = np.asarray(accepted, np.float64)
        history["acceptance_HMC"] = np.asarray(moved, np.float64)
        each = zip(cfgs, log_weight, strict=True)
        states = [state, *({"phi": phi, "log_weight": w} for phi, w in each)]
        return Samples(cfgs, history, None, None, states, tuned)

    def _start(self) -> State:
        """Walkers drawn from a pool of samples in proportion to their weights."""
        drawn = self.drawer.draw(_START_STREAM - _POOL, _POOL)
        log_w = drawn.log_weights(measure_configurations(self.action, drawn.fields)["action"])
        share = weights_of(log_w)
        random = np.random.default_rng([self.seed, _START_STREAM])
        rows = random.choice(len(share), self.drawer.batch_size, p=share / share.sum())
        return {"phi": drawn.fields[rows], "log_weight": log_w[rows]}

    def _tuned(self, sampler: Sampler, start: np.ndarray) -> Sampler:
        key = jax.random.fold_in(self.key, _TUNING_STREAM)
        n = {"n_chains": len(start), "n_thermalise": _TUNING_UPDATES}
        lattice = Lattice(self.drawer.shape)
        return tune(key, sampler, lattice, **n, start=start, dtype=start.dtype.name)


def _numbers(first: int) -> np.ndarray:
    """Of the steps of a block."""
    return np.arange(first, first + _BLOCK, dtype=np.uint32)


def _moves(action: Action, ndim: int) -> Sampler:
    """Short trajectories of HMC, and a cluster where the action has one."""
    if not isinstance(action, Quartic):
        return HMC(action)
    _, a, b = map(float, action.couplings())
    moves = HMC(action, trajectory_length=_LENGTH * math.sqrt(hopping_scale(a, b)))
    return Cycle((moves, Wolff(action))) if ndim > 1 else moves


@partial(jax.jit, static_argnames=("program", "n_updates"))
def _advance(
    given: object,
    sampler: Sampler,
    action: Action,
    key: jax.Array,
    numbers: jax.Array,
    walkers: _Walkers,
    *,
    program: Program,
    n_updates: int,
) -> tuple[_Walkers, tuple[_Walkers, jax.Array, jax.Array]]:
    """Steps with these numbers: the walkers after the last, and after each with acceptances."""
    n, *shape = walkers.phi.shape
    layout = Layout(tuple(shape), n)

    def log_action(phi: jax.Array) -> jax.Array:
        return total(action, jnp.moveaxis(phi, 0, -1), layout)

    def step(
        walkers: _Walkers, number: jax.Array
    ) -> tuple[_Walkers, tuple[_Walkers, jax.Array, jax.Array]]:
        drawing, moving = jax.random.split(jax.random.fold_in(key, number))
        drawn = program(given, drawing)
        assert drawn.log_prob is not None, "a program has densities"
        proposed = -log_action(drawn.fields) - drawn.log_prob
        keys = randomness.chain_keys(moving, n)
        rise = -jnp.log(randomness.uniforms(keys, jnp.uint32(0), 1)[0])
        accepted = proposed > walkers.log_weight - rise  # not where either is no number
        phi = jnp.where(accepted.reshape(-1, *[1] * len(shape)), drawn.fields, walkers.phi)

        def move(fields: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = sampler.draw(keys, i)
            state, info = sampler.update(layout, keys, i, drawn, sampler.start(fields))
            return state.phi, info._asdict()["acceptance"]

        updates = 1 + jnp.arange(n_updates, dtype=jnp.uint32)
        fields, moved = lax.scan(move, jnp.moveaxis(phi, 0, -1), updates)
        phi = jnp.moveaxis(fields, -1, 0)
        weight = -log_action(phi) - program.log_prob(given, phi)
        end = _Walkers(phi, weight.astype(walkers.log_weight.dtype))
        return end, (end, accepted, jnp.mean(moved, axis=0))

    return lax.scan(step, walkers, numbers)
