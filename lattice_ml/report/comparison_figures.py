"""Figures of a comparison: reference and candidates in one picture each.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; the reference is ink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lattice_ml.comparison.means import Observable, Shells
from lattice_ml.fields.types import Floats
from lattice_ml.report.figures import BLUE, ORANGE, WIDTH, empty, points
from lattice_ml.report.page import INK, style
from lattice_ml.statistics.roc import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "densities", "fields", "histories", "pulls", "rates", "two_point", "unity"]

COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#8c6d1f", "#6a51a3")


def colour(number: int) -> str:
    """Colour of a candidate."""
    return COLOURS[number % len(COLOURS)]


@style()
def pulls(observables: Mapping[str, Mapping[str, Observable]]) -> Figure:
    """Draw (candidate - reference) / error of every observable, by candidate and name.

    What lies beyond 10 is drawn as an arrow at the edge, with its number.
    """
    names = [
        name
        for name in next(iter(observables.values()))
        if not all(math.isnan(found[name].z) for found in observables.values())
    ]
    every = [abs(found[name].z) for found in observables.values() for name in names]
    largest = max(filter(math.isfinite, every), default=0.0)
    figure = empty(1.2 + 0.24 * len(names))
    axis = figure.subplots()
    edge = max(5.0, min(10.0, 1.1 * largest))
    for width in (1, 2):
        axis.axvspan(-width, width, color=INK, alpha=0.07, linewidth=0)
    axis.axvline(0, color=INK, linewidth=0.6)
    rows = np.arange(len(names))[::-1]
    for number, (label, found) in enumerate(observables.items()):
        offset = 0.16 * (number - (len(observables) - 1) / 2)
        z = np.array([found[name].z for name in names])
        inside = np.abs(z) <= edge
        axis.plot(z[inside], rows[inside] - offset, "o", color=colour(number), label=label)
        for row, value in zip(rows[~inside], z[~inside], strict=True):
            if math.isnan(value):
                continue
            side = math.copysign(edge, value)
            axis.plot(side, row - offset, ">" if value > 0 else "<", color=colour(number))
            text, ha = (f"{value:.0f} ", "right") if value > 0 else (f" {value:.0f}", "left")
            axis.text(0.98 * side, row - offset, text, ha=ha, va="center", fontsize=8)
    axis.set(yticks=rows, yticklabels=names, xlim=(-1.03 * edge, 1.03 * edge))
    axis.set(xlabel="(candidate $-$ reference) / error", title="Observables")
    axis.tick_params(left=False)
    _legend(axis, len(observables))
    return figure


@style()
def densities(drawn: Mapping[str, Mapping[str, tuple[Floats, Floats, Floats]]]) -> Figure:
    """Draw probability densities: by quantity and label, (edges, density, error of density).

    The reference comes first under every quantity and is drawn in ink.
    """
    figure = empty(2.9)
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, (quantity, curves) in zip(axes, drawn.items(), strict=True):
        for number, (label, (edges, density, error)) in enumerate(curves.items()):
            ink = INK if number == 0 else colour(number - 1)
            axis.stairs(
                density, edges, color=ink, linewidth=1.6 if number == 0 else 1.0, label=label
            )
            centres = (edges[:-1] + edges[1:]) / 2
            axis.errorbar(centres, density, error, fmt="none", color=ink, linewidth=0.6, alpha=0.7)
        axis.set(xlabel=quantity, ylim=(0, None))
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("probability density")
    axes[0].set_title("Distributions")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, fontsize=8.5)
    return figure


@style()
def two_point(shells: Mapping[str, Shells]) -> Figure:
    """Draw G(p) and the ratio of each candidate's to the reference's."""
    figure = empty(4.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.2, 1])
    first = next(iter(shells.values()))
    top.plot(first.p_hat_squared, first.reference, "_", color=INK, markersize=11, label="reference")
    bottom.axhline(1, color=INK, linewidth=0.6)
    for number, (label, found) in enumerate(shells.items()):
        x = found.p_hat_squared + 0.03 * (number - (len(shells) - 1) / 2)
        ink = colour(number)
        points(top, x, found.candidate, found.errors, colour=ink, label=label)
        ratio, error = found.candidate / found.reference, found.errors / found.reference
        points(bottom, x, ratio, error, colour=ink)
    top.set(yscale="log", ylabel="$G(p)$", title="Two-point function")
    bottom.set(xlabel=r"$\hat p^2$", ylabel="$G / G_{\\mathrm{reference}}$")
    _legend(top, 1 + len(shells))
    return figure


@style()
def unity(shells: Mapping[str, Shells]) -> Figure:
    """Draw the Schwinger-Dyson terms per shell, which are one."""
    figure = empty(2.6)
    axis = figure.subplots()
    axis.axhline(1, color=INK, linewidth=0.6)
    for number, (label, found) in enumerate(shells.items()):
        x = found.p_hat_squared + 0.03 * (number - (len(shells) - 1) / 2)
        y, error = found.candidate[:-1], found.errors[:-1]
        points(axis, x[:-1], y, error, colour=colour(number), label=label)
    axis.set(xlabel=r"$\hat p^2$", title="Schwinger-Dyson equations")
    axis.set_ylabel(r"$\langle \phi(p)^* \, \partial S/\partial\phi(p) \rangle / V$")
    _legend(axis, len(shells))
    return figure


@style()
def rates(curves: Mapping[str, tuple[Curve, float]]) -> Figure:
    """Draw receiver operating characteristics with the areas under them, by candidate."""
    figure = empty(0.5 * WIDTH, 0.62 * WIDTH)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.6)
    for number, (label, (curve, area)) in enumerate(curves.items()):
        text = f"{label}, area {area:.3f}"
        x, y = curve.false_positive, curve.true_positive
        axis.plot(x, y, color=colour(number), linewidth=1.2, label=text)
    axis.set(xlabel="reference taken for candidate", ylabel="candidate recognised")
    axis.set(xlim=(0, 1), ylim=(0, 1), title="Classifier")
    axis.legend(fontsize=8.5, loc="lower right")
    return figure


@style()
def fields(shown: Mapping[str, Floats], n_each: int = 5) -> Figure:
    """Draw some configurations of each ensemble in a row, on one scale: by label, `(n, *L)`."""
    rows = {
        label: _planes(phi[np.linspace(0, len(phi) - 1, min(n_each, len(phi))).astype(int)])
        for label, phi in shown.items()
    }
    height, width = next(iter(rows.values())).shape[1:]
    panel = 5.9 / n_each
    tall = max(0.3, min(1.0, height / width)) * panel
    figure = empty(0.5 + len(rows) * (tall + 0.28))
    figure.set_layout_engine("compressed")
    axes = figure.subplots(len(rows), n_each, squeeze=False)
    scale = max(float(np.abs(planes).max()) for planes in rows.values()) or 1.0
    for line, (label, planes) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for axis, plane in zip(line, planes, strict=False):
            if height == 1:
                axis.plot(plane[0], color=BLUE, linewidth=0.8)
                axis.set_ylim(-scale, scale)
            else:
                image = axis.imshow(plane, vmin=-scale, vmax=scale, interpolation="none")
        line[0].set_title(label, fontsize=9.5)
    if height > 1:
        figure.colorbar(image, ax=figure.axes, label=r"$\phi$", fraction=0.05, aspect=25)
    return figure


@style()
def histories(shown: Mapping[str, Floats]) -> Figure:
    """Draw M of the first three chains of each ensemble: by label, `(n_chains, n_configs)`."""
    figure = empty(0.6 + 0.95 * len(shown))
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    low = min(float(series.min()) for series in shown.values())
    high = max(float(series.max()) for series in shown.values())
    for number, (axis, (label, series)) in enumerate(zip(axes, shown.items(), strict=True)):
        for chain, alpha in zip(series[:3], (1.0, 0.6, 0.35), strict=False):
            ink = INK if number == 0 else colour(number - 1)
            dense = len(chain) > 1000
            axis.plot(chain, color=ink, alpha=alpha, linewidth=0.6, rasterized=dense)
        axis.set(ylim=(low, high), ylabel="$M$")
        axis.set_title(label, fontsize=9.5)
    axes[-1].set_xlabel("stored configuration")
    return figure


def _planes(phi: Floats) -> Floats:
    """Fields as images `(n, height, width)`, the longer side lying; lines have height 1."""
    if phi.ndim == 2:
        return phi[:, None]
    planes: Floats = phi.reshape(len(phi), -1, *phi.shape[-2:])[:, 0]
    return planes.swapaxes(1, 2) if planes.shape[1] > planes.shape[2] else planes


def _legend(axis: Axes, entries: int) -> None:
    if entries > 1:
        axis.legend(fontsize=8.5, loc="best")
