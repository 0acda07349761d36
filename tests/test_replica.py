"""Replica exchange: swaps written out, round trips, the HMC in it, what survives, refusals."""

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import chain_blocks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4, advance, draw

from lattice_ml import HMC, FreeField, ReplicaExchange, cli
from lattice_ml import run as sample
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import Parameter, action
from lattice_ml.analysis import certificates
from lattice_ml.chains.failures import RunError
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single
from lattice_ml.jobs import generate
from lattice_ml.jobs.config import ConfigError, parse
from lattice_ml.samplers.replica import travel

N_CHAINS = 64
KAPPA = Parameter("kappa", "kappa", 2)
LADDER = (0.17, 0.14, 0.1)
ACTIONS = [action("kappa", 2, kappa=kappa, lam=0.022) for kappa in (0.2, *LADDER)]
FIXED = {"trajectory_length": 1.2, "n_steps": 4, "step_size": 0.3}
NEVER = np.full((3, N_CHAINS), -np.inf)
ALWAYS = np.full((3, N_CHAINS), np.inf)
SAMPLER = ReplicaExchange(PHI4, coupling=KAPPA, ladder=LADDER, **FIXED)

energies = jax.jit(lambda acting, phi: jax.vmap(acting, in_axes=-1)(phi))
start = jax.jit(lambda sampler, phi: sampler.start(phi))


@pytree
class NeverSwap(ReplicaExchange):
    """Replicas that stay where they are."""

    def draw(self, keys, trajectory):
        draws = super().draw(keys, trajectory)
        return draws._replace(threshold=jnp.full_like(draws.threshold, -jnp.inf))


@pytree
class TotalOnly:
    """An action as a black box with two couplings."""

    strength: Any
    slope: Any

    def __call__(self, phi):
        kinetic = sum((jnp.roll(phi, -1, mu) - phi) ** 2 for mu in range(phi.ndim)) / 2
        return jnp.sum(kinetic + self.strength * phi**2 + self.slope * jnp.sin(phi))


def total(acting, phi):
    """S of fields `(4, 4, n_chains)`."""
    return np.asarray(energies(acting, phi))


def update(sampler, state, number, **replaced):
    """One update of a group: the state, what is reported, and the draws."""
    at = np.uint32(number)
    keys = randomness.chain_keys(jax.random.key(5), N_CHAINS)
    draws = draw(sampler, keys, at)._replace(**replaced)
    found = advance(sampler, single(LATTICE.shape, N_CHAINS), keys, at, draws, state)
    return *jax.tree.map(np.asarray, found), draws


def state_of(sampler, spread=0.8):
    """Replicas that differ."""
    phi = np.random.default_rng(5).normal(0, spread, (4, *LATTICE.shape, N_CHAINS))
    return start(sampler, phi[0])._replace(others=phi[1 : len(sampler.ladder) + 1])


def stack(state):
    return np.concatenate([state.phi[None], state.others])


def blocks(sampler=SAMPLER, *, seed=1, **settings):
    settings = {"n_chains": 70, "n_configs": 12, "n_thermalise": 0} | settings
    return list(chain_blocks.blocks(sampler, LATTICE, seed=seed, **settings))


def joined(parts):
    """Configurations and histories, `(n_configs, n_chains, ...)`."""
    found = {name: np.concatenate([p.history[name] for p in parts]) for name in parts[0].history}
    return found | {"cfgs": np.concatenate([part.cfgs for part in parts])}


def assert_equal(got, expected, but=()):
    for name, values in expected.items():
        if name not in but:
            assert np.array_equal(got[name], values), name


@pytest.fixture(scope="module")
def whole():
    return joined(blocks())


# One update


@pytest.mark.parametrize("number", [6, 7])
def test_swaps_are_those_of_the_energies_in_turn(number):
    state = state_of(SAMPLER)
    moved = stack(update(SAMPLER, state, number, threshold=NEVER)[0])
    found, info, draws = update(SAMPLER, state, number)
    energies = np.array([[total(a, phi) for phi in moved] for a in ACTIONS])  # of a at phi
    expected, swaps = moved.copy(), np.zeros((3, N_CHAINS))
    for i in range(3):
        cost = energies[i, i + 1] + energies[i + 1, i] - energies[i, i] - energies[i + 1, i + 1]
        swaps[i] = np.minimum(1, np.exp(-cost))
        if i % 2 == number % 2:
            accepted = cost < draws.threshold[i]
            assert 0 < accepted.sum() < N_CHAINS, "both branches were taken"
            expected[i], expected[i + 1] = (
                np.where(accepted, moved[j], moved[k]) for j, k in ((i + 1, i), (i, i + 1))
            )
    assert np.array_equal(stack(found), expected)
    assert_allclose([info.swap_0, info.swap_1, info.swap_2], swaps, rtol=1e-10)
    assert_allclose(info.swap_acceptance, swaps.mean(axis=0), rtol=1e-10)


