"""`compare --out`: report.html, report.json and every figure as a file."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.comparison.means import Observable
from lattice_ml.comparison.references import Known, Value
from lattice_ml.comparison.shapes import QUANTITIES
from lattice_ml.comparison.sides import Side
from lattice_ml.comparison.verdict import Comparison, labelled
from lattice_ml.fields.types import Floats
from lattice_ml.report import comparison_figures as figures
from lattice_ml.report.page import Drawn, Mark, Table, in_figure, write_page
from lattice_ml.runtime.json import JsonTable, plain_table
from lattice_ml.runtime.printable import shape_label
from lattice_ml.runtime.results import check_json, check_page, has_keys, write_json
from lattice_ml.statistics import Estimate

__all__ = ["as_table", "check", "write"]

_Density = tuple[Floats, Floats, Floats]  # edges, density and its error
_PAGE, _TABLE = "report.html", "report.json"
_CAPTIONS = {  # of the figures
    "observables": (
        "Differences of observables in units of their errors; the bands are one and two sigma."
    ),
    "distributions": "Distributions; the reference is in ink.",
    "two_point": "Two-point function per momentum shell (high ones in groups), and its ratio.",
    "schwinger_dyson": (
        "Schwinger-Dyson equations of the candidates per momentum shell; exactly one."
    ),
    "classifier": (
        "A network trained to tell candidate from reference, on configurations that it has not "
        "seen: candidates recognised against references mistaken for them."
    ),
    "configurations": "Configurations on one scale.",
    "history": "History of the magnetisation: the first three chains of each ensemble.",
}
_SHAPE = has_keys("reference", "accepted", "candidates")


def check(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which `write` would replace something else; see `results`."""
    check_page(Path(folder) / _PAGE, "compare", _CAPTIONS)
    check_json(Path(folder) / _TABLE, _SHAPE, new_folder=True)


def write(comparisons: Sequence[Comparison], folder: str | os.PathLike[str]) -> Path:
    """Write `report.html`, `report.json` and the figures to `folder`; returns the page's path.

    Args:
        comparisons: of one reference with each candidate.
        folder: made if it does not exist.

    Raises:
        ImportError: matplotlib is not installed.
        StorageError: one of the files would replace something that is no such result.
    """
    folder = Path(folder)
    check(folder)
    comparisons = labelled(comparisons)
    found = {in_figure(c.candidate.label): c for c in comparisons}
    reference = comparisons[0].reference
    known = [reference] if isinstance(reference, Side) else []
    sides = [*known, *(c.candidate for c in comparisons)]
    means = {c.candidate.label: c.observables for c in comparisons}
    cumulants = {c.candidate.label: c.cumulants for c in comparisons}
    shapes = _beside("Cumulants of the magnetisation", "cumulant of M", cumulants)
    write_page(
        folder / _PAGE,
        verb="compare",
        title=f"Comparison with {reference.label}",
        summary=_summary(reference, comparisons),
        tables=[
            _verdicts(comparisons),
            _beside("Observables, z = difference / error", "observable", means),
            _distributions(comparisons),
        ],
        figures=_figures(found, sides),
        appendix=[
            *(_tests(c) for c in comparisons),
            *([shapes] if shapes.rows else []),
            _cost(sides),
            *(_provenance(side) for side in sides),
        ],
    )
    write_json(folder / _TABLE, as_table(comparisons), _SHAPE)
    return folder / _PAGE


def as_table(comparisons: Sequence[Comparison]) -> JsonTable:
    """All numbers of a comparison for other programs; what is not defined is null."""
    reference = comparisons[0].reference
    table = {
        "reference": {"label": reference.label, **_worth(reference)},
        "accepted": all(c.accepted for c in comparisons),
        "candidates": [_candidate(c) for c in comparisons],
    }
    return plain_table(table)


def _candidate(found: Comparison) -> JsonTable:
    return {
        "label": found.candidate.label,
        "accepted": found.accepted,
        "rejected_by": found.rejected_by,
        "doubts": found.doubts,
        **_worth(found.candidate),
        "observables": {
            name: {
                "reference": _estimate(row.reference),
                "candidate": _estimate(row.candidate),
                "z": row.z,
                "p_value": row.p_value,
            }
            for name, row in found.observables.items()
        },
        "two_point": found.two_point and vars(found.two_point),
        "schwinger_dyson": found.schwinger_dyson and vars(found.schwinger_dyson),
        "distributions": {name: d.as_table() for name, d in found.distributions.items()},
        "distances": found.distances,
        "classifier": found.told_apart and found.told_apart.area,
        "tests": [
            {"name": t.name, "verdict": t.verdict, "value": t.value, "p_value": t.p_value}
            for t in found.tests
        ],
        "warnings": found.warnings,
    }


def _worth(side: Side | Known) -> JsonTable:
    """What an ensemble is worth and what it cost."""
    if isinstance(side, Known):
        return {"source": side.source}
    n_eff, seconds = side.effective_size, side.ensemble.seconds
    m2, acceptance = side.estimates["m2"], side.series.get("acceptance")
    return {
        "n_configs": int(side.weights.size),
        "n_effective": n_eff,
        "tau_int_m2": m2.tau_int if m2 else math.nan,
        "acceptance": float(np.mean(acceptance)) if acceptance is not None else None,
        "seconds": seconds,
        "n_effective_per_second": n_eff / seconds if seconds else None,
    }


def _estimate(found: Estimate | Value | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "error": found.error}


