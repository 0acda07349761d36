"""What `certificates` looks at: every series of an ensemble, measured from its configurations.

Configurations are read in blocks, and of each only some numbers are kept: the primaries, the
Schwinger-Dyson terms of some groups of momenta, and a hash.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from lattice_ml import actions
from lattice_ml.actions import Action, as_action
from lattice_ml.analysis.certificates import cluster_signs
from lattice_ml.analysis.certificates.cluster_signs import ClusterSigns
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import single
from lattice_ml.fields.types import Floats, Integers
from lattice_ml.observables import measure_configurations, require_powers
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.statistics import weights_of
from lattice_ml.storage.ensemble import rows_in

__all__ = [
    *("Evidence", "Missing", "Momenta", "Undecided"),
    *("by_chain", "gather", "pieces", "require_finite"),
]

_PIECE_BYTES = 8 * 2**20
_ALL = "all momenta"
_LOWEST = 16  # momentum shells that are looked at one by one; the others in as many groups
_FEW = 8  # momenta that tell configurations apart only where they are known to many digits
# Of measurements, relative to the terms that they sum: 100 and more times the precision.
_SINGLE, _DOUBLE = 1e-5, 1e-12


class Missing(Exception):
    """The ensemble is not of the kind that a test is for; the message says what it lacks."""


class Undecided(Missing):
    """The test is for it, but the ensemble is too little to tell; the message says what to do."""


@dataclass(frozen=True)
class Evidence:
    """Series `(n_chains, n_configs)` of an ensemble, as far as it has them."""

    action: Action | None  # that of the ensemble, None where it is not known
    shape: tuple[int, ...]  # extents of the lattice
    z2: bool  # whether the action declares the symmetry phi -> -phi
    thin: int  # trajectories between configurations
    rounding: float  # what a measurement may be off by, relative to the largest terms of its sums
    # settings of the sampler as tuned; empty where nothing is known of it
    sampler: Mapping[str, Any]
    # numbers of the trajectories, and of the chains, as they were stored
    order: Mapping[str, Integers]
    log_weights: Floats | None  # not normalised; None where all configurations count alike
    stored: Mapping[str, Floats]  # histories by name
    # primaries of the configurations by name; empty where none were kept
    measured: Mapping[str, Floats]
    # Re[phi(p)* (dS/dphi)(p)]/V by the momenta it is averaged over, in units of the temperature
    schwinger_dyson: Mapping[str, Floats]
    two_point: Mapping[str, Floats]  # |phi(p)|^2/V by the same momenta
    modes: Mapping[str, int]  # how many momenta these are
    # of some configurations; None where there are none, or no clusters
    cluster_signs: ClusterSigns | None
    # 64-bit hashes of the |phi| of configurations, equal where only signs differ
    digests: Integers | None
    # log density of what made the configurations, where it was stored
    log_prob: Floats | None = None

    @property
    def weights(self) -> Floats | float:
        """Weights of mean one."""
        if self.log_weights is None:
            return 1.0
        weights = weights_of(self.log_weights)
        return weights / weights.mean()

    def history(self, name: str) -> Floats:
        """What was stored while the chains ran."""
        if name not in self.stored:
            raise Missing(f"there is no history of {name}")
        return self.stored[name]

    def primary(self, name: str) -> Floats:
        """A primary of the configurations, or its history where they were not kept."""
        return self.measured[name] if name in self.measured else self.history(name)

    def quantities(self) -> dict[str, Floats]:
        """The quantities whose means should be the same in all parts of an ensemble."""
        m = self.primary("magnetisation")
        others = {name: self.primary(name) for name in ("phi2", "link_sum", "action")}
        return {"M^2": m**2, "|M|": np.abs(m), **others}


def gather(ensemble: Ensemble, *, weights: bool = True) -> Evidence:
    """Read an ensemble once, from `open_ensemble` or `run`.

    Raises:
        ValueError: a configuration, or its fourth power, is not finite.
    """
    stored = {name: ensemble.series(name) for name in ensemble.history}
    measured = _measure(ensemble) if ensemble.has_cfgs else {}
    terms = {_ALL: stored["schwinger_dyson"]} if "schwinger_dyson" in stored else {}
    names, modes, rounding = [], {}, _SINGLE
    if measured:
        momenta = Momenta(Lattice(ensemble.shape))
        names, modes = momenta.names, momenta.modes
        terms = _by_name(names, measured.pop("terms", None))
        if jax.dtypes.canonicalize_dtype(ensemble.cfgs.dtype) == np.float64:  # not where x64 is off
            rounding = _DOUBLE
    temperature = ensemble.temperature
    return Evidence(
        action=ensemble.action,
        shape=tuple(ensemble.shape),
        z2=as_action(ensemble.action).z2,
        thin=ensemble.thin,
        rounding=rounding,
        sampler=_sampler(ensemble),
        order=ensemble.numbers,
        modes=modes,
        log_weights=ensemble.log_weight if weights else None,
        log_prob=ensemble.log_prob,
        stored=stored,
        two_point=_by_name(names, measured.pop("power", None)),
        cluster_signs=cluster_signs.measure(ensemble, temperature) if measured else None,
        digests=measured.pop("digests", None),
        measured=measured,
        schwinger_dyson={name: term / temperature for name, term in terms.items()},
    )


def _sampler(ensemble: Ensemble) -> dict[str, Any]:
    """Settings of the sampler as tuned.

    They are in units of the field, so those of a converted ensemble are not known.
    """
    if "converted" in ensemble.config:
        return {}
    return {**ensemble.config.get("sampler", {"kind": ensemble.kind}), **ensemble.tuned}


def _by_name(names: list[str], series: np.ndarray | None) -> dict[str, Floats]:
    """The last axis as a mapping; nothing where there is nothing."""
    return {} if series is None else dict(zip(names, np.moveaxis(series, -1, 0), strict=True))


def _measure(ensemble: Ensemble) -> dict[str, np.ndarray]:
    """Primaries, `digests`, `power` and Schwinger-Dyson `terms`, `(n_chains, n_configs, ...)`."""
    momenta = Momenta(Lattice(ensemble.shape))
    flat: dict[str, np.ndarray] = {}  # filled part by part: joining parts needs both at once
    for start, fields in pieces(ensemble):
        primaries = measure_configurations(ensemble.action, fields)
        if not np.isfinite(primaries["phi4"]).all() and np.isfinite(fields).all():
            require_powers(fields, primaries["phi4"], start)
        part = primaries | {"digests": _digests(fields)} | momenta.measure(ensemble.action, fields)
        for name, rows in part.items():
            if name not in flat:
                flat[name] = np.empty((len(ensemble.cfgs), *rows.shape[1:]), rows.dtype)
            flat[name][start : start + len(rows)] = rows
    require_finite(flat["phi4"], ensemble.n_chains)
    return {name: by_chain(rows, ensemble.n_chains) for name, rows in flat.items()}


def by_chain(rows: np.ndarray, n_chains: int) -> np.ndarray:
    """Rows of all samples, configuration-major, as `(n_chains, n_configs, ...)`."""
    return rows.reshape(-1, n_chains, *rows.shape[1:]).swapaxes(0, 1)


def require_finite(rows: np.ndarray, n_chains: int) -> None:
    """Refuse numbers `(n, ...)` that are not finite, configuration-major, naming the first.

    Raises:
        ValueError: as said.
    """
    if len(bad := np.argwhere(~np.isfinite(rows))):
        config, chain = divmod(int(bad[0, 0]), n_chains)
        raise ValueError(f"configuration {config} of chain {chain} is not finite")


def pieces(ensemble: Ensemble) -> Iterator[tuple[int, np.ndarray]]:
    """As `ensemble.blocks()`, few configurations enough for their Fourier transforms."""
    for start, block in ensemble.blocks():
        rows = rows_in(_PIECE_BYTES, ensemble.shape, block.dtype)
        for first in range(0, len(block), rows):
            yield start + first, block[first : first + rows]


def _digests(fields: np.ndarray) -> Integers:
    """64-bit hashes of the |phi| of configurations `(n, *L)`, which no change of signs changes."""
    rows = np.ascontiguousarray(np.abs(fields.reshape(len(fields), -1)))
    hashes = (hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(b"".join(hashes), np.int64)


class Momenta:
    """The lowest momentum shells one by one, the others in groups, and all momenta together.

    A real field has half of its modes, `(*L[:-1], L[-1] // 2 + 1)`; the others are their mirror
    images, so that all but the first and, for even L[-1], the last plane count twice.

    Attributes:
        names: of the shells and groups, "all momenta" last.
        modes: how many momenta each has.
        p_hat_squared: mean of each.
    """

    def __init__(self, lattice: Lattice) -> None:
        values, shell = lattice.shells
        groups = [np.array([i]) for i in range(len(values))[:_LOWEST]]
        rest = np.arange(_LOWEST, len(values))
        groups += np.array_split(rest, min(_LOWEST, len(rest))) if len(rest) else []
        self.names = [*(_name(group, values) for group in groups), _ALL]
        group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[shell]
        self._sizes = np.bincount(group_of.ravel())
        sizes = [*self._sizes.tolist(), lattice.volume]
        self.modes = dict(zip(self.names, sizes, strict=True))
        sums = np.bincount(group_of.ravel(), weights=lattice.p_hat_squared.ravel())
        self.p_hat_squared = np.append(sums / self._sizes, sums.sum() / lattice.volume)
        extent = lattice.shape[-1]
        plane = np.arange(extent // 2 + 1)
        copies = np.where((plane == 0) | (2 * plane == extent), 1, 2)
        half = group_of[..., : len(plane)]
        self._order = np.argsort(half, axis=None, kind="stable")
        self._starts = np.searchsorted(half.ravel()[self._order], np.arange(len(groups)))
        copies = np.broadcast_to(copies, half.shape).ravel()[self._order]
        self._weights = copies / lattice.volume

    def measure(self, action: Action | None, fields: np.ndarray) -> dict[str, Floats]:
        """|phi(p)|^2/V as `power` and, of a known action, Re[phi(p)* (dS/dphi)(p)]/V as `terms`.

        Fields are `(n, *L)`, the averages over shells and groups `(n, n_names)`.
        """
        axes = tuple(range(1, fields.ndim))
        if len(self.names) <= _FEW:
            fields = fields.astype(np.float64)
        phi = np.fft.rfftn(fields, axes=axes).reshape(len(fields), -1)
        found = {"power": self.average(phi.real**2 + phi.imag**2)}
        if action is not None:
            layout = single(fields.shape[1:], len(fields))
            force = layout.unpack(np.asarray(_force(action, layout.pack(fields)[0], layout))[None])
            drift = np.fft.rfftn(force, axes=axes).reshape(len(fields), -1)
            found["terms"] = self.average(-(phi.real * drift.real + phi.imag * drift.imag))
        return found

    def average(self, modes: Floats) -> Floats:
        """Averages `(n, n_names)` of what modes of a real field have, `(n, n_modes)`, over V."""
        sums = np.add.reduceat(modes[:, self._order] * self._weights, self._starts, axis=1)
        total = sums.sum(axis=1, keepdims=True) / self._sizes.sum()
        return np.concatenate([sums / self._sizes, total], axis=1)


_force = partial(jax.jit, static_argnames="layout")(actions.force)


def _name(group: Integers, p_hat_squared: Floats) -> str:
    first, last = group[0], group[-1]
    low, high = p_hat_squared[first], p_hat_squared[last]
    if first == last:
        return f"shell {first}, p_hat^2 = {low:.3g}"
    return f"shells {first} to {last}, p_hat^2 = {low:.3g} to {high:.3g}"
