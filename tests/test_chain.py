"""Running chains: starts, resuming, independence of blocks and devices, failures."""

import chain_blocks
import jax
import numpy as np
import pytest

from lattice_ml import HMC, Lattice, run
from lattice_ml.actions.conventions import action
from lattice_ml.chains.blocks import block_spans, programs
from lattice_ml.chains.engine import Engine
from lattice_ml.chains.failures import RunError
from lattice_ml.chains.settings import ChainSettings

LATTICE = Lattice((4, 4))
PHI4 = action("kappa", 2, kappa=0.2, lam=0.022)
FIXED = HMC(PHI4, n_steps=4, step_size=0.3)


def blocks(sampler=FIXED, *, seed=1, **settings):
    settings = {"n_chains": 128, "n_configs": 12, "n_thermalise": 0} | settings
    return list(chain_blocks.blocks(sampler, LATTICE, seed=seed, **settings))


def fields(parts):
    """(n_configs, n_chains, *L)."""
    return np.concatenate([part.cfgs for part in parts])


def histories(parts):
    return {name: np.concatenate([p.history[name] for p in parts]) for name in parts[0].history}


def assert_equal(got, expected):
    """The same bits in configurations and histories."""
    assert np.array_equal(fields(got), fields(expected))
    for name, series in histories(expected).items():
        assert np.array_equal(histories(got)[name], series), name


def assert_equal_but_for_rounding(got, expected):
    """The same bits in the dynamics; groups of another size may round one observable otherwise.

    In h * neighbours - phi * (...) either product may go into the fused multiply-add: on some
    processors vectors and their remainders choose differently.
    """
    assert got.keys() == expected.keys()
    for name, series in expected.items():
        if name == "schwinger_dyson":
            np.testing.assert_allclose(got[name], series, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(got[name], series), name


@pytest.fixture(scope="module")
def whole():
    return blocks()


# Starts


def start_of(start, phi4=PHI4, n_chains=128):
    """The fields that chains start from: the only update moves nothing in float32."""
    resting = HMC(phi4, n_steps=1, step_size=1e-30, sign_flip=False)
    return fields(blocks(resting, start=start, n_chains=n_chains, n_configs=1))[0]


def test_a_hot_start_is_noise_of_the_width_of_the_site_term():
    phi = start_of("hot")
    assert abs(phi.mean()) < 4.5 * phi.std() / np.sqrt(phi.size)
    variance = PHI4.site_width() ** 2
    assert abs(np.mean(phi**2) - variance) < 4.5 * variance * np.sqrt(2 / phi.size)
    for other in (np.roll(phi, 1, 0), np.roll(phi, 1, 1), np.roll(phi, 1, 2)):
        assert abs(np.mean(phi * other)) < 4.5 * variance / np.sqrt(phi.size)


def test_a_hot_start_of_deep_wells_is_in_the_wells():
    """A Gaussian of the same width reaches |phi| = 4, where every trajectory diverges."""
    phi = start_of("hot", action("kappa", 2, kappa=0.2, lam=100.0))
    assert 0.7 < np.abs(phi).min() < np.abs(phi).max() < 1.25
    assert abs(np.mean(phi > 0) - 0.5) < 4.5 * 0.5 / np.sqrt(phi.size)


def test_a_cold_start_puts_even_chains_up_and_odd_ones_down():
    broken = action("kappa", 2, kappa=0.5, lam=0.022)
    phi = start_of("cold", broken)
    minimum = np.float32(broken.minimum(2))
    assert minimum > 1
    assert np.all(phi[::2] == minimum) and np.all(phi[1::2] == -minimum)


def test_chains_start_from_given_fields_in_turn():
    given = np.random.default_rng(1).normal(size=(3, *LATTICE.shape)).astype(np.float32)
    phi = start_of(given)
    assert np.array_equal(phi, given[np.arange(128) % 3])


# The same numbers, however they are run


def test_blocks_follow_each_other(whole):
    parts = blocks(block_configs=5)
    assert [(part.first, len(part.cfgs)) for part in parts] == [(0, 5), (5, 5), (10, 2)]
    assert np.concatenate([part.trajectory for part in parts]).tolist() == list(range(1, 13))
    assert parts[-1].tuned == {"trajectory_length": 1.2, "n_steps": 4, "step_size": 0.3}
    assert {x.dtype for x in parts[0].history.values()} == {np.dtype(np.float64)}
    assert fields(whole).shape == (12, 128, 4, 4) and fields(whole).dtype == np.float32


def test_blocks_end_where_the_job_says_on_any_number_of_devices(monkeypatch):
    def spans():
        engine = Engine(jax.random.key(1), LATTICE, 3, "float32")  # a place stays idle on two
        program, _ = programs(engine, ChainSettings(3, 0, 4000))
        return block_spans(program, 0, 4000, forces=1 << 18)

    two, devices = spans(), jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    assert spans() == two
    assert len(two) > 1


@pytest.mark.parametrize("block_configs", [1, 5, 100])
def test_the_block_length_is_invisible(whole, block_configs):
    assert_equal(blocks(block_configs=block_configs), whole)


@pytest.mark.parametrize("done", [1, 5, 10])
def test_a_resumed_run_equals_the_uninterrupted_one(done):
    settings = {"sampler": HMC(PHI4), "n_thermalise": 20, "block_configs": 5}
    uninterrupted = blocks(**settings)
    before = blocks(**settings | {"block_configs": done})[0]
    after = blocks(**settings, resume=(done, before.state, before.tuned))
    assert after[0].first == done
    assert_equal([before, *after], uninterrupted)


def test_a_lengthened_run_equals_the_longer_one(whole):
    short = blocks(n_configs=7)
    rest = blocks(resume=(7, short[-1].state, short[-1].tuned))
    assert_equal([*short, *rest], whole)


@pytest.mark.parametrize(("n_chains", "sampler"), [(3, FIXED), (128, HMC(PHI4))], ids=["3", "128"])
def test_the_number_of_devices_is_invisible(n_chains, sampler, monkeypatch):
    settings = {"sampler": sampler, "n_chains": n_chains, "n_thermalise": 20}
    on_all = blocks(**settings)
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: only)
    on_one = blocks(**settings)
    assert np.array_equal(fields(on_one), fields(on_all))
    assert_equal_but_for_rounding(histories(on_one), histories(on_all))


