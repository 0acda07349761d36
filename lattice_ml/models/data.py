"""Ensembles as a training reads them: grouped by lattice, split by chain, in blocks.

Fields are read as pools that fit in memory, one pool per block of steps, in an order fixed by the
seed and the number of the block.  Weights are used by drawing fields in proportion to them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import Quartic, conventions
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.json import JsonTable
from lattice_ml.statistics import doubt_of, weights_of

__all__ = ["Data", "Pools", "Source", "action_section", "check_actions"]

BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Source:
    """One ensemble: the first `n_chains` and `n_configs` train, the rest is held out."""

    ensemble: Ensemble
    n_chains: int
    n_configs: int

    @classmethod
    def split(cls, ensemble: Ensemble, held_out: float) -> "Source":
        """Hold out a share of the chains, or of the configurations where there is one chain."""
        chains, configs = ensemble.n_chains, ensemble.n_configs
        if chains > 1:
            return cls(ensemble, max(1, chains - math.ceil(held_out * chains)), configs)
        return cls(ensemble, 1, max(1, configs - math.ceil(held_out * configs)))

    @property
    def n_fields(self) -> int:
        return self.n_chains * self.n_configs

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Of all configurations, `(n_configs, n_chains)`, the largest 1; None without weights."""
        log_weight = self.ensemble.log_weight
        return None if log_weight is None else weights_of(log_weight).T

    @property
    def doubt(self) -> str | None:
        """Why the weights of the fields to train on leave too few of them, or None."""
        log_weight = self.ensemble.log_weight
        trained = slice(self.n_chains), slice(self.n_configs)
        return None if log_weight is None else doubt_of(log_weight[trained])

    def read(self, first: int, n: int, chains: slice) -> np.ndarray:
        """Consecutive configurations of some chains, `(n, chains, *L)`."""
        per_config = self.ensemble.n_chains
        rows = self.ensemble.cfgs[first * per_config : (first + n) * per_config]
        return rows.reshape(-1, per_config, *self.ensemble.shape)[:, chains]

    def training(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Fields to train on `(n, *L)` and their weights `(n,)`, block by block."""
        chains = slice(0, self.n_chains)
        per_config = 8 * self.ensemble.n_chains * math.prod(self.ensemble.shape)
        step = max(1, BLOCK_BYTES // per_config)
        for first in range(0, self.n_configs, step):
            fields = self.read(first, min(step, self.n_configs - first), chains)
            weights = self.weights
            if weights is not None:
                weights = weights[first : first + len(fields), chains].ravel()
            yield fields.reshape(-1, *self.ensemble.shape), weights

    def pool(self, random: np.random.Generator, index: int, n_fields: int) -> np.ndarray:
        """Some of the fields to train on, `(n_fields, *L)`; all of them where they fit."""
        step = min(self.n_configs, -(-n_fields // self.n_chains))
        n_blocks = -(-self.n_configs // step)
        order = np.random.default_rng([index // n_blocks, n_blocks]).permutation(n_blocks)
        first = min(int(order[index % n_blocks]) * step, self.n_configs - step)
        fields = self.read(first, step, slice(0, self.n_chains)).reshape(-1, *self.ensemble.shape)
        if self.weights is not None:
            share = self.weights[first : first + step, : self.n_chains].ravel()
            return fields[random.choice(len(fields), n_fields, p=share / share.sum())]
        if len(fields) == n_fields:
            return fields
        return fields[np.sort(random.permutation(len(fields))[:n_fields])]

    def held_out(self, n_fields: int) -> np.ndarray | None:
        """At most about `n_fields` of the held-out fields, `(chains, configs, *L)`."""
        chains, configs = self.ensemble.n_chains, self.ensemble.n_configs
        if (self.n_chains, self.n_configs) == (chains, configs):
            return None
        first = self.n_configs if self.n_configs < configs else 0
        kept = slice(self.n_chains, chains) if self.n_configs == configs else slice(0, 1)
        per_chain = max(1, n_fields // len(range(chains)[kept]))
        wanted = np.unique(np.linspace(first, configs - 1, per_chain).astype(int))
        fields = self.ensemble.cfgs[
            (wanted[:, None] * chains + np.arange(chains)[kept]).ravel()
        ].reshape(len(wanted), -1, *self.ensemble.shape)
        if self.weights is not None:
            share = self.weights[wanted][:, kept].ravel()
            random = np.random.default_rng(0)
            drawn = random.choice(share.size, share.size, p=share / share.sum())
            fields = fields.reshape(-1, *self.ensemble.shape)[drawn].reshape(fields.shape)
        return fields.swapaxes(0, 1)


@dataclass(frozen=True)
class Data:
    """The ensembles of one lattice shape."""

    sources: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sources[0].ensemble.shape

    @property
    def actions(self) -> tuple[JsonTable, ...]:
        """The `[action]` section of each ensemble."""
        return tuple(action_section(source.ensemble) for source in self.sources)

    def held_out(self, n_fields: int) -> np.ndarray | None:
        """Held-out fields of every ensemble, `(n_ensembles, n, *L)`, n at most about `n_fields`."""
        found = [source.held_out(n_fields) for source in self.sources]
        fields = [f.reshape(-1, *self.shape) for f in found if f is not None]
        if len(fields) < len(found):
            return None
        n = min(map(len, fields))
        return np.stack([f[:n] for f in fields]).astype(np.float32)

    def pools(self, seed: int, pool_bytes: int, batch_size: int) -> "Pools":
        """The fields as pools that fit in `pool_bytes` together."""
        room = max(1, pool_bytes // (4 * len(self.sources) * math.prod(self.shape)))
        n_fields = min(room, *(s.n_fields for s in self.sources))
        return Pools(self.sources, seed, n_fields, batch_size)


@dataclass
class Pools:
    """Pools of `n_fields` per ensemble, numbered without end; `at` says which serves a step."""

    sources: tuple[Source, ...]
    seed: int
    n_fields: int
    batch_size: int
    _loaded: tuple[int, jax.Array] | None = None

    @property
    def constant(self) -> bool:
        """Whether all pools are the same: everything fits."""
        return all(s.n_fields == self.n_fields and s.weights is None for s in self.sources)

    def __getitem__(self, index: int) -> np.ndarray:
        """A pool, `(n_ensembles, n_fields, *L)` in float32."""
        fields = [
            source.pool(np.random.default_rng([self.seed, index, i]), index, self.n_fields)
            for i, source in enumerate(self.sources)
        ]
        return np.stack(fields).astype(np.float32, copy=False)

    def at(self, step: int) -> jax.Array:
        """The pool of a step, on the device: the next one when as many were drawn as it holds."""
        index = 0 if self.constant else step * self.batch_size // self.n_fields
        if self._loaded is None or self._loaded[0] != index:
            self._loaded = index, jnp.asarray(self[index])
        return self._loaded[1]


def action_section(ensemble: Ensemble) -> JsonTable:
    """The `[action]` section that made an ensemble; in memory, as the couplings alone tell it."""
    section: JsonTable | None = ensemble.config.get("action")
    try:
        return section or conventions.section(ensemble.action, len(ensemble.shape))
    except ValueError as error:
        raise ValueError(f"{ensemble.label} cannot be learned: {error}") from error


def check_actions(data: Data, model: str) -> None:
    """Refuse ensembles without couplings h, a and b that `model`, "a flow model", could be told.

    Raises:
        ValueError: naming the ensemble, what is allowed, and the kind that needs no action.
    """
    for ensemble in (source.ensemble for source in data.sources):
        if not isinstance(ensemble.action, Quartic):
            raise ValueError(
                f"{model} needs the action of its data in (h, a, b), Phi4 or FreeField, but "
                f"{ensemble.label} has action.kind = {action_section(ensemble)['kind']}: import "
                f"the fields with their action, or train a GaussianRBM, which needs none"
            )
