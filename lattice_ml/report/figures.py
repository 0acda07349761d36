"""Figures of an ensemble, drawn from plain NumPy arrays.

Every function returns a `matplotlib.figure.Figure` with labelled axes and a title. pyplot is
never touched: no figure manager, no display. The look is `page.style()`; data are blue and orange,
which colour-blind readers can tell apart. Strings given as `name` are matplotlib text: `"$M$"` is
mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.report.page import INK, style
from lattice_ml.statistics.series import Array, as_numbers, as_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    *("autocorrelation", "configurations", "histogram", "history", "propagator"),
    *("BLUE", "ORANGE", "WIDTH", "empty", "points"),
]

BLUE, ORANGE = "#1f7fc4", "#d55e00"
WIDTH = 7.2  # inches: the text column of a page


def empty(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of that size in inches, laid out as it is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def points(
    axis: Axes,
    x: np.ndarray,
    y: Array,
    error: Array,
    *,
    colour: str = BLUE,
    marker: str = "o",
    face: str | None = None,
    size: float | None = None,
    label: str | None = None,
) -> None:
    """Draw points, with bars where an error is known; as pixels where many would swell a page."""
    bars = np.where(np.isfinite(error), error, 0.0)
    drawn = axis.errorbar(
        x,
        y,
        bars,
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=size,
        elinewidth=0.8,
        label=label,
    )
    for artist in drawn.get_children():
        artist.set_rasterized(x.size > 400)


@style()
def history(series: ArrayLike, *, name: str, n_shown: int = 8) -> Figure:
    """Draw the Monte Carlo history of single chains and the running mean of all of them.

    The running mean up to configuration t is averaged over all chains; its band is the standard
    error from the spread between chains, honest at any autocorrelation time.

    Args:
        series: (n_chains, n_configs).
        name: the observable, for instance `"$M$"`.
        n_shown: how many chains, from the first on, get a strip of their own.
    """
    chains = _finite(f"the history of {name}", series, "(n_chains, n_configs)", [2])
    if n_shown < 1:
        raise ValueError(f"the history of {name} shows at least one chain, got {n_shown=}")
    shown = chains[:n_shown]
    figure = empty(2.2 + 0.42 * len(shown))
    figure.set_layout_engine("constrained", h_pad=0.01, hspace=0.0)
    ratios = [1.0] * len(shown) + [3.5]
    *strips, bottom = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    low, high = shown.min(), shown.max()
    margin = 0.15 * (high - low) or 1.0
    dense = shown.shape[1] > 1000
    for chain, (axis, values) in enumerate(zip(strips, shown, strict=True)):
        axis.plot(values, color=BLUE, linewidth=0.3 if dense else 0.7, rasterized=dense)
        axis.set_ylim(low - margin, high + margin)
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(bottom=False, labelsize=7.5)
        axis.locator_params(axis="y", nbins=4)
        axis.text(1.01, 0.5, f"chain {chain}", transform=axis.transAxes, va="center")
    strips[0].set_title(f"Monte Carlo history of {name}: {len(shown)} of {len(chains)} chains")
    _running_mean(bottom, chains)
    bottom.set(xlabel="stored configuration", ylabel=f"running mean of {name}")
    return figure


@style()
def histogram(
    series: ArrayLike,
    *,
    name: str,
    bins: int | ArrayLike = 50,
    log_weights: ArrayLike | None = None,
) -> Figure:
    """Draw the density over all chains, with the error of each bin from the spread between chains.

    One chain alone says nothing about its own error and gets no bars.

    Args:
        series: (n_chains, n_configs).
        name: the observable, for instance `"$M$"`.
        bins: number of bins, or their edges.
        log_weights: (n_chains, n_configs), up to a constant; None for equal weights.
    """
    chains = _finite(f"the histogram of {name}", series, "(n_chains, n_configs)", [2])
    n_chains, n_configs = chains.shape
    edges = np.histogram_bin_edges(chains, bins)
    weights = as_weights(log_weights, chains.shape)
    pairs = zip(chains, weights, strict=True)
    counts = np.array([np.histogram(chain, edges, weights=w)[0] for chain, w in pairs])
    densities = counts / (n_configs * np.diff(edges))
    mean = densities.mean(axis=0)
    figure = empty(3.6)
    axis = figure.subplots()
    axis.stairs(mean, edges, fill=True, facecolor=(BLUE, 0.2), edgecolor=BLUE, linewidth=1.0)
    if n_chains > 1:
        error = densities.std(axis=0, ddof=1) / np.sqrt(n_chains)
        centres = (edges[:-1] + edges[1:]) / 2
        axis.errorbar(centres, mean, error, fmt="none", color=INK, linewidth=0.8)
    axis.set(xlabel=name, ylabel="probability density", ylim=(0, None))
    axis.set_title(f"Distribution of {name}: {n_chains} chains of {n_configs:,}")
    return figure


@style()
def propagator(
    p_hat_squared: ArrayLike, value: ArrayLike, error: ArrayLike, free: ArrayLike | None = None
) -> Figure:
    """Draw G(p) = <|phi(p)|^2>/V against p_hat^2, and 1/G(p), a straight line for a free field.

    The zero mode, which no logarithmic axis can hold, stands to the left of G(p) on an axis of
    its own; in 1/G(p) it is the open point at p_hat^2 = 0.

    Args:
        p_hat_squared: (n,) sum_mu 4 sin^2(p_mu/2), in any order, not only zero.
        value: (n,) G(p), positive.
        error: (n,) error of G(p).
        free: (n,) G(p) of a free field to compare with, 1/(p_hat^2 + m^2).
    """
    exact = value if free is None else free
    x, g, dg, exact = _columns(
        "the propagator", p_hat_squared=p_hat_squared, value=value, error=error, free=exact
    )
    if x.min() < 0 or x.max() == 0 or min(g.min(), exact.min()) <= 0:
        raise ValueError(
            "the propagator needs p_hat^2 >= 0, not all zero, and G(p) > 0, got p_hat^2 from "
            f"{x.min():.6g} to {x.max():.6g} and a least G(p) of {min(g.min(), exact.min()):.6g}"
        )
    figure = empty(3.4)
    halves = figure.add_gridspec(1, 2)
    parts = halves[0].subgridspec(1, 2, width_ratios=[1, 7], wspace=0.05)
    zero_mode, inverse = figure.add_subplot(parts[0]), figure.add_subplot(halves[1])
    logarithmic = figure.add_subplot(parts[1], sharey=zero_mode)
    for mode, axis, face in ((x == 0, zero_mode, "none"), (x > 0, logarithmic, BLUE)):
        points(axis, x[mode], g[mode], dg[mode], face=face)
        points(inverse, x[mode], 1 / g[mode], dg[mode] / g[mode] ** 2, face=face)
    if free is not None:
        up, zero = np.argsort(x), x == 0
        zero_mode.plot(x[zero], exact[zero], "_", color=ORANGE, markersize=16)
        logarithmic.plot(x[up][x[up] > 0], exact[up][x[up] > 0], color=ORANGE, zorder=1)
        inverse.plot(x[up], 1 / exact[up], color=ORANGE, zorder=1, label="free field")
        inverse.legend(loc="upper left")
    zero_mode.set(yscale="log", xticks=[0], ylabel="$G(p)$", title="Propagator")
    decades = np.log10(x.max() / x[x > 0].min())
    logarithmic.set(xscale="log" if decades > 2 else "linear", xlabel=r"$\hat p^2$")
    logarithmic.tick_params(left=False, which="both", labelleft=False)
    logarithmic.spines["left"].set_visible(False)
    inverse.set(xlabel=r"$\hat p^2$", ylabel="$1/G(p)$", title="Inverse propagator")
    inverse.set(xlim=(-0.03 * x.max(), None), ylim=(0, None))
    return figure


@style()
def autocorrelation(
    rho: ArrayLike,
    rho_error: ArrayLike,
    window: int,
    tau_int: float,
    tau_int_error: float,
    *,
    name: str,
    thin: int = 1,
) -> Figure:
    """Draw rho(t) and the running tau_int(W) = thin (1/2 + sum_{t=1}^W rho(t)).

    The band is the final estimate, which carries the bias correction of hep-lat/0306017 eq. (49)
    and so may lie a little above the curve at the window.

    Args:
        rho: (n,) normalised autocorrelation at lag 0, 1, ... in stored configurations.
        rho_error: (n,) its error.
        window: the lag W, in stored configurations, at which the sum was cut.
        tau_int: integrated autocorrelation time in updates.
        tau_int_error: its error.
        name: the observable, for instance `"$M$"`.
        thin: updates between stored configurations.
    """
    what = f"the autocorrelation of {name}"
    values, errors = _columns(what, rho=rho, rho_error=rho_error)
    if not 0 <= window < values.size:
        raise ValueError(f"{what} needs a window from 0 to {values.size - 1}, got {window}")
    shown = slice(3 * window + 10)
    lags = thin * np.arange(values.size, dtype=np.float64)
    running = thin * (np.cumsum(values) - 0.5)

    figure = empty(4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, 1])
    top.axhline(0, color=INK, linewidth=0.6)
    points(top, lags[shown], values[shown], errors[shown])
    top.text(lags[window], 0.9, f"  $W = {lags[window]:g}$", transform=top.get_xaxis_transform())
    top.set(ylabel=r"$\rho(t)$", title=f"Autocorrelation of {name}")
    final = rf"$\tau_{{\mathrm{{int}}}} = {tau_int:.3g} \pm {tau_int_error:.2g}$"
    low, high = tau_int - tau_int_error, tau_int + tau_int_error
    bottom.axhspan(low, high, color=ORANGE, alpha=0.25, linewidth=0, label=final)
    bottom.plot(lags[shown], running[shown], color=BLUE, label="running sum")
    bottom.set(xlabel=r"$t,\ W$ (updates)", ylabel=r"$\tau_{\mathrm{int}}(W)$", ylim=(0, None))
    bottom.legend(loc="lower right")
    for axis in (top, bottom):
        axis.axvline(lags[window], color=INK, linewidth=0.8, linestyle="--")
    return figure


@style()
def configurations(cfgs: ArrayLike) -> Figure:
    """Draw the first eight fields on one scale, symmetric about zero.

    Two dimensions are shown as images, the longer side lying, and one as lines; of three and
    four the plane of the last two through the origin is shown.

    Args:
        cfgs: (n, *L), one to four dimensions.
    """
    what, shape = "a figure of configurations", "(n, *L) of 1 to 4 lattice dimensions"
    fields = _finite(what, cfgs, shape, range(2, 6))[:8]
    ndim = fields.ndim - 1
    if ndim == 1:
        return _lines(fields)
    planes = fields.reshape(len(fields), -1, *fields.shape[-2:])[:, 0]
    figure = _images(planes, f"$x_{ndim - 2}$", f"$x_{ndim - 1}$")
    title = ", ".join([r"Configurations of $\phi$", *(f"$x_{mu} = 0$" for mu in range(ndim - 2))])
    figure.suptitle(title, x=0.01, horizontalalignment="left")
    return figure


def _lines(fields: Array) -> Figure:
    """Draw fields (n, L) as one strip each."""
    figure = empty(1.0 + 0.7 * len(fields))
    axes = figure.subplots(len(fields), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, field in zip(axes, fields, strict=True):
        axis.axhline(0, color=INK, linewidth=0.4)
        axis.plot(field, "o-", color=BLUE, linewidth=0.8, markersize=2.5)
        axis.set_ylabel(r"$\phi$")
    axes[0].set_title(r"Configurations of $\phi$")
    axes[-1].set_xlabel("$x_0$")
    return figure


def _images(planes: Array, row: str, column: str) -> Figure:
    """Draw planes (n, L_row, L_column) as images."""
    n, height, width = planes.shape
    if height > width:
        return _images(planes.swapaxes(1, 2), column, row)
    n_rows = math.ceil(n / (4 if width < 3 * height else 2))
    n_columns = math.ceil(n / n_rows)
    panel = min(6.2 / n_columns, 2.8)
    tall = 0.93 * panel * height / width + 0.1
    figure = empty(0.75 + n_rows * tall, width=n_columns * panel + 1.0)
    figure.set_layout_engine("compressed")
    scale = np.abs(planes).max() or 1.0
    pixels = "none" if height * width <= 128**2 else "auto"  # exact, or resampled to stay small
    for place, plane in enumerate(planes, 1):
        axis = figure.add_subplot(n_rows, n_columns, place, xlabel=column, ylabel=row)
        image = axis.imshow(plane, vmin=-scale, vmax=scale, origin="lower", interpolation=pixels)
        axis.label_outer()
    figure.colorbar(image, ax=figure.axes, label=r"$\phi$", fraction=0.05, aspect=30)
    return figure


def _running_mean(axis: Axes, chains: Array) -> None:
    """Draw the mean up to each of at most 500 configurations, and its error between chains."""
    n_chains, n_configs = chains.shape
    at = np.unique(np.linspace(0, n_configs - 1, 500).astype(int))
    running = np.cumsum(chains, axis=1)[:, at] / (at + 1)
    mean = running.mean(axis=0)
    axis.axhline(mean[-1], color=INK, linewidth=0.6, linestyle=":")
    axis.plot(at, mean, color=ORANGE)
    if n_chains > 1:
        error = running.std(axis=0, ddof=1) / np.sqrt(n_chains)
        axis.fill_between(at, mean - error, mean + error, color=ORANGE, alpha=0.25, linewidth=0)


def _columns(what: str, **columns: ArrayLike) -> list[Array]:
    """Return arrays of one length n."""
    arrays = {name: _finite(f"{what}: {name}", a, "(n,)", [1]) for name, a in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{what} needs arrays of one length, got {shapes}")
    return list(arrays.values())


def _finite(what: str, values: ArrayLike, shape: str, ndim: Container[int]) -> Array:
    """Return float64 data, or refuse them: matplotlib would leave a NaN out in silence."""
    array = as_numbers(what, values).astype(np.float64)
    if array.ndim not in ndim or array.size == 0:
        raise ValueError(f"{what} needs an array {shape}, not empty, got shape {array.shape}")
    if n_bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"{what} needs finite numbers, got {n_bad} that are not")
    return array
