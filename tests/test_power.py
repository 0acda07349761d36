"""`check` refuses what is wrong: one test per fault that has been, or could be, published."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from checked_runs import N_CHAINS, SHAPE, phi4, run

import lattice_ml
from lattice_ml import Phi4
from lattice_ml._pytree import pytree
from lattice_ml.analysis.certificates import check
from lattice_ml.chains.run import Chains

LAM = 0.022


@pytest.fixture(scope="module")
def symmetric():
    return run(phi4(0.25))


def bare(action, cfgs):
    """An ensemble as others publish it: configurations `(n_configs, n_chains, *L)`, no run."""
    magnetisation = cfgs.mean(axis=(2, 3)).T
    flat = cfgs.reshape(-1, *SHAPE)
    return Chains(action, SHAPE, 1, flat, {"magnetisation": magnetisation}, {})


def fields(ensemble):
    """Configurations `(n_configs, n_chains, *L)`."""
    return ensemble.cfgs.reshape(-1, ensemble.n_chains, *ensemble.shape)


def failed(ensemble):
    return {c.name for c in check(ensemble) if c.verdict == "fail"}


def test_the_ensemble_that_the_faults_are_planted_in_passes(symmetric):
    assert not failed(symmetric)
    assert not failed(bare(symmetric.action, fields(symmetric)))


def test_langevin_with_half_the_noise_variance_samples_another_theory():
    h, a, b = phi4(0.25).couplings()
    rng, step = np.random.default_rng(1), 0.02
    phi, kept = np.zeros((N_CHAINS, *SHAPE)), []
    for i in range(4000):
        neighbours = sum(np.roll(phi, s, axis) for s in (1, -1) for axis in (1, 2))
        drift = h * neighbours - 2 * a * phi - 4 * b * phi**3
        phi = phi + step * drift + np.sqrt(step) * rng.standard_normal(phi.shape)
        if i >= 1000 and i % 20 == 0:
            kept.append(phi)
    assert "schwinger_dyson" in failed(bare(phi4(0.25), np.array(kept, np.float32)))


def test_domain_walls_after_a_hot_quench():
    quench = run(
        phi4(0.5),
        shape=(32, 32),
        n_chains=64,
        n_configs=100,
        n_thermalise=30,
        sampler={"trajectory_length": 1.0},
    )
    assert {"halves_agree", "schwinger_dyson"} <= failed(quench)


def test_domain_walls_that_no_longer_move():
    """Stripes live for ever on the scale of the run: every chain is stationary by itself."""
    stripe = np.where(np.arange(16) < 8, 4.8, -4.8) * np.ones((16, 1))
    uniform = np.full(SHAPE, 4.8)
    start = np.stack([stripe, uniform, stripe.T, uniform]).astype(np.float32)
    frozen = run(phi4(0.5), start=start, sampler={"trajectory_length": 1.0})
    assert failed(frozen) == {"chains_agree", "cluster_signs", "movement"}


def test_a_missing_well():
    start = np.full((1, *SHAPE), 4.8, np.float32)
    one_well = run(phi4(0.5), start=start, sampler={"sign_flip": False})
    assert failed(one_well) == {"z2_balance"}


@pytest.mark.parametrize("factor", [1.02, 0.98])
def test_scaled_configurations(symmetric, factor):
    scaled = fields(symmetric) * np.float32(factor)
    assert "schwinger_dyson" in failed(bare(symmetric.action, scaled))
    assert "histories_agree" in failed(replace(symmetric, cfgs=scaled.reshape(-1, *SHAPE)))


@pytree
class OpenPhi4:
    """Phi4 without the links around the boundary."""

    closed: Phi4
    z2 = True

    def __call__(self, phi):
        h, _, _ = self.closed.couplings()
        around = jnp.sum(phi[0] * phi[-1]) + jnp.sum(phi[:, 0] * phi[:, -1])
        return self.closed(phi) + h * around


def test_open_instead_of_periodic_boundary():
    opened = run(OpenPhi4(phi4(0.25)))
    assert not failed(opened)
    assert "schwinger_dyson" in failed(bare(phi4(0.25), fields(opened)))


def test_shuffled_sites(symmetric):
    order = np.random.default_rng(1).permutation(SHAPE[0])
    assert "schwinger_dyson" in failed(bare(symmetric.action, fields(symmetric)[:, :, order]))


def test_shuffled_configurations(symmetric):
    order = np.random.default_rng(1).permutation(len(symmetric.cfgs))
    assert {"histories_agree", "repeats"} <= failed(replace(symmetric, cfgs=symmetric.cfgs[order]))


def test_chains_at_two_couplings_in_one_ensemble(symmetric):
    other = run(phi4(0.24), seed=2)
    mixed = np.concatenate([fields(symmetric)[:, :16], fields(other)[:, 16:]], axis=1)
    assert {"chains_agree", "schwinger_dyson"} <= failed(bare(symmetric.action, mixed))


def test_one_chain_at_another_coupling(symmetric):
    other = run(phi4(0.22), seed=2)
    mixed = np.concatenate([fields(symmetric)[:, :-1], fields(other)[:, :1]], axis=1)
    assert "chains_agree" in failed(bare(symmetric.action, mixed))


def test_chains_that_still_thermalise():
    young = run(phi4(0.2705), n_thermalise=0, start="cold", sampler={"trajectory_length": 1.0})
    assert "halves_agree" in failed(young)
    assert "halves_agree" in failed(bare(young.action, fields(young)))


def test_a_single_chain_that_still_thermalises():
    start = np.full((1, *SHAPE), 8.0, np.float32)
    young = run(phi4(0.2), n_chains=1, n_configs=800, n_thermalise=0, start=start)
    assert "exp_minus_dh" in failed(young)


@pytest.mark.parametrize("duplicate", ["in a row", "again later", "in another chain", "negative"])
def test_duplicated_configurations(symmetric, duplicate):
    cfgs = fields(symmetric).copy()
    if duplicate == "in a row":
        cfgs[1::2] = cfgs[::2]
    elif duplicate == "again later":
        cfgs[150] = cfgs[50]
    elif duplicate == "in another chain":
        cfgs[:, 1] = cfgs[:, 0]
    else:
        cfgs[:, 1] = -cfgs[:, 0]
    histories = {"acceptance": symmetric.series("acceptance")}
    flat = cfgs.reshape(-1, *SHAPE)
    assert "repeats" in failed(replace(symmetric, cfgs=flat, histories=histories))


def test_many_chains_taken_for_one(symmetric):
    """Rejected proposals repeat a configuration 32 samples later."""
    strung = fields(symmetric).reshape(-1, 1, *SHAPE)
    assert "repeats" in failed(bare(symmetric.action, strung))


def test_chains_driven_by_the_same_random_numbers():
    """Every chain of the second run has the momenta of one of the first."""
    one = run(phi4(0.2), start="hot", sampler={"trajectory_length": 1.0})
    two = run(phi4(0.2), start="cold", sampler={"trajectory_length": 1.0})
    twins = np.concatenate([fields(one)[:, :16], fields(two)[:, :16]], axis=1)
    assert "chains_independent" in failed(bare(one.action, twins))


def test_field_in_another_normalisation_than_the_couplings(symmetric):
    for convention in ("standard", "standard24", "nohalf"):
        converted, scale = lattice_ml.convert(symmetric.action, convention, 2)
        assert not failed(bare(converted, fields(symmetric) / np.float32(scale)))
        assert "schwinger_dyson" in failed(bare(converted, fields(symmetric)))


@pytest.mark.parametrize(
    ("convention", "couplings"),
    [
        ("beta", {"beta": 0.25, "lam": LAM}),  # kappa taken for beta = 2 kappa
        ("kappa", {"kappa": 0.5, "lam": LAM}),  # and the reverse
        ("kappa", {"kappa": 0.25, "lam": LAM / 24}),  # lam taken for lam / 4!
    ],
)
def test_wrong_convention(symmetric, convention, couplings):
    labelled = lattice_ml.action(convention, 2, **couplings)
    assert "schwinger_dyson" in failed(bare(labelled, fields(symmetric)))
