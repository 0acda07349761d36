"""`measure` on chains in memory and on ensembles on disk, with and without their histories."""

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from test_two_point import Ensemble

from lattice_ml import cli
from lattice_ml.actions import FreeField, Phi4
from lattice_ml.analysis.measurement import (
    OF_WEIGHTS,
    describe_weights,
    measure,
    remeasured_series,
    stored_series,
)
from lattice_ml.chains import run as chain
from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables import DERIVED, PRIMARIES, measure_configurations
from lattice_ml.observables.ensemble import Ensemble as Contract
from lattice_ml.samplers.hmc import HMC
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import open_run

SHAPE, N_CHAINS, N_CONFIGS, THIN = (4, 3), 4, 60, 2
ACTION = Phi4(0.5, 0.75, 0.125)
FREE = FreeField(16.0, 2)
NARROW, WIDE = 0.02, 0.26  # beside the widths of its modes, from 0.20 to 0.25


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


def test_memory_and_disk_are_of_one_contract(chains, tmp_path):
    stored = on_disk(tmp_path, chains, chains.history)
    assert isinstance(chains, Contract) and isinstance(stored, Contract)
    assert not isinstance(chains.cfgs, Contract)
    names = ("shape", "n_chains", "n_configs", "thin", "temperature", "has_cfgs", "log_weight")
    for name in names:
        assert getattr(stored, name) == getattr(chains, name), name
    assert set(stored.history) == set(chains.history) and stored.label == str(tmp_path)
    assert np.array_equal(np.concatenate([block for _, block in stored.blocks()]), chains.cfgs)
    assert stored.action is stored.action, "built once, not at every block"
    assert stored.numbers["chain"].tolist() == [[c] * N_CONFIGS for c in range(N_CHAINS)]


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
    samples = Ensemble(Phi4(0.0, 0.55, 0.0), SHAPE, 1, cfgs, histories, {}, log_weight=log_weight)
    for weights, exact in ((True, 1 / 1.1), (False, 1.0)):
        found = measure(samples, weights=weights)["phi2"]
        assert abs(found.value - exact) < 4.5 * found.error and found.error < 0.02
    response = measure(samples)["schwinger_dyson"]
    assert abs(response.value - 1) < 4.5 * response.error


def drawn(directory, width, n=2000, seed=2):
    """Independent sites of a width, with the weights that make them a free field."""
    rng = np.random.default_rng(seed)
    config = {
        "lattice": {"shape": [2, 2]},
        "action": {"kind": "FreeField", "mass_squared": FREE.mass_squared},
        "chain": {"n_chains": 1, "n_configs": n},
        "output": {"dtype": "float64", "save_configs": True},
    }
    cfgs = width * rng.normal(size=(n, 1, 2, 2))
    with open_run(directory, config, provenance={}) as run:
        history = measure_configurations(FREE, cfgs[:, 0])
        log_prob = np.sum(-0.5 * (cfgs / width) ** 2, axis=(2, 3)) - 2 * math.log(
            2 * math.pi * width**2
        )
        columns = {name: series[:, None] for name, series in history.items()}
        log_weight = -columns["action"] - log_prob
        run.append(np.arange(n), cfgs, columns, {}, log_prob=log_prob, log_weight=log_weight)
    return open_ensemble(directory)


def test_weights_have_their_exact_ess_and_log_z(tmp_path):
    """Per mode, of variance s^2 and weighted to G: ESS/n = sqrt(2 r - 1) / r with r = s^2 / G."""
    found = measure(drawn(tmp_path / "weighted", WIDE))
    assert set(found) == {*DERIVED, *OF_WEIGHTS}
    propagator = FREE.propagator(Lattice((2, 2)))
    ratio = WIDE**2 / propagator
    ess = np.prod(np.sqrt(2 * ratio - 1) / ratio)
    for name, exact in (("ess", ess), ("log_z", 0.5 * np.sum(np.log(2 * np.pi * propagator)))):
        assert abs(found[name].value - exact) < 4.5 * found[name].error, name
        assert found[name].error < 0.03 and found[name].marks == ()
    assert describe_weights(found).startswith("2000 samples are worth ")
    assert "warning" not in describe_weights(found)
    heavy = found | {"ess": replace(found["ess"], pareto_k=0.6)}
    assert "; warning: the error of log Z is too small" in describe_weights(heavy)
    assert set(measure(open_ensemble(tmp_path / "weighted"), weights=False)) == set(DERIVED)


