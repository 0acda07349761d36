"""One lattice over several devices: each holds a slab of the first axis.

Within `jax.shard_map` over a mesh with the axes `AXES` the methods of `Split` see the slab of their
device, and exchange what others need: the rows at the edges, for the neighbours; half of the noise,
because slabs d and d + n/2 share their threefry blocks and each draws half of them; and, for a sum
over sites, fields turned from slabs into columns, which are added in the order of the undivided
lattice.  So configurations are the same bits on any number of devices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout, State, Step, choose_layout, first_block, tree_sum

__all__ = ["AXES", "Plan", "Split", "plan", "split_layout"]

AXES = CHAINS, SITES = "chains", "sites"  # of the mesh
_EXCHANGE = 1 << 16  # sites x chains that are updated while rows are exchanged
_FEWEST_STEPS = 8  # between two exchanges, that pay for the copies of fields with these rows
_CACHE = 1 << 17  # sites x chains of a block of rows
_FEWEST_SITES = 4  # of a slab: of fewer XLA computes the noise otherwise


@dataclass(frozen=True)
class Split(Layout):
    """A layout whose fields are spread over `n_parts` devices, an even number of slabs."""

    n_parts: int = field(kw_only=True)

    @property
    def here(self) -> tuple[int, ...]:
        return (self.shape[0] // self.n_parts, *self.shape[1:])

    def restrict(self, values: np.ndarray) -> jax.Array:
        every = super().restrict(values)
        if values.shape[0] == 1:
            return every
        rows = self.here[0]
        return lax.dynamic_slice_in_dim(every, lax.axis_index(SITES) * rows, rows)

    def site_sum(self, *factors: jax.Array) -> jax.Array:
        """The sum of the undivided lattice, bit for bit but for a product; on all its devices."""
        product = math.prod(factors[1:], start=factors[0])
        if len(self.shape) == 1:  # a single row
            row = lax.all_gather(product, SITES, tiled=True)
        else:
            row = self._sum_rows(product, math.prod(self.shape[:-1]))
        return Layout(self.shape[-1:], self.group).site_sum(row)

    def slice_sums(self, per_site: jax.Array, axis: int) -> jax.Array:
        if axis == 0:
            return lax.all_gather(self._slab.slice_sums(per_site, 0), SITES, tiled=True)
        row = self._sum_rows(per_site, math.prod(self.shape[:axis]))
        return Layout(self.shape[axis:], self.group).slice_sums(row, 0)

    def site_max(self, per_site: jax.Array) -> jax.Array:
        return lax.pmax(super().site_max(per_site), SITES)

    def any_chain(self, condition: jax.Array) -> jax.Array:
        """Whether it holds of any chain on any device: rows are exchanged only while all go on."""
        return lax.pmax(jnp.any(condition).astype(jnp.int32), AXES) > 0

    def repeat(
        self, n: jax.Array | int, step: Step[State], fields: State, *, reach: int = 0
    ) -> State:
        """Steps of the undivided lattice; rows of the neighbours come once for many of them.

        What these steps do to them is done here too, to fewer of the rows each time.
        """
        at_once = self._steps_at_once(reach)
        if at_once < 2:
            return super().repeat(n, step, fields)
        halo = at_once * reach
        block = self._block(halo)
        cut, put = lax.dynamic_slice_in_dim, lax.dynamic_update_slice_in_dim

        def many(k: jax.Array, fields: State) -> State:
            wide = jax.tree.map(lambda x: self._widened(x, halo), fields)
            first, stop = k * at_once, jnp.minimum((k + 1) * at_once, n)

            def advance(b: jax.Array, fields: State) -> State:
                at = b * block
                part = jax.tree.map(lambda x: cut(x, at, block + 2 * halo), wide)
                part = lax.fori_loop(first, stop, step, part)
                return jax.tree.map(lambda x, new: put(x, new[halo:-halo], at, 0), fields, part)

            return lax.fori_loop(0, self.here[0] // block, advance, fields)

        return lax.fori_loop(0, (n + at_once - 1) // at_once, many, fields)

    def spread(self, per_chain: jax.Array) -> jax.Array:
        return self._slab.spread(per_chain)

    def normals(self, keys: randomness.Keys, trajectory: jax.Array, stream: int = 0) -> jax.Array:
        """Normals of the slab's sites, the numbers of the undivided lattice."""
        half, volume = self.n_parts // 2, self._slab.volume
        mine, theirs = (volume + 1) // 2, volume // 2  # of the blocks that two slabs share
        part = lax.axis_index(SITES)
        upper = part >= half
        first = part % half * volume + jnp.where(upper, theirs, 0)
        low, high = randomness.normal_pairs(keys, trajectory, first, mine, stream)
        swap = [(d, (d + half) % self.n_parts) for d in range(self.n_parts)]
        odd = mine - theirs
        own = jnp.where(upper, high, low)
        other = lax.ppermute(jnp.where(upper, low[odd:], high[:theirs]), SITES, swap)
        noise = [
            jnp.where(upper, other, own[:theirs]),
            jnp.where(upper, own[:odd], own[theirs:]),
            jnp.where(upper, own[odd:], other),
        ]
        return jnp.concatenate(noise).reshape(self._slab.field_shape)

    def map_chains(self, function: Callable[[jax.Array], jax.Array], phi: jax.Array) -> jax.Array:
        raise ValueError(
            "a function of whole configurations cannot be computed where a lattice is split over "
            "devices: give the action a density(phi, hop), or do without split"
        )

    def _pair(self, phi: jax.Array, axis: int) -> jax.Array:
        if axis or phi.shape != self._slab.field_shape:  # with rows of the neighbours already
            return super()._pair(phi, axis)
        n_rows = self.here[0]
        rows = phi.reshape(n_rows, *(phi.shape[1:] or [-1]))  # sites and chains of 1d may be merged
        after, before = self._edges(rows, 1)
        row = np.arange(n_rows)
        at = row.reshape(-1, *[1] * (rows.ndim - 1))
        # A select per element: half the cost of a copy with the rows of the neighbours around it.
        forward, backward = (
            jnp.where(at == edge, theirs, jnp.take(rows, (row + shift) % n_rows, 0, mode="clip"))
            for theirs, edge, shift in ((after, n_rows - 1, 1), (before, 0, -1))
        )
        return (forward + backward).reshape(phi.shape)

    def _edges(self, rows: jax.Array, halo: int) -> tuple[jax.Array, jax.Array]:
        """The first rows of the next slab, and the last of the one before."""
        n = self.n_parts
        after, before = (
            lax.ppermute(edge, SITES, [(d, (d + shift) % n) for d in range(n)])
            for edge, shift in ((rows[:halo], -1), (rows[-halo:], 1))
        )
        return after, before

    def _widened(self, phi: jax.Array, halo: int) -> jax.Array:
        """A field with rows of the neighbours at both ends."""
        after, before = self._edges(phi, halo)
        return jnp.concatenate([before, phi, after])

    def _steps_at_once(self, reach: int) -> int:
        """Steps between two exchanges: as many as cost one if done twice, a quarter at most."""
        if not reach or len(self.shape) == 1:
            return 1
        steps = min(math.isqrt(_EXCHANGE // (self._row * reach)), self.here[0] // (8 * reach))
        return steps if steps >= _FEWEST_STEPS else 1

    def _block(self, halo: int) -> int:
        """Rows that are advanced together: on a CPU, whose layouts are merged, what it caches."""
        rows = self.here[0]
        fits = range(4 * halo, _CACHE // self._row + 1) if self.merged else ()
        return max((n for n in fits if rows % n == 0), default=rows)

    @property
    def _row(self) -> int:
        """Sites and chains of a row."""
        return math.prod(self._slab.field_shape[1:])

    def _sum_rows(self, per_site: jax.Array, rows: int) -> jax.Array:
        """`tree_sum` of the whole lattice as so many rows, on all its devices."""
        n, block = self.n_parts, first_block(rows)
        if block % n:  # blocks that slabs cut
            block = rows
        slab = per_site.reshape(block // n, -1, *self.field_shape[len(self.shape) - 1 :])
        n_columns = slab[0].size
        spare = -n_columns % n

        def pack(k: jax.Array, packed: jax.Array) -> jax.Array:
            # By a loop, whose operand is computed once, in rows of the lattice.
            row = lax.dynamic_index_in_dim(slab, k, 0, keepdims=False).reshape(-1)
            parts = jnp.pad(row, (0, spare)).reshape(n, -1)
            return lax.dynamic_update_index_in_dim(packed, parts, k, 1)

        empty = jnp.zeros((n, len(slab), (n_columns + spare) // n), slab.dtype)
        packed = lax.fori_loop(0, len(slab), pack, empty)
        columns = lax.all_to_all(packed, SITES, 0, 0, tiled=True).reshape(block, -1)
        sums = lax.all_gather(tree_sum(columns), SITES, tiled=True)
        return tree_sum(sums[:n_columns].reshape(rows // block, -1))

    @property
    def _slab(self) -> Layout:
        return Layout(self.here, self.group, self.merged)


def split_layout(layout: Layout, n_parts: int) -> Layout:
    """`layout` spread over `n_parts` devices; itself for one.

    Raises:
        ValueError: the first extent has no such slabs.
    """
    if n_parts == 1:
        return layout
    extent = layout.shape[0]
    even = (n for n in range(2, extent + 1, 2) if extent % n == 0)
    allowed = [1, *(n for n in even if layout.volume // n >= _FEWEST_SITES)]
    if n_parts not in allowed:
        raise ValueError(
            f"split must be 1 or an even divisor of the first extent of the lattice {layout.shape} "
            f"that leaves {_FEWEST_SITES} sites: {', '.join(map(str, allowed))}; got {n_parts}"
        )
    return Split(layout.shape, layout.group, layout.merged, n_parts=n_parts)


class Plan(NamedTuple):
    """Where chains run.

    Attributes:
        layout: of a group.
        mesh: the devices, by chains and by parts of the lattice.
        n_groups: of all processes together.
    """

    layout: Layout
    mesh: Mesh
    n_groups: int


def plan(shape: tuple[int, ...], n_chains: int, split: int) -> Plan:
    """Spread chains over all devices: every process has equally many groups and busy devices.

    Raises:
        ValueError: a lattice that cannot be split so, or too few devices.
    """
    processes = [
        [device for device in jax.devices() if device.process_index == rank]
        for rank in range(jax.process_count())
    ]
    least = min(map(len, processes))
    split_layout(Layout(shape, 1), split)
    if split > least:
        of = " of a process" if len(processes) > 1 else ""
        kind = processes[0][0].device_kind
        raise ValueError(
            f"split must be at most the number of devices{of}, {least} ({kind}); got {split}"
        )
    slab, rows = (shape[0] // split, *shape[1:]), least // split
    chosen = choose_layout(slab, n_chains, rows * len(processes), processes[0][0].platform)
    layout = split_layout(replace(chosen, shape=shape), split)
    n_groups = -(-n_chains // layout.group)
    rows = min(rows, -(-n_groups // len(processes)))
    devices = np.array([own[: rows * split] for own in processes]).reshape(-1, split)
    return Plan(layout, Mesh(devices, AXES), -(-n_groups // len(devices)) * len(devices))
