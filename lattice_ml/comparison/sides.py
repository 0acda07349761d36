"""What is compared of an ensemble, read once in blocks.

Of every configuration only numbers are kept; of the field itself a histogram and profiles per
stretch of the chains, and some 1,000 configurations to look at and to compare as such.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lattice_ml.analysis.certificates import Certificate, certify
from lattice_ml.analysis.certificates.evidence import Evidence, gather, pieces
from lattice_ml.analysis.certificates.judging import stretch_starts
from lattice_ml.analysis.measurement import estimate_derived
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Flags, Floats, Integers
from lattice_ml.observables import DERIVED
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.printable import shown
from lattice_ml.statistics import Estimate, doubt_of, estimate, weights_of
from lattice_ml.statistics.series import as_weights
from lattice_ml.storage.ensemble import rows_in

__all__ = ["Fields", "Side", "gather_side"]

_FIELDS = 1024  # configurations that are compared as such ...
_FIELD_BYTES = 128 * 2**20  # ... of lattices up to 181^2; fewer of larger ones, down to 16


class Fields(NamedTuple):
    """Some configurations, evenly spaced over the ensemble."""

    phi: np.ndarray  # (n, *L) float32
    stretch: Integers  # (n,) number of the stretch of the chains that each is of
    log_weights: Floats | None  # (n,)

    @property
    def weights(self) -> Floats | None:
        """`(n,)`, the largest of them 1; None where all count alike."""
        return None if self.log_weights is None else weights_of(self.log_weights)

    def of(self, stretches: Flags) -> "Fields":
        """The configurations of those stretches that are True in `(n_stretches,)`."""
        chosen, logs = stretches[self.stretch], self.log_weights
        logs = None if logs is None else logs[chosen]
        return Fields(self.phi[chosen], self.stretch[chosen], logs)


@dataclass(frozen=True)
class Side:
    """One ensemble of a comparison.

    Attributes:
        label: how it is called.
        ensemble: from `open_ensemble` or `run`.
        evidence: its series.
    """

    label: str
    ensemble: Ensemble
    evidence: Evidence

    @property
    def lattice(self) -> Lattice:
        return Lattice(self.ensemble.shape)

    @property
    def log_weights(self) -> Floats | None:
        return self.evidence.log_weights

    @cached_property
    def series(self) -> Mapping[str, Floats]:
        """Primaries and histories by name, `(n_chains, n_configs)`."""
        return {**self.evidence.stored, **self.evidence.measured}

    @cached_property
    def weights(self) -> Floats:
        """`(n_chains, n_configs)`, of mean one."""
        return as_weights(self.log_weights, self.series["magnetisation"].shape)

    @cached_property
    def starts(self) -> Integers:
        """Where stretches begin within the chains that are independent of each other."""
        magnetisation = self.series["magnetisation"]
        slow = (magnetisation, magnetisation**2, self.series["phi2"])
        return min((stretch_starts(self.weights * series) for series in slow), key=len)

    @cached_property
    def stretch(self) -> Integers:
        """The stretch of every sample, configuration-major: `(n_configs * n_chains,)`."""
        n_chains, n_configs = self.weights.shape
        within = np.searchsorted(self.starts, np.arange(n_configs), side="right") - 1
        numbers: Integers = within[:, None] + len(self.starts) * np.arange(n_chains)
        return numbers.ravel()

    @property
    def n_stretches(self) -> int:
        return len(self.starts) * self.ensemble.n_chains

    @cached_property
    def estimates(self) -> dict[str, Estimate | None]:
        """All observables, as `measure` finds them."""
        thin = self.ensemble.thin
        return {
            name: estimate_derived(of, self.series, self.lattice, self.log_weights, thin)
            for name, of in DERIVED.items()
        }

    @cached_property
    def effective_size(self) -> float:
        """Independent configurations that M^2 is worth, or M where it moves more slowly."""
        magnetisation = self.series["magnetisation"]
        return min(self._effective_size(magnetisation**power) for power in (1, 2))

    @cached_property
    def doubt(self) -> str | None:
        """Why its weights are worth too little to be judged by, or None."""
        return doubt_of(self.log_weights)

    @cached_property
    def certificates(self) -> list[Certificate]:
        """What `check` says of it; nothing where the action is not known."""
        return certify(self.evidence) if self.ensemble.action is not None else []

    @cached_property
    def fields(self) -> Fields | None:
        """Some of its configurations; None where none were kept."""
        if not self.evidence.measured:
            return None
        total = self.weights.size
        n = max(16, min(_FIELDS, rows_in(_FIELD_BYTES, self.lattice.shape, np.float32)))
        rows = np.unique(np.linspace(0, total - 1, min(total, n)).astype(int))
        weights = self.log_weights
        return Fields(
            np.asarray(self.ensemble.cfgs[rows], np.float32),
            self.stretch[rows],
            None if weights is None else weights.T.ravel()[rows],
        )

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first sample, configurations) of blocks that are small enough to work with."""
        return pieces(self.ensemble)

    def _effective_size(self, series: Floats) -> float:
        found = estimate(series, log_weights=self.log_weights)
        if math.isnan(found.error):
            return found.worth
        variance = float(np.mean(self.weights * (series - found.value) ** 2))
        return variance / found.error**2 if found.error > 0 else float(series.size)


def gather_side(ensemble: Ensemble, label: str = "", *, weights: bool = True) -> Side:
    """Read an ensemble.

    Args:
        ensemble: from `open_ensemble` or `run`.
        label: how it is called; its directory by default.
        weights: use the ensemble's `log_weight` where it has one.

    Raises:
        ValueError: a configuration is not finite.
    """
    return Side(label or shown(ensemble.label), ensemble, gather(ensemble, weights=weights))