def test_swapped_fields_keep_their_headings():
    state = state_of(SAMPLER)
    labels = np.tile(np.array([[1], [0], [2], [1]], np.int32), (1, N_CHAINS))
    even, info, _ = update(SAMPLER, state._replace(heading=labels), 2, threshold=ALWAYS)
    assert np.array_equal(even.heading[:, 0], [1, 1, 1, 2]) and np.all(info.round_trips == 0)
    labels = np.tile(np.array([[1], [2], [0], [1]], np.int32), (1, N_CHAINS))
    home, info, _ = update(SAMPLER, state._replace(heading=labels), 2, threshold=ALWAYS)
    assert np.array_equal(home.heading[:, 0], [1, 1, 1, 0]) and np.all(info.round_trips == 1)
    odd, info, _ = update(SAMPLER, state._replace(heading=labels), 3, threshold=ALWAYS)
    assert np.array_equal(odd.heading[:, 0], [1, 0, 2, 2]) and np.all(info.round_trips == 0)


def test_round_trips_of_a_hand_made_history_are_counted():
    # The walkers at three values after every update.  0 comes home twice; 1 begins in the middle,
    # so that its trip begins when it first is at the action; 2 begins at the end and has not been.
    history = ["012", "102", "120", "120", "102", "012", "021", "201", "210", "201", "021"]
    history += ["012", "102"]
    trips = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1]
    turned = jax.jit(travel)
    heading, walkers, count = np.array([[1], [0], [0]]), "012", []
    for row in history:
        order = [walkers.index(walker) for walker in row]
        heading, home = map(np.asarray, turned(heading[order]))
        walkers, count = row, [*count, int(home[0])]
    assert count == trips


def test_the_replica_at_the_action_is_hmc_where_nothing_swaps():
    alone = joined(blocks(HMC(PHI4, **FIXED)))
    never = joined(blocks(NeverSwap(**vars(SAMPLER))))
    assert np.array_equal(never["cfgs"], alone["cfgs"])
    assert_equal(never, alone, but=("schwinger_dyson",))  # rounding: see tests/test_chain.py
    assert np.all(never["round_trips"] == 0)


def test_replicas_draw_different_numbers():
    keys = randomness.chain_keys(jax.random.key(5), N_CHAINS)
    draws = draw(SAMPLER, keys, np.arange(50, dtype=np.uint32))
    assert draws.threshold.shape == (50, 3, N_CHAINS)
    assert {x.shape for x in draws.replicas} == {(50, 4, N_CHAINS)}
    logs = [*np.moveaxis(draws.threshold, 1, 0), *np.moveaxis(draws.replicas.threshold, 1, 0)]
    off = np.corrcoef([x.ravel() for x in logs]) - np.eye(7)
    assert abs(off).max() < 4.5 / np.sqrt(50 * N_CHAINS)
    same = start(SAMPLER, np.zeros((*LATTICE.shape, N_CHAINS)))
    fields = stack(update(SAMPLER, same, 3, threshold=NEVER)[0]).reshape(4, -1)
    assert abs(np.corrcoef(fields) - np.eye(4)).max() < 4.5 / np.sqrt(16 * N_CHAINS)


def test_any_field_of_any_action_can_be_the_coupling():
    acting = TotalOnly(strength=0.6, slope=0.5)
    sampler = ReplicaExchange(acting, coupling="slope", ladder=(0.2, -0.1), **FIXED)
    assert [a.slope for a in sampler.rungs()] == [0.5, 0.2, -0.1]
    state = state_of(sampler)
    found, info, _ = update(sampler, state, 2, threshold=ALWAYS[:2])
    phi = stack(found)  # after the swap, which costs the same backwards
    costs = [
        total(a, phi[0]) - total(a, phi[1]) - (total(b, phi[0]) - total(b, phi[1]))
        for a, b in [sampler.rungs()[:2]]
    ]
    assert_allclose(info.swap_0, np.minimum(1, np.exp(-costs[0])), rtol=1e-9)


