"""`measure` on chains in memory and on ensembles on disk, with and without their histories."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_two_point import Ensemble

from lattice_ml import chain
from lattice_ml.actions import Phi4
from lattice_ml.analysis.measurement import measure, remeasured_series, stored_series
from lattice_ml.ensemble import open_ensemble
from lattice_ml.lattice import Lattice
from lattice_ml.observables import DERIVED, PRIMARIES
from lattice_ml.samplers import HMC
from lattice_ml.storage import open_run

SHAPE, N_CHAINS, N_CONFIGS, THIN = (4, 3), 4, 60, 2
ACTION = Phi4(0.5, 0.75, 0.125)


@pytest.fixture(scope="module")
def chains():
    """A short run in memory."""
    return chain.run(
        jax.random.key(1),
        HMC(ACTION, trajectory_length=1.0, n_steps=5),
        Lattice(SHAPE),
        n_chains=N_CHAINS,
        n_configs=N_CONFIGS,
        n_thermalise=20,
        thin=THIN,
    )


def on_disk(directory, chains, names):
    """Write the same configurations with some of their histories, in two shards."""
    config = {
        "seed": 1,
        "lattice": {"shape": SHAPE},
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.25, "lam": 0.125},
        "chain": {"n_chains": N_CHAINS, "n_configs": N_CONFIGS, "thin": THIN},
        "output": {"dtype": "float32", "save_configs": True},
    }
    cfgs = chains.cfgs.reshape(N_CONFIGS, N_CHAINS, *SHAPE)
    with open_run(directory, config, provenance={}) as run:
        for part in (slice(0, 25), slice(25, N_CONFIGS)):
            history = {name: chains.series(name)[:, part].T for name in names}
            run.append(np.arange(N_CONFIGS)[part], cfgs[part], history, {"phi": cfgs[0]})
    return open_ensemble(directory)


def assert_same(measured, expected, rtol):
    assert set(measured) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(measured[name], values, rtol=rtol, atol=rtol, err_msg=name)


def test_a_run_stores_what_its_configurations_show(chains):
    """Measured while running and measured again, in blocks, agree to the fields' precision."""
    in_blocks = Ensemble(**vars(chains))
    stored, again = stored_series(chains), remeasured_series(in_blocks)
    assert set(again) == set(PRIMARIES) < set(stored)
    assert_same(again, {name: stored[name] for name in PRIMARIES}, rtol=1e-5)


def test_stored_histories_are_taken_as_they_are(chains, tmp_path):
    assert_same(stored_series(on_disk(tmp_path, chains, chains.history)), chains.histories, rtol=0)


@pytest.mark.parametrize("names", [(), ("acceptance",), ("acceptance", "phi2")])
def test_histories_that_were_not_stored_are_measured_from_the_configurations(
    chains, tmp_path, names
):
    ensemble = on_disk(tmp_path, chains, names)
    expected = {name: chains.series(name) for name in {*names, *PRIMARIES}}
    assert_same(stored_series(ensemble), expected, rtol=1e-5)


def test_every_observable_has_its_value_and_error(chains):
    measured = measure(chains)
    assert set(measured) == set(DERIVED)
    mean = {name: chains.series(name).mean() for name in chains.history}
    magnetisation, volume = chains.series("magnetisation"), 12
    m2, m4 = np.mean(magnetisation**2), np.mean(magnetisation**4)
    expected = {
        "phi2": mean["phi2"],
        "m4": m4,
        "action_density": mean["action"] / volume,
        "chi2": volume * m2,
        "susceptibility": volume * (m2 - np.mean(np.abs(magnetisation)) ** 2),
        "binder": 1 - m4 / (3 * m2**2),
        "correlation_length": np.sqrt(volume * m2 / mean["two_point_min"] - 1) / np.sqrt(2),
        "acceptance": mean["acceptance"],
    }
    for name, value in expected.items():
        found = measured[name]
        assert found.value == pytest.approx(value, rel=1e-12), name
        assert 0 < found.error < 1 and found.n == N_CHAINS * N_CONFIGS


def test_tau_int_counts_trajectories(chains):
    once = measure(replace(chains, thin=1))["phi2"]
    assert measure(chains)["phi2"].tau_int == pytest.approx(THIN * once.tau_int)


def test_disk_and_memory_measure_the_same(chains, tmp_path):
    memory, disk = measure(chains), measure(on_disk(tmp_path, chains, chains.history))
    assert disk == memory


def test_what_is_not_defined_is_none(chains, tmp_path):
    assert measure(on_disk(tmp_path, chains, ()))["acceptance"] is None
    histories = chains.histories | {"two_point_min": 100 * chains.series("two_point_min")}
    measured = measure(replace(chains, histories=histories))
    assert measured["correlation_length"] is None and measured["chi2"] is not None


def test_weights_lead_to_another_action(chains):
    """Independent sites of width 1 are weighted to a smaller width, whose phi2 is exact."""
    rng = np.random.default_rng(1)
    cfgs = rng.normal(size=(500 * N_CHAINS, *SHAPE))
    log_weight = -0.05 * np.sum(cfgs**2, axis=(1, 2)).reshape(-1, N_CHAINS).T
    histories = {"acceptance": np.ones((N_CHAINS, 500))}
    samples = Ensemble(Phi4(0.0, 0.55, 0.0), SHAPE, 1, cfgs, histories, {}, log_weight)
    for weights, exact in ((True, 1 / 1.1), (False, 1.0)):
        found = measure(samples, weights=weights)["phi2"]
        assert abs(found.value - exact) < 4.5 * found.error and found.error < 0.02
    response = measure(samples)["schwinger_dyson"]
    assert abs(response.value - 1) < 4.5 * response.error


def test_too_few_configurations_are_refused(chains):
    short = replace(chains, histories={k: v[:, :3] for k, v in chains.histories.items()})
    with pytest.raises(ValueError, match="configurations"):
        measure(short)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e10, "has .phi. up to 1e.10, whose fourth power overflows float32"),
        (np.nan, "has a number that is not finite"),
    ],
)
def test_a_configuration_whose_fourth_power_overflows_is_named(value, said):
    fields = np.random.default_rng(0).normal(size=(8, 4, 4)).astype(np.float32)
    fields[5, 1, 2] = value
    foreign = chain.Chains(ACTION, (4, 4), 1, fields, {"another": np.zeros((2, 4))}, {})
    with pytest.raises(ValueError, match=f"sample 5 {said}"):
        remeasured_series(foreign)
