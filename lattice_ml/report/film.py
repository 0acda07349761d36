"""The figure and the page of a film: a sample at falling noise above a Langevin process.

`jobs/film.py` says what is shown, and computes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.fields.types import Floats
from lattice_ml.report import figures
from lattice_ml.report import page as report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["film_figure", "write_film"]

_RANGE = 2.0  # of colours, in units of a frame's root mean square


def write_film(
    directory: str | os.PathLike[str],
    frames: ArrayLike,
    sigmas: ArrayLike,
    quantised: ArrayLike,
    times: ArrayLike,
    *,
    n_before: int,
    summary: Sequence[tuple[str, str]],
) -> Path:
    """Write `film.html`, a self-contained page, and `film.png`; returns the page's path.

    Args:
        directory: made if it does not exist.
        frames, sigmas, quantised, times: as in `film_figure`.
        n_before: of the first frames, those that are no sampler's but have white noise added.
        summary: names and values on top of the page.

    Raises:
        ImportError: matplotlib is not installed.
    """
    page = Path(directory) / "film.html"
    figure = film_figure(frames, sigmas, quantised, times)
    report.write_page(
        page,
        title="From noise to a field",
        ours=True,
        summary=summary,
        figures=[("film", figure, _caption(n_before, np.ndim(frames) - 1))],
    )
    return page


@report.style()
def film_figure(
    frames: ArrayLike, sigmas: ArrayLike, quantised: ArrayLike, times: ArrayLike
) -> Figure:
    """Draw one sample at falling noise above one Langevin process at rising times.

    Every frame is divided by its own root mean square, since that of the noise is many times that
    of the field: white is zero in all of them, and one colour scale serves both rows.  Of three
    dimensions the plane of the last two through the origin is shown.

    Args:
        frames: the sample, `(n, *L)`.
        sigmas: standard deviation of its noise, `(n,)`.
        quantised: the process, `(n, *L)`.
        times: Langevin times, `(n,)`.
    """
    fields = np.concatenate([np.asarray(row, np.float64) for row in (frames, quantised)])
    labels = [rf"$\sigma = {_number(sigma)}$" for sigma in np.asarray(sigmas)]
    labels += [rf"$\tau = {_number(time)}$" for time in np.asarray(times)]
    n_columns = len(fields) // 2
    figure = figures.empty(2 * figures.WIDTH / (n_columns + 0.6) + 0.4)
    axes = figure.subplots(2, n_columns, sharex=True, sharey=True, squeeze=False)
    for axis, field, label in zip(axes.flat, fields, labels, strict=True):
        _panel(axis, field / np.sqrt(np.mean(field**2)))
        axis.set_title(label, loc="center", fontsize=9.5)
    for axis, name in zip(axes[:, 0], ("diffusion model", "Langevin process"), strict=True):
        axis.set_ylabel(name)
    if images := axes[0, 0].images:
        unit = r"$\phi\,/\,\mathrm{rms}$"
        figure.colorbar(images[0], ax=axes, fraction=0.03, aspect=30, label=unit)
    else:
        axes[-1, 0].set_xlabel("$x_0$")
    return figure


def _panel(axis: Axes, field: Floats) -> None:
    """Draw a field `(*L)` in units of its root mean square."""
    if field.ndim == 1:
        axis.axhline(0, color=report.INK, linewidth=0.4)
        axis.plot(field, color=figures.BLUE, linewidth=0.8)
        axis.set_ylim(-1.5 * _RANGE, 1.5 * _RANGE)
        return
    plane = field.reshape(-1, *field.shape[-2:])[0]
    plane = plane.T if plane.shape[0] > plane.shape[1] else plane
    pixels = "none" if plane.size <= 128**2 else "auto"  # exact, or resampled to stay small
    axis.imshow(plane, vmin=-_RANGE, vmax=_RANGE, origin="lower", interpolation=pixels)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _number(value: float) -> str:
    """Two digits, without an exponent where a reader can do without."""
    return f"{value:#.2g}".rstrip(".") if 0 < value < 100 else f"{value:.0f}"


def _caption(n_before: int, ndim: int) -> str:
    caption = (
        "One sample of the diffusion model, the learned reversal of the noising "
        "x = phi + sigma eps, at falling sigma; below, stochastic quantisation of the same action "
        "in its fictitious time tau (arXiv:2309.17082), from a hot start, by uncorrected Euler "
        "steps. Every frame is divided by its own root mean square."
    )
    if n_before:
        caption += (
            f" The first {n_before} frames above are the third with more white noise added: the "
            "sampler starts from there, its well already drawn."
        )
    return caption + " Shown is the plane of the last two axes through the origin." * (ndim > 2)
