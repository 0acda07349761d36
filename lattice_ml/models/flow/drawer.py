"""Draws samples of a flow in one pass, and knows the density of any field."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.fields import randomness
from lattice_ml.fields.types import Floats
from lattice_ml.models.drawer import Drawer, Drawn, Program
from lattice_ml.models.flow.multiscale import Tables, Weights, draw, invert
from lattice_ml.models.spread import spread

__all__ = ["FlowDrawer", "batch_of", "check_whole"]

_ROOM_SITES = 1 << 20  # fields in one compiled call
_LANES, _FEWEST = 64, 16  # samples side by side
_CACHE_SITES = 1 << 19  # of a batch: what stays near the core
_WORK = 0.5  # of a site, in the measure of `Drawer.work`


@dataclass(frozen=True)
class FlowDrawer(Drawer):
    """Draws from a flow.

    Args:
        weights: at the couplings, with as many levels as the lattice has.
        tables: of the theory; their dtype is that of the samples.
        key: of all batches.
        size: samples drawn together.
    """

    weights: Weights
    tables: Tables
    key: jax.Array
    size: int

    @property
    def batch_size(self) -> int:
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tables.shape

    @property
    def most(self) -> int:
        return max(1, _ROOM_SITES // (self.batch_size * math.prod(self.shape)))

    @property
    def work(self) -> float:
        return _WORK * self.batch_size * math.prod(self.shape)

    @property
    def density(self) -> bool:
        return True

    @property
    def unweighted(self) -> str:
        return ""

    @property
    def settings(self) -> Mapping[str, int | str]:
        return {"batch_size": self.batch_size}

    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        check_whole("the number of the first batch", first, 0)
        check_whole("the count of batches", count, 1)
        batch, given = _Batch(self.batch_size), (self.weights, self.tables)
        return spread(batch, given, self.key, first, count, self.most)

    @property
    def program(self) -> tuple[Program, object]:
        return _Batch(self.batch_size), (self.weights, self.tables)

    def log_prob(self, fields: np.ndarray) -> Floats:
        size, fields = self.batch_size, np.asarray(fields)
        if fields.shape[1:] != self.shape:
            raise ValueError(
                f"fields of this flow have shape (n, {', '.join(map(str, self.shape))}), got "
                f"{fields.shape}"
            )
        padded = np.concatenate([fields, np.repeat(fields[-1:], -len(fields) % size, axis=0)])
        batches = padded.reshape(-1, size, *self.shape).astype(self.tables.dtype)
        found = _log_prob((self.weights, self.tables), batches, batch=_Batch(size))
        return np.asarray(found, np.float64).ravel()[: len(fields)]


def batch_of(shape: tuple[int, ...]) -> int:
    """How many samples are drawn together: as many as fill the lanes, fewer on large lattices."""
    fits = _CACHE_SITES // math.prod(shape)
    return max(_FEWEST, min(_LANES, 1 << max(0, fits.bit_length() - 1)))


def check_whole(what: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        ValueError: naming it.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    if not whole:
        raise ValueError(f"{what} must be a whole number of at least {least}, got {value!r}")


@dataclass(frozen=True)
class _Batch:
    """Draws a batch; static under jit."""

    size: int

    def __call__(self, given: tuple[Weights, Tables], key: jax.Array) -> Drawn[jax.Array]:
        weights, tables = given
        keys = randomness.chain_keys(key, self.size)
        noise = randomness.normals(keys, jnp.uint32(0), math.prod(tables.shape))
        fields, log_prob = draw(weights, tables, noise.astype(tables.dtype))
        return Drawn(jnp.moveaxis(fields, -1, 0), log_prob, None)

    def log_prob(self, given: tuple[Weights, Tables], fields: jax.Array) -> jax.Array:
        return invert(*given, jnp.moveaxis(fields, 0, -1))[1]


@partial(jax.jit, static_argnames="batch")
def _log_prob(given: tuple[Weights, Tables], batches: jax.Array, *, batch: _Batch) -> jax.Array:
    return lax.map(partial(batch.log_prob, given), batches)
