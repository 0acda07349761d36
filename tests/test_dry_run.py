"""`generate --dry-run`: does a run take what was said of it, and is nothing written?"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice_ml import cli
from lattice_ml.jobs import config, forecast
from lattice_ml.storage import files, shards

CONFIG = """
[lattice]
shape = [6, 4]
[action]
kappa = 0.2
lam = 0.1
[chain]
n_chains = 3
n_thermalise = 20
n_configs = 9
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a config, and the compilation cache of all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of all tests")
    (tmp_path / "job.toml").write_text(CONFIG)
    return tmp_path


def dry_run(*words):
    """What a dry run says, by directory; it leaves no other file."""
    before = set(Path().rglob("*"))
    assert cli.main(["generate", "job.toml", "--dry-run", "--json", "said.json", *words]) == 0
    assert set(Path().rglob("*")) - before <= {Path("said.json")}
    return json.loads(Path("said.json").read_text())


def n_bytes(directory):
    """Bytes of an ensemble but for the clock's, `cost.json`."""
    paths = (p for p in Path(directory).rglob("*") if p.is_file() and p.name != files.COST)
    return sum(path.stat().st_size for path in paths)


def calibrations(monkeypatch, per_config):
    """The jobs that will be calibrated, with so many seconds per configuration whatever it took."""
    asked, calibrate = [], forecast.calibrate

    def slow(job, begun, split):
        asked.append(job)
        return dataclasses.replace(calibrate(job, begun, split), per_config=per_config)

    monkeypatch.setattr(forecast, "calibrate", slow)
    return asked


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--output.save-configs", "False", "--chain.thin", "2"],
        ["--output.dtype", "float64", "--sampler.kind", "Langevin", "--sampler.step-size", "0.1"],
    ],
    ids=["plain", "histories", "float64"],
)
def test_every_byte_on_disk_and_the_tuned_settings_are_foreseen(words):
    """The whole warm-up is short enough here to be run."""
    said = dry_run("--out", "run", *words)["run"]
    assert cli.main(["generate", "job.toml", "--out", "run", *words]) == 0
    assert said["disk"]["total"] == n_bytes("run") == said["disk"]["to_write"]
    assert said["disk"]["n_shards"] == len(list(Path("run/shards").iterdir()))
    assert said["tuned"] == files.read_manifest(Path("run"))["tuned"]
    assert said["n_done"] == 0


def test_of_a_run_that_was_begun_only_the_rest_is_to_come():
    assert cli.main(["generate", "job.toml", "--out", "run"]) == 0
    before, longer = n_bytes("run/shards"), ["--chain.n-configs", "40"]
    said = dry_run("--out", "run", *longer)["run"]
    assert (said["n_done"], said["n_configs"], said["calibrated"]) == (9, 40, 0)
    assert said["seconds"]["warm_up"] == 0 < said["seconds"]["production"]
    assert cli.main(["generate", "job.toml", "--out", "run", *longer]) == 0
    assert said["disk"]["total"] == n_bytes("run") == said["disk"]["to_write"] + before
    done = dry_run("--out", "run", *longer)["run"]
    assert done["seconds"]["total"] == 0
    assert done["disk"]["to_write"] == n_bytes("run") - n_bytes("run/shards")


def test_what_generate_would_refuse_is_refused(capsys):
    assert cli.main(["generate", "job.toml", "--out", "run"]) == 0
    capsys.readouterr()
    words = ["generate", "job.toml", "--out", "run", "--dry-run", "--action.kappa", "0.21"]
    assert cli.main(words) == 2
    assert "action.kappa: the run in run was made with 0.2, asked 0.21" in capsys.readouterr().err
    assert cli.main(["generate", "job.toml", "--out", ".", "--dry-run"]) == 2
    assert "neither empty nor a run" in capsys.readouterr().err
    assert cli.main(["generate", "job.toml", "--json", "x"]) == 2
    assert "--json FILE of generate is for --dry-run" in capsys.readouterr().err


