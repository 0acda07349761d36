"""Gaussian RBMs, their fits and free fields, for the tests of the RBM."""

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm import fit as rbm_fit
from lattice_ml.models.rbm.fit import RBMSettings, RBMState
from lattice_ml.models.rbm.moments import Moments

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
    settings,
    n_visible,
    n_hidden,
    mu_squared,
    *,
    scale=0.3,
    dtype=jnp.float64,
    mu_range=(1e-6, 1e6),
    n_columns=None,
):
    """The state that `initial` makes, in NumPy; hidden fields up to `n_columns` do nothing.

    So one compiled program serves all numbers of hidden fields.
    """
    rng = np.random.default_rng(0)
    mass = np.broadcast_to(mu_squared, n_visible)
    frame = np.linalg.qr(rng.normal(size=(max(n_visible, n_hidden), min(n_visible, n_hidden))))[0]
    w = np.zeros((n_visible, n_columns or n_hidden))
    w[:, :n_hidden] = scale * np.sqrt(mass)[:, None] * (frame if n_visible >= n_hidden else frame.T)
    n_chains = settings.batch_size if settings.method == "pcd" else 1
    rbm = machine(w, mu_squared, dtype=dtype)
    chains = jnp.asarray(draw(rbm, n_chains, rng), dtype)
    zero = jnp.zeros((), int)
    return RBMState(rbm, chains, zero, zero, jnp.asarray(mu_range, dtype))


def machine(w, mu_squared, sigma=1.0, eta=None, centre=None, dtype=jnp.float64):
    """`GaussianRBM.of` without its check, which compiles for every shape."""
    eta = np.zeros(w.shape[1]) if eta is None else eta
    centre = np.zeros(w.shape[0]) if centre is None else centre
    return GaussianRBM(*(jnp.asarray(part, dtype) for part in (w, mu_squared, sigma, eta, centre)))


def draw(rbm, n, rng):
    """Independent fields `(n, N_v)`, in NumPy."""
    kernel, mean, *_ = dense(rbm)
    root = np.linalg.cholesky(np.linalg.inv(kernel))
    return mean + rng.normal(size=(n, len(mean))) @ root.T


def dense(rbm):
    """Kernel, mean and hidden covariance by dense linear algebra, from S(phi, h) alone."""
    w, mass = np.asarray(rbm.w, float), np.broadcast_to(rbm.mu_squared, rbm.n_visible)
    variance = float(rbm.sigma) ** 2
    precision = np.block([[np.diag(mass), -w], [-w.T, np.eye(rbm.n_hidden) / variance]])
    source = np.concatenate([np.zeros(rbm.n_visible), np.asarray(rbm.eta, float) / variance])
    covariance = np.linalg.inv(precision)
    mean = covariance @ source
    visible = covariance[: rbm.n_visible, : rbm.n_visible]
    return np.linalg.inv(visible), np.asarray(rbm.centre) + mean[: rbm.n_visible], precision, source


def spectrum(rbm):
    """Eigenvalues of the kernel, in increasing order."""
    return np.linalg.eigvalsh(dense(rbm)[0])


def divergence(covariance, rbm, mean=0.0):
    """KL(N(mean, covariance) || p)."""
    kernel, centre, *_ = dense(rbm)
    shift = centre - mean
    product = kernel @ covariance
    return 0.5 * (
        np.trace(product) + shift @ kernel @ shift - len(shift) - np.linalg.slogdet(product)[1]
    )


def fit(settings, state, data, n, *, rate=0.7, decay=np.inf, seed=1):
    dtype = state.rbm.w.dtype
    numbers = (jnp.asarray(rate, dtype), jnp.asarray(decay, dtype), n)
    return rbm_fit.fit(settings, state, data, jax.random.key(seed), *numbers)


def free_fields(n, shape=(10,), mass_squared=4.0, seed=0):
    """Independent draws of a free field, `(n, V)` in float32."""
    root = np.linalg.cholesky(np.linalg.inv(kernel(shape, mass_squared)))
    noise = np.random.default_rng(seed).normal(size=(n, len(root)))
    return jnp.asarray(noise @ root.T, jnp.float32)


def random_rbm(n_visible=6, n_hidden=4, *, per_site=True, seed=0, size=0.8, dtype=jnp.float64):
    """An RBM with every field set; `size` is the largest singular value of sigma w / mu."""
    rng = np.random.default_rng(seed)
    mu_squared = rng.uniform(1, 3, n_visible) if per_site else 2.0
    sigma = 0.7
    whitened = rng.normal(size=(n_visible, n_hidden))
    whitened *= size / np.linalg.svd(whitened, compute_uv=False)[0]
    w = np.sqrt(np.broadcast_to(mu_squared, n_visible))[:, None] * whitened / sigma
    return machine(
        w, mu_squared, sigma, rng.normal(size=n_hidden), rng.normal(size=n_visible), dtype
    )
