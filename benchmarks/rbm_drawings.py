"""How do the spectra of `rbm_lattice` look?  Figures of its numbers, in the house style.

Circles are what was learned, lines and crosses closed forms.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from rbm_parts import BLUE, GREY, ORANGE, figure, shades

from lattice_ml.fields.lattice import Lattice
from lattice_ml.report.page import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]

MASS = (
    "The mass of the visible fields as ultraviolet regulator. Bars: eigenvalues kappa of the free "
    "chain with N_v = 10 and m^2 = 4; circles: eigenvalues of the trained kernel with N_h = 10; "
    "dashed: mu^2. What is learned is min(kappa, mu^2)."
)
EVOLUTION = (
    "Eigenvalues along the training with the plain gradient, mu^2 = 9; t is steps times learning "
    "rate. Circles: training; lines: the exact gradient flow, without a free parameter. Infrared "
    "modes are learned first; the time at which a mode is half learned is known in closed form."
)
HIDDEN = (
    "The number of hidden fields as regulator. Bars: kappa of the free chain; circles: learned "
    "with a trained mu^2 (filled) and with mu^2 = 9 (open). N_h hidden fields learn the N_h "
    "lowest modes, the others all get mu^2. Dashed: the closed form of the trained mu^2."
)
DIVERGENCE = (
    "Trained mass and remaining KL(free field || RBM) against the number of hidden fields. Lines: "
    "closed forms. N_h = 10 leaves mu^2 free, and the KL is zero there up to rounding."
)
DISPERSION = (
    "Free fields on square lattices, m^2 = 0.25. Left: learned eigenvalues, the mean of every "
    "shell of equal p_hat^2, on the exact dispersion. Right: the largest relative deviation of "
    "any eigenvalue along the training with the natural gradient, at two learning rates."
)


def _levels(axis: "Axes", kappa: np.ndarray) -> None:
    """The exact spectrum as bars, one per mode."""
    n = np.arange(1, len(kappa) + 1)
    axis.hlines(kappa, n - 0.42, n + 0.42, color=INK, linewidth=0.9, zorder=1)


@style()
def mass(kappa: np.ndarray, rows: Rows) -> "Figure":
    """One panel per mu^2."""
    made = figure(2.7)
    axes = made.subplots(1, len(rows), sharey=True)
    n = np.arange(1, len(kappa) + 1)
    for axis, row in zip(axes, rows, strict=True):
        _levels(axis, kappa)
        axis.axhline(row["mu_squared"], color=ORANGE, linestyle="--", linewidth=0.9, zorder=0)
        axis.plot(n, row["eigenvalues"], "o", color=BLUE, markersize=4)
        axis.set(xlabel="mode $i$", xticks=[1, 4, 7, 10], ylim=(3.5, 9.5))
        axis.set_title(rf"$\mu^2 = {row['mu_squared']:g}$", fontsize=10.5, loc="center")
    axes[0].set_ylabel(r"eigenvalue $\lambda_i$")
    return made


@style()
def evolution(flow: dict[str, Any]) -> "Figure":
    """Eigenvalues against time, and when each was half learned."""
    made = figure(3.4)
    left, right = made.subplots(1, 2, width_ratios=[1.5, 1])
    kappa, t = np.array(flow["kappa"]), np.array(flow["t"])
    _, first, count = np.unique(kappa.round(9), return_index=True, return_counts=True)
    for colour, i, n in zip(shades(len(first)), first, count, strict=True):
        learned, exact = (np.array(flow[key])[:, i] for key in ("eigenvalues", "flow"))
        left.plot(t, exact, color=colour, linewidth=1.0)
        left.plot(t[::4], learned[::4], "o", color=colour, markersize=3.2)
        label = rf"${kappa[i]:.3g}$" + (r" $(\times 2)$" if n > 1 else "")
        left.text(t[-1] * 1.25, learned[-1], label, color=colour, va="center", fontsize=9)
        half = flow["half_time"][i]
        if half is not None:
            right.plot(kappa[i], half, "o", color=colour, markersize=5)
    left.text(t[-1] * 1.25, 9.0, r"$\kappa$", va="center", fontsize=9)
    left.set(xscale="log", xlabel=r"$t$ = steps $\times$ learning rate")
    left.set(ylabel=r"$\lambda_i(t)$", xlim=(t[0], t[-1] * 1.1))
    left.set_title("Evolution of the eigenvalues")
    order = np.unique(kappa, return_index=True)[1]
    right.plot(
        kappa[order],
        np.array(flow["half_time_exact"])[order],
        color=GREY,
        zorder=0,
        label="closed form",
    )
    right.set(yscale="log", xlabel=r"$\kappa_i$", ylabel=r"$t_{1/2}$", title="Infrared first")
    right.legend(loc="upper left")
    return made


@style()
def hidden(kappa: np.ndarray, trained: Rows, fixed: Rows) -> "Figure":
    """One panel per N_h."""
    columns = min(5, len(trained))
    rows = -(-len(trained) // columns)
    made = figure(0.5 + 2.1 * rows)
    axes = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    n = np.arange(1, len(kappa) + 1)
    for axis, one, other in zip(axes.ravel(), trained, fixed, strict=True):
        _levels(axis, kappa)
        if one["mu_squared_exact"] is not None:
            level = one["mu_squared_exact"]
            axis.axhline(level, color=BLUE, linestyle="--", linewidth=0.8, zorder=0)
        axis.plot(n, other["eigenvalues"], "o", color=ORANGE, markerfacecolor="none", markersize=5)
        axis.plot(n, one["eigenvalues"], "o", color=BLUE, markersize=3.6)
        axis.set_title(rf"$N_h = {one['n_hidden']}$", fontsize=10.5, loc="center")
        axis.set(xticks=[1, 4, 7, 10], ylim=(3.5, 9.7))
    for axis in axes[-1]:
        axis.set_xlabel("mode $i$")
    for axis in axes[:, 0]:
        axis.set_ylabel(r"eigenvalue $\lambda_i$")
    handles = axes[0, 0].get_lines()[-2:][::-1]
    labels = [r"$\mu^2$ trained", r"$\mu^2 = 9$"]
    made.legend(handles, labels, loc="outside upper right", ncols=2)
    return made


@style()
def divergence(trained: Rows, fixed: Rows) -> "Figure":
    """mu^2 and KL against N_h."""
    made = figure(3.0)
    left, right = made.subplots(1, 2)
    known = [row for row in trained if row["mu_squared_exact"] is not None]
    n = [row["n_hidden"] for row in known]
    left.plot(n, [row["mu_squared_exact"] for row in known], color=GREY, zorder=0)
    left.plot(n, [row["mu_squared"] for row in known], "o", color=BLUE, markersize=5)
    left.axhline(9.0, color=ORANGE, linestyle="--", linewidth=0.9)
    left.set(xlabel="$N_h$", ylabel=r"$\mu^2$", title="Mass of the visible fields")
    left.set(ylim=(None, 9.3), xticks=range(1, 11, 3))
    pairs = ((trained, BLUE, BLUE, r"$\mu^2$ trained"), (fixed, ORANGE, "none", r"$\mu^2 = 9$"))
    for rows, colour, face, label in pairs:
        shown = [row for row in rows if row["kl_exact"] > 1e-12]
        n = [row["n_hidden"] for row in shown]
        right.plot(n, [row["kl_exact"] for row in shown], color=GREY, zorder=0)
        style = {"color": colour, "markerfacecolor": face, "markersize": 5}
        right.plot(n, [row["kl"] for row in shown], "o", label=label, **style)
    right.set(yscale="log", xlabel="$N_h$", ylabel="KL divergence (nats)", title="What is missing")
    right.set(xticks=range(1, 11, 3))
    right.legend(loc="lower left")
    return made


@style()
def planes(rows: Rows, mass_squared: float) -> "Figure":
    """Dispersion and convergence."""
    made = figure(3.4)
    left, right = made.subplots(1, 2)
    x = np.linspace(0, 8, 2)
    left.plot(x, mass_squared + x, color=INK, linewidth=0.8, label=r"$m^2 + \hat p^2$")
    extents = sorted({row["extent"] for row in rows})
    looks = dict(zip(extents, ((BLUE, "o", 3.6), (ORANGE, "s", 6.0)), strict=False))
    for extent in extents[::-1]:
        row = next(r for r in rows[::-1] if r["extent"] == extent)
        p_hat_squared, shell = Lattice((extent, extent)).shells
        order = np.sort(shell.ravel())
        learned = np.bincount(order, row["eigenvalues"]) / np.bincount(order)
        colour, marker, size = looks[extent]
        face = {"markerfacecolor": "none"} if marker == "s" else {}
        label = rf"${extent}^2$"
        left.plot(
            p_hat_squared, learned, marker, color=colour, markersize=size, label=label, **face
        )
    left.set(xlabel=r"$\hat p^2$", ylabel=r"$\lambda(\hat p^2)$", title="Learned dispersion")
    left.legend(loc="upper left")
    largest = max(row["learning_rate"] for row in rows)
    for row in rows:
        colour, marker, size = looks[row["extent"]]
        dashes = "-" if row["learning_rate"] < largest else ":"
        label = rf"${row['extent']}^2$, rate {row['learning_rate']:g}"
        face = {"markerfacecolor": "none"} if marker == "s" else {}
        look = {"color": colour, "marker": marker, "markersize": size * 0.8, "linestyle": dashes}
        right.plot(row["steps"], row["deviations"], label=label, **look, **face)
    right.axhline(0.01, color=GREY, linewidth=0.8, linestyle="--")
    right.text(1.0, 0.0085, "1 %", va="top", color=GREY)
    right.set(xscale="log", yscale="log", xlabel="gradient steps", title="Convergence")
    right.set(ylabel=r"largest $|\lambda/\kappa - 1|$")
    right.legend(loc="upper right", fontsize=8.5)
    return made
