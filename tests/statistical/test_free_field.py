"""Every Fourier mode of the free field has the variance 1/(m^2 + p_hat^2)."""

import jax
import numpy as np
import pytest
from scipy import stats

from lattice_ml import HMC, FreeField, Lattice, run

SHAPES = [(16,), (8, 6), (4, 6, 4), (4, 2, 4, 4)]
N_CHAINS, N_THERMALISE, N_CONFIGS = 128, 50, 100


def mode_pulls(lattice, sampler, dtype="float32", seed=1):
    """(<|phi(p)|^2> (m^2 + p_hat^2)/V - 1) / error of the independent modes, errors from chains."""
    action = sampler.action
    chains = run(
        jax.random.key(seed),
        sampler,
        lattice,
        n_chains=N_CHAINS,
        n_thermalise=0,
        n_configs=N_THERMALISE + N_CONFIGS,
        start="cold",
        dtype=dtype,
    )
    cfgs = chains.cfgs.reshape(-1, N_CHAINS, *lattice.shape)[N_THERMALISE:]
    power = np.abs(np.fft.fftn(cfgs, axes=range(2, cfgs.ndim))) ** 2 / lattice.volume
    per_chain = np.mean(power / action.propagator(lattice), axis=0).reshape(N_CHAINS, -1)
    error = per_chain.std(axis=0, ddof=1) / np.sqrt(N_CHAINS)
    pulls = (per_chain.mean(axis=0) - 1) / error
    return pulls[independent_modes(lattice)]


def independent_modes(lattice):
    """Flat indices of one of each pair p, -p."""
    index = np.arange(lattice.volume).reshape(lattice.shape)
    partner = index[np.ix_(*(-np.arange(extent) % extent for extent in lattice.shape))]
    return np.flatnonzero((index <= partner).ravel())


def agree(pulls):
    """Joint chi^2 over all modes and the largest pull, each at 4.5 sigma or the like."""
    likely = stats.chi2.sf(np.sum(pulls**2), len(pulls)) > 1e-5
    return bool(likely and np.abs(pulls).max() < 4.5)


@pytest.mark.parametrize("integrator", ["leapfrog", "omelyan2", "omelyan4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_mode_has_its_exact_variance(shape, integrator):
    free = FreeField(mass_squared=0.5, ndim=len(shape))
    sampler = HMC(free, trajectory_length=2.0, n_steps=10, integrator=integrator)
    assert agree(mode_pulls(Lattice(shape), sampler))


def test_every_mode_has_its_exact_variance_in_float64():
    sampler = HMC(FreeField(mass_squared=0.5, ndim=2), trajectory_length=2.0, n_steps=10)
    assert agree(mode_pulls(Lattice((8, 6)), sampler, dtype="float64"))


@pytest.mark.parametrize(("settings", "right"), [({}, True), ({"jitter": 0.0}, False)])
def test_a_resonant_trajectory_is_ergodic_with_jitter_only(settings, right):
    """p = (3 pi/4, 0) has half its period, pi/1.978, next to 1.6 and forgets its start slowly."""
    free = FreeField(mass_squared=0.5, ndim=2)
    sampler = HMC(free, trajectory_length=1.6, n_steps=16, **settings)
    assert agree(mode_pulls(Lattice((8, 8)), sampler)) is right