def test_log_z_is_known_where_the_weights_have_their_constant(tmp_path):
    made = drawn(tmp_path, WIDE)

    class Bare:
        """The ensemble without the density, or made by `sample` where that has none."""

        def __init__(self, **changes):
            self.changes = changes

        def __getattr__(self, name):
            return self.changes[name] if name in self.changes else getattr(made, name)

    assert measure(made)["log_z"] is not None
    assert measure(Bare(log_prob=None))["log_z"] is None
    assert measure(Bare(log_prob=made.log_prob + 3))["log_z"] is None
    sampled = made.config | {"sampling": {"correct": "hmc"}}
    assert measure(Bare(log_prob=None, config=sampled))["log_z"] == measure(made)["log_z"]
    words = describe_weights(measure(Bare(log_prob=None)))
    assert words.endswith("log Z not known: the weights are estimates, or without their constant")
    estimated = [{"made_by": {"approximate": True}}]
    assert measure(Bare(provenance=estimated))["log_z"] is None


def test_every_line_of_weights_that_leave_a_handful_is_marked(tmp_path, capsys):
    """Draws a hundredth as wide as they should be, and right ones: in print, JSON and page."""
    drawn(tmp_path / "narrow", NARROW), drawn(tmp_path / "wide", WIDE)
    words = [str(tmp_path / name) for name in ("narrow", "wide")]
    file, page = tmp_path / "values.json", tmp_path / "page"
    assert cli.main(["measure", *words, "--json", str(file)]) == 0
    narrow, wide = capsys.readouterr().out.split(words[1] + "\n")[:2]
    lines = [line for line in narrow.splitlines() if line.split()[:1] in [[n] for n in DERIVED]]
    assert len(lines) == len(DERIVED)
    assert all(line.endswith("  weights") or line.endswith("-") for line in lines)
    assert "\n  weights: weighted averages, their errors and log Z are not reliable" in narrow
    assert "with weights: 2000 samples are worth " in narrow and "Pareto k" in narrow
    assert "log Z" in wide and "  weights" not in wide.replace("with weights", "")
    table = json.loads(file.read_text())
    for name in ("phi2", *OF_WEIGHTS):
        assert "not reliable" in table[words[0]][name]["doubt"]
        assert "doubt" not in table[words[1]][name]
        assert table[words[1]][name]["error"] > 0
    assert table[words[1]]["ess"]["pareto_k"] < 0.7 < table[words[0]]["ess"]["pareto_k"]
    assert cli.main(["measure", words[0], "--out", str(page)]) == 0
    shown = (page / "index.html").read_text()
    assert "<td>weights</td>" in shown and "not reliable" in shown and "samples are worth" in shown


def test_info_export_and_check_speak_of_the_weights(tmp_path, capsys):
    drawn(tmp_path / "narrow", NARROW), drawn(tmp_path / "wide", WIDE)
    for name, status in (("narrow", 1), ("wide", 0)):
        assert cli.main(["info", str(tmp_path / name)]) == 0
        said = capsys.readouterr().out
        assert "weights         2000 samples are worth " in said
        assert ("not reliable" in said) == (name == "narrow")
        observables = str(tmp_path / f"{name}.json.gz")
        assert cli.main(["export", str(tmp_path / name), "--out", observables]) == 0
        assert ("warning: weighted averages" in capsys.readouterr().err) == bool(status)
        spectrum = ["spectrum", str(tmp_path / name), "--out", str(tmp_path / f"{name}-spectrum")]
        assert cli.main(spectrum) == 0
        assert ("warning: weighted averages" in capsys.readouterr().out) == bool(status)


def test_a_comparison_of_such_weights_is_undecided(tmp_path, capsys):
    """Both are a tenth as wide as they should be, so that no test finds a difference."""
    for seed in (2, 3):
        drawn(tmp_path / f"{seed}", NARROW, seed=seed)
    words = [str(tmp_path / "2"), str(tmp_path / "3"), "--no-classifier"]
    assert cli.main(["compare", *words, "--out", str(tmp_path / "page")]) == 4
    assert ": undecided: " in capsys.readouterr().out.splitlines()[0]
    report = json.loads((tmp_path / "page" / "report.json").read_text())
    assert not report["accepted"] and "not reliable" in report["candidates"][0]["doubts"][0]
    assert "? undecided" in (tmp_path / "page" / "report.html").read_text()
    assert cli.main(["compare", *words, "--no-weights"]) == 1, "check sees what they are"


def test_values_measured_with_such_weights_are_no_reference(tmp_path, capsys):
    for name, status in (("narrow", 2), ("wide", 0)):
        drawn(tmp_path / name, {"narrow": NARROW, "wide": WIDE}[name])
        file = str(tmp_path / f"{name}.json")
        assert cli.main(["measure", str(tmp_path / name), "--json", file]) == 0
        words = ["compare", str(tmp_path / "plain"), "--reference-values", file, "--no-classifier"]
        if name == "narrow":
            drawn(tmp_path / "plain", WIDE, seed=3)
        assert cli.main(words) == status
        assert ("is no reference: weighted" in capsys.readouterr().err) == (name == "narrow")


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
