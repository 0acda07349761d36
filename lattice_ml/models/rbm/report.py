"""What a trained Gaussian RBM is worth: likelihood, spectrum, and its samples as proposals."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.analysis.two_point import bin_numbers
from lattice_ml.models.data import Source
from lattice_ml.models.rbm.drawer import RBMDrawer
from lattice_ml.models.rbm.fit import log_likelihood
from lattice_ml.models.rbm.gaussian import GaussianRBM, gaussian_kl
from lattice_ml.models.rbm.moments import Moments
from lattice_ml.models.rbm.phases import moments_of
from lattice_ml.models.training import Phase, Task
from lattice_ml.models.worth import JUDGED_SAMPLES, JUDGED_SITES, judge
from lattice_ml.runtime.json import JsonTable

__all__ = ["eigenvalue_errors", "report"]

_HELD_OUT = 4096  # fields

_likelihood, _gaussian_kl = jax.jit(log_likelihood), jax.jit(gaussian_kl)


def report(task: Task, network: GaussianRBM, phases: Sequence[Phase[Any]]) -> JsonTable:
    """Judge an RBM by the data, and where their action is known by its own samples."""
    rbm, moments, (data,) = network, moments_of(task), task.data
    key = jax.random.fold_in(jax.random.key(task.seed), 2**31)
    drawer = RBMDrawer.choose(rbm, data.shape, key)
    held_out = data.held_out(_HELD_OUT)
    doubts = [source.doubt for source in data.sources if source.doubt]
    entry: JsonTable = {
        "shape": list(data.shape),
        "action": dict(data.actions[0]),
        "log_likelihood": float(_likelihood(rbm, moments)),
        "log_likelihood_of_noise": _of_noise(moments),
        "kl_gaussian": _kl(rbm, moments),
    }
    if doubts:
        entry["data_doubt"] = doubts[0]
    if held_out is not None:
        logs = drawer.log_prob(held_out.reshape(-1, *data.shape))
        entry["validation_log_likelihood"] = float(logs.mean())
    action = conventions.from_config(data.actions[0], len(data.shape))
    if action is not None:
        n_samples = max(64, min(JUDGED_SAMPLES, JUDGED_SITES // rbm.n_visible))
        entry |= judge(drawer, action, data.sources[0], n_samples)
    return {
        "theories": [entry],
        "n_weights": int(rbm.w.size + np.size(rbm.mu_squared) + rbm.eta.size),
        "n_steps": task.training.n_steps,
        "mu_squared": np.asarray(rbm.mu_squared, np.float64).tolist(),
        "eigenvalue_errors": eigenvalue_errors(rbm, data.sources).tolist(),
    }


def eigenvalue_errors(rbm: GaussianRBM, sources: Sequence[Source]) -> np.ndarray:
    """Statistical errors that the data leave to the eigenvalues of K, in increasing order.

    An eigenvalue lambda with eigenvector u is learned from <(u phi)^2>; the error is lambda times
    the relative error of that mean, by the jackknife over bins of whole chains or of consecutive
    parts of chains, so that autocorrelations are in it.  Eigenvalues that no hidden field lowers
    are mu^2 and have none.

    Returns:
        `(N_v,)`.
    """
    values, vectors = np.linalg.eigh(np.asarray(rbm.kernel(), np.float64))
    centre = np.asarray(rbm.centre, np.float64)
    sums, weights = [], []
    for source in sources:
        bins = bin_numbers(source.n_chains, source.n_configs)
        numbers = np.arange(bins.max() + 1)[:, None]
        total, weight, first = np.zeros((len(numbers), len(values))), np.zeros(len(numbers)), 0
        for fields, share in source.training():
            inside = (bins[first : first + len(fields)] == numbers).astype(np.float64)
            inside *= 1.0 if share is None else share
            projected = (fields.reshape(len(fields), -1) - centre) @ vectors
            total += inside @ projected**2
            weight += inside.sum(axis=1)
            first += len(fields)
        sums.append(total)
        weights.append(weight)
    parts, shares = np.concatenate(sums), np.concatenate(weights)
    left_out = (parts.sum(0) - parts) / (shares.sum() - shares)[:, None]
    n = len(parts)
    spread = np.sqrt((n - 1) * np.mean((left_out - left_out.mean(0)) ** 2, axis=0))
    mean = parts.sum(0) / shares.sum()
    relative = np.divide(spread, mean, out=np.zeros_like(mean), where=mean > 0)
    regulator = np.asarray(rbm.mass, np.float64) @ vectors**2
    learned = (np.arange(len(values)) < rbm.n_hidden) & (mean * regulator > 1)
    errors: np.ndarray = np.where(learned, values * relative, 0.0)
    return errors


def _of_noise(moments: Moments) -> float | None:
    """Mean log density of the data under independent Gaussian sites of their mean and variance.

    None of data that do not vary.
    """
    second, mean = (np.asarray(x, np.float64) for x in (moments.second, moments.mean))
    variance = float(np.mean(np.diagonal(second) - mean**2))
    return -0.5 * len(mean) * (1 + math.log(2 * math.pi * variance)) if variance > 0 else None


def _kl(rbm: GaussianRBM, moments: Moments) -> float | None:
    """KL of the Gaussian with the data's moments and the RBM; None where that is degenerate."""
    covariance = moments.second - jnp.outer(moments.mean, moments.mean)
    value = float(_gaussian_kl(rbm, covariance, moments.mean))
    return value if math.isfinite(value) else None
