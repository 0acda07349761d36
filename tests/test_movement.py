"""Chains move as their sampler makes them: all alike, staying where rejected, in their order."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from drawn_fields import certificate, draw, ensemble

import lattice_ml
from lattice_ml import HMC, MALA, Cycle, Langevin, Lattice, Wolff
from lattice_ml.analysis.certificates import movement
from lattice_ml.analysis.certificates.evidence import Missing, gather
from lattice_ml.storage.run import open_run

pytestmark = pytest.mark.unoptimised

SHAPE = (8, 8)
ACTION = lattice_ml.action("kappa", 2, kappa=0.26, lam=0.022)
LANGEVIN = {"step_size": 0.02, "trajectory_length": 0.2, "scheme": "leimkuhler_matthews"}


def run(sampler, n_configs=60, **settings):
    counts = {"n_chains": 64, "n_configs": n_configs, "n_thermalise": 100} | settings
    return lattice_ml.run(jax.random.key(3), sampler, Lattice(SHAPE), **counts)


def fields(made):
    """Configurations `(n_configs, n_chains, *L)`."""
    return made.cfgs.reshape(-1, made.n_chains, *made.shape)


def shuffled(made, noise=0.0):
    """Every chain in another order; histories go with their configurations."""
    rng = np.random.default_rng(1)
    order = rng.permuted(np.tile(np.arange(made.n_configs), (made.n_chains, 1)), axis=1)
    cfgs = np.take_along_axis(fields(made), order.T[..., None, None], axis=0)
    cfgs = (cfgs + noise * rng.standard_normal(cfgs.shape)).astype(np.float32)
    histories = {k: np.take_along_axis(x, order, axis=1) for k, x in made.histories.items()}
    return replace(made, cfgs=cfgs.reshape(-1, *made.shape), histories=histories)


@pytest.fixture(scope="module")
def hmc():
    return run(HMC(ACTION))


@pytest.fixture(scope="module")
def langevin():
    made = run(Langevin(ACTION, **LANGEVIN))
    return replace(made, tuned={"kind": "Langevin", **LANGEVIN})


# ---------------------------------------------------------------------------- all chains alike


def test_chains_of_one_sampler_move_alike(hmc):
    found = certificate(hmc, "movement")
    assert found.verdict == "pass"
    assert found.p_value > 1e-3


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 0.03])
def test_a_frozen_chain_with_noise_and_signs_is_found(hmc, noise):
    cfgs, rng = fields(hmc).copy(), np.random.default_rng(2)
    signs = rng.choice([-1, 1], (len(cfgs), 1, 1))
    cfgs[:, 5] = signs * (cfgs[0, 5] + noise * rng.standard_normal(cfgs[:, 5].shape))
    assert certificate(replace(hmc, cfgs=cfgs.reshape(-1, *SHAPE)), "movement").verdict == "fail"


def test_a_chain_that_moves_half_as_far_is_found():
    cfgs = draw(1, n_configs=200)
    cfgs[:, 2] = draw(2, n_chains=1, n_configs=200, memory=0.8)[:, 0]
    assert certificate(ensemble(cfgs), "movement").verdict == "fail"


def test_movement_says_why_it_cannot_be_judged():
    def why(cfgs):
        return certificate(ensemble(cfgs), "movement").meaning

    assert why(draw(1, n_chains=1)) == "there is a single chain"
    assert why(draw(1, n_configs=3)) == "3 configurations per chain do not show how it moves"
    assert why(np.repeat(draw(1, n_configs=1), 30, axis=0)) == "nothing moved"
    slow = "chains are shorter than 20 tau_int of the slowest quantity: run longer"
    assert why(draw(1, memory=0.98)) == slow


# ---------------------------------------------------------------------------------- rejections


@pytest.mark.parametrize(
    "sampler", [MALA(ACTION), Cycle((HMC(ACTION, trajectory_length=0.5), Wolff(ACTION)))]
)
def test_configurations_stay_where_they_were_rejected(sampler):
    made = run(sampler)
    found = certificate(made, "rejections")
    assert found.verdict == "pass"
    assert found.value.split()[0] != "0"
    assert certificate(shuffled(made), "rejections").verdict == "fail"


def test_noise_takes_the_rejections_away(hmc):
    assert certificate(hmc, "rejections").verdict == "pass"
    noise = 1e-6 * np.random.default_rng(3).standard_normal(hmc.cfgs.shape)
    noisy = replace(hmc, cfgs=(hmc.cfgs + noise).astype(np.float32))
    assert certificate(noisy, "rejections").verdict == "fail"
    assert certificate(shuffled(hmc, noise=1e-6), "rejections").verdict == "fail"


def test_rejections_are_not_judged_where_several_proposals_follow_each_other(hmc, langevin):
    assert certificate(langevin, "rejections").meaning == (
        "there is no history of proposals that were accepted or rejected"
    )
    two = {name: (x[:, :-1] + x[:, 1:]) / 2 for name, x in hmc.histories.items()}
    kept = replace(hmc, cfgs=hmc.cfgs[: -hmc.n_chains], histories=two)
    assert certificate(kept, "rejections").meaning == (
        "there are several proposals from one configuration to the next"
    )
    both = replace(hmc, histories=hmc.histories | {"acceptance_MALA": hmc.series("acceptance")})
    assert certificate(both, "rejections").meaning == (
        "an update moves the fields by more than one proposal"
    )


# ------------------------------------------------------------------------- how far a step can go


def test_a_slow_series_in_another_order_takes_steps_that_langevin_cannot(langevin):
    assert certificate(langevin, "steps").verdict == "pass"
    assert certificate(shuffled(langevin, noise=1e-6), "steps").verdict == "fail"


def test_a_slow_series_of_hmc_in_another_order_takes_steps_that_hmc_cannot():
    short = run(HMC(ACTION, trajectory_length=0.2))
    assert certificate(short, "steps").verdict == "pass"
    assert certificate(shuffled(short), "steps").verdict == "fail"


@pytest.mark.parametrize(
    ("kind", "thin", "settings"),
    [
        ("HMC", 1, {"n_steps": 3, "step_size": 0.1, "jitter": 0.5}),
        ("MALA", 3, {"step_size": 0.01}),
        ("Langevin", 1, {"step_size": 0.01, "trajectory_length": 0.05, "temperature": 0.5}),
        ("Kramers", 2, {"step_size": 0.1, "trajectory_length": 0.3}),
    ],
)
def test_no_step_is_longer_than_the_bound_and_short_ones_nearly_reach_it(kind, thin, settings):
    """Of the slowest mode of a free field: what the formula allows is nearly what updates do."""
    action = lattice_ml.FreeField(0.05, 2)
    sampler = getattr(lattice_ml, kind)(action, **settings)
    made = replace(run(sampler, n_configs=60, thin=thin), tuned={"kind": kind, **settings})
    evidence = gather(made)
    squares = np.diff(np.sqrt(next(iter(evidence.two_point.values()))), axis=1) ** 2
    reached = squares.mean() / movement.longest_step(evidence)
    assert reached < 1.3
    assert reached > (0.05 if kind == "Kramers" else 0.4)
    assert certificate(made, "steps").verdict == "pass"


def test_settings_that_are_not_known_give_no_bound(hmc):
    for tuned in (
        {},
        {"kind": "HMC+Wolff", "step_size": 0.1, "n_steps": 3},
        {"kind": "HMC", "step_size": "auto", "n_steps": "auto"},
        {"kind": "Langevin", **LANGEVIN, "fourier_mass_squared": 1.0},
        {"kind": "MALA"},
        {**hmc.tuned, "kind": "FourierHMC", "mass_squared": 1.0},
    ):
        with pytest.raises(Missing, match="how far an update moves the fields is not known"):
            movement.longest_step(gather(replace(hmc, tuned=tuned)))


# ------------------------------------------------------------------------------ stored numbers


def store(directory, cfgs, trajectory):
    """Configurations `(n_configs, n_chains, *L)` with numbers of their trajectories."""
    config = {
        "lattice": {"shape": list(cfgs.shape[2:])},
        "action": {"kind": "FreeField", "mass_squared": 0.3},
        "chain": {"n_chains": cfgs.shape[1], "thin": 2},
        "sampler": {"kind": "HMC", "jitter": 0.2},
        "output": {"dtype": "float32"},
    }
    with open_run(directory, config, provenance={}) as stored:
        stored.record(n_steps=10, step_size=0.5, trajectory_length=5.0)
        stored.append(trajectory, cfgs, {}, {})
    return lattice_ml.open_ensemble(directory)


def test_trajectory_numbers_that_do_not_follow_each_other_are_found(tmp_path):
    cfgs, numbers = draw(4), np.arange(40) * 2
    assert certificate(store(tmp_path / "right", cfgs, numbers), "steps").verdict == "pass"
    numbers[[10, 20]] = numbers[[20, 10]]
    found = certificate(store(tmp_path / "wrong", cfgs, numbers), "steps")
    assert found.verdict == "fail"
    assert found.value.startswith("64 configurations")
