"""MALA is the textbook's algorithm, and one leapfrog step of HMC; its values are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4, advance, assert_exact, drift, total

from lattice_ml import HMC, MALA, measure, run
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single
from lattice_ml.jobs.config import ConfigError, parse

N_CHAINS = 64
EPS = 0.2


def update(sampler, number=3):
    """One update in float64: the old and new fields, the info, the draws and the noise."""
    keys = randomness.chain_keys(jax.random.key(5), N_CHAINS)
    phi = np.random.default_rng(5).normal(0, 0.8, (*LATTICE.shape, N_CHAINS))
    at, layout = jnp.uint32(number), single(LATTICE.shape, N_CHAINS)
    draws = sampler.draw(keys, at)
    state, info = advance(sampler, layout, keys, at, draws, sampler.start(jnp.asarray(phi)))
    eta = np.asarray(layout.normals(keys, at), np.float64)
    return phi, np.asarray(state.phi), info, draws, eta


def test_a_step_is_that_of_the_textbook():
    """Proposal and Metropolis ratio with q(phi|phi')/q(phi'|phi), written out in NumPy."""
    phi, found, info, draws, eta = update(MALA(PHI4, step_size=EPS, sign_flip=False))
    proposal = phi + EPS * drift(phi) + np.sqrt(2 * EPS) * eta
    there = np.sum((proposal - phi - EPS * drift(phi)) ** 2, axis=(0, 1)) / (4 * EPS)
    back = np.sum((phi - proposal - EPS * drift(proposal)) ** 2, axis=(0, 1)) / (4 * EPS)
    log_ratio = total(phi) - total(proposal) - back + there
    assert_allclose(-info.dh, log_ratio, atol=1e-6)  # draws stretch a step in float32
    accept = -log_ratio < np.asarray(draws.threshold)
    assert 0.2 < accept.mean() < 0.95
    assert_allclose(found, np.where(accept, proposal, phi), atol=1e-6)
    symmetric = total(phi) - total(proposal)
    assert np.abs(symmetric - log_ratio).max() > 0.5, "the asymmetry matters here"


def test_it_equals_hmc_with_one_leapfrog_step():
    step = np.sqrt(2 * EPS)
    hmc = HMC(PHI4, trajectory_length=step, n_steps=1, step_size=step, jitter=0.0)
    for one, other in zip(update(MALA(PHI4, step_size=EPS))[1:3], update(hmc)[1:3], strict=True):
        jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5, 1e-6), one, other)


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_exact_on_a_small_lattice(seed):
    chains = run(
        jax.random.key(seed), MALA(PHI4), LATTICE, n_chains=256, n_configs=300, n_thermalise=100
    )
    found = measure(chains)
    assert_exact(found)
    assert abs(np.mean(chains.series("exp_minus_dh")) - 1) < 0.01
    assert abs(found["acceptance"].value - 0.574) < 0.05
    assert set(chains.tuned) == {"step_size"} and 0.01 < chains.tuned["step_size"] < 1


def test_a_fixed_step_size_is_not_tuned():
    counts = {"n_chains": 4, "n_configs": 2, "n_thermalise": 20}
    chains = run(jax.random.key(1), MALA(PHI4, step_size=EPS), LATTICE, **counts)
    assert_allclose(chains.tuned["step_size"], EPS, rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sampler.step-size 0", "sampler.step_size must be auto or positive and finite, got 0"),
        ("--sampler.target-acceptance 1", r"sampler.target_acceptance must be in \(0, 1\), got 1"),
        ("--sampler.n-steps 3", "unknown key on the command line: sampler.n_steps"),
    ],
)
def test_bad_settings_are_refused(words, message):
    base = "--lattice.shape 4 4 --action.kappa 0.2 --action.lam 0.02 --sampler.kind MALA"
    with pytest.raises(ConfigError, match=message):
        parse([*base.split(), *words.split()])


def test_what_went_wrong_is_said():
    mala = MALA(PHI4, step_size=5.0)
    assert mala.diagnose({"divergent": 0.01}) is None
    assert "50.0 % of the steps have |dH| > 1000" in mala.diagnose({"divergent": 0.5})
    assert "make sampler.step_size smaller" in mala.remedy()