@pytest.mark.parametrize("n_chains", [1, 3, 70])
def test_the_number_of_chains_is_invisible_to_each_chain(whole, n_chains):
    few = blocks(n_chains=n_chains)
    assert np.array_equal(fields(few), fields(whole)[:, :n_chains])
    of_first = {name: series[:, :n_chains] for name, series in histories(whole).items()}
    assert_equal_but_for_rounding(histories(few), of_first)


def test_a_warm_up_with_nothing_to_tune_is_the_beginning_of_the_chain(whole):
    later = blocks(n_thermalise=4, n_configs=8)
    assert np.concatenate([part.trajectory for part in later]).tolist() == list(range(5, 13))
    assert np.array_equal(fields(later), fields(whole)[4:])


def test_thinning_keeps_every_third_configuration(whole):
    thinned = blocks(thin=3, n_configs=4)
    assert np.array_equal(fields(thinned), fields(whole)[2::3])
    assert np.concatenate([part.trajectory for part in thinned]).tolist() == [3, 6, 9, 12]
    series = {name: x.reshape(4, 3, 128) for name, x in histories(whole).items()}
    got = histories(thinned)
    assert np.array_equal(got["action"], series["action"][:, 2])
    assert np.allclose(got["acceptance"], series["acceptance"].mean(axis=1), rtol=1e-6)
    assert np.array_equal(got["max_abs_dh"], series["max_abs_dh"].max(axis=1))


def test_histories_do_not_need_configurations(whole):
    parts = blocks(save_configs=False)
    assert all(part.cfgs is None for part in parts)
    for name, series in histories(whole).items():
        assert np.array_equal(histories(parts)[name], series), name


