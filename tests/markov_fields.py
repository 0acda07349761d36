"""Markov fields for tests, and the sampler that users would pass to a fit."""

import numpy as np

from lattice_ml import HMC, Lattice, run
from lattice_ml.models.markov_field import MarkovField

N_CHAINS = 64
N_CONFIGS = 64  # of every chain: one number, so that all tests share few compiled programs


def random_field(shape, seed=3, r=0.5):
    rng = np.random.default_rng(seed)
    h = rng.uniform(0.1, 0.5, (len(shape), *shape))
    a, b, pull = (rng.uniform(*ends, shape) for ends in ((0.5, 1.2), (0.05, 0.3), (-r, r)))
    return MarkovField(h, a, b, pull, z2=r == 0)


def normal(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def sample(key, field, start, n_thermalise=40):
    """Configurations of exp(-S), nearly independent, of chains that go on from `start`."""
    size = {"n_chains": N_CHAINS, "n_configs": N_CONFIGS, "thin": 6, "n_thermalise": n_thermalise}
    return run(key, HMC(field, n_steps=5), Lattice(field.shape), start=start, **size).cfgs


def series(values):
    """Numbers of all configurations, `(n_configs * n_chains,)`, as `(n_chains, n_configs)`."""
    return np.reshape(values, (-1, N_CHAINS)).T
