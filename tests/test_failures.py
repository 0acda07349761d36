"""What stops a run: chains that never move, energies that equilibrium forbids; what is doubted."""

import warnings

import jax
import numpy as np
import pytest
from chain_blocks import blocks

from lattice_ml import (
    HMC,
    MALA,
    Cycle,
    FourierHMC,
    Kramers,
    Langevin,
    Lattice,
    Phi4,
    ReplicaExchange,
    Wolff,
    run,
)
from lattice_ml.actions.conventions import action
from lattice_ml.chains.failures import Doubt, RunError, Watch, doubt

LATTICE = Lattice((4, 4))
PHI4 = action("kappa", 2, kappa=0.2, lam=0.022)
DEEP = Phi4(0.3, -5.0, 1.0)
FIXED = HMC(PHI4, n_steps=4, step_size=0.3)
SLOW = {"n_chains": 128, "n_configs": 60, "n_thermalise": 0}


def far_out(*chains, n=128):
    """Fields of which some are so far out that no trajectory of fixed length comes back."""
    start = np.zeros((n, *LATTICE.shape))
    start[list(chains)] = 1e3
    return start


def history(n=100, n_chains=4, **changed):
    """What chains that move well report."""
    rng = np.random.default_rng(1)
    ones = np.ones((n, n_chains))
    means = {"action": ones, "acceptance": 0.8 * ones, "exp_minus_dh": ones, "divergent": 0 * ones}
    return means | {"phi2": rng.normal(size=(n, n_chains))} | changed


def look(seen, *, sampler=FIXED, thin=1, thermalised=True):
    watch = Watch(sampler, sampler, thermalised=thermalised)
    watch.check(seen, 1 + thin * np.arange(len(seen["action"])), thin)


# A chain that never moves, one of so many that averages do not show it


@pytest.mark.parametrize(
    "sampler",
    [
        FIXED,
        Cycle((FIXED, Wolff(PHI4))),  # flips signs of the stuck chain
        MALA(PHI4, step_size=0.05),
        Kramers(PHI4, step_size=0.2),
        FourierHMC(PHI4, n_steps=4, step_size=0.3, mass_squared=1.0),
        ReplicaExchange(PHI4, n_steps=4, step_size=0.3, coupling="h", ladder=(0.3,)),
    ],
    ids=lambda sampler: "+".join(getattr(sampler, "kinds", [type(sampler).__name__])),
)
def test_a_chain_that_never_moves_is_named(sampler):
    with pytest.raises(RunError, match=r"60: chain 17 did not accept one of 59 updates, of which "):
        run(jax.random.key(1), sampler, LATTICE, start=far_out(17), **SLOW)


def test_the_end_of_the_warm_up_names_it_too():
    with pytest.raises(
        RunError, match=r"in the warm-up, up to 186: chain 17 did not accept one of"
    ):
        run(jax.random.key(1), FIXED, LATTICE, start=far_out(17), **SLOW | {"n_thermalise": 200})


def test_a_warm_up_that_cannot_begin_ends_at_once():
    start = np.zeros((128, *LATTICE.shape))
    start[5, 1, 2] = np.nan
    settings = SLOW | {"n_thermalise": 200, "start": start}
    with pytest.raises(RunError, match="action of chain 5 is not finite at trajectory 2;"):
        next(blocks(FIXED, LATTICE, **settings))


def test_chains_that_are_stuck_are_counted():
    still = history()["phi2"]
    still[:, 1:3] = still[0, 1:3]
    acceptance = np.full((100, 4), 0.8)
    acceptance[:, 1:3] = 0
    message = (
        r"chain 1 and 1 more of 4 did not accept one of 99 updates.* accept 40.0 % on average; "
    )
    with pytest.raises(RunError, match=message + "make sampler.step_size smaller than 0.3"):
        look(history(phi2=still, acceptance=acceptance))
    look(history(phi2=still[:70], acceptance=acceptance[:70], n=70))  # too few to be sure


def test_a_chain_that_moved_once_is_let_be():
    seen = history()
    seen["acceptance"][:, 1] = 0
    seen["phi2"][:, 1] = np.where(np.arange(100) < 50, 7.0, 8.0)
    look(seen)


def test_steps_below_the_rounding_of_the_fields_are_seen():
    seen = history(n=39)
    seen["phi2"][:, 1] = 7.0
    with pytest.raises(RunError, match=r"chain 1 accepted 30 of 38 updates, and no bit of phi\^2"):
        look(seen)
    look({name: values[:30] for name, values in seen.items()})


