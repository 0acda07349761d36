"""`convert`: another normalisation of the field, the same distribution."""

import hashlib
import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from rows import each

from lattice_ml import action, cli, convert_ensemble, generate, measure, open_ensemble
from lattice_ml.actions.conventions import CONVENTIONS
from lattice_ml.analysis.measurement import remeasured_series
from lattice_ml.jobs.config import parse
from lattice_ml.statistics import Estimate
from lattice_ml.storage.run import StorageError, open_run

SHAPE = (4, 4)
WORDS = ["--lattice.shape", "4", "4", "--action.kappa", "0.25", "--action.lam", "0.022"]
WORDS += ["--chain.n-chains", "4", "--chain.n-configs", "12", "--chain.n-thermalise", "20"]
WORDS += ["--sampler.step-size", "0.2"]
POWERS = {"magnetisation": 1, "phi2": 2, "phi4": 4, "m2": 2, "m4": 4, "link_sum": 2, "chi2": 2}
INVARIANT = ("action_density", "binder", "schwinger_dyson", "correlation_length", "acceptance")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return generate(parse(WORDS), tmp_path_factory.mktemp("runs") / "kappa")


@pytest.mark.parametrize("convention", ["standard", "standard24", "nohalf", "beta"])
def test_observables_scale_with_the_field_and_the_rest_stays(ensemble, tmp_path, convention):
    converted = convert_ensemble(ensemble, tmp_path / "new", convention)
    scale = converted.config["converted"]["scale"]
    assert_allclose(converted.action.couplings()[0], scale**2 * ensemble.action.couplings()[0])
    assert_allclose(converted.cfgs[:] * scale, ensemble.cfgs[:], rtol=1e-6)
    before, after = measure(ensemble), measure(converted)
    for name in (*POWERS, *INVARIANT):
        if isinstance(before[name], Estimate):
            factor = scale ** POWERS.get(name, 0)
            assert_allclose(after[name].value * factor, before[name].value, rtol=1e-5)
            assert_allclose(after[name].error * factor, before[name].error, rtol=1e-4)
    assert converted.config["chain"] == ensemble.config["chain"]


def weighted(directory):
    """An ensemble with the density and the weights of a model."""
    rng = np.random.default_rng(1)
    config = {
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.25, "lam": 0.022},
        "lattice": {"shape": SHAPE},
        "chain": {"n_chains": 1, "n_configs": 8},
        "output": {"dtype": "float64"},
    }
    phi = rng.standard_normal((8, 1, *SHAPE))
    phi4 = action("kappa", 2, kappa=0.25, lam=0.022)
    energy = np.array([[float(phi4(x)) for x in chain] for chain in phi])
    log_prob = -np.sum(phi**2, axis=(2, 3)) / 2 - 8 * math.log(2 * math.pi)
    acceptance = rng.random((8, 1))
    with open_run(directory, config, provenance={}) as run:
        run.record(step_size=0.25)
        weights = {"log_prob": log_prob, "log_weight": -energy - log_prob}
        run.append(np.arange(3, 27, 3), phi, {"acceptance": acceptance}, {}, **weights)
        run.finish()
    return open_ensemble(directory)


def test_densities_are_those_of_the_scaled_field(tmp_path):
    old = weighted(tmp_path / "old")
    new = convert_ensemble(old, tmp_path / "new", "standard")
    energy = np.array([float(new.action(x)) for x in new.cfgs[:]])
    assert_allclose(new.log_weight[0], -energy - new.log_prob[0], rtol=1e-10)
    scale = new.config["converted"]["scale"]  # prod d(phi_old)/d(phi_new) = s^V
    assert_allclose(new.log_prob - old.log_prob, 16 * math.log(scale), rtol=1e-10)


