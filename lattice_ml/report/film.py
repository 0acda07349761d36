r"""A film of a sample on its way from noise, beside the same theory in Langevin time.

A diffusion model is the learned reversal of the noising x = phi + sigma eps.  Stochastic
quantisation runs the same kind of process in a fictitious time with the action's own drift,
dphi = -dS/dphi dtau + sqrt(2) dW (arXiv:2309.17082), so both are shown in one figure: noise levels
above, Langevin times from a hot start below.

A sampler that knows the zero mode starts at noise too small to hide the well of a broken phase.
Seen backwards its path goes on by white noise alone, so the film shows it from sigma^2 = V <M^2>
down, where the well is decided; the caption says how many frames are no sampler's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike, NDArray

from lattice_ml import actions
from lattice_ml.actions import Action, Quartic
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import single
from lattice_ml.fields.types import Floats
from lattice_ml.report import figures
from lattice_ml.report import page as report
from lattice_ml.runtime.printable import shape_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["film_figure", "langevin", "langevin_step_size", "write_film"]


_SHOWN = 6  # frames in a row
_NOISIER = 2  # of them at most above the sampler's first noise level
_STIFFNESS = 0.05  # step size times the largest eigenvalue
_STEPS = 20_000  # of Langevin
_FIRST_STEPS = 100  # before the second frame: five relaxation times of the stiffest mode
_RANGE = 2.0  # of colours, in units of a frame's root mean square
_UNIT = r"$\phi\,/\,\mathrm{rms}$"


def write_film(
    frames: ArrayLike,
    variances: ArrayLike,
    action: Quartic,
    directory: str | os.PathLike[str],
    *,
    seed: int = 0,
) -> Path:
    """Write `film.html`, a self-contained page, and `film.png`; returns the page's path.

    Args:
        frames: fields of some samples on their way from noise, `(n_frames, n, *L)`; the first
            sample is shown.
        variances: of the noise in each frame, falling, `(n_frames,)`.
        action: that the samples are of; the Langevin process is its own.
        directory: made if it does not exist.
        seed: of the Langevin process, and of the noise above the first frame.

    Raises:
        ValueError: frames and variances do not fit each other, or are no falling noise.
        ImportError: matplotlib is not installed.
    """
    fields, noise = _checked(frames, variances)
    shape = fields.shape[2:]
    rng = np.random.default_rng(seed)
    before, levels = _noisier(rng, fields, noise)
    at = _spread(fields[-1, 0].var(), noise, _SHOWN - len(before))
    shown = np.concatenate([before, fields[at, 0]])
    sigmas = np.sqrt(np.concatenate([levels, noise[at]]))

    step_size = langevin_step_size(action, shape)
    ends = np.rint([0, *np.geomspace(_FIRST_STEPS, _STEPS, len(shown) - 1)]).astype(np.int32)
    hot = action.hot(rng.normal(size=(1, *shape)).astype(np.float32))
    quantised = langevin(jax.random.key(seed), action, jnp.asarray(hot), ends, step_size)

    h, a, b = action.couplings()
    page = Path(directory) / "film.html"
    report.write_page(
        page,
        title="From noise to a field",
        ours=True,
        summary=[
            ("lattice", shape_label(shape)),
            ("couplings", f"h = {h:.6g}, a = {a:.6g}, b = {b:.6g}"),
            ("diffusion model", f"{len(fields)} frames of noise {_range(np.sqrt(noise))}"),
            ("Langevin process", f"{_STEPS:,} Euler steps of {step_size:.3g} from a hot start"),
        ],
        figures=[
            (
                "film",
                film_figure(shown, sigmas, np.asarray(quantised)[:, 0], step_size * ends),
                _caption(len(before), len(shape)),
            )
        ],
    )
    return page


def langevin_step_size(action: Quartic, shape: tuple[int, ...]) -> float:
    """0.05 over the largest eigenvalue of d^2S/dphi^2 at the uniform field of least action.

    That is max_p [2a - 2dh + h p_hat^2] + 12 b phi_min^2, and the quadratic form's own where the
    minimum is at zero.  A free mode of eigenvalue A gets the variance 1 / (A (1 - eps A/2)) from
    Euler steps, so the bias is at most 2.6 %.
    """
    form, b = action.quadratic_form(Lattice(shape)), float(action.couplings()[2])
    return float(_STIFFNESS / (form.max() + 12 * b * action.minimum(len(shape)) ** 2))


@jax.jit
def langevin(
    key: jax.Array, action: Action, phi: jax.Array, ends: ArrayLike, step_size: ArrayLike
) -> jax.Array:
    """Run phi <- phi - eps dS/dphi + sqrt(2 eps) eta; bias of order eps, no correction.

    Args:
        key: of all noise; step k uses `fold_in(key, k)`.
        action: see `actions`.
        phi: fields to start from, `(n, *L)`.
        ends: rising numbers of steps after which the fields are kept, `(n_frames,)`.
        step_size: eps, the Langevin time of a step.

    Returns:
        Fields `(n_frames, n, *L)`.
    """
    layout = single(phi.shape[1:], len(phi))
    eps = jnp.asarray(step_size, phi.dtype)

    def step(k: jax.Array, phi: jax.Array) -> jax.Array:
        eta = jax.random.normal(jax.random.fold_in(key, k), phi.shape, phi.dtype)
        return phi + eps * actions.force(action, phi, layout) + jnp.sqrt(2 * eps) * eta

    def frame(phi: jax.Array, span: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        phi = lax.fori_loop(*span, step, phi)
        return phi, phi

    last = jnp.asarray(ends)
    first = jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])
    _, kept = lax.scan(frame, jnp.moveaxis(phi, 0, -1), (first, last))
    return jnp.moveaxis(kept, -1, 1)


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
    from matplotlib.figure import Figure

    rows = [np.asarray(row, np.float64) for row in (frames, quantised)]
    labels = [
        [rf"$\sigma = {_number(sigma)}$" for sigma in np.asarray(sigmas)],
        [rf"$\tau = {_number(time)}$" for time in np.asarray(times)],
    ]
    panel = figures.WIDTH / (len(rows[0]) + 0.6)
    figure = Figure(figsize=(figures.WIDTH, 2 * panel + 0.4), layout="constrained")
    axes = figure.subplots(2, len(rows[0]), sharex=True, sharey=True, squeeze=False)
    for axis, field, label in zip(
        axes.flat, np.concatenate(rows), np.concatenate(labels), strict=True
    ):
        _panel(axis, field / np.sqrt(np.mean(field**2)))
        axis.set_title(label, loc="center", fontsize=9.5)
    for axis, name in zip(axes[:, 0], ("diffusion model", "Langevin process"), strict=True):
        axis.set_ylabel(name)
    if images := axes[0, 0].images:
        bar = figure.colorbar(images[0], ax=axes, fraction=0.03, aspect=30)
        bar.set_label(_UNIT)
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


def _range(values: Floats) -> str:
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def _caption(n_before: int, ndim: int) -> str:
    lines = [
        "One sample of the diffusion model, the learned reversal of the noising "
        "x = phi + sigma eps, at falling sigma; below, stochastic quantisation of the same action "
        "in its fictitious time tau (arXiv:2309.17082), from a hot start, by uncorrected Euler "
        "steps. Every frame is divided by its own root mean square.",
    ]
    if n_before:
        lines.append(
            f"The first {n_before} frames above are the third with more white noise added: the "
            "sampler starts from there, its well already drawn."
        )
    if ndim > 2:
        lines.append("Shown is the plane of the last two axes through the origin.")
    return " ".join(lines)


def _noisier(rng: np.random.Generator, fields: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """The first sample's first frame with white noise added, where its well can be seen.

    Returns:
        Fields `(n, *L)` and the variances of their noise, from V <M^2> down, `(n,)`: two, or none.
    """
    first, last = fields[0, 0], fields[-1]
    seen = first.size * np.mean(last.reshape(len(last), -1).mean(axis=1) ** 2)
    if seen <= variances[0]:
        return np.empty((0, *first.shape)), np.empty(0)
    levels = np.geomspace(seen, variances[0], _NOISIER + 1)
    added = rng.normal(size=(_NOISIER, *first.shape))
    steps = np.sqrt(levels[:-1] - levels[1:]).reshape(-1, *[1] * first.ndim)
    walk = np.cumsum((steps * added)[::-1], axis=0)[::-1]
    return first + walk, levels[:-1]


def _spread(fluctuation: float, variances: Floats, n: int) -> NDArray[np.int64]:
    """At most `n` frames from the first to the last, with even changes of log(field + noise)."""
    logs = np.log(fluctuation + variances)
    wanted = np.linspace(logs[0], logs[-1], n)
    return np.unique(np.abs(logs - wanted[:, None]).argmin(axis=1))


def _checked(frames: ArrayLike, variances: ArrayLike) -> tuple[Floats, Floats]:
    """Frames `(n_frames, n, *L)` and variances `(n_frames,)` in float64."""
    fields, noise = np.asarray(frames, np.float64), np.asarray(variances, np.float64)
    if fields.ndim < 3 or len(fields) < 2 or fields.size == 0:
        raise ValueError(
            "a film needs frames (n_frames, n, *L), at least two of them and of at least one "
            f"sample, got shape {fields.shape}"
        )
    if noise.shape != fields.shape[:1]:
        raise ValueError(
            f"a film needs one noise variance per frame, ({len(fields)},), got {noise.shape}"
        )
    if not np.isfinite(fields).all():
        raise ValueError("the frames of a film must be finite numbers, got some that are not")
    if not (noise.min() >= 0 and np.all(np.diff(noise) < 0) and np.isfinite(noise[0])):
        raise ValueError(f"the noise of a film must fall towards 0, got variances {noise}")
    return fields, noise
