"""Figure and page of an extrapolation to step size zero, drawn from what its JSON file holds.

Every panel shows an observable against the power of the step size in which its bias is a straight
line: measured points and the line with its band in blue, the value at zero in orange.  Where a
third step size allows it, the dotted curve has the next power in it too, and ends in an open
symbol; where the two disagree the panel says so.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.analysis.dynamics.extrapolation_fit import printed
from lattice_ml.report import page
from lattice_ml.report.figures import BLUE, ORANGE, empty
from lattice_ml.report.page import INK, style
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.printable import shape_label
from lattice_ml.runtime.results import check_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check", "header", "panels", "rows", "warnings_of", "write"]

_SYMBOLS = {  # what is drawn, in this order
    "phi2": r"$\langle\phi^2\rangle$",
    "phi4": r"$\langle\phi^4\rangle$",
    "action_density": r"$\langle S\rangle/V$",
    "m2": r"$\langle M^2\rangle$",
    "susceptibility": r"$\chi$ (connected)",
    "binder": "$U$ (Binder)",
    "abs_magnetisation": r"$\langle|M|\rangle$",
    "correlation_length": r"$\xi$ (2nd moment)",
    "schwinger_dyson": r"$\langle\phi\,\partial S/\partial\phi\rangle$",
}
_COLUMNS = 3
_PAGE, _FIGURE = "index.html", "extrapolation"


def header(order: int) -> list[str]:
    """The columns of the table, for a fit in that power of the step size."""
    return ["observable", "at zero", "slope", "chi2/dof", "p", f"with eps^{order + 1}", "doubt"]


def rows(found: Section) -> list[list[str]]:
    """The table as words, a row per observable; a dash where there is nothing to say."""
    table = []
    for name, entry in found["observables"].items():
        if entry is None:
            table.append([name, *["-"] * 5, ""])
            continue
        curved, p = entry["curved"], entry["p_value"]
        table.append(
            [
                name,
                printed(entry["value"], entry["error"]),
                printed(entry["slope"], entry["slope_error"]),
                f"{entry['chi2']:.2f}/{entry['dof']}",
                "-" if p is None else f"{p:.2g}",
                "-" if curved is None else printed(curved["value"], curved["error"]),
                ", ".join(entry["warnings"]),
            ]
        )
    return table


@style()
def panels(found: Section) -> Figure:
    """Draw the main observables against step_size^order, one panel each.

    Args:
        found: from `extrapolation.as_table`, with at least one of the main observables.
    """
    shown = {name: found["observables"].get(name) for name in _SYMBOLS}
    drawn = {name: entry for name, entry in shown.items() if entry is not None}
    n_rows = math.ceil(len(drawn) / _COLUMNS)
    figure = empty(0.8 + 2.1 * n_rows)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.05)
    axes = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, entry) in zip(axes, drawn.items(), strict=False):
        _panel(axis, entry, found["order"])
        if name == "schwinger_dyson":
            exact = found["sampler"].get("temperature", 1.0)
            axis.axhline(exact, color=INK, linewidth=0.8, linestyle="--", zorder=1)
        axis.set_title(_SYMBOLS[name])
        if entry["warnings"]:
            words = ", ".join(entry["warnings"])
            axis.set_title(words, loc="right", color=ORANGE, fontsize=9)
    for axis in axes[: len(drawn)][-_COLUMNS:]:
        axis.set_xlabel(_power_name(found["order"]))
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def check(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder in which `write` would replace something else; see `results`."""
    check_page(Path(folder) / _PAGE, "extrapolate", [_FIGURE])


