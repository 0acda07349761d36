"""How do the models of `rbm_mnist` look?  Figures of its numbers and images, in the house style."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rbm_parts import BLUE, GREY, ORANGE, figure, shades

from lattice_ml.report.page import INK, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_FILTERS = 16
CEILING = 300.0  # of the axis of eigenvalues

SPECTRUM = (
    "Spectrum of 4,500 MNIST images. Black: eigenvalues kappa_i that a Gaussian kernel needs to "
    "have their raw second moment; they go on to infinity. Coloured: learned eigenvalues. "
    "Dashed: mu^2 = 100. Below: relative deviation from the closed form, min(kappa_i, mu^2) for "
    "the N_h lowest modes and mu^2 for all others."
)
FILTERS = (
    "Filters: columns of w, each on its own scale, blue negative and red positive; all of them up "
    "to N_h = 36, then the 16 of largest norm. Above as learned, below after the rotation of "
    "hidden fields to singular vectors, the lowest modes of the kernel, which learning leaves free."
)
GENERATED = (
    "Generated images: independent samples of every model, below images. They have the two-point "
    "function of digits, and nothing beyond it. A Gaussian of the raw second moment does not know "
    "ink from paper: phi and -phi are equally likely, and the one with more ink is shown."
)
RECONSTRUCTED = "Held-out images phi (above), and E[phi|h] at h = E[h|phi] of every model."
ERRORS = (
    "Errors against the number of hidden fields, on 500 held-out images, with standard errors "
    "where visible. Left: mean squared error of reconstruction per pixel. Right: log-likelihood "
    "of held-out images (circles), and KL from the best Gaussian with mu^2 = 100 to the model "
    "(squares; line: closed form)."
)


@style()
def spectrum(kappa: np.ndarray, models: list[dict[str, Any]], mu_squared: float) -> "Figure":
    """Data's and learned eigenvalues, and their deviation."""
    made = figure(5.0)
    top, bottom = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    n = np.arange(1, len(kappa) + 1)
    top.axhline(mu_squared, color=GREY, linestyle="--", linewidth=0.9, zorder=0)
    top.plot(n, np.minimum(kappa, 10 * CEILING), color=INK, linewidth=1.0, label="images")
    for colour, model in zip(shades(len(models)), models, strict=True):
        learned, count = np.array(model["eigenvalues"]), model["n_hidden"]
        # a mode in every small step of the logarithm is enough to see all
        shown = np.unique(np.geomspace(1, len(kappa), 60).round().astype(int)) - 1
        look = {"color": colour, "markersize": 3.6, "label": f"$N_h = {count}$"}
        top.plot(n[shown], learned[shown], "o-", linewidth=0.7, **look)
        target = np.minimum(kappa, mu_squared)
        target[count:] = mu_squared
        asked = (kappa < 0.9 * mu_squared) & (n <= count)
        deviation = np.maximum(np.abs(learned / target - 1), 1e-16)
        bottom.plot(n[asked], deviation[asked], color=colour, linewidth=0.9)
    bottom.axhline(0.05, color=ORANGE, linestyle="--", linewidth=0.9)
    bottom.text(1.0, 0.06, "5 %", color=ORANGE, va="bottom", fontsize=9)
    bottom.set(yscale="log", ylim=(1e-9, 1), xlabel="mode $i$", ylabel="deviation")
    top.text(1.0, mu_squared * 1.1, r"$\mu^2$", va="bottom", color=GREY)
    top.set(xscale="log", yscale="log", ylim=(0.8 * kappa[0], CEILING))
    top.set(ylabel=r"eigenvalue $\lambda_i$", title="Two-point spectrum of MNIST")
    top.legend(loc="lower right")
    return made


