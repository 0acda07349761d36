"""The spectrum of a Gaussian RBM: the eigenvalues of its kernel, in closed form."""

import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.analysis import spectrum as spectral
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.model import Model
from lattice_ml.runtime.json import JsonTable

__all__ = ["of_rbm"]


def of_rbm(model: Model) -> JsonTable:
    """The eigenvalues of a model's kernel, beside those of its data.

    Args:
        model: whose network is a `GaussianRBM`, and whose last theory are `Moments`.
    """
    stage, machine = model.stages[-1], model.network
    section, moments = stage.actions[-1], stage.theories[-1]
    mean, centre = np.asarray(moments.mean, np.float64), np.asarray(machine.centre, np.float64)
    # hidden means give the machine a mean of its own: K^-1 is then the covariance
    origin = mean if np.any(np.asarray(machine.eta)) else centre
    second = np.asarray(moments.second, np.float64) - np.outer(mean, mean)
    second += np.outer(mean - origin, mean - origin)
    action = conventions.from_config(section, len(stage.shape))
    lattice = None if action is None else Lattice(stage.shape)
    free = None
    if lattice is not None:
        bare, b = spectral.bare_form_of(action, lattice)
        free = bare if b == 0 else None
    mass, sigma = np.asarray(machine.mu_squared, np.float64), float(machine.sigma)
    found = spectral.machine(
        machine.w,
        mass,
        sigma,
        second,
        model.report["eigenvalue_errors"],
        lattice=lattice,
        free=free,
    )
    history = model.history
    return {
        "kind": "GaussianRBM",
        "what": "eigenvalues of the kernel K",
        "shape": list(stage.shape),
        "action": dict(section),
        **found,
        "multiplicity": [1] * len(mean),
        "p_hat_squared": None,
        "history": [
            {"step": int(step), "eigenvalues": values, "log_likelihood": worth}
            for step, values, worth in zip(
                history["step"], history["eigenvalues"], history["log_likelihood"], strict=True
            )
        ],
        "mu_squared": mass,
        "sigma": sigma,
        "n_hidden": machine.w.shape[1],
        "n_data": moments.n,
    }
