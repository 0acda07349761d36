"""A flow that several processes train: the weights of one, and nobody lost for long."""

import os
import signal

import jax
import numpy as np
import pytest
import trained_flows
import trained_models
from jax.sharding import Mesh
from teams import HEARTBEAT, Peers
from trained_models import make_ensemble, metrics

from lattice_ml import cli
from lattice_ml.jobs import train as training
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.flow import fitting
from lattice_ml.runtime import collectives
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.runtime.processes import Team

pytestmark = pytest.mark.unoptimised


def child_trains(words):
    """In a child: the command line, in programs like those of the test's own process."""
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"
    return cli.main(["train", *words])


def child_dies(words):
    """The same, but process 1 is killed in its second step."""
    step, steps = fitting.step, []

    def deadly(*given):
        steps.append(given)
        if len(steps) == 2 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*given)

    fitting.step = deadly
    return child_trains(words)


def pair(verb, data, out):
    """Two processes of two devices that train as `trained_flows.train` does."""
    empty = out.with_suffix(".toml")
    empty.touch()
    words = [str(empty), *as_arguments(trained_flows.SMALL), "--data", str(data)]
    return Peers(verb, [[*words, "--out", str(out)]] * 2, out, devices=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e44")


def test_two_processes_train_the_flow_of_one_and_go_on_after_one_is_lost(data, tmp_path):
    whole, out = trained_flows.train(tmp_path / "whole", [data]), tmp_path / "shared"
    lost = pair(child_dies, data, out)
    assert lost.status(0) == 3, lost.said(0)
    lost.end()
    assert f"What was committed is safe in {out}; the same command goes on" in lost.said(0)
    assert f"did not answer for {HEARTBEAT}s" in lost.said(0)
    assert [line["step"] for line in metrics(out)] == [1]
    again = pair(child_trains, data, out)
    assert again.statuses() == [0, 0], again.said(0) + again.said(1)
    assert "reverse KL 1/2" not in again.said(0), "it went on, and did not begin again"
    assert "ESS/n" in again.said(0)
    assert "ESS/n" not in again.said(1), "only one process speaks"
    shared = open_model(out)
    assert shared.manifest["provenance"][0]["made_by"]["n_processes"] == 2
    assert shared.hash == whole.hash
    assert metrics(out) == metrics(whole.directory)
    assert shared.report == whole.report


def test_only_what_several_processes_can_train_is_trained_by_them(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "team", lambda: Team(1, 2))
    said = "model.kind = Diffusion is trained by one process, and this is one of 2"
    with pytest.raises(ValueError, match=said):
        trained_models.train(tmp_path / "diffusion", [data])
    with pytest.raises(ValueError, match="2 processes train in a directory that all of them see"):
        trained_flows.train(None, [data])


def test_rows_of_devices_come_back_in_their_order():
    mesh = Mesh(collectives.devices().T.ravel(), ("rows",))
    rows = [{"n": np.int64(n), "x": np.full((2, 3), n, np.float32)} for n in range(mesh.size)]
    found = list(collectives.in_order(collectives.spread(rows, mesh)))
    assert [int(row["n"]) for row in found] == [*range(mesh.size)]
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(found, rows, strict=True))
