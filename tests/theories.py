"""Theories for tests of the models: a free one, and an interacting one near a transition."""

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import FreeField, Phi4
from lattice_ml.fields.modes import Modes
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.theory import Theory

CRITICAL = Phi4(h=2 * 0.2705, a=1 - 2 * 0.022, b=0.022)

to_modes = jax.jit(lambda phi, modes: modes.forward(phi), static_argnums=1)
to_sites = jax.jit(lambda x, modes: modes.inverse(x), static_argnums=1)


def free_theory(shape, mass_squared=0.5, dtype=jnp.float64):
    """A free field with its exact propagator; the mixture is one Gaussian in two halves."""
    modes = Modes(shape)
    h, a, b = FreeField(mass_squared, len(shape)).couplings()
    c = 1 / (mass_squared + modes.p_hat_squared)
    c_0 = float(c[modes.zero])
    return Theory(
        h,
        a,
        b,
        propagator=c,
        mixture=np.array([[0.5, 0.5], [0.0, 0.0], [c_0, c_0]]),
        phi_squared=float(c.mean()),
        force_rms=1e-6,
        quantiles=np.linspace(0.01, 2, 1024),
        modes=modes,
    ).astype(dtype)


def two_well_fields(shape, n=256, seed=0, magnetisation=1.5):
    """Gaussian fluctuations about +-magnetisation, `(n, *shape)` in float32."""
    rng = np.random.default_rng(seed)
    modes = Modes(shape)
    x = rng.normal(size=(n, *modes.p_hat_squared.shape)) / np.sqrt(0.7 + modes.p_hat_squared)
    x[modes.zero] += magnetisation * np.sqrt(modes.volume) * rng.choice([-1, 1], n)
    return np.asarray(to_sites(x, modes), np.float32)


def critical_theory(shape, dtype=jnp.float32, **settings):
    """phi^4 couplings near criticality with what `two_well_fields` show."""
    return measure_theory(CRITICAL, [(two_well_fields(shape), None)], **settings).astype(dtype)
