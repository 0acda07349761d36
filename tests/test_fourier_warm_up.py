"""Runs of Fourier-accelerated HMC: what the warm-up finds, resume, keys and refusals."""

import logging
import math
from functools import partial

import jax
import numpy as np
import pytest
from chain_blocks import blocks
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4
from rows import each

from lattice_ml import FourierHMC, FreeField, Lattice, run
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import action
from lattice_ml.jobs.config import ConfigError, parse
from lattice_ml.samplers.fourier_hmc import fitted_mass_squared

M2 = 0.3
SQUARE = Lattice((8, 6))


def sampler_of(acting=PHI4, *, n_steps=3, step_size=0.3, mass_squared=M2):
    length = n_steps * step_size
    return FourierHMC(acting, length, n_steps, step_size, mass_squared=mass_squared)


# Warm-up


def warm(sampler, lattice=SQUARE, *, seed=1, **settings):
    settings = {"n_chains": 64, "n_thermalise": 200, "n_configs": 20} | settings
    return run(jax.random.key(seed), sampler, lattice, **settings)


@pytree
class OneSided:
    """A free field that does not declare its symmetry under phi -> -phi."""

    free: FreeField

    def __call__(self, phi):
        return self.free(phi)

    def density(self, phi, hop):
        return self.free.density(phi, hop)


@pytest.mark.parametrize("kind", [lambda free: free, OneSided], ids=["z2", "one-sided"])
@pytest.mark.parametrize("mass_squared", [0.25, 1.0])
def test_the_warm_up_finds_the_mass_and_the_period_of_a_free_field(kind, mass_squared):
    free = FreeField(mass_squared, 2)
    lattice = Lattice((16, 16))
    tuned = warm(FourierHMC(kind(free)), lattice).tuned
    # The last window holds two measurements of 64 chains: 0.1 is five times the spread over seeds.
    assert tuned["mass_squared"] == pytest.approx(mass_squared, rel=0.15)
    quarter = math.pi / 2 / math.sqrt(lattice.p_hat_squared.max() + mass_squared)
    assert tuned["trajectory_length"] == pytest.approx(quarter, rel=0.15)


def test_next_to_criticality_a_trajectory_is_short_and_accepted():
    critical = action("kappa", 2, kappa=0.2705, lam=0.022)
    chains = warm(FourierHMC(critical), Lattice((16, 16)), start="cold")
    assert 0.06 < chains.tuned["mass_squared"] < 0.14
    assert 0.9 < chains.tuned["trajectory_length"] < 1.5
    assert chains.tuned["n_steps"] < 8 and chains.series("acceptance").mean() > 0.75


@pytest.mark.parametrize("given", [{"mass_squared": 0.7}, {"trajectory_length": 0.9}, {}], ids=str)
def test_what_the_user_fixes_is_not_tuned(given):
    tuned = warm(FourierHMC(PHI4, **given), LATTICE).tuned
    names = {"mass_squared", "trajectory_length", "n_steps", "step_size"}
    assert set(tuned) == names and {name: tuned[name] for name in given} == given
    assert all(0 < value < np.inf for value in tuned.values())


@pytest.mark.parametrize("n_thermalise", [0, 1, 3])
def test_any_warm_up_gives_a_sampler(n_thermalise):
    for start in ("hot", "cold"):
        chains = warm(FourierHMC(PHI4), n_thermalise=n_thermalise, n_configs=3, start=start)
        assert all(0 < value < np.inf for value in chains.tuned.values())
        assert np.isfinite(chains.cfgs).all()


@pytest.mark.parametrize("lattice", [Lattice((8, 8)), Lattice((2,)), Lattice((4, 3, 2))], ids=str)
def test_the_mass_is_that_of_the_line(lattice):
    p_hat_squared = lattice.p_hat_squared
    propagator = 2 / (p_hat_squared + 0.9)
    assert fitted_mass_squared(p_hat_squared, propagator) == pytest.approx(0.9, rel=1e-9)
    if lattice.ndim > 1:
        propagator[(0,) * lattice.ndim] = 1e6
        assert fitted_mass_squared(p_hat_squared, propagator) == pytest.approx(0.9, rel=1e-9)


def test_a_line_without_a_mass_gives_a_bound():
    p_hat_squared = Lattice((8, 8)).p_hat_squared
    smallest, largest = p_hat_squared[0, 1] / 10, 800
    for propagator, expected in (
        (np.ones_like(p_hat_squared), largest),
        (np.zeros_like(p_hat_squared), largest),
        (1 / np.maximum(p_hat_squared - 0.1, 0.1), smallest),
    ):
        assert fitted_mass_squared(p_hat_squared, propagator) == pytest.approx(expected)


# Runs


def test_merged_chains_are_the_same_chains():
    """Rounding apart: products with matrices depend on their shapes."""
    many, few = (
        warm(sampler_of(), n_chains=n, n_thermalise=0, n_configs=3).cfgs.reshape(3, n, 8, 6)
        for n in (64, 4)
    )
    assert_allclose(many[:, :4], few, rtol=0, atol=1e-4)


def test_a_resumed_run_goes_on_as_if_nothing_had_been():
    ask = partial(blocks, FourierHMC(PHI4), LATTICE, n_chains=4, n_thermalise=30, thin=2)
    (whole,) = ask(n_configs=8)
    first, second = ask(n_configs=8, block_configs=4)
    resumed = list(ask(n_configs=8, resume=(4, first.state, first.tuned)))
    assert np.array_equal(np.concatenate([first.cfgs, second.cfgs]), whole.cfgs)
    assert np.array_equal(resumed[0].cfgs, second.cfgs)


def test_masses_and_step_sizes_do_not_compile_anew(caplog):
    def scan(**settings):
        warm(sampler_of(**settings), n_thermalise=0, n_configs=2)

    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        scan()
        caplog.clear()
        scan(mass_squared=0.7, step_size=0.2)
        scan(acting=action("kappa", 2, kappa=0.1, lam=0.3), mass_squared=2.0, n_steps=5)
        assert [record.getMessage() for record in caplog.records] == []


# Refusals


THEORY = ["--lattice.shape", "4", "4", "--action.kappa", "0.2", "--action.lam", "0.02"]
BASE = [*THEORY, "--sampler.kind", "FourierHMC"]


def test_the_keys_are_those_of_hmc_and_the_mass():
    settings = parse(BASE).config["sampler"]
    assert (settings["mass_squared"], settings["integrator"]) == ("auto", "omelyan2")
    plain = parse([*BASE, "--sampler.kind", "HMC"]).config["sampler"]
    assert set(settings) - set(plain) == {"mass_squared"} and set(plain) <= set(settings)
    assert parse([*BASE, "--sampler.mass-squared", "0.3"]).sampler.mass_squared == 0.3


@each(
    ("words", "message"),
    [
        ("--sampler.mass-squared 0", "sampler.mass_squared must be auto or positive and finite, g"),
        ("--sampler.mass-squared -1", "sampler.mass_squared must be auto or positive and finite"),
        ("--sampler.mass 1", "did you mean sampler.mass_squared"),
        ("--sampler.jitter 1", r"sampler.jitter must be in \[0, 1\), got 1"),
        ("--sampler.kind HMC --sampler.mass-squared 1", "unknown key.*sampler.mass_squared"),
    ],
)
def test_bad_settings_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        parse([*BASE, *words.split()])
