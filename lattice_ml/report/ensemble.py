"""`measure --out`: plots and one page of an ensemble and its measured numbers."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lattice_ml import statistics
from lattice_ml.actions import conventions
from lattice_ml.analysis.measurement import describe_weights, explain, stored_series
from lattice_ml.analysis.two_point import two_point
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.report import figures
from lattice_ml.report import page as report
from lattice_ml.runtime.printable import shape_label
from lattice_ml.runtime.results import check_page
from lattice_ml.statistics import Estimate

__all__ = ["check", "write"]

_PAGE = "index.html"
_FIGURES = ("history", "histogram", "autocorrelation", "two_point", "configurations")


def check(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which `write` would replace something else; see `results`."""
    check_page(Path(folder) / _PAGE, "measure", _FIGURES)


def write(
    ensemble: Ensemble,
    estimates: Mapping[str, Estimate | None],
    folder: str | os.PathLike[str],
    *,
    weights: bool = True,
) -> Path:
    """Write `index.html` and PNG files to `folder`; returns the page's path.

    Args:
        ensemble: from `open_ensemble`; without stored configurations the figures that need them
            are left out.
        estimates: from `measure`.
        folder: made if it does not exist.
        weights: use the ensemble's `log_weight` where it has one, as for the estimates.
    """
    check(folder)
    series = stored_series(ensemble)
    magnetisation = series["magnetisation"]
    log_weights = ensemble.log_weight if weights else None
    caption = "Monte Carlo history of the magnetisation; the lowest panel is the running mean"
    caption += ", before weighting." if log_weights is not None else "."
    drawn = [("history", figures.history(magnetisation, name="$M$"), caption)]
    figure = figures.histogram(magnetisation, name="$M$", log_weights=log_weights)
    caption = "Distribution of the magnetisation, with errors from the spread between chains."
    drawn.append(("histogram", figure, caption))
    if (tau := estimates["m2"]) is not None and tau.error > 0:
        rho = statistics.autocorrelation(magnetisation**2, log_weights=log_weights)
        found = rho.rho, rho.error, tau.window, tau.tau_int, tau.tau_int_error
        figure = figures.autocorrelation(*found, name="$M^2$", thin=ensemble.thin)
        caption = "Autocorrelation of M^2 and its running integral; the line marks the window."
        drawn.append(("autocorrelation", figure, caption))
    if ensemble.has_cfgs:
        shells = two_point(ensemble, weights=weights).shells()
        caption = "Two-point function per momentum shell; 1/G is a straight line for a free field."
        drawn.append(("two_point", figures.propagator(*shells), caption))
        shown = np.linspace(0, len(ensemble.cfgs) - 1, 8).astype(int)
        figure = figures.configurations(np.asarray(ensemble.cfgs[np.unique(shown)]))
        drawn.append(("configurations", figure, "Configurations along the run."))
    rows = [
        (name, str(e), f"{e.tau_int:.2f} +- {e.tau_int_error:.2f}", " ".join(e.marks))
        if e
        else (name, "-", "-", "")
        for name, e in estimates.items()
    ]
    worth = describe_weights(estimates)
    marks = list(explain(estimates).items())
    header = ("observable", "value", "tau_int", "mark")
    page = Path(folder) / _PAGE
    report.write_page(
        page,
        verb="measure",
        title=f"Ensemble {Path(ensemble.label).resolve().name}",
        summary=[*_summary(ensemble), *([("with weights", worth)] if worth else [])],
        tables=[
            report.Table("Observables", header, rows),
            *([report.Table("Marks", ("mark", "meaning"), marks)] if marks else []),
        ],
        figures=drawn,
    )
    return page


def _summary(ensemble: Ensemble) -> list[tuple[str, str]]:
    action = conventions.describe(ensemble.config["action"], len(ensemble.shape))
    return [
        ("lattice", shape_label(ensemble.shape)),
        *zip(("action", "couplings"), action, strict=False),
        ("chains", f"{ensemble.n_chains} x {ensemble.n_configs} configurations"),
        ("sampler", str(ensemble.config.get("sampler", {}).get("kind", "imported"))),
    ]
