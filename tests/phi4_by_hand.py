"""phi^4 on 4x4 written out in NumPy, and its exact values, for the tests of samplers."""

import jax
import numpy as np
from references import CASES

from lattice_ml import Lattice
from lattice_ml.actions.conventions import action

LATTICE = Lattice((4, 4))
PHI4 = action("kappa", 2, kappa=0.2, lam=0.022)
NAMES = {"phi2": "phi2", "phi4": "phi4", "m2": "M2", "m4": "M4", "binder": "U_L"}

advance = jax.jit(lambda sampler, *args: sampler.update(*args), static_argnums=1)
drawn = jax.jit(lambda sampler, *args: sampler.draw(*args))


def draw(sampler, keys, trajectory):
    """The draws of a sampler in NumPy."""
    return jax.tree.map(np.asarray, drawn(sampler, keys, trajectory))


def total(phi):
    """S of fields `(4, 4, n_chains)`."""
    h, a, b = PHI4.couplings()
    links = sum(phi * np.roll(phi, 1, axis) for axis in (0, 1))
    return np.sum(a * phi**2 + b * phi**4 - h * links, axis=(0, 1))


def drift(phi):
    """-dS/dphi."""
    h, a, b = PHI4.couplings()
    neighbours = sum(np.roll(phi, s, axis) for s in (1, -1) for axis in (0, 1))
    return h * neighbours - 2 * a * phi - 4 * b * phi**3


def assert_exact(found, max_z=4.5):
    """What `measure` found on 4x4 is within `max_z` errors of the transfer-matrix values."""
    exact = CASES["torus4x4_kappa_k=0.2_l=0.022"]["values"]
    for ours, theirs in NAMES.items():
        assert abs(found[ours].value - exact[theirs][0]) < max_z * found[ours].error, ours
    assert found["phi2"].error < 0.01 * exact["phi2"][0]
