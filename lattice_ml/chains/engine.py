"""The compiled part of a run: one program that advances all chains, and its data on the devices.

Chains are grouped as `fields/layout.py` says and groups are spread over devices with shard_map.
The program advances every chain by any number of kept configurations: couplings, step sizes,
`n_steps` and the number of configurations are traced, so none of them compiles anew; only the room
for configurations and trajectories in one call is part of the program.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lattice_ml import observables
from lattice_ml.actions import as_action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.split import CHAINS, SITES, plan

__all__ = ["BLOCK_BYTES", "Engine", "Program"]

_START = 2**32 - 1  # the trajectory number that draws hot starts
BLOCK_BYTES = 1 << 26  # configurations of one call
_BLOCK_FORCES = 1 << 32  # forces on sites in one call: some seconds
_BLOCK_TRAJECTORIES = 4096


class Engine:
    """Layout, devices and keys of a run; moves chains between the host's order and the device's."""

    def __init__(
        self, key: jax.Array, lattice: Lattice, n_chains: int, dtype: str, split: int = 1
    ) -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"output.dtype must be float32 or float64, got {dtype!r}")
        if dtype == "float64" and widest("float32") != np.float64:
            raise ValueError(
                "float64 dynamics need JAX's x64 mode: jax.config.update('jax_enable_x64', True)"
            )
        self.lattice, self.n_chains, self.dtype = lattice, n_chains, dtype
        self.layout, self.mesh, self.n_groups = plan(lattice.shape, n_chains, split)
        here = self.n_groups // jax.process_count()  # groups of this process
        count = here * self.layout.group
        first = count * jax.process_index()
        # Chains that only fill groups up repeat the last one of all.
        self.slots = np.minimum(np.arange(first, first + count), n_chains - 1)
        self.chains = self.share(jax.process_index())
        words = randomness.chain_keys(key, count, first)
        self.keys = tuple(self._put(np.asarray(word).reshape(here, -1)) for word in words)

    def share(self, rank: int) -> range:
        """The chains that a process runs and stores; none where there are more processes."""
        count = len(self.slots)
        return range(*(min(first, self.n_chains) for first in (rank * count, (rank + 1) * count)))

    def buffer_configs(self, thin: int, save: bool) -> int:
        """Room for configurations per chain in one call, bounded in bytes and in trajectories."""
        sites = self.lattice.volume * min(len(self.slots), self.n_chains) if save else 1
        fits = BLOCK_BYTES // (sites * np.dtype(self.dtype).itemsize)
        return max(1, min(fits, _BLOCK_TRAJECTORIES // thin))

    def block_configs(self, forces: int) -> int:
        """Configurations per chain that take some seconds, at `forces` per configuration.

        As `buffer_configs` this follows from the job, not from the places that devices leave idle.
        """
        chains = min(len(self.slots), self.n_chains)
        return max(1, _BLOCK_FORCES // (self.lattice.volume * chains * forces))

    def start(self, sampler: Any, start: str | np.ndarray) -> Any:
        """State of all chains at their start."""
        n, ndim = len(self.slots), self.lattice.ndim
        if isinstance(start, np.ndarray):
            if start.shape[1:] != self.lattice.shape or not len(start):
                raise ValueError(
                    f"chain.start: fields of shape {start.shape} cannot start chains on a lattice "
                    f"{self.lattice.shape}; expected (n, *shape)"
                )
            fields = start[self.slots % len(start)]
        elif start == "hot":
            noise = _hot(self.keys, layout=self.layout, mesh=self.mesh)
            normals = self.layout.unpack(self._here(noise))
            fields = np.asarray(as_action(sampler.action).hot(normals))
        elif start == "cold":
            minimum = as_action(sampler.action).minimum(ndim)
            signs = np.where(self.slots % 2 == 0, 1.0, -1.0).reshape(-1, *(1,) * ndim)
            fields = np.broadcast_to(minimum * signs, (n, *self.lattice.shape))
        else:
            raise ValueError(
                f"chain.start must be hot, cold or the path of an ensemble, got {start!r}"
            )
        state = jax.vmap(sampler.start)(jnp.asarray(self._pack(fields)))  # of every group
        return jax.tree.map(self._put, jax.tree.map(self._of_all_chains, state))

    def load(self, sampler: Any, arrays: dict[str, np.ndarray]) -> Any:
        """Rebuild a state from the host's arrays of all chains."""
        template = sampler.start(np.zeros(0))
        leaves = {name: arrays[name][self.slots] for name in template._fields}
        return type(template)(**{name: self._put(self._pack(x)) for name, x in leaves.items()})

    def unload(self, state: Any) -> dict[str, np.ndarray]:
        """Fields of this process's `chains` as `(n, ..., *L)`, numbers per chain as `(n, ...)`."""
        return {
            name: self._by_chain(self._here(value), value)[: len(self.chains)]
            for name, value in state._asdict().items()
        }

    def fields(self, state: Any) -> np.ndarray:
        """The fields of all chains, `(n_chains, *L)`, in every process."""
        everywhere = process_allgather(state.phi, tiled=True)
        return self._by_chain(np.asarray(everywhere), state.phi)[: self.n_chains]

    def program(self, *, size: int, slots: int, save: bool) -> "Program":
        """The compiled update with room for `size` configurations and `slots` trajectories."""
        return Program(self, size, slots, save)

    def series(self, value: jax.Array, n: int) -> np.ndarray:
        """`(n_groups, size, group)` to `(n, n_chains)` in float64."""
        by_config = np.asarray(value, np.float64)[:, :n].swapaxes(0, 1)
        return np.ascontiguousarray(by_config.reshape(n, -1)[:, : self.n_chains])

    def _pack(self, chains: np.ndarray) -> np.ndarray:
        """Invert `_by_chain` for the slots of this process."""
        packed = self._layout_of(chains).pack(chains)
        return packed if _per_chain(chains) else packed.astype(self.dtype)

    def _put(self, leaf: Any) -> jax.Array:
        """A leaf of the state or the keys, `(n_groups of this process, ...)`, on the devices."""
        sharding = NamedSharding(self.mesh, _spec(leaf, self.layout))
        shape = (self.n_groups, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)

    def _here(self, groups: jax.Array) -> np.ndarray:
        """The groups of this process."""
        if groups.is_fully_addressable:
            return np.asarray(groups)
        found = np.empty((len(self.slots) // self.layout.group, *groups.shape[1:]), groups.dtype)
        for shard in groups.addressable_shards:
            found[self.local(shard.index)] = np.asarray(shard.data)
        return found

    def local(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """Where a shard lies among the groups of this process."""
        first, stop, _ = index[0].indices(self.n_groups)
        here = first % (len(self.slots) // self.layout.group)
        return slice(here, here + stop - first), *index[1:]

    def _by_chain(self, groups: np.ndarray, leaf: jax.Array) -> np.ndarray:
        """Groups of a leaf of the state, by chains."""
        layout = self._layout_of(leaf)
        found = layout.unpack(groups)
        return np.moveaxis(found, found.ndim - len(layout.shape) - 1, 0)

    def _of_all_chains(self, leaf: jax.Array) -> jax.Array:
        """Numbers with which all chains start alike, `(..., 1)`, as `(..., group)`."""
        if not _per_chain(leaf):
            return leaf
        return jnp.broadcast_to(leaf, (*leaf.shape[:-1], self.layout.group))

    def _layout_of(self, leaf: Any) -> Layout:
        """Numbers per chain are fields on a single site."""
        return Layout((), self.layout.group) if _per_chain(leaf) else self.layout


def _per_chain(leaf: Any) -> bool:
    """Whole numbers in a state belong to a chain, all others to its sites."""
    return np.issubdtype(leaf.dtype, np.integer)


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

    def __call__(self, sampler: Any, state: Any, first: int, n: int, thin: int) -> tuple[Any, Any]:
        """Start keeping `n <= size` configurations, one per `thin` trajectories from `first` on.

        Returns:
            The new state (the old one is consumed) and what `collect` makes arrays of, both still
            being computed.
        """
        keys, shapes = self.engine.keys, self._shapes()
        state, cfgs, history = _advance(sampler, state, keys, first, n, thin, **shapes)
        return state, (n, cfgs, history)

    def memory(self, sampler: Any, state: Any) -> Any:
        """What a call takes of a device, as XLA counts it in bytes; compiles, and runs nothing."""
        lowered = _advance.lower(sampler, state, self.engine.keys, 0, 1, 1, **self._shapes())
        return lowered.compile().memory_analysis()

    def collect(self, output: Any) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
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

    def _shapes(self) -> dict[str, Any]:
        """What is compiled for."""
        sizes = {"slots": self.slots, "size": self.size, "save": self.save}
        return sizes | {"layout": self.engine.layout, "mesh": self.engine.mesh}


def _spec(leaf: Any, layout: Layout) -> PartitionSpec:
    """Where a leaf of the state, `(n_groups, ...)`, is divided."""
    if _per_chain(leaf):
        return PartitionSpec(CHAINS)
    between = leaf.ndim - 1 - len(layout.field_shape)
    return PartitionSpec(CHAINS, *[None] * between, SITES)


@partial(jax.jit, static_argnames=("layout", "mesh"))
def _hot(keys: randomness.Keys, *, layout: Layout, mesh: Mesh) -> jax.Array:
    return jax.shard_map(
        lambda keys: lax.map(lambda k: layout.normals(k, jnp.uint32(_START)), keys),
        mesh=mesh,
        in_specs=PartitionSpec(CHAINS),
        out_specs=PartitionSpec(CHAINS, SITES),
        check_vma=False,
    )(keys)


@partial(
    jax.jit,
    static_argnames=("slots", "size", "save", "layout", "mesh"),
    donate_argnames="state",
)
def _advance(
    sampler: Any,
    state: Any,
    keys: randomness.Keys,
    first: jax.Array,
    n: jax.Array,
    thin: jax.Array,
    *,
    slots: int,
    size: int,
    save: bool,
    layout: Layout,
    mesh: Mesh,
) -> tuple[Any, jax.Array | None, dict[str, jax.Array]]:
    """Advance every group; leaves of `state`, fields and histories lead with the group axis."""
    # Small random numbers of all trajectories are drawn before the loop: inside it XLA would
    # fuse them into the field updates and draw them again for every site.
    trajectories = jnp.asarray(first, jnp.uint32) + jnp.arange(slots, dtype=jnp.uint32)

    def group(args: tuple[Any, randomness.Keys]) -> tuple[Any, Any, Any]:
        state, keys = args
        draws = sampler.draw(keys, trajectories)

        def keep(k: jax.Array, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            state, cfgs, history = carry

            def trajectory(j: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                state, record = carry
                slot = k * thin + j
                drawn = jax.tree.map(lambda x: x[slot], draws)
                state, info = sampler.step(layout, keys, trajectories[slot], drawn, state)
                return state, _accumulate(record, info, thin)

            state, record = lax.fori_loop(0, thin, trajectory, (state, blank))
            record |= observables.primaries(sampler.action, state.phi, layout)
            history = {name: history[name].at[k].set(record[name]) for name in history}
            cfgs = cfgs.at[k].set(state.phi) if save else None
            return state, cfgs, history

        sample = partial(sampler.step, layout, keys, trajectories[0])
        info = jax.eval_shape(sample, jax.tree.map(lambda x: x[0], draws), state)[1]
        blank = {name: jnp.zeros(x.shape, x.dtype) for name, x in info._asdict().items()}
        names = (*blank, *observables.PRIMARIES)
        history = {name: jnp.zeros((size, layout.group), widest(jnp.float32)) for name in names}
        cfgs = jnp.zeros((size, *state.phi.shape), state.phi.dtype) if save else None
        return lax.fori_loop(0, n, keep, (state, cfgs, history))

    def all_groups(state: Any, keys: randomness.Keys) -> tuple[Any, Any, Any]:
        state, cfgs, history = lax.map(group, (state, keys))
        if mesh.is_multi_process:  # all see all histories, on which decisions rest
            stacked = jnp.stack(list(history.values()))  # one message
            gathered = lax.all_gather(stacked, CHAINS, axis=1, tiled=True)
            history = dict(zip(history, gathered, strict=True))
        return state, cfgs, history

    chains, fields = PartitionSpec(CHAINS), jax.tree.map(lambda x: _spec(x, layout), state)
    all_or_own = PartitionSpec() if mesh.is_multi_process else chains
    return jax.shard_map(
        all_groups,
        mesh=mesh,
        in_specs=(fields, chains),
        out_specs=(fields, PartitionSpec(CHAINS, None, SITES), all_or_own),
        check_vma=False,
    )(state, keys)


def _accumulate(record: dict[str, jax.Array], info: Any, thin: jax.Array) -> dict[str, jax.Array]:
    """Average what trajectories report over the ones since the last kept configuration."""
    return {
        name: jnp.maximum(record[name], value)
        if name.startswith("max_")
        else record[name] + value / thin
        for name, value in info._asdict().items()
    }
