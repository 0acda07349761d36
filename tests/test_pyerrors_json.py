"""Does pyerrors read from an exported ensemble what `measure` says of it?"""

import gzip
import json
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lattice_ml import cli, measure, open_ensemble
from lattice_ml.jobs.pyerrors_json import export_observables
from lattice_ml.observables import DERIVED, PRIMARIES
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.run import open_run

SHAPE, N_CHAINS, N_CONFIGS = (4, 3), 11, 300
ACTION = {"kind": "Phi4", "convention": "kappa", "kappa": 0.25, "lam": 0.022}


def correlated(name, n_chains, n_configs):
    """A series with an autocorrelation of some configurations, of the right sign."""
    random = np.random.default_rng([PRIMARIES_AND_MORE.index(name), n_chains])
    x = random.normal(size=(n_configs, n_chains))
    for t in range(1, n_configs):
        x[t] += 0.6 * x[t - 1]
    return x if name == "magnetisation" else 1 / (5 + x**2)


PRIMARIES_AND_MORE = [*PRIMARIES, "acceptance"]


def stored(path, n_chains=N_CHAINS, thin=5, **weights):
    """An ensemble that kept histories alone, its configurations `thin` trajectories apart."""
    config = {"action": ACTION, "lattice": {"shape": SHAPE}, "output": {"dtype": "float32"}}
    config["output"]["save_configs"] = False
    config["chain"] = {"n_chains": n_chains, "n_configs": N_CONFIGS, "thin": thin}
    history = {name: correlated(name, n_chains, N_CONFIGS) for name in PRIMARIES_AND_MORE}
    with open_run(path, config, provenance={}) as run:
        run.append(100 + thin * np.arange(N_CONFIGS), None, history, {}, **weights)
        run.finish()
    return open_ensemble(path)


def load(file):
    """The `Obs` in a file by their tags, analysed."""
    pyerrors = pytest.importorskip("pyerrors")
    found = {obs.tag: obs for obs in pyerrors.input.json.load_json(str(file), verbose=False)}
    for obs in found.values():
        obs.gamma_method()
    return found


def test_ensembles_of_one_name_are_not_taken_as_correlated(tmp_path):
    for folder, seed_of in (("a", 1), ("b", 2)):
        ensemble = stored(tmp_path / folder / "run", n_chains=seed_of)
        export_observables(ensemble, tmp_path / f"{folder}.json.gz")
    names = {load(tmp_path / f"{folder}.json.gz")["phi2"].e_names[0] for folder in "ab"}
    assert len(names) == 2 and all(name.startswith("run-") for name in names)


@pytest.mark.parametrize("thin", [1, 5])
def test_one_chain_has_values_and_errors_of_measure_to_rounding(tmp_path, thin):
    ensemble = stored(tmp_path / "run", n_chains=1, thin=thin)
    export_observables(ensemble, tmp_path / "run.json.gz", name="run")
    found, expected = load(tmp_path / "run.json.gz"), measure(ensemble)
    assert set(found) == {name for name, e in expected.items() if e} | set(PRIMARIES)
    for name in set(found) & set(expected):
        assert_allclose(found[name].value, expected[name].value, rtol=1e-14)
        assert_allclose(found[name].dvalue, expected[name].error, rtol=1e-9)
        assert_allclose(thin * found[name].e_tauint["run"], expected[name].tau_int, rtol=1e-9)


def test_every_chain_is_a_replica_with_its_trajectories(tmp_path):
    ensemble = stored(tmp_path / "run")
    export_observables(ensemble, tmp_path / "run.json.gz", name="critical")
    obs = load(tmp_path / "run.json.gz")["phi2"]
    series = ensemble.series("phi2")
    assert obs.names == [f"critical|r{chain:02d}" for chain in range(N_CHAINS)]
    for name, chain in zip(obs.names, series, strict=True):
        assert obs.idl[name] == range(100, 100 + 5 * N_CONFIGS, 5)
        assert_allclose(obs.deltas[name] + obs.r_values[name], chain, rtol=1e-12)


