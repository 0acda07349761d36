"""Distributions of M, phi and S/V, cumulants, and whole configurations."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lattice_ml.actions import as_action
from lattice_ml.comparison.means import Observable, z_score
from lattice_ml.comparison.references import Known
from lattice_ml.comparison.sides import Side
from lattice_ml.fields.types import Floats
from lattice_ml.statistics import Estimate, cumulants, distances
from lattice_ml.statistics.distributions import (
    Histogram,
    KolmogorovSmirnov,
    common_edges,
    jensen_shannon,
    kolmogorov_smirnov,
    kullback_leibler,
    wasserstein,
)
from lattice_ml.statistics.resampling import Resampled

__all__ = [
    *("QUANTITIES", "Distances", "Distribution"),
    *("compare_cumulants", "compare_distributions", "compare_fields"),
]

QUANTITIES = ("M", "phi", "S/V")

_DRAWN = 32  # cells of a figure


@dataclass(frozen=True)
class Distribution:
    """One quantity of reference and candidate.

    Attributes:
        ks: Kolmogorov-Smirnov.
        candidate: histogram of the candidate.
        reference: that of the reference; of one stretch where it is known exactly.
        kl: Kullback-Leibler divergence of the candidate from the reference, in nats.
        js: Jensen-Shannon divergence, in nats.
        wasserstein: W_1, in units of the quantity.
    """

    ks: KolmogorovSmirnov
    candidate: Histogram
    reference: Histogram
    kl: Resampled | None = None
    js: Resampled | None = None
    wasserstein: Resampled | None = None

    def densities(self) -> list[tuple[Floats, Floats, Floats]]:
        """(edges, density, error) of the reference and of the candidate."""
        both = [h.coarse(_DRAWN) for h in (self.reference, self.candidate)]
        return [(h.edges, *h.density()) for h in both]

    def cells(self) -> list[str | None]:
        """For a row of a table."""
        p_value = None if np.isnan(self.ks.p_value) else f"{self.ks.p_value:.2g}"
        found = (self.kl, self.js, self.wasserstein)
        shown = [None if x is None else f"{x.value:.2g} \u00b1 {x.error:.1g}" for x in found]
        return [f"{self.ks.value:.4f}", p_value, *shown]

    def as_table(self) -> dict[str, object]:
        """For a JSON file."""
        names = ("kolmogorov_smirnov", "kullback_leibler", "jensen_shannon", "wasserstein")
        return dict(zip(names, (self.ks, self.kl, self.js, self.wasserstein), strict=True))


class Distances(NamedTuple):
    """How far the configurations of two ensembles lie apart."""

    energy: distances.Distance
    mmd: distances.Distance


def compare_distributions(reference: Side | Known, candidate: Side) -> dict[str, Distribution]:
    """All distributions that both sides know, by the names in `QUANTITIES`."""
    if isinstance(reference, Known):
        if reference.magnetisation is None:
            return {}
        return {"M": _against_exact(reference.magnetisation, candidate)}
    found = {"M": _of_series(reference, candidate, "magnetisation", 1)}
    if all(side.fields is not None for side in (reference, candidate)):
        found["phi"] = _of_fields(reference, candidate)
    if all("action" in side.series for side in (reference, candidate)):
        volume = candidate.lattice.volume
        found["S/V"] = _of_series(reference, candidate, "action", volume)
    return found


def compare_cumulants(reference: Side | Known, candidate: Side) -> dict[str, Observable]:
    """kappa_2 ... kappa_8 of M; shown, but their errors are too uncertain to judge by."""
    of = [_cumulants(side) for side in (candidate, reference) if isinstance(side, Side)]
    found, known = of[0], of[1] if len(of) > 1 else {}
    return {
        f"kappa_{n}": Observable(known.get(n), one, z_score(known.get(n), one), float("nan"))
        for n, one in found.items()
    }


def _cumulants(side: Side) -> dict[int, Estimate]:
    symmetric = as_action(side.ensemble.action).z2
    return cumulants.cumulants(
        side.series["magnetisation"],
        (2, 4, 6, 8) if symmetric else tuple(range(2, 9)),
        symmetric=symmetric,
        log_weights=side.log_weights,
        thin=side.ensemble.thin,
    )


def _of_series(reference: Side, candidate: Side, name: str, unit: float) -> Distribution:
    edges = common_edges(*(side.series[name] / unit for side in (reference, candidate)))
    return _compared(*(_histogram(side, name, edges, unit) for side in (reference, candidate)))


def _histogram(side: Side, name: str, edges: Floats, unit: float = 1.0) -> Histogram:
    values, weights = (x.T.ravel() for x in (side.series[name], side.weights))
    return Histogram.of(values / unit, side.stretch, edges, weights, side.n_stretches)


def _of_fields(reference: Side, candidate: Side) -> Distribution:
    """phi of all sites, read in blocks; cells are those of the configurations that were kept."""
    kept = [side.fields.phi for side in (reference, candidate) if side.fields is not None]
    edges = common_edges(*kept)
    histograms = []
    for side in (reference, candidate):
        weights = side.weights.T.ravel()
        total = Histogram(edges, np.zeros((side.n_stretches, len(edges) - 1)))
        for start, block in side.blocks():
            here = slice(start, start + len(block))
            flat = block.reshape(len(block), -1)
            total += Histogram.of(flat, side.stretch[here], edges, weights[here], side.n_stretches)
        histograms.append(total)
    return _compared(*histograms)


def _compared(reference: Histogram, candidate: Histogram) -> Distribution:
    return Distribution(
        kolmogorov_smirnov(candidate, reference),
        candidate,
        reference,
        kullback_leibler(candidate, reference),
        jensen_shannon(candidate, reference),
        wasserstein(candidate, reference),
    )


def _against_exact(exact: tuple[Floats, Floats], candidate: Side) -> Distribution:
    edges = common_edges(candidate.series["magnetisation"])
    histogram = _histogram(candidate, "magnetisation", edges)
    known = Histogram(edges, np.diff(np.interp(edges, *exact))[None])
    found = kolmogorov_smirnov(histogram, lambda x: np.interp(x, *exact))
    return Distribution(found, histogram, known)


def compare_fields(reference: Side, candidate: Side) -> Distances | None:
    """Distances of whole configurations; None where they were not kept."""
    if reference.fields is None or candidate.fields is None:
        return None
    samples = [
        distances.Sample(f.phi.reshape(len(f.phi), -1), f.stretch, f.weights)
        for f in (candidate.fields, reference.fields)
    ]
    return Distances(
        distances.energy_distance(*samples), distances.maximum_mean_discrepancy(*samples)
    )
