"""`generate`: whatever ends a run, the same command goes on and the numbers do not know."""

import functools
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rows import each

from lattice_ml import cli
from lattice_ml.chains.failures import Doubt, RunError
from lattice_ml.jobs import config, generate
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.storage import ensemble
from lattice_ml.storage.run import StorageError

FORK = multiprocessing.get_context("forkserver")  # children that need not import JAX again
FORK.set_forkserver_preload(["lattice_ml.jobs.generate", "lattice_ml.commands", "pytest"])

SETTINGS = {
    "lattice.shape": [8, 8],
    "action.kappa": 0.27,
    "action.lam": 0.022,
    "chain.n_chains": 3,
    "chain.n_thermalise": 20,
    "chain.n_configs": 8,
}


def as_words(**changes):
    """Command-line words of SETTINGS and changes such as chain_thin=2."""
    return as_arguments(
        SETTINGS | {key.replace("_", ".", 1): value for key, value in changes.items()}
    )


def run(out, block_configs=1, time_limit=None, **changes):
    job = config.parse(as_words(**changes))
    return generate.generate(job, out, block_configs=block_configs, time_limit=time_limit)


def contents(directory):
    """All bytes but those that say how long it took."""
    paths = (p for p in Path(directory).rglob("*") if p.is_file() and p.name != "cost.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def shards(directory):
    return sorted((Path(directory) / "shards").glob("*.h5"))


def stamps(directory):
    """What changes when a shard is written again, even with the same bytes."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards(directory)}


def assert_same_numbers(a, b):
    """Equal configurations and histories, bit for bit, whatever the shards."""
    assert a.history == b.history
    for name in a.history:
        assert np.array_equal(a.series(name), b.series(name)), name
    assert np.array_equal(a.cfgs[:], b.cfgs[:])
    assert np.array_equal(a.column("trajectory"), b.column("trajectory"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run with one configuration per shard, to be read only."""
    return run(tmp_path_factory.mktemp("generate") / "reference")


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    """A config for child processes, in a folder of its own."""
    file = tmp_path_factory.mktemp("child") / "job.toml"
    file.write_text("[lattice]\nshape = [8, 8]\n[action]\nkappa = 0.27\nlam = 0.022\n")
    return file


# Children that are killed or told to stop.


def child_generates(toml, out, words):
    """In a child: the command line, with one configuration per shard."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(toml.parent / "cache")
    sys.stderr = (toml.parent / "stderr").open("w")
    generate.generate = functools.partial(generate.generate, block_configs=1)
    sys.exit(cli.main(["generate", str(toml), "--out", str(out), *words]))


def start_child(toml, out, words):
    child = FORK.Process(target=child_generates, args=(toml, out, words))
    child.start()
    return child


def wait_until(condition, child):
    """Poll until the condition holds; the child must live until then."""
    deadline = time.monotonic() + 60
    while not condition():
        assert child.is_alive(), f"ended with {child.exitcode} before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def finish(child):
    child.join(60)
    return child.exitcode


MANY = as_words(chain_n_configs=120)


@pytest.fixture(scope="module")
def uninterrupted(toml, tmp_path_factory):
    """What a run of many shards leaves behind when nothing stops it."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert finish(start_child(toml, out, MANY)) == 0
    return contents(out)


@pytest.mark.slow
def test_killed_at_20_instants_and_resumed_every_file_is_the_same(toml, tmp_path, uninterrupted):
    random = np.random.default_rng(1)
    for _ in range(20):
        before = stamps(tmp_path)
        more = random.integers(0, 4)
        target = len(before) + more
        child = start_child(toml, tmp_path, MANY)
        wait_until(lambda n=target: len(shards(tmp_path)) >= n, child)
        time.sleep(random.uniform(0, 0.01 if more else 0.3))
        child.kill()
        assert finish(child) == -signal.SIGKILL, "the run was too short to be killed"
        assert before.items() <= stamps(tmp_path).items(), "a committed shard was written again"
    before = stamps(tmp_path)
    assert 20 < len(before) < 120
    assert finish(start_child(toml, tmp_path, MANY)) == 0
    assert before.items() <= stamps(tmp_path).items()
    assert contents(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_status_and_everything_committed(
    toml, tmp_path, uninterrupted, signum, status
):
    child = start_child(toml, tmp_path, MANY)
    wait_until(lambda: shards(tmp_path), child)
    os.kill(child.pid, signum)
    assert finish(child) == status
    opened = ensemble.open_ensemble(tmp_path)
    message = (toml.parent / "stderr").read_text()
    assert f"{signum.name}: {opened.n_configs} of 120 configurations per chain are safe" in message
    assert f"{tmp_path}; the same command goes on from there" in message
    assert finish(start_child(toml, tmp_path, MANY)) == 0
    assert contents(tmp_path) == uninterrupted


def test_a_signal_during_the_warm_up_keeps_nothing_and_says_so(toml, tmp_path):
    out = tmp_path / "run"
    child = start_child(toml, out, as_words(chain_n_thermalise=10**5))
    wait_until(lambda: (out / "config.toml").exists(), child)
    os.kill(child.pid, signal.SIGTERM)
    assert finish(child) == 143
    assert "SIGTERM during the warm-up: nothing was kept" in (toml.parent / "stderr").read_text()
    assert shards(out) == []


# The numbers do not know where a run was cut.


@pytest.mark.parametrize("block_configs", [3, 8, None])
def test_the_block_length_does_not_matter(reference, tmp_path, block_configs):
    assert_same_numbers(run(tmp_path, block_configs=block_configs), reference)


def test_a_lengthened_run_is_the_longer_run(reference, tmp_path):
    run(tmp_path, chain_n_configs=5)
    before = stamps(tmp_path)
    assert_same_numbers(run(tmp_path), reference)
    assert before.items() <= stamps(tmp_path).items()


def test_the_time_limit_stops_after_a_block_and_the_run_goes_on(reference, tmp_path):
    with pytest.raises(generate.Interrupted, match="time limit: 1 of 8 configurations") as stop:
        run(tmp_path, time_limit=0)
    assert stop.value.signum is None
    assert ensemble.open_ensemble(tmp_path).n_configs == 1
    assert_same_numbers(run(tmp_path, block_configs=3), reference)


def test_histories_alone_are_those_of_the_full_run_and_resume(reference, tmp_path):
    settings = {"output_save_configs": False}
    with pytest.raises(generate.Interrupted):
        run(tmp_path, time_limit=1e-9, **settings)
    measured = run(tmp_path, **settings)
    assert measured.history == reference.history
    for name in measured.history:
        assert np.array_equal(measured.series(name), reference.series(name)), name
    assert "cfgs" not in measured.columns


# Running the same command again.


def test_a_complete_run_is_left_alone(tmp_path):
    run(tmp_path)
    before = stamps(tmp_path)
    assert run(tmp_path).n_configs == 8
    assert stamps(tmp_path) == before


CHANGES = {
    "seed": 2,
    "lattice_shape": [8, 6],
    "action_kappa": 0.26,
    "sampler_jitter": 0.1,
    "sampler_integrator": "omelyan2",
    "chain_n_chains": 4,
    "chain_n_thermalise": 21,
    "chain_thin": 2,
    "chain_start": "cold",
    "output_dtype": "float64",
    "output_save_configs": False,
}


@each("change", CHANGES)
def test_another_config_in_the_same_directory_is_refused_by_key(reference, change):
    before = contents(reference.directory)
    key, value = change.replace("_", ".", 1), CHANGES[change]
    with pytest.raises(StorageError, match=f"{key}: .* asked {re.escape(repr(value))}; set it"):
        run(reference.directory, **{change: value})
    assert contents(reference.directory) == before


def test_a_run_cannot_be_shortened(reference):
    with pytest.raises(
        StorageError, match=r"chain\.n_configs: .* has 8, asked 7; it may only grow"
    ):
        run(reference.directory, chain_n_configs=7)


# What is written beside the numbers.


def test_the_config_beside_the_output_is_the_same_job(reference):
    file = reference.directory / "config.toml"
    again = config.read_job(file)
    assert again.config == config.parse(as_words()).config
    assert again.config == json.loads((reference.directory / "manifest.json").read_text())["config"]


def test_the_manifest_says_what_made_the_numbers(reference):
    manifest = reference.manifest
    assert set(manifest["tuned"]) == {"trajectory_length", "n_steps", "step_size"}
    (entry,) = manifest["provenance"]
    assert entry["first_config"] == 0
    made_by = entry["made_by"]
    assert made_by["command"] == "generate"
    assert made_by["versions"]["jax"] == jax.__version__
    assert made_by["versions"]["numpy"] == np.__version__
    assert made_by["backend"] == "cpu"
    assert made_by["n_devices"] == jax.device_count()
    assert {"device", "git", "platform", "python"} <= set(made_by)


def test_another_machine_that_goes_on_is_recorded_from_its_first_configuration(
    tmp_path, monkeypatch
):
    run(tmp_path, chain_n_configs=5)
    monkeypatch.setattr("platform.platform", lambda: "elsewhere")
    manifest = run(tmp_path).manifest
    assert [entry["first_config"] for entry in manifest["provenance"]] == [0, 5]
    assert manifest["provenance"][1]["made_by"]["platform"] == "elsewhere"


# Starts, seen through trajectories that hardly move.

FROZEN = {
    "chain_n_chains": 4,
    "chain_n_thermalise": 0,
    "sampler_n_steps": 1,
    "sampler_step_size": 1e-6,
    "sampler_sign_flip": False,
}


def test_chains_start_from_the_last_configurations_of_an_ensemble(reference, tmp_path):
    start = reference.directory
    moved = run(tmp_path, chain_start=start, **FROZEN)
    assert np.allclose(moved.cfgs[:4], reference.cfgs[[-3, -2, -1, -3]], atol=1e-4)
    assert moved.config["chain"]["start"] == str(start)


def test_cold_chains_start_in_both_minima(tmp_path):
    cold = run(tmp_path, action_kappa=0.5, chain_start="cold", **FROZEN)
    minimum = cold.action.minimum(2)
    assert minimum > 4
    means = cold.cfgs[:4].mean(axis=(1, 2))
    assert np.allclose(means, minimum * np.array([1, -1, 1, -1]), atol=1e-4)
    assert np.allclose(np.abs(cold.cfgs[:4]), minimum, atol=1e-4)


@pytest.mark.parametrize("start", ["warm", "no/such/run"])
def test_a_start_that_does_not_exist_is_refused_by_key(tmp_path, start):
    with pytest.raises(StorageError, match=rf"chain\.start must be hot, cold or .*{start}"):
        run(tmp_path / "run", chain_start=start)
    assert not (tmp_path / "run").exists()


# Failures.


def test_wells_that_hmc_does_not_leave_are_doubted_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.toml").touch()
    words = as_words(action_lam=10.0, sampler_kind="HMC", chain_n_configs=1)
    assert cli.main(["generate", "deep.toml", *words]) == 0
    doubts = [line for line in capsys.readouterr().err.splitlines() if "barrier" in line]
    assert len(doubts) == 1
    assert doubts[0].startswith("lattice-ml generate: the barrier between the two wells of a site")
    with pytest.warns(Doubt, match="= 9.03, is high"):
        run(tmp_path / "again", action_lam=10.0, sampler_kind="HMC", chain_n_configs=1)


def test_diverging_dynamics_stop_and_say_what_to_change(tmp_path):
    with pytest.raises(RunError, match=r"\|dH\| > 1000 .* make sampler\.step_size smaller"):
        run(tmp_path, sampler_n_steps=10, sampler_step_size=2.0, chain_start="cold")
    assert shards(tmp_path) == []
