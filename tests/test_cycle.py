"""Cycles: parts keep their own random numbers, names, tuners; and what is chosen by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_blocks import blocks
from numpy.testing import assert_allclose, assert_array_equal
from phi4_by_hand import LATTICE, PHI4, advance, assert_exact
from rows import each

from lattice_ml import HMC, MALA, Cycle, Kramers, Langevin, Wolff, measure, run
from lattice_ml.analysis.exact import exact
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single
from lattice_ml.jobs.config import ConfigError, parse
from lattice_ml.samplers import cycle

BASE = "--lattice.shape 4 4 --action.kappa 0.2 --action.lam 0.022"


def job(words, base=BASE):
    return parse([*base.split(), *words.split()])


def test_names_that_are_taken_get_the_kind_added():
    tables = [("A", {"x": 1, "y": 2}), ("B", {"y": 3, "z": 4}), ("C", {"y": 5, "z": 6})]
    table = cycle.merged(tables)
    assert table == {"x": 1, "y": 2, "y_B": 3, "z": 4, "y_C": 5, "z_C": 6}
    for kind, own in tables:
        assert cycle.own(table, kind, own) == own


def test_the_parts_are_those_one_would_apply_by_hand():
    parts = (
        HMC(PHI4, trajectory_length=0.6, n_steps=3, step_size=0.2),
        Kramers(PHI4, step_size=0.2),
        MALA(PHI4, step_size=0.05),
    )
    keys = randomness.chain_keys(jax.random.key(1), 64)
    phi = jnp.asarray(np.random.default_rng(2).normal(size=(4, 4, 64)))
    at, layout = jnp.uint32(5), single((4, 4), 64)
    whole = Cycle(parts)
    state, info = advance(whole, layout, keys, at, whole.draw(keys, at), whole.start(phi))
    infos = {}
    for i, part in enumerate(parts):
        own = randomness.part_keys(keys, i) if i else keys
        new, infos[i] = advance(part, layout, own, at, part.draw(own, at), part.start(phi))
        phi = new.phi
        if i == 1:
            assert_allclose(state.pi, new.pi, rtol=1e-12)
    assert_allclose(state.phi, phi, rtol=1e-12)
    assert_allclose(info.acceptance, infos[0].acceptance, rtol=1e-6)
    assert_allclose(info.max_abs_dh_Kramers, infos[1].max_abs_dh, rtol=1e-6)
    assert_allclose(info.dh_MALA, infos[2].dh, rtol=1e-6)
    assert len({np.asarray(randomness.part_keys(keys, i)).tobytes() for i in range(3)}) == 3


def test_a_cycle_is_exact_and_tunes_its_parts():
    sampler = Cycle((HMC(PHI4), MALA(PHI4), Wolff(PHI4)))
    chains = run(jax.random.key(1), sampler, LATTICE, n_chains=256, n_configs=300, n_thermalise=200)
    found = measure(chains)
    assert_exact(found)
    assert abs(found["acceptance"].value - 0.8) < 0.1
    assert abs(chains.series("acceptance_MALA").mean() - 0.574) < 0.08
    assert abs(chains.series("exp_minus_dh_MALA").mean() - 1) < 0.02
    names = {"trajectory_length", "n_steps", "step_size", "step_size_MALA"}
    assert set(chains.tuned) == names


def test_it_goes_on_where_it_stopped():
    """State and tuned values of all parts come back: the same bits."""
    sampler = Cycle((HMC(PHI4), Kramers(PHI4), Wolff(PHI4)))
    counts = {"seed": 4, "n_chains": 3, "n_thermalise": 20, "n_configs": 6, "block_configs": 3}
    first, second = blocks(sampler, LATTICE, **counts)
    (again,) = blocks(sampler, LATTICE, **counts, resume=(3, first.state, first.tuned))
    assert set(first.state) == {"phi", "pi"}
    assert_array_equal(again.cfgs, second.cfgs)
    for name, value in second.history.items():
        assert_array_equal(again.history[name], value)


def test_clusters_come_by_themselves_from_32_sites_on():
    large = BASE.replace("4 4", "32 48")
    found = job("", large)
    assert found.config["sampler"]["kind"] == "HMC+Wolff"
    assert found.config["sampler"]["periods"] == 0.15 == found.sampler.parts[0].periods
    assert job("--sampler.kind auto --sampler.n-updates 2", large).sampler.parts[1].n_updates == 2
    assert job("--sampler.periods 0.2", large).sampler.parts[0].periods == 0.2
    assert job("--sampler.kind HMC", large).config["sampler"]["periods"] == 0.25
    assert job("", BASE.replace("4 4", "32 31")).config["sampler"]["kind"] == "HMC"
    free = "--lattice.shape 64 64 --action.kind FreeField --action.mass-squared 1"
    assert job("", free).config["sampler"]["kind"] == "HMC"


RING = "--lattice.shape 16 --action.convention standard --action.mass-squared -12 --action.g 1"
JUST = "--lattice.shape 4 4 --action.kappa 0.3 --action.lam 1.88"  # a barrier of 1.01


@pytest.mark.parametrize("words", [RING, JUST, f"{JUST} --sampler.kind auto"])
def test_all_clusters_come_by_themselves_where_sites_have_a_barrier(words):
    found = job("", words)
    assert found.config["sampler"]["kind"] == "HMC+SwendsenWang"
    assert found.sampler.parts[0].periods == 0.15


@pytest.mark.parametrize("seed", [2, 3])
def test_what_comes_by_itself_is_exact_on_a_ring_of_deep_wells(seed):
    """HMC alone was 18 errors off, and did not show it."""
    found = job("", RING)
    size = {"n_chains": 64, "n_configs": 200}
    chains = run(jax.random.key(seed), found.sampler, found.lattice, **size)
    known, estimates = exact(found.sampler.action, (16,)).values, measure(chains)
    for name in ("phi2", "m2", "link_sum", "abs_magnetisation"):
        assert abs(estimates[name].value - known[name]) < 4.5 * estimates[name].error, name
    assert estimates["phi2"].error < 0.002 * known["phi2"]


def test_nothing_comes_by_itself_below_it():
    assert job("", JUST.replace("1.88", "1.84")).config["sampler"]["kind"] == "HMC"
    assert job("--sampler.kind HMC", RING).config["sampler"]["kind"] == "HMC"


def test_a_config_names_the_settings_of_every_part():
    found = job("--sampler.kind HMC+MALA --sampler.step-size-MALA 0.1 --sampler.jitter 0.1")
    hmc, mala = found.sampler.parts
    assert (hmc.jitter, hmc.step_size, mala.step_size) == (0.1, "auto", 0.1)
    assert [type(part) for part in job("--sampler.kind=HMC+Wolff").sampler.parts] == [HMC, Wolff]


def test_periods_of_the_slowest_mode_make_a_trajectory():
    def length(periods):
        sampler = HMC(PHI4, periods=periods)
        chains = run(jax.random.key(1), sampler, LATTICE, n_chains=64, n_configs=1)
        return chains.tuned["trajectory_length"]

    assert_allclose(length(0.5), 2 * length(0.25), rtol=0.1)


@each(
    ("words", "message"),
    [
        ("--sampler.kind HMC+Wolf", r"unknown sampler.kind: Wolf; did you mean Wolff\?"),
        (
            "--sampler.kind Wolff",
            r"does not sample by itself: use it in a cycle, sampler.kind = HMC\+Wolff",
        ),
        ("--sampler.kind Wolff+SwendsenWang", "Wolff leaves every .phi. as it is"),
        ("--sampler.kind HMC+HMC", r"needs different kinds of updates, got HMC\+HMC"),
        (
            "--sampler.kind HMC+Langevin --sampler.step-size-Langevin 0.1 --sampler.temperature 2",
            r"temperature must be 1 in HMC\+Langevin.*; got 2",
        ),
        (
            "--sampler.kind Langevin+Wolff --sampler.scheme leimkuhler_matthews",
            r"scheme cannot be leimkuhler_matthews in Langevin\+Wolff, because it goes on with",
        ),
        ("--sampler.kind HMC+Wolff --sampler.n-updates 0", "n_updates of Wolff must be a whole"),
        ("--sampler.periods 0", "sampler.periods must be positive and finite, got 0"),
        ("--sampler.kind HMC --sampler.n-updates 1", "unknown key .* sampler.n_updates"),
    ],
)
def test_bad_settings_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        job(words)


def test_parts_of_different_actions_are_refused():
    other = type(PHI4)(h=0.1, a=1.0, b=0.0)
    with pytest.raises(ValueError, match=r"the parts of a cycle, HMC\+Wolff, need the same action"):
        Cycle((HMC(PHI4), Wolff(other))).check()


def test_a_part_that_does_not_sample_is_refused_by_run_too():
    with pytest.raises(ValueError, match="does not sample by itself"):
        run(jax.random.key(1), Wolff(PHI4), LATTICE, n_chains=2, n_configs=1)


def test_the_part_that_failed_is_named():
    sampler = Cycle((HMC(PHI4, n_steps=1, step_size=1.0), Langevin(PHI4, step_size=0.1)))
    means = {"divergent": 0.0, "divergent_Langevin": 0.0}
    assert sampler.diagnose(means | {"max_drift": 0.1}) is None
    assert "50.0 % of the trajectories" in sampler.diagnose(means | {"divergent": 0.5})
    assert "step_size" in sampler.remedy()