def test_a_sweep_is_calibrated_once_and_summed(capsys, monkeypatch):
    asked = calibrations(monkeypatch, per_config=100.0)
    steps = ("1", "2", "8")
    kind = ["--sampler.step-size", "0.01", "--time-limit", "30m"]
    said = dry_run("--out", "s", *kind, "--sweep", "sampler.n_steps", *steps)
    assert len(asked) == 1
    assert [found["forces"] for found in said.values()] == [[n, n, n] for n in (2, 3, 9)]
    assert [found["shared"] for found in said.values()] == [False, True, True]
    production = [found["seconds"]["production"] for found in said.values()]
    assert np.allclose(production, [900, 900 * 3 / 2, 900 * 9 / 2], rtol=0.01), "by the forces"
    out = capsys.readouterr().out
    assert "all 3: " in out and "with --time-limit: 4 calls of the same command" in out
    said = dry_run("--out", "s", "--sweep", "lattice.shape", "6,4", "4,4")
    assert len(asked) == 3, "other programs for another shape"


def test_the_lines_say_what_there_is(capsys):
    dry_run("--out", "run", "--chain.n-chains", "5", "--sampler.kind", "auto")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [
        *("run", "sampler", "devices", "layout", "memory", "disk", "time")
    ]
    assert "5 chains x 9 configurations of 6 x 4" in lines[1]
    assert "HMC" in lines[2] and "from a warm-up of 20 trajectories" in lines[2]
    assert f"{jax.device_count()} x cpu in 1 process, mesh 2 chains" in lines[3]
    assert "1 x 3 chains per device (merged), 1 places idle; blocks of 9 config" in lines[4]


