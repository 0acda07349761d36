"""Ensembles as a training reads them: grouped by lattice, split by chain, in blocks.

Ensembles of one lattice shape form a stage; their fields are read as pools that fit in memory, one
pool per block of steps, in an order fixed by the seed and the number of the block.  Weights are
used by drawing fields in proportion to them.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.chains.run import Chains
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.statistics import doubt_of, kish, weights_of
from lattice_ml.storage.ensemble import BLOCK_BYTES, EnsembleOnDisk, rows_in
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import digest

__all__ = ["ChainsAsData", "Data", "Source", "check_agreement", "identify", "open_data"]

_FEWEST_WORTH = 10  # of weighted data; `statistics.doubt` says where more are too few to trust


class ChainsAsData(Chains):
    """Chains in memory, with what a training asks of an ensemble on disk.

    Attributes:
        config: the `[action]` section, as the couplings alone tell it.
        manifest: what tells these fields from others.
    """

    config: JsonTable
    manifest: JsonTable
    directory = Path("memory")
    log_weight: np.ndarray | None = None

    @classmethod
    def of(cls, chains: Chains) -> "ChainsAsData":
        """The same chains."""
        made = cls(**vars(chains))
        section = conventions.section(chains.action, len(chains.shape))
        sha256 = hashlib.sha256(chains.cfgs.tobytes()).hexdigest()
        vars(made).update(config={"action": section}, manifest={"shards": [{"sha256": sha256}]})
        return made


Fields = EnsembleOnDisk | ChainsAsData


@dataclass(frozen=True)
class Source:
    """One ensemble: the first `n_chains` and `n_configs` train, the rest is held out."""

    ensemble: Fields
    n_chains: int
    n_configs: int

    @classmethod
    def split(cls, ensemble: Fields, held_out: float) -> "Source":
        """Hold out a share of the chains, or of the configurations where there is one chain."""
        chains, configs = ensemble.n_chains, ensemble.n_configs
        if chains > 1:
            return cls(ensemble, max(1, chains - math.ceil(held_out * chains)), configs)
        return cls(ensemble, 1, max(1, configs - math.ceil(held_out * configs)))

    @property
    def name(self) -> str:
        return str(self.ensemble.directory)

    @property
    def action(self) -> Any:
        return self.ensemble.action

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
        step = rows_in(BLOCK_BYTES // self.ensemble.n_chains, self.ensemble.shape, "float64")
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
        return tuple(source.ensemble.config["action"] for source in self.sources)

    def held_out(self, n_fields: int) -> np.ndarray | None:
        """Held-out fields of every ensemble, `(n_ensembles, n, *L)`, n at most about `n_fields`."""
        found = [source.held_out(n_fields) for source in self.sources]
        fields = [f.reshape(-1, *self.shape) for f in found if f is not None]
        if len(fields) < len(found):
            return None
        n = min(map(len, fields))
        return np.stack([f[:n] for f in fields]).astype(np.float32)

    def pools(self, seed: int, pool_bytes: int) -> "Pools":
        """The fields as pools that fit in `pool_bytes` together."""
        room = rows_in(pool_bytes // len(self.sources), self.shape, "float32")
        return Pools(self.sources, seed, min(room, *(s.n_fields for s in self.sources)))


@dataclass(frozen=True)
class Pools:
    """Pools of `n_fields` per ensemble."""

    sources: tuple[Source, ...]
    seed: int
    n_fields: int

    @property
    def constant(self) -> bool:
        """Whether all pools are the same: everything fits."""
        return all(s.n_fields == self.n_fields and s.weights is None for s in self.sources)

    def __getitem__(self, index: int) -> np.ndarray:
        """The fields of one block of steps, `(n_ensembles, n_fields, *L)` in float32."""
        fields = [
            source.pool(np.random.default_rng([self.seed, index, i]), index, self.n_fields)
            for i, source in enumerate(self.sources)
        ]
        return np.stack(fields).astype(np.float32, copy=False)


def open_data(ensembles: Sequence[Fields], validation: float) -> list[Data]:
    """Group ensembles by lattice shape, smallest volume first.

    Raises:
        StorageError: fields or couplings that cannot be learned together, or too few of them.
        ValueError: weights that leave less than 10 configurations of an ensemble.
    """
    for ensemble in ensembles:
        _check_weights(ensemble)
    for ensemble in ensembles:
        _check_normalisation(ensembles[0], ensemble)
    groups: dict[tuple[int, ...], list[Source]] = {}
    for ensemble in ensembles:
        _ = ensemble.cfgs  # refuses an ensemble without configurations
        groups.setdefault(ensemble.shape, []).append(Source.split(ensemble, validation))
    order = sorted(groups, key=lambda shape: (math.prod(shape), shape))
    return [Data(tuple(groups[shape])) for shape in order]


def identify(ensembles: Sequence[Fields]) -> str:
    """A hash of the numbers that ensembles hold, and of the configs that made them."""
    return digest(
        [[e.config, [shard["sha256"] for shard in e.manifest["shards"]]] for e in ensembles]
    )


def check_agreement(config: Section, ensembles: Sequence[Fields]) -> None:
    """Refuse data on another lattice, or of another action, than a training config says.

    Raises:
        ValueError: naming both; or the data were made at another temperature than 1, where they do
            not follow exp(-S) of their action.
    """
    for ensemble in ensembles:
        if ensemble.temperature != 1:
            raise ValueError(
                f"{ensemble.directory} was made at sampler.temperature = {ensemble.temperature} "
                "and follows exp(-S / temperature): train on data of temperature 1, at couplings "
                "divided by the temperature"
            )
    for section, found in (
        ("lattice", [{"shape": list(e.shape)} for e in ensembles]),
        ("action", [e.config["action"] for e in ensembles]),
    ):
        asked = config.get(section)
        if asked is not None and found and asked not in found:
            raise ValueError(
                f"[{section}] of the config is {_listed(asked)}, the data have "
                f"{' and '.join(map(_listed, found))}: leave it out, or make it that of the data"
            )


def _check_weights(ensemble: Fields) -> None:
    """Refuse data of which weights leave a handful: what is learned of them is no distribution."""
    log_weight = ensemble.log_weight
    if log_weight is None or (worth := kish(log_weight)) >= _FEWEST_WORTH:
        return
    if doubt_of(log_weight):
        raise ValueError(
            f"the {log_weight.size} configurations of {ensemble.directory} are worth {worth:.2g} "
            f"by their weights, at least {_FEWEST_WORTH} are needed to learn from: draw more, or "
            f"train on configurations without weights"
        )


def _listed(table: Section) -> str:
    return ", ".join(f"{key} = {value}" for key, value in table.items())


def _check_normalisation(first: Fields, other: Fields) -> None:
    """Refuse fields of another normalisation or dimension: one network cannot serve both."""
    one, two = (
        " ".join([e.config["action"]["kind"], e.config["action"].get("convention", "")]).strip()
        for e in (first, other)
    )
    if one != two:
        raise StorageError(
            f"{other.directory} has the action {two}, but {first.directory} has {one}: their "
            f"fields are normalised differently; use one convention for all"
        )
    if len(first.shape) != len(other.shape):
        raise StorageError(
            f"{other.directory} is a lattice {other.shape}, but {first.directory} is "
            f"{first.shape}: a model lives in one dimension"
        )
