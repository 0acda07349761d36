"""Batches of samples spread over all devices of this process, in one compiled program.

The numbers of a batch depend on the key and its own number alone, so on any number of devices they
are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from lattice_ml.models.drawer import Drawn

__all__ = ["spread"]

Given = TypeVar("Given")
Batch = Callable[[Given, jax.Array], Drawn[jax.Array]]  # from what is given, and its own key


def spread(
    batch: Batch[Given], given: Given, key: jax.Array, first: int, count: int, room: int
) -> Drawn[np.ndarray]:
    """Draw `count` batches from number `first` on.

    Args:
        batch: draws one; hashable, static under jit.
        given: a pytree that it draws from.
        key: of all batches.
        first, count: numbers of the batches.
        room: batches of a device in one call; any number of them share a program.

    Returns:
        Their samples one after another, on the host.
    """
    devices = np.array(jax.local_devices())
    mesh = Mesh(devices, ("samples",))
    parts = []
    for start in range(first, first + count, room * len(devices)):
        left = min(first + count - start, room * len(devices))
        share = -(-left // len(devices))
        numbers = np.zeros((len(devices), room), np.uint32)
        numbers[:, :share] = start + np.arange(len(devices) * share).reshape(-1, share)
        drawn = _draw(given, key, numbers.ravel(), share, batch=batch, mesh=mesh)
        parts.append(jax.tree.map(partial(_gather, room=room, share=share, n=left), drawn))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _gather(x: jax.Array, *, room: int, share: int, n: int) -> np.ndarray:
    """The first `n` batches of all devices: `(n * batch_size, ...)`."""
    by_device = np.asarray(x).reshape(-1, room, *x.shape[1:])
    batches = by_device[:, :share].reshape(-1, *x.shape[1:])[:n]
    return batches.reshape(-1, *x.shape[2:])


@partial(jax.jit, static_argnames=("batch", "mesh"))
def _draw(
    given: Given,
    key: jax.Array,
    numbers: jax.Array,
    n: jax.Array,
    *,
    batch: Batch[Given],
    mesh: Mesh,
) -> Drawn[jax.Array]:
    """The first `n` batches of every device's share of `numbers`, `(batches, batch_size, ...)`."""

    def share(given: Given, key: jax.Array, numbers: jax.Array, n: jax.Array) -> Drawn[jax.Array]:
        def numbered(number: jax.Array) -> Drawn[jax.Array]:
            return batch(given, jax.random.fold_in(key, number))

        one = jax.eval_shape(numbered, numbers[0])
        room = jax.tree.map(lambda x: jnp.zeros((len(numbers), *x.shape), x.dtype), one)

        def fill(i: jax.Array, drawn: Drawn[jax.Array]) -> Drawn[jax.Array]:
            new = numbered(numbers[i])
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), drawn, new)

        return lax.fori_loop(0, n, fill, room)

    parted, whole = PartitionSpec("samples"), PartitionSpec()
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, whole, parted, whole),
        out_specs=parted,
        check_vma=False,
    )(given, key, numbers, n)
