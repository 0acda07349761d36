"""What can a Gaussian kernel capture of interacting phi^4, and what can it not?

A part of `rbm_figures.py`: RBMs trained on HMC ensembles in two dimensions, in the symmetric phase,
near the transition and in the broken phase (lam = 0.022).  The two-point function is learned; all
that is not in it is missing: for a Gaussian <phi^4> = 3 <phi^2>^2, the Binder cumulant is 0, and
two wells are one wide one.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rbm_parts import BLUE, ORANGE, Check, Part, figure

from lattice_ml import generate, measure, train
from lattice_ml.analysis.two_point import two_point
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import config
from lattice_ml.report.page import INK, Table, style
from lattice_ml.runtime.arguments import as_arguments

LAM = 0.022
PHASES = {0.21: "symmetric", 0.2705: "critical", 0.5: "broken"}

CAPTION = (
    "RBMs trained on interacting phi^4 at lam = 0.022, largest lattice. Above: the kernel's "
    "eigenvalues, the mean of every momentum shell, on 1/G(p) of the HMC ensemble: this is "
    "captured. Below: distribution of the magnetisation M in HMC and in the Gaussian model: this "
    "is not, where the field is far from Gaussian."
)


class Size(NamedTuple):
    """How much is done."""

    kappas: tuple[float, ...]
    extents: tuple[int, ...]
    n_configs: int
    n_steps: int


SIZES = {"toy": Size((0.2705,), (4,), 20, 30), "full": Size((0.21, 0.2705, 0.5), (8, 16), 100, 32)}


def run(size_name: str, folder: Path) -> Part:
    """Generate, train, compare and draw."""
    size = SIZES[size_name]
    rows = [one(kappa, e, size, folder) for e in size.extents for kappa in size.kappas]
    part = Part()
    part.numbers = {"phi4": [{k: v for k, v in row.items() if k != "drawn"} for row in rows]}
    header = (
        "lattice",
        "kappa",
        "ESS/n",
        "Pareto k",
        "forward ESS/n",
        "misses a mode",
        "phi2",
        "RBM",
        "phi4",
        "RBM: 3 phi2^2",
        "Binder",
        "RBM",
        "s",
    )
    part.tables = [
        Table(
            "RBM of interacting phi^4, lam = 0.022: HMC beside the Gaussian model",
            header,
            [
                (
                    f"{row['extent']}^2",
                    f"{row['kappa']:g}",
                    f"{row['ess']:.3g}",
                    f"{row['pareto_k']:.2f}",
                    f"{row['forward_ess']['value']:.2g} ± {row['forward_ess']['error']:.1g}",
                    "yes" if row["missed_mode"] else "no",
                    *_cells(row, "phi2"),
                    *_cells(row, "phi4"),
                    *_cells(row, "binder"),
                    f"{row['training_seconds']:.1f}",
                )
                for row in rows
            ],
        )
    ]
    last = [row for row in rows if row["extent"] == size.extents[-1]]
    part.figures = [("phi4", draw(last), CAPTION)]
    pulls = [abs(r["phi2"]["rbm"] - r["phi2"]["hmc"]) / r["phi2"]["error"] for r in rows]
    part.checks = [Check("phi^4: the RBM's phi2 against HMC, in standard errors", max(pulls), 4.5)]
    return part


def one(kappa: float, extent: int, size: Size, folder: Path) -> dict[str, Any]:
    """One coupling and lattice."""
    name = f"{extent}-{kappa:g}"
    table = {
        "lattice.shape": (extent, extent),
        "action.kappa": kappa,
        "action.lam": LAM,
        "chain.n_configs": size.n_configs,
        "chain.n_thermalise": 300,
        "chain.thin": 5,
        "chain.start": "cold",
    }
    data = generate(config.parse(as_arguments(table)), folder / "data" / name)
    job = config.parse_training(
        as_arguments(
            {
                "model.kind": "GaussianRBM",
                "model.train-eta": False,
                "training.learning-rate": 0.7,
                "training.n-steps": size.n_steps,
                "training.snapshots": 0,
                "training.augment": True,
            }
        )
    )
    model = train(job, folder / "models" / name, data=[folder / "data" / name])
    judged, estimates = model.report["theories"][0], measure(data)
    spectrum = np.asarray(model.network.eigenvalues())
    phi2 = float(np.mean(1 / spectrum))
    gaussian = {"phi2": phi2, "phi4": 3 * phi2**2, "binder": 0.0}
    compared = {
        key: {"hmc": estimates[key].value, "error": estimates[key].error, "rbm": value}
        for key, value in gaussian.items()
    }
    keys = ("ess", "pareto_k", "forward_ess", "missed_mode", "kl_gaussian", "schwinger_dyson")
    covariance = np.asarray(model.network.covariance())
    return (
        {"kappa": kappa, "extent": extent, "n_configs": data.n_chains * data.n_configs}
        | {key: judged[key] for key in keys}
        | compared
        | {"training_seconds": model.seconds}
        | {"drawn": _drawn(data, model.network, float(covariance.mean()))}
    )


def _cells(row: dict[str, Any], key: str) -> tuple[str, str]:
    found = row[key]
    return f"{found['hmc']:.5g} ± {found['error']:.1g}", f"{found['rbm']:.5g}"


def _drawn(data: Any, rbm: Any, variance: float) -> dict[str, Any]:
    """1/G(p) with errors, the kernel's <p|K|p> per shell, M of HMC, and the model's <M^2>."""
    p_hat_squared, propagator, error = two_point(data).shells()
    lattice = Lattice(data.shape)
    kernel = np.asarray(rbm.kernel()).reshape(*data.shape, *data.shape)
    first, second = (0, 1), (2, 3)
    turned = np.fft.ifftn(np.fft.fftn(kernel, axes=first), axes=second)
    volume = lattice.volume
    diagonal = np.diagonal(turned.reshape(volume, volume)).real
    shell = lattice.shells[1].ravel()
    means = np.bincount(shell, diagonal) / np.bincount(shell)
    return {
        "p_hat_squared": np.asarray(p_hat_squared),
        "inverse": 1 / np.asarray(propagator),
        "inverse_error": np.asarray(error) / np.asarray(propagator) ** 2,
        "kernel": means,
        "magnetisation": np.asarray(data.series("magnetisation")).ravel(),
        "m2": variance,
    }


@style()
def draw(rows: list[dict[str, Any]]) -> Any:
    """Spectrum above, distribution of M below, one column per coupling."""
    made = figure(4.8)
    axes = made.subplots(2, len(rows), squeeze=False)
    for (top, bottom), row in zip(axes.T, rows, strict=True):
        seen = row["drawn"]
        x = seen["p_hat_squared"]
        top.plot(x, seen["kernel"], color=ORANGE, linewidth=1.0, label="RBM", zorder=1)
        top.errorbar(
            x,
            seen["inverse"],
            seen["inverse_error"],
            fmt="o",
            color=BLUE,
            markersize=3,
            elinewidth=0.8,
            label="HMC",
        )
        top.set(xlabel=r"$\hat p^2$", ylim=(0, None))
        name = PHASES.get(row["kappa"], "")
        top.set_title(rf"$\kappa = {row['kappa']:g}$, {name}", loc="center", fontsize=10.5)
        m = np.concatenate([seen["magnetisation"], -seen["magnetisation"]])
        reach = max(1.1 * np.abs(m).max(), 3.2 * np.sqrt(seen["m2"]))
        edges = np.linspace(-reach, reach, 42)
        density, _ = np.histogram(m, edges, density=True)
        bottom.stairs(
            density, edges, fill=True, facecolor=(BLUE, 0.2), edgecolor=BLUE, linewidth=0.9
        )
        grid = np.linspace(-reach, reach, 301)
        gauss = np.exp(-(grid**2) / (2 * seen["m2"])) / np.sqrt(2 * np.pi * seen["m2"])
        bottom.plot(grid, gauss, color=ORANGE)
        bottom.set(xlabel="$M$", ylim=(0, None))
        text = f"ESS/n = {row['ess']:.2g}"
        bottom.set_title(text, loc="center", fontsize=9.5, color=INK)
    axes[0, 0].set_ylabel(r"eigenvalue of $K$, $1/G(p)$")
    axes[1, 0].set_ylabel("probability density")
    axes[0, 0].legend(loc="upper left")
    return made
