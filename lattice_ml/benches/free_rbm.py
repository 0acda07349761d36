"""Gaussian RBMs of the free field against their closed form, with infinitely many data.

The data are the exact second moment.  N_h hidden fields learn the N_h lowest eigenvalues kappa that
lie below mu^2, the rest is mu^2; where mu^2 is trained, 1/mu^2 is the mean of 1/kappa over the rest
(arXiv:2309.15002).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.benches.record import Row
from lattice_ml.fields.modes import Modes
from lattice_ml.models.rbm import GaussianRBM, gaussian_kl
from lattice_ml.models.rbm import fit as rbm_fit
from lattice_ml.models.rbm.fit import RBMSettings, RBMState
from lattice_ml.models.rbm.moments import Moments

__all__ = ["BEGIN", "MASS_SQUARED", "N_SITES", "begin", "closed_form", "exact", "fit", "learn"]

N_SITES, MASS_SQUARED = 10, 4.0  # of the chain
BEGIN = 16.0  # mu^2, where it is trained


def exact(shape: tuple[int, ...], mass_squared: float) -> tuple[Moments, np.ndarray]:
    """The moments of a free field, and the eigenvalues kappa of its kernel, ascending."""
    modes = Modes(shape)
    kappa = (mass_squared + modes.p_hat_squared).ravel()
    unit = jnp.eye(modes.volume).reshape(-1, *modes.p_hat_squared.shape)
    basis = np.asarray(modes.inverse(unit)).reshape(modes.volume, -1)
    numbers = (np.zeros(len(kappa)), (basis.T / kappa) @ basis, np.asarray(np.inf))
    return Moments(*map(jnp.asarray, numbers)), np.sort(kappa)


def begin(
    n_visible: int, n_hidden: int, mu_squared: float, settings: RBMSettings, scale: float
) -> RBMState:
    """The first state, with w of `n_visible` columns, of which the last are zero.

    A hidden field without coupling stays without one, and all N_h share one compiled program.
    """
    key, centre, mass = jax.random.key(1), jnp.zeros(n_visible), jnp.asarray(mu_squared)
    state = rbm_fit.initial(key, centre, n_visible, mass, 1.0, scale, settings)
    w = state.rbm.w * (jnp.arange(n_visible) < n_hidden)
    return state._replace(rbm=GaussianRBM.of(w, mass))


def fit(
    settings: RBMSettings, state: RBMState, moments: Moments, n: int, rate: float = 1.0
) -> RBMState:
    """Take `n` steps of the library's own fit."""
    numbers = jnp.asarray(rate), jnp.asarray(np.inf), jnp.asarray(n)
    return rbm_fit.fit(settings, state, moments, jax.random.key(2), *numbers)


def closed_form(
    kappa: np.ndarray, n_hidden: int, mu_squared: float | None
) -> tuple[np.ndarray, float, float]:
    """The fixed point: spectrum, mu^2 and KL(free field || RBM); mu^2 is trained where None."""
    if mu_squared is None:
        rest = kappa[n_hidden:]
        mu_squared = float(1 / np.mean(1 / rest)) if len(rest) else math.inf
    target = np.minimum(kappa, mu_squared)
    target[n_hidden:] = mu_squared
    return target, mu_squared, 0.5 * float(np.sum(np.log(kappa / target) + target / kappa - 1))


def learn(n_hidden: int, mu_squared: float | None, n_steps: int) -> Row:
    """Train with at most `N_SITES` hidden fields on the chain; mu^2 is trained where None.

    Returns:
        Learned and closed-form eigenvalues `(N_SITES,)`, mu^2 and KL.
    """
    moments, kappa = exact((N_SITES,), MASS_SQUARED)
    settings = RBMSettings(train_eta=False, train_mu=mu_squared is None)
    start = begin(N_SITES, n_hidden, mu_squared or BEGIN, settings, 0.3)
    rbm = fit(settings, start, moments, n_steps).rbm
    target, mass, kl = closed_form(kappa, n_hidden, mu_squared)
    learned, found = np.asarray(rbm.eigenvalues()), float(rbm.mu_squared)
    free = not np.isfinite(mass)  # as many hidden fields as sites: any mu^2 > kappa will do
    return {
        "n_hidden": n_hidden,
        "mu_squared": found,
        "mu_squared_exact": None if free else mass,
        "mu_squared_deviation": 0.0 if free else abs(found - mass),
        "eigenvalues": learned.tolist(),
        "target": target.tolist(),
        "deviation": float(np.max(np.abs(learned / target - 1))),
        "kl": float(gaussian_kl(rbm, moments.second)),
        "kl_exact": kl,
    }
