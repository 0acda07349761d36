"""Where the chains of a run live: their layout on the devices, their keys, and their starts.

Chains are grouped as `fields/layout.py` says and groups are spread over devices with shard_map.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lattice_ml.actions import as_action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.split import CHAINS, SITES, plan
from lattice_ml.samplers.sampler import Sampler, State

__all__ = ["BLOCK_BYTES", "Engine", "spec"]

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
        self.keys = tuple(self._put(np.asarray(word).reshape(here, -1), True) for word in words)

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

    def start(self, sampler: Sampler, start: str | np.ndarray) -> State:
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
        packed = jnp.asarray(self.layout.pack(fields).astype(self.dtype))
        leaves = jax.vmap(sampler.start)(packed)._asdict()
        for name in sampler.per_chain:  # all chains start alike, with numbers (..., 1)
            shape = (*leaves[name].shape[:-1], self.layout.group)
            leaves[name] = jnp.broadcast_to(leaves[name], shape)
        return sampler.state_type(
            **{name: self._put(leaf, name in sampler.per_chain) for name, leaf in leaves.items()}
        )

    def load(self, sampler: Sampler, arrays: Mapping[str, np.ndarray]) -> State:
        """Rebuild a state from the host's arrays of all chains."""

        def leaf(name: str) -> jax.Array:
            own, chains = name in sampler.per_chain, arrays[name][self.slots]
            packed = self._layout_of(own).pack(chains)
            return self._put(packed if own else packed.astype(self.dtype), own)

        return sampler.state_type(**{name: leaf(name) for name in sampler.leaves})

    def unload(self, sampler: Sampler, state: State) -> dict[str, np.ndarray]:
        """Fields of this process's `chains` as `(n, ..., *L)`, numbers per chain as `(n, ...)`."""
        return {
            name: self._by_chain(self._here(value), name in sampler.per_chain)[: len(self.chains)]
            for name, value in state._asdict().items()
        }

    def fields(self, state: State) -> np.ndarray:
        """The fields of all chains, `(n_chains, *L)`, in every process."""
        everywhere = process_allgather(state.phi, tiled=True)
        return self._by_chain(np.asarray(everywhere), per_chain=False)[: self.n_chains]

    def series(self, value: jax.Array, n: int) -> np.ndarray:
        """`(n_groups, size, group)` to `(n, n_chains)` in float64."""
        by_config = np.asarray(value, np.float64)[:, :n].swapaxes(0, 1)
        return np.ascontiguousarray(by_config.reshape(n, -1)[:, : self.n_chains])

    def _put(self, leaf: np.ndarray | jax.Array, per_chain: bool) -> jax.Array:
        """A leaf of the state or the keys, `(n_groups of this process, ...)`, on the devices."""
        sharding = NamedSharding(self.mesh, spec(leaf, per_chain, self.layout))
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

    def _by_chain(self, groups: np.ndarray, per_chain: bool) -> np.ndarray:
        """Groups of a leaf of the state, by chains."""
        layout = self._layout_of(per_chain)
        found = layout.unpack(groups)
        return np.moveaxis(found, found.ndim - len(layout.shape) - 1, 0)

    def _layout_of(self, per_chain: bool) -> Layout:
        """Numbers per chain are fields on a single site."""
        return Layout((), self.layout.group) if per_chain else self.layout


def spec(leaf: np.ndarray | jax.Array, per_chain: bool, layout: Layout) -> PartitionSpec:
    """Where a leaf of the state, `(n_groups, ...)`, is divided."""
    if per_chain:
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
