"""`sample`: units of samples, whatever corrects them and whatever interrupts them."""

import itertools
import json
import logging
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from rows import each
from trained_models import make_ensemble

from lattice_ml import cli
from lattice_ml.jobs import config, train, units
from lattice_ml.jobs import sample as sampling
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.observables import measure_configurations
from lattice_ml.runtime import session
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.statistics import reweight
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised

UNIT = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The Gaussian model of a 4 x 4 ensemble."""
    folder = tmp_path_factory.mktemp("model")
    data = make_ensemble(folder / "e", n_configs=100)
    job = config.parse_training(["--model.denoiser", "zero"])
    return train.train(job, folder / "m", data=[data])


def sample(model, out, n_samples=40, correct="none", time_limit=None, **changes):
    settings = {"sampling.batch_size": UNIT, "sampling.n_steps": 2}
    settings |= {key.replace("_", ".", 1): value for key, value in changes.items()}
    words = [*as_arguments(model.defaults), *as_arguments(settings)]
    job = config.parse_sampling(words)
    return sampling.sample(
        job, model, out, n_samples=n_samples, correct=correct, time_limit=time_limit
    )


def numbers(ensemble):
    """All that an ensemble holds, by name."""
    return {name: ensemble.column(name) for name in ensemble.columns}


def assert_same_numbers(one, other):
    a, b = numbers(one), numbers(other)
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


# What is written.


def test_samples_are_one_chain_with_their_density_and_their_history(model, tmp_path):
    made = sample(model, tmp_path)
    assert (made.n_chains, made.n_configs, made.thin) == (1, 40, 1)
    assert made.cfgs.shape == (40, 4, 4)
    assert made.log_prob.shape == (1, 40)
    assert made.log_weight is None
    assert made.parent == model.hash
    measured = measure_configurations(made.action, made.cfgs[:])
    for name, values in measured.items():
        assert np.array_equal(made.series(name)[0], values), name


def test_reweighted_samples_carry_minus_action_minus_log_prob(model, tmp_path):
    made = sample(model, tmp_path, correct="reweight", n_samples=2000)
    expected = -made.series("action") - made.log_prob
    assert np.array_equal(made.log_weight, expected)
    assert reweight(made.log_weight).ess > 0.5
    mean = np.average(made.series("schwinger_dyson"), weights=np.exp(made.log_weight + 30))
    raw = made.series("schwinger_dyson").mean()
    assert abs(mean - 1) < 0.05 < abs(raw - 1)


def test_metropolis_makes_a_chain_of_the_proposals_without_weights(model, tmp_path):
    made = sample(model, tmp_path / "chain", correct="metropolis", n_samples=640)
    proposals = sample(model, tmp_path / "proposals", correct="reweight", n_samples=640)
    assert made.log_prob is None
    assert made.log_weight is None
    moved = made.series("acceptance")[0] == 1
    assert 0.3 < moved.mean() < 1
    cfgs, proposed = made.cfgs[:], proposals.cfgs[:]
    assert np.array_equal(cfgs[moved], proposed[moved])
    assert np.array_equal(cfgs[1:][~moved[1:]], cfgs[:-1][~moved[1:]])
    w = proposals.log_weight[0]
    at = np.maximum.accumulate(np.where(moved, np.arange(640), 0))
    better = w[1:] > w[at[:-1]]
    assert moved[1:][better].all(), "a proposal of larger weight is always accepted"
    assert not moved[1:][~better].all()


def test_hmc_moves_the_samples_and_keeps_their_weights(model, tmp_path):
    made = sample(model, tmp_path / "moved", correct="hmc", n_samples=32)
    proposals = sample(model, tmp_path / "proposals", correct="reweight", n_samples=32)
    assert np.array_equal(made.log_weight, proposals.log_weight)
    assert made.log_prob is None
    changed = (made.cfgs[:] != proposals.cfgs[:]).any(axis=(1, 2))
    assert changed.mean() > 0.5
    assert {"step_size", "n_steps", "log_prob_error"} <= set(made.manifest["tuned"])


def test_path_weights_are_kept_where_asked_for(model, tmp_path):
    made = sample(model, tmp_path, correct="reweight", sampling_method="path", n_samples=400)
    assert made.log_prob is None
    assert "log_prob_error" not in made.manifest["tuned"]
    flow = sample(model, tmp_path / "flow", correct="reweight", n_samples=400)
    path, ode = (reweight(e.log_weight) for e in (made, flow))
    error = np.hypot(path.log_z_error, ode.log_z_error)
    assert abs(path.log_z - ode.log_z) < 4.5 * error


@pytest.mark.parametrize("method", ["sde", "pc"])
def test_stochastic_methods_sample_without_density(model, tmp_path, method):
    made = sample(model, tmp_path, sampling_method=method, sampling_n_steps=100, n_samples=512)
    assert made.log_prob is None
    assert made.log_weight is None
    raw = made.series("phi2")[0]
    expected = float(model.theories[0].phi_squared)
    assert abs(raw.mean() - expected) < 4.5 * raw.std() / np.sqrt(512) + 0.05 * expected


# Resume.


@pytest.mark.parametrize("correct", ["none", "metropolis", "hmc"])
def test_cut_anywhere_and_lengthened_the_numbers_are_the_same(
    model, tmp_path, monkeypatch, correct
):
    whole = sample(model, tmp_path / "whole", correct=correct, n_samples=70)
    cut = tmp_path / "cut"
    for n_samples in (5, 21):  # inside units
        sample(model, cut, correct=correct, n_samples=n_samples)
    monkeypatch.setattr(units, "_SHARD_WORK", {"cpu": 1})  # the clock is read after every unit
    if correct != "hmc":  # of which all are one unit
        with pytest.raises(session.Interrupted, match=r"time limit: \d+ of 70 samples are safe in"):
            sample(model, cut, correct=correct, n_samples=70, time_limit=1e-9)
    assert_same_numbers(sample(model, cut, correct=correct, n_samples=70), whole)


def files_of(directory):
    """Every byte but those that say how long it took."""
    paths = (p for p in directory.rglob("*") if p.is_file() and p.name != "cost.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("correct", ["none", "metropolis", "hmc"])
def test_shards_end_where_the_job_says_whatever_the_clock_and_whatever_interrupts(
    model, tmp_path, monkeypatch, correct
):
    monkeypatch.setattr(units, "_SHARD_WORK", {})
    per_unit = 256 if correct == "hmc" else UNIT
    monkeypatch.setattr(units, "_MUCH_WORK", 3 * unit_work(model, tmp_path, correct))
    wanted = [2 * per_unit, 2 * per_unit, per_unit + 3]  # a power of two units fits
    asked = {"correct": correct, "n_samples": sum(wanted)}
    whole = sample(model, tmp_path / "whole", **asked)
    assert [entry["n_configs"] for entry in whole.manifest["shards"]] == wanted
    for at in (2 * per_unit, 4 * per_unit):
        with pytest.raises(session.Interrupted, match=f"{at} of {sum(wanted)} samples are safe"):
            sample(model, tmp_path / "cut", time_limit=1e-9, **asked)
    ticks = itertools.count(0, 1000)  # seconds: as slow as a machine can be
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    sample(model, tmp_path / "cut", **asked)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def unit_work(model, folder, correct):
    """What a unit of `sample`'s costs by its own measure."""
    words = [*as_arguments(model.defaults), "--sampling.batch-size", str(UNIT)]
    job = config.parse_sampling([*words, "--sampling.n-steps", "2"])
    return sampling._prepare(job, model, correct).work