def test_seeds_and_chains_are_different(whole):
    phi = fields(whole)[0]
    assert len(np.unique(phi[:, 0, 0])) > 120
    assert not np.any(fields(blocks(seed=2))[0] == phi)


def test_float64_follows_float32(whole):
    wide = blocks(dtype="float64", n_configs=3)
    assert fields(wide).dtype == np.float64
    assert np.abs(fields(wide) - fields(whole)[:3]).max() < 1e-4


def test_the_warm_up_reports_its_progress():
    seen = []
    blocks(n_thermalise=20, on_warm_up=lambda done, sampler: seen.append((done, sampler.n_steps)))
    assert seen == [(done, 4) for done in range(1, 21)]


def test_a_run_in_memory_holds_all_chains_of_a_configuration_together(whole):
    chains = run(jax.random.key(1), FIXED, LATTICE, n_chains=128, n_configs=12, n_thermalise=0)
    assert (chains.n_chains, chains.n_configs, chains.thin) == (128, 12, 1)
    assert np.array_equal(chains.cfgs, fields(whole).reshape(-1, *LATTICE.shape))
    assert np.array_equal(chains.series("phi2"), histories(whole)["phi2"].T)
    magnetisation = chains.cfgs.mean(axis=(1, 2)).reshape(12, 128).T
    assert np.allclose(chains.series("magnetisation"), magnetisation, atol=1e-6)
    assert set(chains.history) == set(histories(whole))


# Failures


def test_a_run_whose_energy_explodes_says_what_to_change():
    with pytest.raises(
        RunError,
        match=r"up to trajectory 12: 100.0 % of the trajectories have \|dH\| > 1000 \(allowed: "
        r"1 %\) at step_size = 50, n_steps = 4; make sampler.step_size smaller",
    ):
        blocks(HMC(PHI4, n_steps=4, step_size=50.0))


@pytest.mark.parametrize(("n_lost", "allowed"), [(1, True), (2, False)])
def test_one_per_cent_of_divergent_trajectories_is_allowed(n_lost, allowed):
    start = np.zeros((128, *LATTICE.shape))
    start[:n_lost] = 1e3
    if allowed:
        assert histories(blocks(start=start))["divergent"].mean() == n_lost / 128
    else:
        with pytest.raises(RunError, match=r"1.6 % of the trajectories"):
            blocks(start=start)


def test_an_action_that_is_not_finite_names_chain_and_trajectory():
    start = np.zeros((128, *LATTICE.shape))
    start[5, 1, 2] = np.nan
    with pytest.raises(RunError, match="action of chain 5 is not finite at trajectory 1;"):
        blocks(start=start)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_chains": 0}, "chain.n_chains must be a whole number >= 1, got 0"),
        ({"n_chains": 1.5}, "chain.n_chains must be a whole number >= 1, got 1.5"),
        ({"n_configs": 0}, "chain.n_configs must be a whole number >= 1, got 0"),
        ({"thin": 0}, "chain.thin must be a whole number >= 1, got 0"),
        ({"n_thermalise": -1}, "chain.n_thermalise must be a whole number >= 0, got -1"),
        ({"dtype": "float16"}, "output.dtype must be float32 or float64, got 'float16'"),
        ({"start": "warm"}, "chain.start must be hot, cold or the path of an ensemble, got 'warm'"),
        ({"start": np.zeros((2, 4, 5))}, r"fields of shape \(2, 4, 5\) cannot start chains on"),
        ({"start": np.zeros((0, 4, 4))}, r"fields of shape \(0, 4, 4\) cannot start chains on"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        blocks(**settings)


def test_float64_needs_x64():
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"float64 dynamics need JAX's x64 mode: jax.config.update"),
    ):
        blocks(dtype="float64")


def test_more_blocks_than_a_directory_holds_are_refused():
    room = type("Program", (), {"size": 4})
    assert len(block_spans(room, 0, 4 * 10**3, 1, 4)) == 10**3
    with pytest.raises(ValueError, match=r"at most 4000000, which 1000000 blocks of 4 hold, got"):
        block_spans(room, 0, 2**31 - 1, 1, 4)