@pytest.mark.parametrize(
    ("words", "name", "value", "couplings"),
    [
        ("--action.kappa 0.2 --action.lam 0.125", "kappa", 0.25, (0.5, 0.75, 0.125)),
        ("--action.kappa 0.25 --action.lam 0.02", "lam", 0.125, (0.5, 0.75, 0.125)),
        (
            "--action.convention nohalf --action.mass-squared -1 --action.lam 2",
            *("mass_squared", -4, (2, 0, 2)),
        ),
        ("--action.kind FreeField --action.mass-squared 1", "mass_squared", 0.5, (1, 2.25, 0)),
    ],
)
def test_a_config_names_a_coupling_of_its_convention(words, name, value, couplings):
    job = parse(
        [*f"{BASE} --sampler.coupling {name} --sampler.ladder {value}".split(), *words.split()]
    )
    assert job.config["sampler"]["coupling"] == name
    assert job.config["sampler"]["ladder"] == [value]
    assert job.sampler.rungs()[1].couplings() == pytest.approx(couplings, abs=1e-14)
    assert job.sampler.action == job.sampler.rungs()[0]


# The same numbers, however they are run


@pytest.mark.parametrize("done", [1, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(done, whole):
    before = blocks(block_configs=done)[0]
    assert before.state["others"].shape == (70, 3, 4, 4)
    assert before.state["heading"].shape == (70, 4)
    after = blocks(block_configs=5, resume=(done, before.state, before.tuned))
    assert_equal(joined([before, *after]), whole)


def test_the_number_of_devices_and_chains_is_invisible(whole, monkeypatch):
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: only)
    few = joined(blocks(n_chains=3))
    rounded = [name for name in whole if name.startswith(("swap_", "schwinger"))]
    assert_equal(few, {name: values[:, :3] for name, values in whole.items()}, but=rounded)
    for name in rounded:
        assert_allclose(few[name], whole[name][:, :3], rtol=1e-4, atol=1e-5)


def test_float64_follows_float32(whole):
    wide = joined(blocks(dtype="float64", n_configs=3))
    assert wide["cfgs"].dtype == np.float64
    assert np.abs(wide["cfgs"] - whole["cfgs"][:3]).max() < 1e-4


def test_without_x64_the_run_is_nearly_the_same(whole):
    with jax.enable_x64(False):
        narrow = joined(blocks(n_configs=3))
    assert np.abs(narrow["cfgs"] - whole["cfgs"][:3]).max() < 1e-4


def test_replicas_survive_a_stop_on_disk_and_are_reported(tmp_path, capsys):
    words = f"{BASE} --action.kappa 0.2 --action.lam 0.022 --sampler.coupling kappa"
    words += " --sampler.ladder 0.17 0.14 --chain.n-chains 3 --chain.n-configs 6"
    job = parse([*words.split(), "--chain.n-thermalise", "20"])
    straight = generate.generate(job, tmp_path / "straight")
    with pytest.raises(generate.Interrupted):
        generate.generate(job, tmp_path / "cut", block_configs=2, time_limit=1e-9)
    cut = generate.generate(job, tmp_path / "cut", block_configs=2)
    assert np.array_equal(cut.cfgs[:], straight.cfgs[:])
    for name in straight.history:
        assert np.array_equal(cut.series(name), straight.series(name)), name
    assert cli.main(["info", str(tmp_path / "cut")]) == 0
    text = capsys.readouterr().out
    pairs = [cut.series(f"swap_{i}").mean() for i in range(2)]
    i = int(np.argmin(pairs))
    assert f"swaps {cut.series('swap_acceptance').mean():.3f}, least {pairs[i]:.3f} between" in text
    assert "round trips per chain and update" in text


def test_couplings_and_ladders_do_not_compile_anew(whole, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        for kappa, *ladder in ((0.17, 0.16, 0.15, 0.14), (0.1, 0.17, 0.2, 0.21)):
            acting = action("kappa", 2, kappa=kappa, lam=0.1)
            blocks(ReplicaExchange(acting, coupling=KAPPA, ladder=tuple(ladder), **FIXED))
        assert [record.getMessage() for record in caplog.records] == []


# What a user is told


def test_a_configuration_may_come_back_to_its_own_chain_only():
    coarse = {"step_size": 0.75, "trajectory_length": 3.0, "ladder": (0.19, 0.18, 0.17)}
    settings = {"n_chains": 70, "n_configs": 16, "n_thermalise": 20}
    chains = sample(jax.random.key(1), replace(SAMPLER, **coarse), LATTICE, **settings)
    as_hmc = {k: v for k, v in chains.histories.items() if not k.startswith("swap_")}
    judged = partial(next_named, "repeats")
    assert judged(replace(chains, histories=as_hmc)).verdict == "fail", "some did come back"
    assert judged(chains).verdict == "pass"
    assert "0 come back in another chain" in judged(chains).value
    copied = chains.cfgs.reshape(16, 70, 4, 4).copy()
    copied[10, 3] = copied[2, 4]
    assert judged(replace(chains, cfgs=copied.reshape(-1, 4, 4))).verdict == "fail"


def next_named(name, chains):
    return next(c for c in certificates.check(chains) if c.name == name)


def test_a_ladder_that_is_too_wide_is_named():
    wide = replace(SAMPLER, ladder=(0.19, -0.6, -0.61))
    message = (
        r"the ladder is too wide between kappa = 0.19 and -0.6, where \S+ of the swaps are "
        r"accepted \(allowed: 1e-04\); put values between into sampler.ladder where it is too wide"
    )
    with pytest.raises(RunError, match=message):
        blocks(wide, n_configs=16, n_thermalise=50)


BASE = "--lattice.shape 4 4 --sampler.kind ReplicaExchange"


@pytest.mark.parametrize(
    ("coupling", "ladder", "message"),
    [
        ("kapa", "0.1", "sampler.coupling must be one of kappa, lam, got 'kapa'"),
        ("kind", "0.1", "sampler.coupling must be one of kappa, lam, got 'kind'"),
        ("kappa", "", "sampler.ladder must hold 1 to 256 values of kappa, got 0"),
        ("kappa", "0.1 " * 257, "sampler.ladder must hold 1 to 256 values of kappa, got 257"),
        ("kappa", "0.1 0.15", "away from the action's kappa = 0.2, ever .* got 0.1, 0.15"),
        ("kappa", "0.2 0.1", "sampler.ladder must lead away from .* 0.2, ever .* got 0.2, 0.1"),
        ("kappa", "0.15 0.15", "sampler.ladder must lead away from .* got 0.15, 0.15"),
        ("kappa", "0.3 0.1", "sampler.ladder must lead away from .* got 0.3, 0.1"),
        ("kappa", "inf", "sampler.ladder must be a finite number, got inf"),
        ("lam", "0.01 -0.1", r"sampler.ladder, lam = -0.1: the action is not bounded below"),
    ],
)
def test_ladders_that_make_no_sense_are_refused(coupling, ladder, message):
    words = f"{BASE} --action.kappa 0.2 --action.lam 0.02 --sampler.coupling {coupling}"
    with pytest.raises(ConfigError, match=message):
        parse([*words.split(), "--sampler.ladder", *ladder.split()])


@pytest.mark.parametrize("key", ["coupling", "ladder"])
def test_a_config_needs_a_coupling_and_a_ladder(key):
    given = {"coupling": "kappa", "ladder": "0.1"}
    words = f"{BASE} --action.kappa 0.2 --action.lam 0.02"
    words += "".join(f" --sampler.{k} {v}" for k, v in given.items() if k != key)
    with pytest.raises(ConfigError, match=f"sampler.{key} is required and was not given"):
        parse(words.split())


def test_couplings_of_a_users_action_are_named():
    with pytest.raises(ValueError, match="coupling must be one of strength, slope, got lam"):
        ReplicaExchange(TotalOnly(1.0, 2.0), coupling="lam", ladder=(0.1,)).check()
    with pytest.raises(ValueError, match="must be one of mass_squared, got ndim"):
        ReplicaExchange(FreeField(1.0, 2), coupling="ndim", ladder=(3,)).check()
    with pytest.raises(ValueError, match="must be one of the fields of a dataclass, got h"):
        ReplicaExchange(lambda phi: phi.sum(), coupling="h", ladder=(0.1,)).check()
    wrong = ReplicaExchange(FreeField(1.0, 2), coupling="mass_squared", ladder=(0.5, -0.5))
    with pytest.raises(ValueError, match=r"ladder, mass_squared = -0.5: the free action cannot"):
        blocks(wrong)