def write(found: Section, folder: str | os.PathLike[str]) -> Path:
    """Write `index.html` and the PNG file of an extrapolation; returns the page's path."""
    path = Path(folder) / _PAGE
    check(folder)
    tables = [page.Table("Observables at step size zero", header(found["order"]), rows(found))]
    if warnings := warnings_of(found):
        tables.append(page.Table("Warnings", ("doubt", "of", "because"), warnings))
    caption = (
        "Observables against the step size; the line and its band are the fit, the diamond its "
        "value at zero. The dotted curve and the open symbol have the next power added."
    )
    page.write_page(
        path,
        verb="extrapolate",
        title="Extrapolation to step size zero",
        summary=_summary(found),
        tables=tables,
        figures=[(_FIGURE, panels(found), caption)],
    )
    return path


def warnings_of(found: Section) -> list[list[str]]:
    """Mark, observables and sentence, those of all observables first."""
    fitted = {name: entry for name, entry in found["observables"].items() if entry is not None}
    own: dict[tuple[str, str], list[str]] = {}
    for name, entry in fitted.items():
        for said in entry["warnings"].items():
            own.setdefault(said, []).append(name)
    return [
        *([mark, "all", sentence] for mark, sentence in found["warnings"].items()),
        *(
            [mark, "all" if len(names) == len(fitted) else ", ".join(names), sentence]
            for (mark, sentence), names in own.items()
        ),
    ]


def _panel(axis: Axes, entry: Section, order: int) -> None:
    """One observable: points, line and band, and what they say of zero."""
    keys = ("step_size", "value", "error")
    steps, y, error = (np.array([point[key] for point in entry["points"]]) for key in keys)
    end = 1.06 * float(steps.max()) ** order
    at = np.linspace(0, end, 101)
    line = entry["value"] + entry["slope"] * at
    variance = entry["error"] ** 2 + 2 * entry["covariance"] * at + (entry["slope_error"] * at) ** 2
    band = np.sqrt(np.maximum(variance, 0))
    axis.axvline(0, color=INK, linewidth=0.4, zorder=0)
    axis.fill_between(at, line - band, line + band, color=BLUE, alpha=0.18, linewidth=0)
    axis.errorbar(
        steps**order, y, error, fmt="o", color=BLUE, elinewidth=0.9, zorder=3, label="measured"
    )
    axis.plot(at, line, color=BLUE, linewidth=1.0, label="fit")
    _at_zero(axis, 0, entry["value"], entry["error"], ORANGE, "at zero")
    if (curved := entry["curved"]) is not None:
        power = at ** ((order + 1) / order)
        bent = curved["value"] + curved["slope"] * at + curved["curvature"] * power
        axis.plot(at, bent, color=ORANGE, linewidth=0.9, linestyle=":", zorder=2)
        words = f"with {_power_name(order + 1)}"
        _at_zero(axis, -0.035 * end, curved["value"], curved["error"], "none", words)
    axis.set_xlim(-0.08 * end, end)
    axis.locator_params(axis="x", nbins=4)
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(useOffset=False, style="plain", axis="y")


def _at_zero(axis: Axes, x: float, y: float, error: float, face: str, label: str) -> None:
    axis.errorbar(
        x,
        y,
        error,
        fmt="D",
        color=ORANGE,
        markerfacecolor=face,
        elinewidth=0.9,
        zorder=4,
        label=label,
    )


def _power_name(order: int) -> str:
    return r"$\varepsilon$" if order == 1 else rf"$\varepsilon^{order}$"


def _summary(found: Section) -> list[tuple[str, object]]:
    sampler = {key: value for key, value in found["sampler"].items() if value is not None}
    words = ", ".join(f"{key} = {value}" for key, value in sampler.items() if key != "kind")
    power = "eps" if found["order"] == 1 else f"eps^{found['order']}"
    return [
        ("lattice", shape_label(found["shape"])),
        ("action", conventions.describe(found["action"], len(found["shape"]))[0]),
        ("sampler", f"{sampler['kind']}: {words}"),
        ("step sizes", ", ".join(f"{step:g}" for step in found["step_sizes"])),
        ("fit", f"O(eps) = O(0) + slope {power}"),
    ]