def test_a_complete_run_is_left_alone(model, tmp_path):
    sample(model, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()}
    sample(model, tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()}
    with pytest.raises(StorageError, match=r"chain\.n_configs: .* has 40, asked 30; it may only g"):
        sample(model, tmp_path, n_samples=30)
    with pytest.raises(StorageError, match=r"sampling\.n_steps: .* made with 2, asked 4"):
        sample(model, tmp_path, sampling_n_steps=4)


def test_the_number_of_devices_does_not_matter(model, monkeypatch):
    how, theory = Drawing(n_steps=2, batch_size=4), model.theories[0].astype("float32")
    drawer = DiffusionDrawer(model.network, theory, how, jax.random.key(1))
    two = drawer.draw(0, 5)
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    one = drawer.draw(0, 5)
    assert len(two.fields) == 20
    assert np.allclose(one.fields, two.fields, atol=1e-5)  # other programs round differently
    tail = drawer.draw(3, 2)
    assert np.array_equal(tail.fields, one.fields[12:])


def test_another_number_of_steps_compiles_nothing_and_is_the_flow_of_so_many(model, caplog):
    how = Drawing(n_steps=2, batch_size=4)
    theory, key = model.theories[0].astype("float32"), jax.random.key(1)
    drawer = DiffusionDrawer(model.network, theory, how, key)
    drawer.draw(0, 1)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        more = replace(drawer, drawing=replace(how, n_steps=5)).draw(0, 1)
    assert "_draw" not in caplog.text
    first = jax.random.fold_in(key, 0)
    x, log_prob = jax.jit(lambda key: Flow(5).sample(model.network, theory, key, 4))(first)
    np.testing.assert_allclose(theory.modes.inverse(x), more.fields, atol=1e-5)
    np.testing.assert_allclose(log_prob, more.log_prob, atol=1e-4)