def test_many_chains_have_the_values_of_measure_and_the_errors_of_pyerrors(tmp_path):
    pyerrors = pytest.importorskip("pyerrors")
    ensemble = stored(tmp_path / "run")
    export_observables(ensemble, tmp_path / "run.json.gz", name="run")
    found, expected = load(tmp_path / "run.json.gz"), measure(ensemble)
    names = [f"run|r{chain:02d}" for chain in range(N_CHAINS)]
    idl = [range(100, 100 + 5 * N_CONFIGS, 5)] * N_CHAINS

    def own(series):
        return pyerrors.Obs(list(series), names, idl=idl)

    m = ensemble.series("magnetisation")
    by_hand = {"phi2": own(ensemble.series("phi2")), "binder": 1 - own(m**4) / 3 / own(m**2) ** 2}
    for name, obs in by_hand.items():
        obs.gamma_method()
        assert_allclose(found[name].value, obs.value, rtol=1e-12)
        assert_allclose(found[name].dvalue, obs.dvalue, rtol=1e-9)
    for name in set(found) & set(expected):
        assert_allclose(found[name].value, expected[name].value, rtol=1e-14)
        # fluctuations of a chain about its own mean lack what the mean moves: tau / n_configs
        assert_allclose(found[name].dvalue, expected[name].error, rtol=0.1)
    both = found["phi2"] - found["link_sum"]  # what the format is for: correlated quantities
    both.gamma_method()
    difference = own(ensemble.series("phi2") - ensemble.series("link_sum"))
    difference.gamma_method()
    assert_allclose(both.dvalue, difference.dvalue, rtol=1e-9)


def test_the_command_writes_the_same_bytes_again(tmp_path, monkeypatch, capsys):
    ensemble = stored(tmp_path / "run", n_chains=2)
    for file in ("a.json.gz", "b.json.gz"):
        assert cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / file)]) == 0
        monkeypatch.setattr(time, "time", lambda: 1e9)  # of gzip, which stores seconds
    assert "a.json.gz: action, magnetisation, phi2" in capsys.readouterr().out
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    table = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    assert table["description"]["action"] == ensemble.config["action"]
    assert {obs["tag"][0] for obs in table["obsdata"]} <= {*PRIMARIES, *DERIVED}


def test_weights_are_those_of_measure_and_of_reweighting(tmp_path):
    pyerrors = pytest.importorskip("pyerrors")
    logs = 0.3 * np.random.default_rng(1).normal(size=(N_CONFIGS, 1))
    ensemble = stored(tmp_path / "run", n_chains=1, log_weight=logs, log_prob=logs)
    export_observables(ensemble, tmp_path / "run.json.gz", name="run")
    found, expected = load(tmp_path / "run.json.gz"), measure(ensemble)
    for name in set(found) & set(expected):
        assert found[name].reweighted
        assert_allclose(found[name].value, expected[name].value, rtol=1e-12)
        assert_allclose(found[name].dvalue, expected[name].error, rtol=1e-9)
    series = np.exp(logs[:, 0]), ensemble.series("phi2")[0]
    weight, phi2 = (pyerrors.Obs([one], ["run|r0"]) for one in series)
    (by_hand,) = pyerrors.reweight(weight, [phi2])
    by_hand.gamma_method()
    assert_allclose(found["phi2"].value, by_hand.value, rtol=1e-12)
    assert_allclose(found["phi2"].dvalue, by_hand.dvalue, rtol=1e-9)


def test_what_cannot_be_exported_is_refused(tmp_path):
    file = tmp_path / "new.json.gz"
    plain = stored(tmp_path / "plain", n_chains=1)
    with pytest.raises(StorageError, match=r"the name must end in \.json\.gz"):
        export_observables(plain, tmp_path / "new.json")
    with pytest.raises(ValueError, match=r"no ensemble is called 'a\|b'"):
        export_observables(plain, file, name="a|b")
    file.write_text("mine")
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        export_observables(plain, file)
    assert file.read_text() == "mine"
