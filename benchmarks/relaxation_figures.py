"""Figures of relaxation: Langevin time beside noise levels, free fields, effective actions.

The look is that of `figures.py`: what is measured are points with errors, what is known is a line.
A cold start is blue, a hot one orange, and a diffusion model green.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.analysis.dynamics.fokker_planck import Density
from lattice_ml.analysis.dynamics.relaxation import Curve, Equilibrium, Relaxation
from lattice_ml.fields.types import Floats
from lattice_ml.report.figures import BLUE, ORANGE, empty, points
from lattice_ml.report.page import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["effective_actions", "free_field", "langevin_beside_diffusion"]

GREEN = "#009e73"
COLOURS = {"cold": BLUE, "hot": ORANGE}  # of starts

_MARKERS = "osD"  # of three shells of momenta
_PER_BIN = 8  # points of a line in a bin
_HEIGHT = 8.0  # of -log P above its least value that is shown


@style()
def langevin_beside_diffusion(
    langevin: Mapping[str, Relaxation], diffusion: Relaxation, equilibrium: Equilibrium
) -> Figure:
    """Draw <M^2>, Binder's cumulant and G(p) along Langevin time and along falling noise.

    Both columns share their vertical axes.  Dashed lines are equilibrium, and lines through the
    noised fields what equilibrium becomes under noise, `Equilibrium.noised`.

    Args:
        langevin: from each start, "cold" and "hot", along rising times.
        diffusion: of noised fields, `times` being the variances, falling to 0.
        equilibrium: of the same lattice.
    """
    figure = empty(7.2)
    axes = figure.subplots(3, 2, sharex="col", sharey="row")
    noise = diffusion.times
    fine = np.append(np.geomspace(noise[0], noise[noise > 0][-1], 200), 0.0)
    names = ("m2", "binder", "propagator")
    lines = dict(zip(names, equilibrium.noised(fine), strict=True))
    shells = _chosen(equilibrium.propagator.value)
    drawn: list[tuple[int, str, int | None, str]] = [(0, "m2", None, "o"), (1, "binder", None, "o")]
    drawn += [(2, "propagator", *pair) for pair in zip(shells, _MARKERS, strict=False)]
    for row, name, shell, marker in drawn:
        left, right = axes[row]
        for start, course in langevin.items():
            curve = _curve(course, name, shell)
            left.plot(course.times, curve.value, color=COLOURS[start], linewidth=0.7, alpha=0.5)
            ink, label = COLOURS[start], f"{start} start"
            points(left, course.times, *curve, colour=ink, marker=marker, size=3.0, label=label)
        line = lines[name] if shell is None else lines[name][:, shell]
        right.plot(fine, line, color=GREEN, linewidth=0.9, zorder=1)
        points(right, noise, *_curve(diffusion, name, shell), colour=GREEN, marker=marker, size=3.0)
        for axis in (left, right):
            axis.axhline(line[-1], color=INK, linewidth=0.8, linestyle="--", zorder=0)
        if shell is not None:
            text = rf"$\hat p^2 = {diffusion.p_hat_squared[shell]:.2g}$"
            system = ("axes fraction", "data")
            right.annotate(text, (1.02, line[-1]), xycoords=system, va="center", fontsize=9)
    axes[0, 0].set(ylabel=r"$\langle M^2\rangle$", title="Langevin dynamics: time rises")
    axes[0, 1].set_title("Reverse diffusion: noise falls")
    axes[1, 0].set(ylabel="Binder cumulant", ylim=(-0.15, 0.72))
    axes[1, 0].legend(loc="lower right")
    values = equilibrium.propagator.value[shells]
    axes[2, 0].set(ylabel="$G(p)$", yscale="log", ylim=(0.3 * values.min(), 20 * values.max()))
    axes[2, 0].set_xlabel(r"fictitious time $\tau$")
    axes[2, 1].set_xlabel(r"variance of the noise $t = \sigma^2$")
    _from_zero(axes[2, 0], np.concatenate([course.times for course in langevin.values()]))
    _from_zero(axes[2, 1], noise)
    axes[2, 1].invert_xaxis()
    figure.align_ylabels(axes[:, 0])
    return figure


@style()
def free_field(
    times: ArrayLike,
    measured: Mapping[str, Mapping[str, Curve]],
    exact: Mapping[str, Mapping[str, Floats]],
    limit: Mapping[str, Floats],
) -> Figure:
    """Draw <phi^2> of a free field along Langevin time, a column per scheme.

    Args:
        times: tau, from the start 0 on, `(n_times,)`.
        measured: by scheme and start, without the start itself, `(n_times - 1,)`.
        exact: the scheme's own curves at its step size, `(n_times,)`.
        limit: by start, in continuous time, `(n_times,)`.
    """
    tau = np.asarray(times, np.float64)
    figure = empty(3.0)
    axes = figure.subplots(1, len(measured), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (scheme, starts) in zip(axes, measured.items(), strict=True):
        for start, curve in starts.items():
            axis.plot(tau, limit[start], color=INK, linewidth=0.8, linestyle="--", zorder=0)
            axis.plot(tau, exact[scheme][start], color=COLOURS[start], linewidth=0.9, zorder=1)
            label = f"{start} start"
            points(axis, tau[1:], *curve, colour=COLOURS[start], size=2.0, label=label)
        axis.set_title(scheme.replace("_", "-"), loc="center")
        axis.set_xlabel(r"fictitious time $\tau$")
    axes[0].set(ylabel=r"$\langle\phi^2\rangle$", ylim=(0, None))
    axes[-1].legend(loc="upper right")
    return figure


@style()
def effective_actions(
    density: Density, measured: Sequence[Curve], edges: ArrayLike, equilibrium: Density
) -> Figure:
    """Draw -log P(phi, tau), a panel per time, of a numerical solution and of samples.

    P is the mean over a bin, for lines too.

    Args:
        density: the solution at some times.
        measured: of samples, as of `measured_action`: `(n_bins,)` each, one per time.
        edges: of the bins, rising and evenly spaced, `(n_bins + 1,)`.
        equilibrium: what the density tends to.
    """
    cuts = np.asarray(edges, np.float64)
    centres = (cuts[:-1] + cuts[1:]) / 2
    x, lines = _over_bins(density, cuts)
    _, (end,) = _over_bins(equilibrium, cuts)
    figure = empty(2.8)
    axes = figure.subplots(1, len(measured), sharex=True, sharey=True, squeeze=False)[0]
    for axis, tau, line, curve in zip(axes, density.times, lines, measured, strict=True):
        axis.plot(x, end, color=INK, linewidth=0.8, linestyle="--", label=r"$\tau = \infty$")
        axis.plot(x, line, color=ORANGE, zorder=1, label="Fokker-Planck")
        points(axis, centres, *curve, label="Langevin", size=3.0)
        axis.set_title(rf"$\tau = {tau:g}$", loc="center")
        axis.set_xlabel(r"$\phi$")
    least = min(lines.min(), end.min())
    axes[0].set(ylabel=r"$-\log P(\phi, \tau)$", ylim=(least - 0.5, least + _HEIGHT))
    axes[-1].legend(loc="upper center", fontsize=9)
    return figure


def _over_bins(density: Density, cuts: Floats) -> tuple[Floats, Floats]:
    """-log of the mean of P over a bin that slides along: centres `(n,)` and `(n_times, n)`."""
    fine = np.linspace(cuts[0], cuts[-1], _PER_BIN * (len(cuts) - 1) + 1)
    parts = density.probabilities(fine)
    windows = np.lib.stride_tricks.sliding_window_view(parts, _PER_BIN, axis=1).sum(axis=-1)
    width = cuts[1] - cuts[0]
    half = _PER_BIN // 2
    return fine[half:-half], -np.log(np.maximum(windows / width, np.finfo(float).tiny))


def _from_zero(axis: Axes, values: Floats) -> None:
    """A logarithmic axis that begins with 0."""
    low, high = values[values > 0].min(), values.max()
    decades = 10.0 ** np.arange(np.ceil(np.log10(2 * low)), np.floor(np.log10(high)) + 1)
    axis.set_xscale("symlog", linthresh=low, linscale=0.4)
    axis.set_xticks([0, *decades])
    axis.set_xticks([], minor=True)
    axis.set_xlim(-0.2 * low, 1.3 * high)


def _curve(course: Relaxation, name: str, shell: int | None) -> Curve:
    curve: Curve = vars(course)[name]
    return curve if shell is None else Curve(curve.value[:, shell], curve.error[:, shell])


def _chosen(propagator: Floats) -> list[int]:
    """Shells from the lowest non-zero momentum to the highest, about evenly apart in log G."""
    logs = np.log(propagator[1:])
    wanted = np.linspace(logs[0], logs[-1], len(_MARKERS))
    nearest = 1 + np.unique(np.abs(logs - wanted[:, None]).argmin(axis=1))
    return [int(shell) for shell in nearest]