@style()
def filters(rbms: list[Any]) -> "Figure":
    """Mosaics of columns of w."""
    made = figure(2.9)
    axes = made.subplots(2, len(rbms), squeeze=False)
    for (top, bottom), rbm in zip(axes.T, rbms, strict=True):
        w = np.asarray(rbm.w)
        count = rbm.n_hidden if rbm.n_hidden <= 36 else N_FILTERS
        largest = np.argsort(-np.linalg.norm(w, axis=0))[:count]
        u, s, _ = np.linalg.svd(w, full_matrices=False)
        u = u * np.sign(u.sum(axis=0))
        for axis, columns in ((top, w[:, largest]), (bottom, (u * s)[:, :count])):
            axis.imshow(_mosaic(columns.T), vmin=-1, vmax=1, interpolation="none")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        shown = f"{count} of {rbm.n_hidden}" if count < rbm.n_hidden else f"all {count}"
        top.set_title(f"$N_h = {rbm.n_hidden}$\n{shown}", loc="center", fontsize=9.5)
    axes[0, 0].set_ylabel("as learned")
    axes[1, 0].set_ylabel("singular vectors")
    return made


@style()
def rows(labels: list[str], images: list[np.ndarray]) -> "Figure":
    """One row of images per label."""
    count = len(images[0])
    made = figure(0.1 + 0.62 * len(images), width=0.85 + 0.62 * count)
    axes = made.subplots(len(images), 1, squeeze=False)[:, 0]
    pixels = math.isqrt(images[0].shape[1])
    for axis, label, row in zip(axes, labels, images, strict=True):
        strip = np.full((pixels, count * (pixels + 2) - 2), np.nan)
        for i, image in enumerate(row):
            strip[:, i * (pixels + 2) :][:, :pixels] = image.reshape(pixels, pixels)
        axis.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        for spine in axis.spines.values():
            spine.set_visible(False)
    return made


@style()
def errors(models: list[dict[str, Any]]) -> "Figure":
    """Reconstruction, likelihood and KL against N_h."""
    made = figure(3.1)
    left, right = made.subplots(1, 2)
    n = [model["n_hidden"] for model in models]

    def column(key: str) -> list[float]:
        return [model[key] for model in models]

    look = {"elinewidth": 0.8, "markersize": 4.5}
    left.errorbar(
        n,
        column("reconstruction_error"),
        column("reconstruction_error_error"),
        fmt="o-",
        color=BLUE,
        **look,
    )
    left.set(xscale="log", yscale="log", xlabel="$N_h$", ylabel="mean squared error per pixel")
    ticks = [0.003, 0.005, 0.01, 0.02, 0.05]
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.yaxis.minorticks_off()
    left.set_title("Reconstruction")
    right.errorbar(
        n,
        column("held_out_log_likelihood"),
        column("held_out_log_likelihood_error"),
        fmt="o-",
        color=BLUE,
        **look,
    )
    right.set(xscale="log", xlabel="$N_h$", title="Generation")
    right.set_ylabel("log-likelihood, held out (nats)", color=BLUE)
    other = right.twinx()
    other.spines["right"].set_visible(True)
    other.plot(n, column("kl_exact"), color=ORANGE, linewidth=0.8)
    other.plot(n, column("kl"), "s", color=ORANGE, markerfacecolor="none", markersize=5.5)
    other.set_ylabel("KL from the best (nats)", color=ORANGE)
    for axis in (left, right):
        axis.set_xticks(n, [str(x) for x in n])
        axis.xaxis.minorticks_off()
    return made


def _mosaic(columns: np.ndarray) -> np.ndarray:
    """Square images `(n, pixels)` side by side, each from -1 to 1, NaN between."""
    side, pixels = math.ceil(math.sqrt(len(columns))), math.isqrt(columns.shape[1])
    step = pixels + 2
    made = np.full((side * step - 2,) * 2, np.nan)
    for i, column in enumerate(columns):
        row, place = divmod(i, side)
        image = column.reshape(pixels, pixels) / np.abs(column).max()
        made[row * step :, place * step :][:pixels, :pixels] = image
    return made
