"""The warm-up of HMC: what is given stays, what is "auto" reaches its target."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from rows import each

from lattice_ml import HMC, FreeField, Lattice, run
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import action
from lattice_ml.samplers.tuning import Lengths

LATTICE = Lattice((8, 8))
PHI4 = action("kappa", 2, kappa=0.25, lam=0.022)


@pytree
class OneSided:
    """An action that does not declare its symmetry under phi -> -phi."""

    symmetric: Any

    def __call__(self, phi):
        return self.symmetric(phi)

    def density(self, phi, hop):
        return self.symmetric.density(phi, hop)


def warm(sampler, lattice=LATTICE, *, seed=1, **settings):
    """A short production run after the warm-up."""
    settings = {"n_chains": 64, "n_thermalise": 300, "n_configs": 50} | settings
    return run(jax.random.key(seed), sampler, lattice, **settings)


# What is given stays


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ((None, None, None), (2.0, 7, 2.0 / 7)),
        ((3.0, None, None), (3.0, 10, 0.3)),
        ((None, 5, None), (1.5, 5, 0.3)),
        ((None, None, 0.5), (2.0, 4, 0.5)),
        ((None, None, 0.6), (1.8, 3, 0.6)),
        ((3.0, 6, None), (3.0, 6, 0.5)),
        ((3.0, None, 0.7), (2.8, 4, 0.7)),
        ((None, 4, 0.7), (2.8, 4, 0.7)),
        ((3.0, 6, 0.5), (3.0, 6, 0.5)),
        ((0.1, None, 0.5), (0.5, 1, 0.5)),
        ((0.1, None, None), (0.1, 1, 0.1)),
        ((1e6, None, None), (1024 * 0.3, 1024, 0.3)),
    ],
    ids=str,
)
def test_lengths_follow_from_each_other(given, resolved):
    """The estimates are a trajectory length of 2 and a step size of 0.3."""
    assert Lengths(*given).resolve(2.0, 0.3) == pytest.approx(resolved, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        {"step_size": 0.21},
        {"n_steps": 7},
        {"trajectory_length": 1.7},
        {"trajectory_length": 1.7, "n_steps": 7},
        {"n_steps": 7, "step_size": 0.21},
    ],
    ids=str,
)
def test_what_the_user_fixes_is_never_tuned(given):
    tuned = warm(HMC(PHI4, **given)).tuned
    assert {name: tuned[name] for name in given} == given
    assert tuned["n_steps"] * tuned["step_size"] == pytest.approx(tuned["trajectory_length"])


# What is free reaches its target


@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("given", [{"n_steps": 4}, {"trajectory_length": 1.5}], ids=str)
def test_the_step_size_reaches_the_target_acceptance(target, given):
    chains = warm(HMC(PHI4, **given, target_acceptance=target))
    reached = chains.series("acceptance").mean()
    # A whole number of steps per length makes the steps smaller than asked for, never larger.
    assert target - 0.05 < reached < target + (0.05 if "n_steps" in given else 0.2)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_trajectory_is_a_quarter_period_of_the_slowest_mode_next_to_criticality(seed):
    critical = action("kappa", 2, kappa=0.2705, lam=0.022)
    chains = warm(HMC(critical), Lattice((16, 16)), seed=seed)
    assert chains.tuned["trajectory_length"] == pytest.approx(7.5, rel=0.2)
    assert abs(chains.series("acceptance").mean() - 0.8) < 0.05


@pytest.mark.parametrize("mass_squared", [0.25, 1.0])
def test_the_trajectory_is_a_quarter_period_of_the_free_field(mass_squared):
    """Without Z2 exactly that; with it <|M|> is subtracted and leaves 1 - 2/pi of the zero mode."""
    free = FreeField(mass_squared, 2)
    quarter = math.pi / 2 / math.sqrt(mass_squared)
    assert warm(HMC(OneSided(free))).tuned["trajectory_length"] == pytest.approx(quarter, rel=0.1)
    zero, first = free.propagator(LATTICE)[0, :2]
    expected = math.pi / 2 * math.sqrt(max((1 - 2 / math.pi) * zero, first))
    assert warm(HMC(free)).tuned["trajectory_length"] == pytest.approx(expected, rel=0.1)


def test_the_condensate_of_the_broken_phase_is_no_slow_mode():
    """|M| is subtracted from the zero mode: what is left are oscillations in one well."""
    broken = action("kappa", 2, kappa=0.5, lam=0.022)
    assert warm(HMC(broken), start="cold").tuned["trajectory_length"] < 2


# Whatever the warm-up


@each("n_thermalise", [0, 1, 2, 3, 10])
def test_any_warm_up_gives_a_sampler(n_thermalise):
    chains = warm(HMC(PHI4), n_thermalise=n_thermalise)
    assert all(0 < value < np.inf for value in chains.tuned.values())
    assert np.isfinite(chains.cfgs).all()
    assert chains.series("acceptance").mean() > 0.1


def test_the_warm_up_is_reproducible():
    first, second, other = (warm(HMC(PHI4), seed=seed) for seed in (1, 1, 2))
    assert first.tuned == second.tuned != other.tuned
    assert np.array_equal(first.cfgs, second.cfgs)


def test_chains_that_start_equal_are_not_frozen():
    symmetric = action("kappa", 2, kappa=0.21, lam=0.022)
    chains = warm(HMC(symmetric), start="cold", n_thermalise=100)
    assert chains.tuned["trajectory_length"] > 1
    assert chains.series("action").std(axis=1).min() > 0