def test_what_does_not_fit_is_said(capsys, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    dry_run("--out", "run")
    assert "MORE THAN the 10 bytes free" in capsys.readouterr().out


def test_a_long_warm_up_is_cut_and_counted_in_full(monkeypatch):
    calibrations(monkeypatch, per_config=1e-3)
    words = [*config.read_arguments("job.toml"), "--chain.n-thermalise", str(10**7)]
    (found,) = forecast.forecasts([(config.parse(words), "nowhere")])
    low, high, assumed = found.forces
    assert 20 <= found.calibrated < 10**7
    assert 1 < low <= assumed <= high
    seconds = found.seconds
    assert seconds.low <= seconds.total <= seconds.high
    assert 10**4 <= seconds.warm_up < 1.1 * 10**4


def test_the_seconds_grow_with_the_steps():
    """Bounds that a busy machine keeps."""
    words = [*config.read_arguments("job.toml"), "--lattice.shape", "16", "16"]
    words += ["--chain.n-chains", "64", "--sampler.step-size", "1e-3", "--sampler.n-steps"]
    few, many = (forecast.calibrate(config.parse([*words, n])).per_config for n in ("4", "400"))
    assert 10 * few < many < 1000 * few
    assert many < 10


def test_the_index_of_many_shards_has_the_size_that_was_extrapolated():
    entries = [
        {"file": f"c{n:08d}-n0000.h5", "first_config": n, "n_configs": 1} for n in range(300)
    ]
    shape = {"lattice": {"shape": [4]}, "chain": {"n_chains": 2}, "output": {"dtype": "float32"}}
    layout = {"cfgs": (np.dtype(np.float32), (4,)), "chain": (np.dtype(np.int64), ())}
    exact = shards.index_image(shape, entries, layout).nbytes
    assert abs(forecast._index(shape, entries, layout) - exact) < 0.05 * exact


CHILD = """
import json, resource, sys
from lattice_ml import cli
assert cli.main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize(
    "words",
    [
        "--lattice.shape 64 64 --chain.n-configs 200",
        "--lattice.shape 16 16 --chain.n-configs 4000 --output.save-configs False",
    ],
    ids=["configurations", "histories"],
)
def test_the_memory_of_a_process_is_foreseen_within_a_fifth(folder, words):
    """Blocks of 64 MiB, or of all histories, against the peak of a process of its own."""
    chains = "--chain.n-chains 64 --chain.n-thermalise 20 --sampler.n-steps 2"
    asked = ["generate", "job.toml", "--out", "run", *words.split(), *chains.split()]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}

    def child(*more):
        command = [sys.executable, "-c", CHILD, *asked, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    child("--dry-run", "--json", "said.json")
    said = json.loads(Path("said.json").read_text())["run"]
    peak = child()
    assert abs(said["memory"]["process"] - peak) < 0.2 * peak
    assert abs(said["disk"]["total"] - n_bytes("run")) < 0.01 * n_bytes("run")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--lattice.shape 16 12 --chain.n-chains 8", "3 chains of 16 x 12"),
        ("--lattice.shape 32 32 --chain.n-chains 2", "2 chains of 16 x 16"),
        ("--lattice.shape 64 16 --chain.n-chains 1 --output.dtype float64", "1 chain of 32 x 16"),
    ],
)
def test_a_part_of_a_large_job_says_what_all_of_it_takes(monkeypatch, words, part):
    asked = [*config.read_arguments("job.toml"), *words.split()]
    job = config.parse([*asked, "--sampler.n-steps", "4", "--sampler.step-size", "0.1"])
    (whole,) = forecast.forecasts([(job, "nowhere")])
    monkeypatch.setattr("lattice_ml.jobs.calibration._SITES", 600)
    (found,) = forecast.forecasts([(job, "nowhere")])
    assert (whole.part, found.part) == ("", part)
    for name in ("devices", "block_configs", "n_configs", "tuned", "forces"):
        assert getattr(found, name) == getattr(whole, name), name
    assert (found.disk.total, found.disk.n_shards) == (whole.disk.total, whole.disk.n_shards)
    for name in ("state", "blocks", "device"):
        value, exact = (getattr(each.memory, name) for each in (found, whole))
        assert abs(value - exact) < 0.35 * exact, name


@pytest.mark.parametrize("words", ["--lattice.shape 20000 20000", "--chain.n-chains 60000000"])
def test_a_job_that_no_memory_holds_is_forecast_all_the_same(monkeypatch, capsys, words):
    """And in the seconds that a small part of it takes: nothing has the size of the job."""
    monkeypatch.setattr("lattice_ml.jobs.calibration._SITES", 1 << 10)
    monkeypatch.setattr("lattice_ml.jobs.calibration._IMAGE", 1 << 20)
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = dry_run("--out", "run", *words.split(), "--sampler.kind", "HMC")["run"]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin
    sites = 3 * 20000**2 if "shape" in words else 24 * 60_000_000
    assert said["memory"]["state"] * said["devices"]["n_devices"] >= 4 * sites
    assert said["disk"]["total"] >= 9 * 4 * sites
    assert grown * 1024 < sites, "a quarter of the fields, in bytes"
    assert "in place of all" in capsys.readouterr().out


def test_long_thinning_is_tried_for_a_part_of_it_and_endless_trajectories_are_not(
    capsys, monkeypatch
):
    words = ["--chain.thin", "1000", "--sampler.n-steps", "4", "--sampler.step-size", "0.1"]
    whole = dry_run("--out", "run", *words)["run"]
    monkeypatch.setattr("lattice_ml.jobs.calibration._FORCES", 24 * 3 * 5 * 100)
    found = dry_run("--out", "run", *words)["run"]
    assert (whole["part"], found["part"]) == ("", "3 chains of 6 x 4, thinned by 100")
    assert found["seconds"]["production"] < 20 * whole["seconds"]["production"]
    assert whole["seconds"]["production"] < 20 * found["seconds"]["production"]
    assert found["disk"] == whole["disk"] | {"free": found["disk"]["free"]}
    assert cli.main(["generate", "job.toml", "--dry-run", "--sampler.n-steps", str(10**15)]) == 2
    assert "forces on 24 sites of 3 chains is too long to be tried" in capsys.readouterr().err


def test_the_size_of_a_large_file_is_reckoned(monkeypatch):
    words = [*config.read_arguments("job.toml"), "--lattice.shape", "16", "16"]
    calibration = forecast.calibrate(config.parse(words))
    exact, _ = calibration.shard(2000, 3)
    monkeypatch.setattr("lattice_ml.jobs.calibration._IMAGE", 1 << 18)
    size, seconds = calibration.shard(2000, 3)
    assert abs(size - exact) < 0.04 * exact, "a chunk that is not full"
    assert 0 < seconds < 10
