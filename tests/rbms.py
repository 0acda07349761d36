"""Gaussian RBMs, their fits and free fields, for the tests of the RBM."""

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.models import rbm_fit
from lattice_ml.models.moments import Moments
from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm_fit import RBMSettings, initial

WIDE = RBMSettings()


def kernel(shape, mass_squared):
    """The kernel of a free field, `(V, V)`."""
    sites = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    total = (mass_squared + 2 * len(shape)) * sites
    for axis in range(1, 1 + len(shape)):
        total = total - np.roll(sites, 1, axis) - np.roll(sites, -1, axis)
    return total.reshape(len(sites), -1)


def exact_moments(covariance, mean=None, n=np.inf):
    mean = np.zeros(len(covariance)) if mean is None else mean
    return Moments(
        jnp.asarray(mean), jnp.asarray(covariance + np.outer(mean, mean)), jnp.asarray(n)
    )


def begin(
    settings, n_visible, n_hidden, mu_squared, *, scale=0.3, dtype=jnp.float64, mu_range=(1e-6, 1e6)
):
    mu_squared = jnp.asarray(mu_squared, dtype)
    numbers = (n_hidden, mu_squared, 1.0, scale, settings, mu_range)
    return initial(jax.random.key(0), jnp.zeros(n_visible, dtype), *numbers)


def fit(settings, state, data, n, *, rate=0.7, decay=np.inf, seed=1):
    dtype = state.rbm.w.dtype
    numbers = (jnp.asarray(rate, dtype), jnp.asarray(decay, dtype), n)
    return rbm_fit.fit(settings, state, data, jax.random.key(seed), *numbers)


def free_fields(n, shape=(10,), mass_squared=4.0, seed=0):
    """Independent draws of a free field, `(n, V)` in float32."""
    root = np.linalg.cholesky(np.linalg.inv(kernel(shape, mass_squared)))
    noise = np.random.default_rng(seed).normal(size=(n, len(root)))
    return jnp.asarray(noise @ root.T, jnp.float32)


def random_rbm(n_visible=6, n_hidden=4, *, per_site=True, seed=0, size=0.8):
    """An RBM with every field set; `size` is the largest singular value of sigma w / mu."""
    rng = np.random.default_rng(seed)
    mu_squared = rng.uniform(1, 3, n_visible) if per_site else 2.0
    sigma = 0.7
    whitened = rng.normal(size=(n_visible, n_hidden))
    whitened *= size / np.linalg.svd(whitened, compute_uv=False)[0]
    w = np.sqrt(np.broadcast_to(mu_squared, n_visible))[:, None] * whitened / sigma
    return GaussianRBM.of(
        w, mu_squared, sigma, rng.normal(size=n_hidden), rng.normal(size=n_visible)
    )
