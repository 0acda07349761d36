"""A run whose chains are spread over processes: the same numbers, and nobody lost for long."""

import functools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from teams import HEARTBEAT, Peers

from lattice_ml import cli, open_ensemble
from lattice_ml.jobs import generate

JOB = """
[lattice]
shape = [4, 4]
[action]
kappa = 0.27
lam = 0.022
[chain]
n_chains = 5
n_thermalise = 30
n_configs = 40
"""


def child_generates(words):
    """In a child: the command line, with one configuration per shard."""
    generate.generate = functools.partial(generate.generate, block_configs=1)
    return cli.main(["generate", *words])


class Processes(Peers):
    """`n` processes that run the chains of one config."""

    def __init__(self, toml, out, n, *words, devices=1, seeds=(1, 1, 1)):
        common = [str(toml), "--out", str(out), *words]
        each = [[*common, "--seed", f"{seed}"] for seed in seeds[:n]]
        super().__init__(child_generates, each, toml.parent / Path(out).name, devices)

    def wait_for_shards(self, out, n):
        deadline = time.monotonic() + 120
        while len(list(out.glob("shards/*.h5"))) < n:
            assert all(child.is_alive() for child in self.children), [*map(self.said, (0, 1))]
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    file = tmp_path_factory.mktemp("processes") / "job.toml"
    file.write_text(JOB)
    return file


@pytest.fixture(scope="module")
def one(toml, tmp_path_factory):
    """The run of one process with one device, whose configurations all others must have."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert Processes(toml, out, 1).statuses() == [0]
    return open_ensemble(out)


@pytest.fixture(scope="module")
def two(toml, tmp_path_factory):
    """The run of two processes with one device each, which nothing interrupts."""
    out = tmp_path_factory.mktemp("two") / "run"
    pair = Processes(toml, out, 2, devices=2)
    assert pair.statuses() == [0, 0], pair.said(0) + pair.said(1)
    assert "5 chains x 40 configurations" in pair.said(0)
    assert "configurations" not in pair.said(1), "only one process speaks"
    return open_ensemble(out)


def contents(directory):
    """All bytes but those that say how long it took."""
    paths = (p for p in Path(directory).rglob("*") if p.is_file() and p.name != "cost.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def assert_same_numbers(a, b):
    """Equal configurations, histories and warm-up, bit for bit, read here and by others."""
    assert a.manifest["tuned"] == b.manifest["tuned"]
    assert set(a.columns) == set(b.columns)
    with h5py.File(a.directory / "ensemble.h5") as x, h5py.File(b.directory / "ensemble.h5") as y:
        for name in a.columns:
            assert np.array_equal(a.column(name), b.column(name)), name
            assert np.array_equal(x[name], y[name]), name
            assert np.array_equal(x[name], a.column(name)), name
    some = np.random.default_rng(1).integers(0, len(a.cfgs), 30)
    assert np.array_equal(a.cfgs[some], b.cfgs[some])


@pytest.mark.parametrize("devices", [2, 4])
def test_the_number_of_devices_does_not_matter(one, toml, tmp_path, devices):
    assert Processes(toml, tmp_path / "run", 1, devices=devices).statuses() == [0]
    assert_same_numbers(one, open_ensemble(tmp_path / "run"))


def test_two_processes_make_the_configurations_of_one(one, two):
    assert_same_numbers(one, two)
    files = [shard["file"] for shard in two.manifest["shards"]]
    assert files[:3] == ["c00000000-n0000.h5", "c00000000-n0004.h5", "c00000001-n0000.h5"]
    assert two.manifest["provenance"][0]["made_by"]["n_processes"] == 2


def test_whoever_dies_or_stops_the_other_ends_and_the_run_goes_on(one, two, toml, tmp_path):
    """Faults one after the other in the same directory, each after some more blocks."""
    out = tmp_path / "run"
    faults = [(signal.SIGKILL, 1), (signal.SIGSTOP, 0), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)]
    for n_blocks, (signum, victim) in zip((3, 8, 14, 20), faults, strict=True):
        pair = Processes(toml, out, 2, devices=2)
        pair.wait_for_shards(out, 2 * n_blocks)
        begin = time.monotonic()
        os.kill(pair.children[victim].pid, signum)
        status = pair.status(1 - victim)
        waited = time.monotonic() - begin
        pair.end()
        said = pair.said(1 - victim)
        assert status == 3, said
        assert f"What was committed is safe in {out}; the same command goes on from there" in said
        assert said.count(f"did not answer for {HEARTBEAT}s") == 1
        assert waited < HEARTBEAT + 10
        done = open_ensemble(out).n_configs
        assert n_blocks - 1 <= done < 40, "the run was too short for all faults"
    alone = shutil.copytree(out, tmp_path / "alone")
    assert Processes(toml, out, 2, devices=2).statuses() == [0, 0]
    assert json.loads((out / "manifest.json").read_text()) == two.manifest
    assert contents(out) == contents(two.directory)
    assert Processes(toml, alone, 1).statuses() == [0]
    assert_same_numbers(one, open_ensemble(alone))


def test_a_signal_to_one_stops_all_and_any_number_of_processes_goes_on(one, toml, tmp_path):
    out = tmp_path / "run"
    assert Processes(toml, out, 1, "--chain.n-configs", "7").statuses() == [0]
    pair = Processes(toml, out, 2, devices=2)
    pair.wait_for_shards(out, 7 + 2 * 4)
    os.kill(pair.children[1].pid, signal.SIGTERM)
    assert pair.statuses() == [143, 143]
    done = open_ensemble(out).n_configs
    assert f"SIGTERM: {done} of 40 configurations per chain are safe" in pair.said(0)
    assert "are safe" not in pair.said(1)
    three = Processes(toml, out, 3)
    assert three.statuses() == [0, 0, 0], three.said(2)
    assert_same_numbers(one, open_ensemble(out))


def test_processes_that_were_asked_for_different_things_say_so(toml, tmp_path):
    pair = Processes(toml, tmp_path / "run", 2, seeds=(1, 2))
    assert 2 in pair.statuses()  # whoever is later may be ended because the other has gone
    said = pair.said(0) + pair.said(1)
    assert "was asked for another config than process" in said
