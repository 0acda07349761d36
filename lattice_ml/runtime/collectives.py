"""Arrays on the devices of all processes of a run, and those that processes tell each other.

Small things go through `Team.gather`.  Arrays go from host to host by one device of each process,
as the bytes that they are, whatever JAX's modes: none is rounded on the way.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lattice_ml.runtime.processes import team

__all__ = ["devices", "gather", "in_order", "spread", "told"]

_PROCESSES = ("processes",)  # the axis of a mesh of one device of each

Tree = TypeVar("Tree")  # of arrays, whatever its structure


def devices() -> np.ndarray:
    """As many of each process, `(processes, devices)`."""
    found = [
        [device for device in jax.devices() if device.process_index == rank]
        for rank in range(jax.process_count())
    ]
    least = min(map(len, found))
    return np.array([own[:least] for own in found])


def gather(tree: Tree) -> list[Tree]:
    """What every process gave, arrays of the same shapes, in their order; all must call it."""
    tree = jax.tree.map(np.asarray, tree)
    if jax.process_count() == 1:
        return [tree]
    leaves, structure = jax.tree.flatten(tree)
    mine = np.concatenate([np.ravel(leaf).view(np.uint8) for leaf in leaves])
    ends = np.cumsum([leaf.nbytes for leaf in leaves])[:-1]

    def given(row: np.ndarray) -> Tree:
        parts = zip(np.split(row, ends), leaves, strict=True)
        arrays = [part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in parts]
        found: Tree = jax.tree.unflatten(structure, arrays)
        return found

    mesh = Mesh(devices()[:, 0], _PROCESSES)
    sharding = NamedSharding(mesh, PartitionSpec(*_PROCESSES))
    rows = jax.make_array_from_process_local_data(sharding, mine[None])
    team().gather(None)  # devices wait for 30 s, and others may be compiling for longer
    return [given(row) for row in np.asarray(_everywhere(rows, mesh=mesh))]


def told(function: Callable[[], Tree], like: Tree) -> Tree:
    """What a function returns in process 0, arrays of the shapes of `like`; all must call it."""
    return gather(function() if jax.process_index() == 0 else like)[0]


def spread(rows: Sequence[Tree], mesh: Mesh) -> Tree:
    """Trees of arrays, one for each device of a mesh of one axis, stacked in its order."""
    sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))

    def stacked(*leaves: np.ndarray) -> jax.Array:
        whole = np.stack(leaves)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    found: Tree = jax.tree.map(stacked, *rows)
    return found


def in_order(tree: Tree) -> Iterator[Tree]:
    """The rows of a tree that is spread over `devices().T`, told to all one after another."""
    for device in devices()[jax.process_index()]:

        def row(x: jax.Array, device: jax.Device = device) -> np.ndarray:
            (found,) = (shard.data for shard in x.addressable_shards if shard.device == device)
            return np.asarray(found)[0]

        yield from gather(jax.tree.map(row, tree))


@partial(jax.jit, static_argnames="mesh")
def _everywhere(rows: jax.Array, *, mesh: Mesh) -> jax.Array:
    """The rows of all processes, on each of their devices."""
    return jax.shard_map(
        lambda row: lax.all_gather(row, _PROCESSES, tiled=True),
        mesh=mesh,
        in_specs=PartitionSpec(*_PROCESSES),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(rows)