# Other lattices and couplings.


def test_other_lattices_and_couplings_are_sampled_and_labelled(model, tmp_path, capsys):
    made = sample(model, tmp_path / "m", lattice_shape=[6, 4], action_kappa=0.24)
    assert made.cfgs.shape == (40, 6, 4)
    labels = made.manifest["provenance"][-1]["made_by"]
    assert labels["extrapolated"] == ["lattices", "couplings"]
    assert any("extrapolated" in line for line in sampling.summary(made))
    same = sample(model, tmp_path / "same")
    assert same.manifest["provenance"][-1]["made_by"]["extrapolated"] == []


def test_snapshots_are_frames_of_the_first_samples(model, tmp_path):
    made = sample(model, tmp_path, sampling_method="sde", sampling_n_steps=8, sampling_snapshots=3)
    frames = np.load(tmp_path / "snapshots.npy")
    assert frames.shape == (3, UNIT, 4, 4)
    assert np.allclose(frames[-1], made.cfgs[:UNIT], atol=1e-5)
    assert frames[0].std() > frames[-1].std()


# What a user is told.


def test_the_summary_warns_of_too_few_steps(model, tmp_path):
    made = sample(model, tmp_path, correct="reweight", sampling_n_steps=1)
    made.manifest["tuned"]["log_prob_error"] = 0.06
    lines = sampling.summary(made)
    assert any(line.startswith("ESS/n") for line in lines)
    assert any("0.0600 rms" in line for line in lines)
    assert any(line.startswith("warning: that is more than 0.05 rms") for line in lines)


REFUSED = [
    ({"n_samples": 0}, r"n_samples must be a whole number of at least 1, got 0"),
    ({"n_samples": 64.0}, r"n_samples must be a whole number of at least 1, got 64\.0"),
    ({"n_samples": True}, r"n_samples must be a whole number of at least 1, got True"),
    ({"correct": "exact"}, r"correct must be one of none, .*latent, got 'exact'"),
    (
        {"correct": "reweight", "sampling_method": "sde"},
        r"cannot correct by reweight: samples of the method sde have no density; use .*path",
    ),
    ({"lattice_shape": [4]}, r"trained in 2 dimensions cannot sample lattice\.shape = \[4\]"),
    ({"sampling_n_steps": 0}, r"sampling\.n_steps must be at least 1, got 0"),
    ({"sampling_method": "ddim"}, r"sampling\.method must be ode or sde or pc or path, got ddim"),
]


@each(("changes", "message"), REFUSED)
def test_what_cannot_be_sampled_is_refused(model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sample(model, tmp_path / "no", **changes)
    assert not (tmp_path / "no").exists()


def test_the_command_line_trains_samples_and_describes(model, tmp_path, capsys):
    out = str(tmp_path / "s")
    words = [str(model.directory), "--n-samples", "40", "--out", out, "--correct", "reweight"]
    assert cli.main(["sample", *words, "--sampling.n-steps", "2", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 40 samples of 4 x 4" in printed
    assert "log Z" in printed
    assert open_ensemble(out).config["seed"] == 3
    assert cli.main(["info", str(model.directory)]) == 0
    assert "denoiser = zero" in capsys.readouterr().out
    assert cli.main(["info", out]) == 0
    assert model.hash in capsys.readouterr().out
    assert cli.main(["sample", str(tmp_path), "--n-samples", "4", "--out", out]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert cli.main(["sample", *words[:2], "4", "--out", out, "--sampling.stps", "4"]) == 2
    assert "did you mean sampling.n_steps?" in capsys.readouterr().err
    assert json.loads((model.directory / "report.json").read_text())["verdict"] == "passed"
    assert open_model(model.directory).hash == model.hash