@each(("one", "two"), list(itertools.permutations(CONVENTIONS, 2)))
def test_every_pair_of_conventions_there_and_back(tmp_path, one, two):
    """Fields, couplings, densities, weights and histories return; each step is recorded."""
    first = convert_ensemble(weighted(tmp_path / "model"), tmp_path / "one", one)
    there = convert_ensemble(first, tmp_path / "two", two)
    back = convert_ensemble(there, tmp_path / "back", one)
    assert_allclose(back.action.couplings(), first.action.couplings(), rtol=1e-12)
    for name in first.columns:
        assert_allclose(back.column(name), first.column(name), rtol=1e-12, atol=1e-12)
    rows = {name: x.ravel() for name, x in remeasured_series(there).items()}
    energy = np.array([float(there.action(x)) for x in there.cfgs[:]])
    assert_allclose(rows["action"], energy, rtol=1e-12)
    for name, row in rows.items():
        assert_allclose(there.series(name)[0], row, rtol=1e-12)
    assert_allclose(there.log_weight[0] + there.log_prob[0], -energy, rtol=1e-10)
    assert np.array_equal(there.series("acceptance"), first.series("acceptance"))
    assert there.column("trajectory").tolist() == list(range(3, 27, 3))
    assert there.config["action"]["convention"] == two
    assert there.config["converted"]["from"] == first.config["action"]
    assert there.manifest["tuned"] == {"step_size": 0.25}
    digests = "".join(shard["sha256"] for shard in first.manifest["shards"])
    assert there.parent == hashlib.sha256(digests.encode()).hexdigest()
    assert there.manifest["provenance"][0]["made_by"] == {"command": "convert", "source": "one"}


def test_a_converted_ensemble_cost_what_the_old_one_did(tmp_path):
    old = weighted(tmp_path / "old")
    (old.directory / "cost.json").write_text('{"seconds": 5432.1}')
    assert convert_ensemble(old, tmp_path / "new", "beta").seconds == 5432.1
    (old.directory / "cost.json").unlink()
    assert convert_ensemble(old, tmp_path / "free", "beta").seconds is None


def test_an_interrupted_conversion_goes_on(ensemble, tmp_path, monkeypatch):
    whole = convert_ensemble(ensemble, tmp_path / "whole", "beta")
    monkeypatch.setattr("lattice_ml.jobs.exchange.BLOCK_BYTES", 4 * 16 * 4 * 4)
    parts = convert_ensemble(ensemble, tmp_path / "parts", "beta")
    assert len(parts.manifest["shards"]) > 1
    assert np.array_equal(whole.cfgs[:], parts.cfgs[:])
    again = convert_ensemble(ensemble, tmp_path / "parts", "beta")
    assert again.manifest == parts.manifest


def test_the_command_says_what_it_wrote(ensemble, tmp_path, capsys):
    words = ["convert", str(ensemble.directory), "--action.convention", "nohalf"]
    assert cli.main([*words, "--out", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert "h = 2," in out and str(tmp_path / "new") in out
    config = str(ensemble.directory / "config.toml")
    assert cli.main(["generate", config, "--out", str(tmp_path / "new")]) == 2
    assert "action.convention: the run in" in capsys.readouterr().err


def test_what_has_no_form_in_a_convention_is_refused(ensemble, tmp_path, capsys):
    words = ["convert", str(ensemble.directory), "--action.convention", "cappa"]
    assert cli.main([*words, "--out", str(tmp_path / "new")]) == 2
    assert "must be one of kappa, beta" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    nothing = weighted(tmp_path / "old")
    nothing.manifest["config"]["action"] = {"kind": "none"}
    with pytest.raises(ValueError, match=r"no action to convert \(action.kind = none\)"):
        convert_ensemble(nothing, tmp_path / "new", "beta")


def test_without_configurations_nothing_is_written(tmp_path):
    config = weighted(tmp_path / "old").config
    with open_run(tmp_path / "bare", config, provenance={}) as run:
        run.append(np.arange(8), None, {"phi2": np.ones((8, 1))}, {})
    with pytest.raises(StorageError, match="kept no configurations"):
        convert_ensemble(open_ensemble(tmp_path / "bare"), tmp_path / "new", "beta")
    assert not (tmp_path / "new").exists()