def _summary(
    reference: Side | Known, comparisons: Sequence[Comparison]
) -> list[tuple[str, object]]:
    side = comparisons[0].candidate
    section = side.ensemble.config.get("action")
    action = conventions.describe(section, side.lattice.ndim) if section else []
    known = [("source", reference.source)] if isinstance(reference, Known) else []
    return [
        ("verdict", _mark(*comparisons)),
        ("reference", reference.label),
        *known,
        ("lattice", shape_label(side.lattice.shape)),
        *zip(("action", "couplings"), action, strict=False),
    ]


def _mark(*comparisons: Comparison) -> Mark:
    if any(c.rejected_by for c in comparisons):
        return Mark("\u2717 rejected", False)
    if any(c.doubts for c in comparisons):
        return Mark("? undecided", False)
    return Mark("\u2713 accepted", True)


def _verdicts(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for found in comparisons:
        said = "; ".join([", ".join(found.rejected_by) or "no difference found", *found.warnings])
        worth = _worth(found.candidate)
        rows.append((found.candidate.label, _mark(found), said, f"{worth['n_effective']:.0f}"))
    return Table("Verdict", ("candidate", "verdict", "rejected by", "n_eff"), rows)


def _beside(caption: str, what: str, by_label: Mapping[str, Mapping[str, Observable]]) -> Table:
    """A row per name: the reference, and every candidate with its z."""
    header = [what, "reference", *itertools.chain(*([label, "z"] for label in by_label))]
    rows = []
    for name, first in next(iter(by_label.values())).items():
        row: list[object] = [name, first.reference]
        for table in by_label.values():
            _, candidate, z, _ = table[name]
            row += [candidate, "" if math.isnan(z) else f"{z:+.2f}"]
        rows.append(row)
    return Table(caption, header, rows)


def _distributions(comparisons: Sequence[Comparison]) -> Table:
    header = ("quantity", "candidate", "K-S D", "p", "KL", "Jensen-Shannon", "Wasserstein")
    rows = [
        (name, c.candidate.label, *c.distributions[name].cells())
        for name in QUANTITIES
        for c in comparisons
        if name in c.distributions
    ]
    return Table("Distributions (divergences in nats)", header, rows)


def _tests(found: Comparison) -> Table:
    verdicts = {"pass": Mark("pass", True), "fail": Mark("fail", False), "not applicable": "-"}
    rows = []
    for name, verdict, value, p, meaning in map(dataclasses.astuple, found.tests):
        judged = verdicts.get(verdict, verdict)
        rows.append((name, judged, value, None if math.isnan(p) else f"{p:.2g}", meaning))
    header = ("test", "verdict", "found", "p", "meaning")
    return Table(f"Tests of {found.candidate.label}", header, rows)


def _cost(sides: Sequence[Side]) -> Table:
    header = ("configurations", "n_eff", "tau_int of m2", "acceptance", "seconds", "n_eff/s")
    formats = ("d", ".0f", ".2f", ".4g", ".4g", ".4g")  # of what `_worth` gives
    rows = []
    for side in sides:
        worth = zip(_worth(side).values(), formats, strict=True)
        rows.append((side.label, *(None if x is None else format(x, how) for x, how in worth)))
    caption = "What they cost (wall time with warm-up and compilation, without training)"
    return Table(caption, ("ensemble", *header), rows)


def _provenance(side: Side) -> Table:
    ensemble, config = side.ensemble, side.ensemble.config
    rows = [
        (section, ", ".join(f"{k} = {v}" for k, v in config[section].items() if v is not None))
        for section in ("action", "sampler", "sampling", "chain", "output")
        if isinstance(config.get(section), Mapping)
    ]
    rows += [("seed", str(config["seed"]))] if "seed" in config else []
    rows += [("tuned", ", ".join(f"{k} = {v}" for k, v in ensemble.tuned.items()))]
    for entry in ensemble.provenance:
        made = ", ".join(f"{k} = {v}" for k, v in entry["made_by"].items() if v is not None)
        rows.append((f"made from {entry['first_config']}", made))
    if ensemble.parent:
        rows.append(("parent", ensemble.parent))
    return Table(f"Provenance of {side.label}", ("what", "value"), rows)


def _figures(found: Mapping[str, Comparison], sides: Sequence[Side]) -> list[Drawn]:
    pulls = {label: c.observables for label, c in found.items()}
    shapes = {name: _densities(name, found.values()) for name in QUANTITIES}
    densities = {name: curves for name, curves in shapes.items() if curves}
    shells = {label: c.two_point for label, c in found.items() if c.two_point is not None}
    terms = {
        label: c.schwinger_dyson
        for label, c in found.items()
        if c.schwinger_dyson is not None and len(c.schwinger_dyson.candidate) > 1
    }
    rates = {
        label: (c.told_apart.curve, c.told_apart.area.value)
        for label, c in found.items()
        if c.told_apart is not None and c.told_apart.curve is not None
    }
    kept = {in_figure(side.label): side.fields.phi for side in sides if side.fields is not None}
    series = {in_figure(side.label): side.series["magnetisation"] for side in sides}
    drawn = {
        "observables": figures.pulls(pulls),
        "distributions": figures.densities(densities) if densities else None,
        "two_point": figures.two_point(shells) if shells else None,
        "schwinger_dyson": figures.unity(terms) if terms else None,
        "classifier": figures.rates(rates) if rates else None,
        "configurations": figures.fields(kept) if kept else None,
        "history": figures.histories(series),
    }
    return [(name, f, _CAPTIONS[name]) for name, f in drawn.items() if f is not None]


def _densities(name: str, comparisons: Iterable[Comparison]) -> dict[str, _Density]:
    shown: dict[str, _Density] = {}
    for found in comparisons:
        if name in found.distributions:
            curves = found.distributions[name].densities()
            shown.setdefault(in_figure(found.reference.label), curves[0])
            shown[in_figure(found.candidate.label)] = curves[1]
    return shown
