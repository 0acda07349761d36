"""The compiled part of a run: one program that advances all chains.

It advances every chain by any number of kept configurations: couplings, step sizes, `n_steps` and
the number of configurations are traced, so none of them compiles anew; only the room for
configurations and trajectories in one call is part of the program.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from lattice_ml import observables
from lattice_ml.chains.engine import Engine, spec
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.split import CHAINS, SITES
from lattice_ml.samplers.sampler import Info, Sampler, State

__all__ = ["Output", "Program"]

History = dict[str, jax.Array]  # (..., group) each
Advanced = tuple[State, jax.Array | None, History]  # a state, configurations and histories
Output = tuple[int, jax.Array | None, History]  # as they come from the devices, and how many


class Needs(Protocol):
    """Bytes that a program takes of a device, as XLA counts them."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int


class Shapes(NamedTuple):
    """What a program is compiled for; static."""

    slots: int
    size: int
    save: bool
    layout: Layout
    mesh: Mesh


@dataclass(frozen=True)
class Program:
    """Advances all chains; instances of equal size share one compilation."""

    engine: Engine
    size: int
    slots: int
    save: bool

    @property
    def bytes(self) -> int:
        """Memory for the configurations of one call."""
        itemsize = np.dtype(self.engine.dtype).itemsize if self.save else 0
        return self.size * self.engine.n_chains * self.engine.lattice.volume * itemsize

    def __call__(
        self, sampler: Sampler, state: State, first: int, n: int, thin: int
    ) -> tuple[State, Output]:
        """Start keeping `n <= size` configurations, one per `thin` trajectories from `first` on.

        Returns:
            The new state (the old one is consumed) and what `collect` makes arrays of, both still
            being computed.
        """
        keys, shapes = self.engine.keys, self._shapes
        state, cfgs, history = _advance(sampler, state, keys, first, n, thin, shapes=shapes)
        return state, (n, cfgs, history)

    def memory(self, sampler: Sampler, state: State) -> Needs:
        """What a call takes of a device, as XLA counts it in bytes; compiles, and runs nothing."""
        keys, shapes = self.engine.keys, self._shapes
        lowered = _advance.lower(sampler, state, keys, 0, 1, 1, shapes=shapes)
        return cast(Needs, lowered.compile().memory_analysis())

    def collect(self, output: Output) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Wait for this process's configurations `(n, n_here, *L)`, or None, and all histories.

        Histories are `(n, n_chains)`, the same in every process.
        """
        n, cfgs, history = output
        engine, layout = self.engine, self.engine.layout
        series = {name: engine.series(value, n) for name, value in history.items()}
        if cfgs is None:
            return None, series
        slots = len(engine.slots) // layout.group, layout.group
        fields = np.empty((n, *slots, layout.volume), cfgs.dtype)
        for shard in cfgs.addressable_shards:  # views: gathering them first would copy once more
            here = math.prod(layout.here), layout.group
            rows = np.asarray(shard.data)[:, :n].reshape(-1, n, *here)
            first = (shard.index[2].start or 0) * layout.volume // layout.field_shape[0]
            sites = slice(first, first + rows.shape[2])
            fields[:, engine.local(shard.index)[0], :, sites] = rows.transpose(1, 0, 3, 2)
        chains = fields.reshape(n, -1, *layout.shape)
        return chains[:, : len(engine.chains)], series

    @property
    def _shapes(self) -> Shapes:
        return Shapes(self.slots, self.size, self.save, self.engine.layout, self.engine.mesh)


@partial(jax.jit, static_argnames="shapes", donate_argnames="state")
def _advance(
    sampler: Sampler,
    state: State,
    keys: randomness.Keys,
    first: jax.Array | int,
    n: jax.Array | int,
    thin: jax.Array | int,
    *,
    shapes: Shapes,
) -> Advanced:
    """Advance every group; leaves of `state`, fields and histories lead with the group axis."""
    slots, size, save, layout, mesh = shapes
    # Small random numbers of all trajectories are drawn before the loop: inside it XLA would
    # fuse them into the field updates and draw them again for every site.
    trajectories = jnp.asarray(first, jnp.uint32) + jnp.arange(slots, dtype=jnp.uint32)

    def group(args: tuple[State, randomness.Keys]) -> Advanced:
        state, keys = args
        draws = sampler.draw(keys, trajectories)

        def keep(k: jax.Array, carry: Advanced) -> Advanced:
            state, cfgs, history = carry

            def trajectory(j: jax.Array, carry: tuple[State, History]) -> tuple[State, History]:
                state, record = carry
                slot = k * thin + j
                drawn = jax.tree.map(lambda x: x[slot], draws)
                state, info = sampler.update(layout, keys, trajectories[slot], drawn, state)
                return state, _accumulate(record, info, thin)

            state, record = lax.fori_loop(0, thin, trajectory, (state, blank))
            record |= observables.primaries(sampler.action, state.phi, layout)
            history = {name: history[name].at[k].set(record[name]) for name in history}
            cfgs = None if cfgs is None else cfgs.at[k].set(state.phi)
            return state, cfgs, history

        sample = partial(sampler.update, layout, keys, trajectories[0])
        info = jax.eval_shape(sample, jax.tree.map(lambda x: x[0], draws), state)[1]
        blank = {name: jnp.zeros(x.shape, x.dtype) for name, x in info._asdict().items()}
        names = (*blank, *observables.PRIMARIES)
        history = {name: jnp.zeros((size, layout.group), widest(jnp.float32)) for name in names}
        cfgs = jnp.zeros((size, *state.phi.shape), state.phi.dtype) if save else None
        return lax.fori_loop(0, n, keep, (state, cfgs, history))

    def all_groups(state: State, keys: randomness.Keys) -> Advanced:
        state, cfgs, history = lax.map(group, (state, keys))
        if mesh.is_multi_process:  # all see all histories, on which decisions rest
            stacked = jnp.stack(list(history.values()))  # one message
            gathered = lax.all_gather(stacked, CHAINS, axis=1, tiled=True)
            history = dict(zip(history, gathered, strict=True))
        return state, cfgs, history

    chains = PartitionSpec(CHAINS)
    specs = [spec(x, name in sampler.per_chain, layout) for name, x in state._asdict().items()]
    fields = jax.tree.unflatten(jax.tree.structure(state), specs)
    all_or_own = PartitionSpec() if mesh.is_multi_process else chains
    return jax.shard_map(
        all_groups,
        mesh=mesh,
        in_specs=(fields, chains),
        out_specs=(fields, PartitionSpec(CHAINS, None, SITES), all_or_own),
        check_vma=False,
    )(state, keys)


def _accumulate(record: History, info: Info, thin: jax.Array | int) -> History:
    """Average what trajectories report over the ones since the last kept configuration."""
    return {
        name: jnp.maximum(record[name], value)
        if name.startswith("max_")
        else record[name] + value / thin
        for name, value in info._asdict().items()
    }
