"""`generate --sweep`: ensembles of their own noise, and what is said of them."""

import json
import tomllib

import numpy as np
import pytest

from lattice_ml import cli
from lattice_ml.jobs import generate
from lattice_ml.storage.ensemble import open_ensemble

CONFIG = """
seed = 3
[lattice]
shape = [4, 4]
[action]
kind = "FreeField"
mass_squared = 1.0
[sampler]
kind = "Langevin"
scheme = "heun"
[chain]
n_chains = 64
n_thermalise = 20
n_configs = 200
"""
KEY = "sampler.step_size"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "free.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def jobs(monkeypatch):
    """What a sweep would run: directory name to job."""
    asked = {}

    def note(job, out, **options):
        asked[out.name] = job
        raise generate.Interrupted("not now", None)

    def sweep(*values, key=KEY, words=()):
        asked.clear()
        for value in values:  # one at a time, because the first is interrupted
            words_of_it = ["generate", "free.toml", "--out", "s", *words, "--sweep", key, value]
            assert cli.main(words_of_it) == 0
        return dict(asked)

    monkeypatch.setattr(generate, "generate", note)
    return sweep


def test_every_value_has_a_seed_of_its_own_whatever_the_others_are(jobs):
    up, down = jobs("0.05", "0.1", "0.2"), jobs("0.2", "0.05")
    seeds = {name: job.seed for name, job in up.items()}
    assert list(seeds) == [f"{KEY}={value}" for value in ("0.05", "0.1", "0.2")]
    assert len({3, *seeds.values()}) == 4
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert {name: job.seed for name, job in down.items()} == {n: seeds[n] for n in down}
    assert all(job.config["seed"] == job.seed for job in up.values())


def test_the_seed_is_a_stable_hash(jobs):
    """The first 31 bits of `printf '[3, "sampler.step_size", 0.1]' | sha256sum`."""
    assert jobs("0.1")[f"{KEY}=0.1"].seed == 45314552


def test_the_seed_follows_from_the_value_and_not_from_its_spelling(jobs):
    seeds = [job.seed for job in jobs("0.1", "0.10", "1e-1").values()]
    assert len(seeds) == 3 and len(set(seeds)) == 1
    dashed = jobs("0.1", key="sampler.step-size")
    assert [job.seed for job in dashed.values()] == seeds[:1]


def test_the_seed_follows_from_the_seed_and_the_key(jobs):
    own = jobs("0.5")[f"{KEY}=0.5"].seed
    other = jobs("0.5", words=["--seed", "4"])[f"{KEY}=0.5"].seed
    mass = jobs("0.5", key="action.mass_squared")["action.mass_squared=0.5"].seed
    assert len({own, other, mass}) == 3


def test_a_swept_seed_is_the_one_that_is_given(jobs):
    assert [job.seed for job in jobs("7", "8", key="seed").values()] == [7, 8]


def test_a_sweep_of_shapes_has_seeds_too(jobs):
    found = jobs("4,4", "8,4", key="lattice.shape")
    assert [job.lattice.shape for job in found.values()] == [(4, 4), (8, 4)]
    assert len({job.seed for job in found.values()}) == 2


@pytest.mark.parametrize("values", [("0.1", "0.10"), ("0.1", "0.1")])
def test_a_value_that_is_swept_twice_is_refused(capsys, values):
    words = ["generate", "free.toml", "--out", "s", "--sweep", KEY, *values]
    assert cli.main(words) == 2
    names = f"{KEY}={values[0]} and {KEY}={values[1]}"
    assert f"--sweep needs distinct values, got {names}" in capsys.readouterr().err


def test_a_sweep_of_step_sizes_extrapolates_to_the_free_field(capsys, folder):
    """<phi^2> = (1/V) sum_p 1/(p_hat^2 + m^2); at the largest step Heun is 14 % below it."""
    steps = ("0.05", "0.1", "0.15")
    assert cli.main(["generate", "free.toml", "--out", "s", "--sweep", KEY, *steps]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"s/{KEY}={s}: 64 chains x 200 configurations of 4 x 4" for s in steps]
    paths = [folder / "s" / f"{KEY}={step}" for step in steps]
    ensembles = [open_ensemble(path) for path in paths]
    for path, ensemble in zip(paths, ensembles, strict=True):
        written = tomllib.loads((path / "config.toml").read_text())
        assert written["seed"] == ensemble.config["seed"] != 3
    assert cli.main(["extrapolate", *map(str, paths), "--json", "found.json"]) == 0
    found = json.loads((folder / "found.json").read_text())["observables"]
    p_hat_squared = 4 * np.sin(np.pi * np.arange(4) / 4) ** 2
    exact = np.mean(1 / (p_hat_squared[:, None] + p_hat_squared + 1))
    phi2, chi2 = found["phi2"], found["chi2"]
    assert abs(phi2["value"] - exact) < 4.5 * phi2["error"] < 0.05 * exact
    assert exact - phi2["points"][-1]["value"] > 10 * phi2["points"][-1]["error"]
    assert abs(chi2["value"] - 1) < 4.5 * chi2["error"]  # 1/m^2