@pytest.mark.filterwarnings("ignore::lattice_ml.chains.failures.Doubt")
def test_wells_too_deep_for_float32_are_no_run_without_a_word():
    """At |phi| = 500 the energy is rounded to several units, and steps shrink to nothing."""
    deep = action("standard", 2, mass_squared=-1000.0, g=1e-3)
    with pytest.raises(
        RunError, match=r"lost in the rounding of the fields \(output.dtype = float64"
    ):
        run(jax.random.key(1), HMC(deep), LATTICE, **SLOW | {"n_thermalise": 200})


def test_a_run_in_which_nothing_is_accepted_is_refused():
    still = np.ones((300, 4))
    with pytest.raises(RunError, match=r"chain 0 and 3 more of 4 .* accept 0.0 % on average"):
        look(history(300, phi2=still, acceptance=0 * still))
    look(history(200, phi2=still[:200], acceptance=0 * still[:200]))


def test_the_warm_up_takes_steps_that_move_every_chain():
    """One far out in 128 does not show in the mean acceptance that step sizes are tuned by."""
    start = np.zeros((128, *LATTICE.shape))
    start[17] = 30.0
    sizes = {"n_chains": 128, "n_configs": 40, "n_thermalise": 200}
    chains = run(jax.random.key(1), HMC(PHI4), LATTICE, start=start, **sizes)
    assert chains.series("phi2")[17].mean() < 2
    assert abs(chains.series("acceptance").mean() - 0.8) < 0.1


# Energy changes that equilibrium does not have


@pytest.mark.parametrize("name", ["exp_minus_dh", "exp_minus_dh_MALA"])
def test_a_chain_that_falls_into_its_well_while_it_is_kept_is_seen(name):
    fallen = np.ones((100, 4))
    fallen[3, 2] = 1e44
    message = r"the mean of exp\(-dH\) is 2.5e\+41, of which the chance is at most 4e-42 in equil"
    with pytest.raises(RunError, match=message):
        look(history(**{name: fallen}))
    fallen[3, 2] = 1e8
    look(history(**{name: fallen}))
    fallen[3, 2] = np.inf
    look(history(**{name: fallen}), thermalised=False)  # who asks for no warm-up wants the way


# What helps


@pytest.mark.parametrize(
    ("sampler", "remedy"),
    [
        (HMC(PHI4), "lengthen chain.n_thermalise, .* or raise sampler.target_acceptance from 0.8"),
        (HMC(PHI4, n_steps=5), "lengthen chain.n_thermalise"),
        (HMC(PHI4, trajectory_length=1.0, n_steps=5), "make sampler.n_steps larger than 5"),
        (HMC(PHI4, step_size=0.3), "make sampler.step_size smaller than 0.3, or leave it to auto"),
        (MALA(PHI4), "lengthen chain.n_thermalise"),
        (Kramers(PHI4), "lengthen chain.n_thermalise"),
        (Kramers(PHI4, step_size=0.1, accept=False), "step_size smaller than 0.1$"),
        (Cycle((MALA(PHI4), Wolff(PHI4))), "for smaller steps$"),
    ],
    ids=str,
)
def test_no_remedy_is_in_use_already(sampler, remedy):
    with pytest.raises(RunError, match=rf"is not finite at trajectory 1; .*{remedy}"):
        look(history(action=np.full((100, 4), np.nan)), sampler=sampler)


# Doubts before a run


def test_a_high_barrier_without_updates_that_cross_it_is_doubted():
    assert "a^2/(4 b) = 6.25, is high" in doubt(HMC(DEEP))
    assert doubt(Cycle((HMC(DEEP), MALA(DEEP)))) and doubt(Langevin(DEEP, temperature=2.0))
    assert doubt(HMC(Phi4(0.3, -3.4, 1.0))) is None
    assert doubt(Langevin(DEEP, temperature=3.0)) is None
    assert doubt(Cycle((HMC(DEEP), Wolff(DEEP)))) is None
    assert doubt(ReplicaExchange(DEEP, coupling="a", ladder=(-2.0,))) is None
    assert doubt(HMC(lambda phi: phi.sum())) is None


def test_a_doubt_is_voiced_once_and_where_the_run_begins():
    sampler = HMC(DEEP, n_steps=2, step_size=0.1)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for n in (0, 1):  # without a warm-up no equilibrium is claimed
            run(jax.random.key(1), sampler, LATTICE, n_chains=2, n_configs=1, n_thermalise=n)
    assert [(w.category, w.filename) for w in heard] == [(Doubt, __file__)]
