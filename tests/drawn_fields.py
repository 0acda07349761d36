"""Exact draws of a free field as an ensemble in memory, for the tests of certificates."""

import numpy as np

from lattice_ml import FreeField, Lattice
from lattice_ml.chains.run import Chains
from lattice_ml.observables import measure_configurations


def draw(seed, shape=(8, 8), *, n_chains=16, n_configs=40, mass_squared=0.3, memory=0.0):
    """Configurations `(n_configs, n_chains, *L)`; every mode is AR(1) with the same memory."""
    lattice, rng = Lattice(shape), np.random.default_rng(seed)
    axes = tuple(range(1, len(shape) + 1))
    width = np.sqrt(FreeField(mass_squared, len(shape)).propagator(lattice))
    fields = np.empty((n_configs, n_chains, *shape), np.float32)
    state = rng.standard_normal((n_chains, *shape))
    for i in range(n_configs):
        fields[i] = np.fft.ifftn(width * np.fft.fftn(state, axes=axes), axes=axes).real
        noise = rng.standard_normal(state.shape)
        state = memory * state + np.sqrt(1 - memory**2) * noise
    return fields


def ensemble(cfgs, histories=None, *, mass_squared=0.3, **options):
    """Configurations `(n_configs, n_chains, *L)` as a run; without histories they are measured."""
    n_chains, shape = cfgs.shape[1], cfgs.shape[2:]
    action = FreeField(mass_squared, len(shape))
    flat = cfgs.reshape(-1, *shape)
    if histories is None:
        measured = measure_configurations(action, flat)
        histories = {name: x.reshape(-1, n_chains).T for name, x in measured.items()}
    return Chains(action, shape, 1, flat, histories, options.pop("tuned", {}), **options)


def certificate(made, name):
    """One certificate of an ensemble."""
    from lattice_ml.analysis.certificates import certify
    from lattice_ml.analysis.certificates.evidence import gather

    return certify(gather(made), [name])[0]
