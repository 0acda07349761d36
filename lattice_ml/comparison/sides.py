"""What is compared of an ensemble, read once in blocks.

Of every configuration only numbers are kept; of the field itself a histogram and profiles per
stretch of the chains, and some 1,000 configurations to look at and to compare as such.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.analysis.evidence import Evidence, gather, pieces
from lattice_ml.analysis.judging import stretch_starts
from lattice_ml.comparison.references import label_of
from lattice_ml.lattice import Lattice
from lattice_ml.statistics.series import as_weights

__all__ = ["Fields", "Side", "gather_side"]

_FIELDS = 1024  # configurations that are compared as such

Array = npt.NDArray[Any]


class Fields(NamedTuple):
    """Some configurations, evenly spaced over the ensemble."""

    phi: Array  # (n, *L) float32
    stretch: Array  # (n,) number of the stretch of the chains that each is of
    log_weights: Array | None  # (n,)


@dataclass(frozen=True)
class Side:
    """One ensemble of a comparison.

    Attributes:
        label: how it is called.
        ensemble: from `open_ensemble` or `run`.
        evidence: its series.
        fields: some of its configurations; None where none were kept.
    """

    label: str
    ensemble: Any
    evidence: Evidence
    fields: Fields | None

    @property
    def lattice(self) -> Lattice:
        return Lattice(self.ensemble.shape)

    @property
    def log_weights(self) -> Array | None:
        return self.evidence.log_weights

    @cached_property
    def series(self) -> Mapping[str, Array]:
        """Primaries and histories by name, `(n_chains, n_configs)`."""
        return {**self.evidence.stored, **self.evidence.measured}

    @cached_property
    def weights(self) -> Array:
        """`(n_chains, n_configs)`, of mean one."""
        return as_weights(self.log_weights, self.series["magnetisation"].shape)

    @cached_property
    def starts(self) -> Array:
        """Where stretches begin within the chains that are independent of each other."""
        return _starts(self.evidence)

    @cached_property
    def stretch(self) -> Array:
        """The stretch of every sample, configuration-major: `(n_configs * n_chains,)`."""
        return _stretch_numbers(self.series["magnetisation"].shape, self.starts)

    @property
    def n_stretches(self) -> int:
        return len(self.starts) * self.ensemble.n_chains

    def blocks(self) -> Any:
        """(first sample, configurations) of blocks that are small enough to work with."""
        start = 0
        for fields in pieces(self.ensemble):
            yield start, fields
            start += len(fields)


def gather_side(ensemble: Any, label: str = "", *, weights: bool = True) -> Side:
    """Read an ensemble.

    Args:
        ensemble: from `open_ensemble` or `run`.
        label: how it is called; the name of its directory by default.
        weights: use the ensemble's `log_weight` where it has one.

    Raises:
        ValueError: a configuration is not finite.
    """
    evidence = gather(ensemble, weights=weights)
    return Side(label or label_of(ensemble), ensemble, evidence, _fields(ensemble, evidence))


def _starts(evidence: Evidence) -> Array:
    """Stretches that suit the slowest of the quantities that are looked at, and M itself."""
    magnetisation = evidence.primary("magnetisation")
    several = [magnetisation, magnetisation**2, evidence.primary("phi2")]
    starts = [stretch_starts(evidence.weights * series) for series in several]
    return min(starts, key=len)


def _stretch_numbers(shape: tuple[int, ...], starts: Array) -> Array:
    n_chains, n_configs = shape
    within = np.searchsorted(starts, np.arange(n_configs), side="right") - 1
    numbers: Array = within[:, None] + len(starts) * np.arange(n_chains)
    return numbers.ravel()


def _fields(ensemble: Any, evidence: Evidence) -> Fields | None:
    if not evidence.measured:
        return None
    shape = evidence.measured["magnetisation"].shape
    total = shape[0] * shape[1]
    rows = np.unique(np.linspace(0, total - 1, min(total, _FIELDS)).astype(int))
    weights = evidence.log_weights
    return Fields(
        np.asarray(ensemble.cfgs[rows], np.float32),
        _stretch_numbers(shape, _starts(evidence))[rows],
        None if weights is None else weights.T.ravel()[rows],
    )
