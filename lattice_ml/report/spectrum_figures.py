"""The figures of a spectrum.

They take plain arrays and return a `matplotlib.figure.Figure`; their look is that of `figures.py`:
what was found is blue, what it should be orange, the regulator dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.report.figures import BLUE, ORANGE, empty, points
from lattice_ml.report.page import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["along_training", "kernel", "noise_levels", "ranks", "singular_values"]

_P_HAT = r"$\hat p^2$"
_LINES = 64  # eigenvalues that are followed along the training


@style()
def kernel(
    p_hat_squared: ArrayLike,
    value: ArrayLike,
    error: ArrayLike,
    target: ArrayLike,
    *,
    name: str,
    target_name: str,
    bare: ArrayLike | None = None,
    ceiling: float | None = None,
    difference: bool = False,
) -> Figure:
    """Draw a kernel against p_hat^2 over what it should be, and below their ratio.

    Args:
        p_hat_squared: of every shell, increasing, `(n_shells,)`.
        value, error: of the kernel; errors that are not known are NaN.
        target: what it should be.
        name: of the kernel, for instance `"$1/G(p)$"`.
        target_name: of the target, for the legend.
        bare: a reference line, the bare quadratic form.
        ceiling: the regulator mu^2.
        difference: draw value - target below, where the target may vanish.
    """
    x, y, dy, exact = (np.asarray(a, np.float64) for a in (p_hat_squared, value, error, target))
    figure = empty(4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    if bare is not None:
        top.plot(x, bare, color=INK, linewidth=0.8, linestyle=":", label="bare quadratic form")
    if ceiling is not None:
        _regulator(top, ceiling)
    top.plot(x, exact, color=ORANGE, label=target_name, zorder=1)
    points(top, x, y, dy)
    top.set(ylabel=name, title=f"{name} against {target_name}")
    top.legend(loc="best")
    scale = np.ones_like(exact) if difference else exact
    shown = y - exact if difference else y / exact
    bottom.axhline(0 if difference else 1, color=ORANGE, zorder=1)
    points(bottom, x, shown, dy / np.abs(scale))
    if len(x) > 3 and x[0] == 0:
        _zoom(bottom, shown)
    bottom.set(xlabel=_P_HAT, ylabel="difference" if difference else "ratio")
    bottom.ticklabel_format(useOffset=False)
    return figure


@style()
def noise_levels(
    p_hat_squared: ArrayLike, levels: Sequence[float], values: ArrayLike, target: ArrayLike
) -> Figure:
    """Draw kernels read at several levels of noise, which was undone, over their target.

    Args:
        p_hat_squared: `(n_shells,)`.
        levels: t/C_min, `(n,)`.
        values: `(n, n_shells)`.
        target: `(n_shells,)`.
    """
    figure = empty(3.2)
    axis = figure.subplots()
    axis.axhline(1, color=ORANGE, zorder=1)
    ratios = np.asarray(values) / np.asarray(target)
    for level, ratio, depth in zip(levels, ratios, np.linspace(1, 0.25, len(levels)), strict=True):
        label = rf"$t = {level:g}\,C_{{\min}}$"
        axis.plot(np.asarray(p_hat_squared), ratio, "o-", color=(BLUE, depth), label=label)
    axis.set(xlabel=_P_HAT, ylabel="ratio", title=r"$\langle J\rangle$ at several levels of noise")
    axis.legend(loc="best", ncols=2)
    return figure


@style()
def along_training(
    steps: ArrayLike, eigenvalues: ArrayLike, target: ArrayLike, *, ceiling: float | None = None
) -> Figure:
    """Draw eigenvalues along the training, and where they belong at the right.

    Args:
        steps: `(n,)`, from 0.
        eigenvalues: `(n, N_v)` in increasing order; at most 64 of them are shown.
        target: `(N_v,)`, NaN where not known.
        ceiling: the regulator mu^2.
    """
    x, lines = np.asarray(steps, np.float64), np.asarray(eigenvalues, np.float64)
    shown = np.unique(np.linspace(0, lines.shape[1] - 1, _LINES).astype(int))
    figure = empty(3.8)
    axis = figure.subplots()
    if ceiling is not None:
        _regulator(axis, ceiling)
    axis.plot(x, lines[:, shown], color=BLUE, linewidth=0.6)
    ends = np.asarray(target, np.float64)[shown]
    first = max(1.0, float(x[x > 0].min())) if (x > 0).any() else 1.0
    axis.set_xscale("symlog", linthresh=first, linscale=0.4)
    right = 1.15 * max(float(x.max()), 1.0)
    axis.plot(np.full(len(ends), right), ends, "_", color=ORANGE, markersize=9, label="target")
    if lines.min() > 0 and lines.max() > 30 * lines.min():
        axis.set_yscale("log")
    axis.set(xlabel="step", ylabel="eigenvalue of $K$", title="The spectrum along the training")
    axis.set_xlim(0, 1.25 * right)
    axis.legend(loc="best")
    return figure


@style()
def ranks(
    eigenvalues: ArrayLike, errors: ArrayLike, target: ArrayLike, *, ceiling: float | None = None
) -> Figure:
    """Draw eigenvalues in increasing order over what they should be, and their histogram.

    Args:
        eigenvalues, errors: `(n,)`.
        target: `(n,)`, NaN where not known.
        ceiling: the regulator mu^2.
    """
    y, dy, exact = (np.asarray(a, np.float64) for a in (eigenvalues, errors, target))
    figure = empty(3.6)
    axis, side = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    if ceiling is not None:
        _regulator(axis, ceiling)
        side.axhline(ceiling, color=INK, linewidth=0.8, linestyle="--")
    rank = np.arange(1, len(y) + 1)
    axis.plot(rank, exact, color=ORANGE, drawstyle="steps-mid", label="target", zorder=1)
    points(axis, rank, y, dy)
    logarithmic = bool(y.min() > 0 and y.max() > 30 * y.min())
    bins = min(40, max(8, len(y) // 6))
    low, high = (y.min(), y.max()) if y.max() > y.min() else (y.min() - 0.5, y.max() + 0.5)
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, bins + 1)
    for numbers, colour, filled in ((y, BLUE, True), (exact[np.isfinite(exact)], ORANGE, False)):
        counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
        face = (colour, 0.3) if filled else "none"
        side.stairs(
            counts, edges, orientation="horizontal", fill=filled, facecolor=face, edgecolor=colour
        )
    if logarithmic:
        axis.set_yscale("log")
    axis.set(xlabel="rank", ylabel="eigenvalue of $K$", title="Eigenvalues")
    axis.legend(loc="best")
    side.set(xlabel="number", title="Histogram")
    return figure


@style()
def singular_values(found: ArrayLike, target: ArrayLike | None = None) -> Figure:
    """Draw the singular values of w, falling, over those of the regulated spectrum.

    Args:
        found: `(n,)`.
        target: `(n,)`, or None.
    """
    y = np.asarray(found, np.float64)
    figure = empty(2.8)
    axis = figure.subplots()
    rank = np.arange(1, len(y) + 1)
    if target is not None:
        axis.plot(rank, target, color=ORANGE, drawstyle="steps-mid", label="target", zorder=1)
    axis.plot(rank, y, "o", color=BLUE, label="found")
    axis.set(xlabel="rank", ylabel="singular value of $w$", ylim=(0, None))
    axis.set_title("Singular values of the weights")
    axis.legend(loc="best")
    return figure


def _zoom(axis: Axes, y: np.ndarray) -> None:
    """Fit the axis to all momenta but zero; say where the zero mode is if that leaves it out."""
    centre, reach = np.median(y[1:]), 2.5 * np.ptp(y[1:]) + 1e-3
    if abs(y[0] - centre) > reach:
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, centre - reach), min(high, centre + reach))
        words = rf"$\hat p^2 = 0$: {y[0]:.3g}"
        axis.text(0.02, 0.9, words, transform=axis.transAxes, va="top", fontsize=9)


def _regulator(axis: Axes, ceiling: float) -> None:
    axis.axhline(ceiling, color=INK, linewidth=0.8, linestyle="--", label=r"regulator $\mu^2$")
