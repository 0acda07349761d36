"""A Gaussian RBM from ensembles to ensembles: `train` and `sample`, and resume."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rbms import kernel
from references import RBM_CASES
from storage_runs import contents
from trained_models import make_ensemble, metrics
from trained_rbms import FREE, sample, train

from lattice_ml import cli, measure
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.rbm import fit
from lattice_ml.runtime import session
from lattice_ml.statistics import reweight
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised

EXACT = np.linalg.eigvalsh(kernel((10,), 4.0))


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """A free chain of ten sites, 64 x 500 configurations."""
    out = tmp_path_factory.mktemp("free") / "e"
    return make_ensemble(out, (10,), n_chains=64, n_configs=500, couplings=FREE, chain_thin=4)


@pytest.fixture(scope="module")
def model(free, tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "m", free, training_n_steps=100)


# ---------------------------------------------------------------------------------- what is made


def test_the_trained_kernel_is_that_of_the_data_within_its_errors(model):
    eigenvalues = np.asarray(model.network.eigenvalues())
    errors = np.array(model.report["eigenvalue_errors"])
    n = float(model.theories[0].n)
    np.testing.assert_allclose(errors / eigenvalues, np.sqrt(2 / n), rtol=0.5)
    # pairs of degenerate levels repel each other, but not their mean
    pairs = [[0], [1, 2], [3, 4], [5, 6], [7, 8], [9]]
    for pair in pairs:
        error = np.mean(errors[pair]) / np.sqrt(len(pair))
        assert abs(eigenvalues[pair].mean() - EXACT[pair].mean()) < 4.5 * error
    assert abs(model.report["theories"][0]["kl_gaussian"]) < 1e-6


def test_the_history_begins_at_the_start_and_ends_at_the_model(model):
    history = model.history
    assert history["step"][0] == 0 and history["step"][-1] == 100
    assert np.all(np.diff(history["step"]) > 0)
    assert history["eigenvalues"].shape == (len(history["step"]), 10)
    np.testing.assert_allclose(history["eigenvalues"][0], 9 * (1 - 0.09), rtol=1e-12)
    np.testing.assert_allclose(history["eigenvalues"][-1], model.network.eigenvalues(), rtol=1e-12)
    assert np.all(np.diff(history["log_likelihood"]) > -1e-9)
    assert metrics(model.directory)[-1]["step"] == 100


def test_the_report_says_what_samples_are_worth(model):
    entry = model.report["theories"][0]
    assert model.report["verdict"] == "passed"
    assert entry["ess"] > 0.99
    identity = entry["schwinger_dyson"]
    assert abs(identity["value"] - 1) < 4.5 * identity["error"] + 0.01  # as far as the data know
    difference = entry["validation_log_likelihood"] - entry["log_likelihood"]
    assert abs(difference) < 4.5 * np.sqrt(5 / 3000)  # variance N_v / 2 of log p


@pytest.mark.parametrize(
    ("method", "correct"),
    [("direct", "none"), ("direct", "reweight"), ("direct", "metropolis"), ("gibbs", "reweight")],
)
def test_samples_are_an_ensemble_with_their_density(model, tmp_path, method, correct):
    made = sample(model, tmp_path / "s", 4000, correct, sampling_method=method)
    assert made.cfgs.shape == (4000, 10) and made.parent == model.hash
    exact = np.trace(np.asarray(model.network.covariance())) / 10
    found = measure(made, weights=False)["phi2"]
    assert abs(found.value - exact) < 4.5 * found.error + 0.01 * (correct == "metropolis")
    if correct == "metropolis":
        assert made.log_prob is None and made.series("acceptance").mean() > 0.9
        return
    flat = np.asarray(made.cfgs[:100], np.float64)
    np.testing.assert_allclose(made.log_prob[0, :100], model.network.log_prob(flat), rtol=1e-6)
    if correct == "reweight":
        weights = -made.series("action") - made.log_prob
        assert np.array_equal(made.log_weight, weights)
        worth = reweight(weights)
        exact = 0.5 * (10 * np.log(2 * np.pi) - np.sum(np.log(EXACT)))
        assert abs(worth.log_z - exact) < 4.5 * worth.log_z_error


def test_gibbs_chains_forget_their_start_as_predicted(model, tmp_path):
    made = sample(model, tmp_path / "s", 20_000, sampling_method="gibbs", sampling_n_steps=1)
    kernel_ = np.asarray(model.network.eigenvalues())
    ratio = 1 - kernel_ / 9
    variances = 1 / kernel_ + ratio**2 * ((1 + ratio) / 9 - 1 / kernel_)  # from h ~ N(0, 1)
    found = measure(made)["phi2"]
    assert abs(found.value - variances.mean()) < 4.5 * found.error
    assert abs(found.value - np.mean(1 / kernel_)) > 10 * found.error


def test_a_sampling_run_goes_on_from_any_sample(model, tmp_path):
    whole = sample(model, tmp_path / "whole", 96, sampling_batch_size=32)
    part = sample(model, tmp_path / "part", 40, sampling_batch_size=32)
    more = sample(model, tmp_path / "part", 96, sampling_batch_size=32)
    assert part.n_configs == 40
    assert np.array_equal(more.cfgs[:], whole.cfgs[:])
    assert len(np.unique(whole.cfgs[:, 0])) == 96


def test_hmc_moves_samples_and_carries_their_weights(model, tmp_path):
    made = sample(model, tmp_path / "s", 64, "hmc")
    assert made.log_weight.shape == (1, 64)
    assert 0.5 < made.series("acceptance").mean() <= 1


def test_a_training_interrupted_and_resumed_has_the_same_bits(free, tmp_path):
    settings = {"training_n_steps": 12, "training_method": "pcd", "training_batch_size": 64}
    settings["training_checkpoint_every"] = 0.0
    whole = train(tmp_path / "whole", free, **settings)
    stops = []

    def interrupt(progress):
        if progress.done > 4:
            stops.append(progress.done)
            raise session.Interrupted("enough", None)

    with pytest.raises(session.Interrupted):
        train(tmp_path / "part", free, on_progress=interrupt, **settings)
    with pytest.raises(StorageError, match="not finished"):
        open_model(tmp_path / "part")
    resumed = train(tmp_path / "part", free, **settings)
    for one, other in zip(*map(jax.tree.leaves, (whole.network, resumed.network)), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(whole.history["eigenvalues"], resumed.history["eigenvalues"])
    assert contents(tmp_path / "part") == contents(tmp_path / "whole"), "but for the seconds"
    assert resumed.seconds > 0
    assert stops


def test_a_training_begins_with_the_weights_of_a_model(free, model, tmp_path):
    again = train(tmp_path / "m", free, init_from=model.directory, training_n_steps=1)
    first = again.history["eigenvalues"][0]
    np.testing.assert_allclose(first, model.network.eigenvalues(), rtol=1e-9)


def test_masses_of_every_site_are_better_than_one_for_all(free, tmp_path):
    changes = {"model_n_hidden": 3, "model_train_mu": True, "model_per_site": True}
    model = train(tmp_path / "m", free, **changes)
    assert model.network.mu_squared.shape == (10,)
    kl = model.report["theories"][0]["kl_gaussian"]
    assert 0 < kl < RBM_CASES["rbm1d.Nh=3_learn_mu2"]["values"]["KL"]


def test_the_first_weights_the_width_and_the_mass_are_those_of_the_config(free, model, tmp_path):
    changes = {"model_mu_squared": "auto", "model_sigma": 0.5, "model_initial": 0.1}
    other = train(tmp_path / "m", free, training_snapshots=0, **changes)
    mu_squared = float(other.network.mu_squared)
    assert mu_squared == pytest.approx(2 * 8, rel=0.1)
    assert other.history["step"].tolist() == [0, 300]
    np.testing.assert_allclose(other.history["eigenvalues"][0], mu_squared * 0.99, rtol=1e-6)
    eigenvalues = np.asarray(model.network.eigenvalues())
    np.testing.assert_allclose(other.network.eigenvalues(), eigenvalues, rtol=1e-3)
    singular = np.linalg.svd(other.network.w, compute_uv=False)[::-1]
    np.testing.assert_allclose(0.25 * singular**2, mu_squared - eigenvalues[::-1], rtol=1e-3)


def test_a_centre_and_symmetries(free, tmp_path):
    centred = train(tmp_path / "c", free, model_centre=True, model_train_eta=False)
    assert np.array_equal(centred.network.centre, centred.theories[0].mean)
    assert not np.any(centred.network.eta) and np.any(centred.network.centre)
    symmetric = train(tmp_path / "s", free, training_augment=True)
    assert not np.any(symmetric.theories[0].mean)
    eigenvalues = np.asarray(symmetric.network.eigenvalues())
    np.testing.assert_allclose(eigenvalues[[1, 3, 5, 7]], eigenvalues[[2, 4, 6, 8]], rtol=1e-6)


def test_the_training_is_the_one_of_the_config(free, tmp_path, monkeypatch):
    seen = []

    def note(settings, state, source, key, rate, decay, n):
        seen.append((settings, source.shape, source.dtype, float(rate), float(decay), n))
        return state._replace(step=state.step + n)

    monkeypatch.setattr(fit, "fit", note)
    changes = {"method": "cd", "natural": False, "n_gibbs": 2, "batch_size": 32, "decay": 10}
    changes |= {"learning_rate": 0.25, "n_steps": 40, "snapshots": 0, "validation": 0.5}
    changes |= {"augment": True, "pool_bytes": 64 * 10 * 10 * 4}
    asked = {f"training_{key}": value for key, value in changes.items()}
    train(tmp_path / "m", free, model_train_eta=False, model_train_mu=True, **asked)
    settings, shape, dtype, rate, decay, n = seen[0]
    expected = fit.RBMSettings("cd", False, 2, 32, True, False, (10,))
    assert settings == expected
    assert (shape, dtype, rate, decay, n) == ((640, 10), np.float32, 0.25, 10, 2)
    assert sum(n for *_, n in seen) == 40


# ---------------------------------------------------------------------------------- command line


def test_the_verbs_go_from_couplings_to_samples(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--chain.n-configs", "50", "--chain.n-thermalise", "20", "--chain.n-chains", "16"]
    file = str(Path(__file__).parents[1] / "configs" / "rbm.toml")
    assert cli.main(["generate", file, "--out", "e", *words]) == 0
    assert cli.main(["train", file, "--data", "e", "--out", "m", "--training.n-steps", "20"]) == 0
    assert "111 weights" in capsys.readouterr().out
    assert (
        cli.main(["sample", "m", "--n-samples", "64", "--out", "s", "--correct", "reweight"]) == 0
    )
    assert "ESS/n" in capsys.readouterr().out
    assert (
        cli.main(["sample", "m", "--n-samples", "64", "--out", "t", "--sampling.scheme", "rk3"])
        == 2
    )
    error = capsys.readouterr().err
    assert "sampling.scheme" in error and "sampling.method" in error
    assert json.loads((tmp_path / "m" / "report.json").read_text())["verdict"] == "passed"


def test_the_spectrum_of_a_trained_machine_is_regulated_and_says_so(model, tmp_path, capsys):
    assert cli.main(["spectrum", str(model.directory), "--out", str(tmp_path)]) == 0
    assert "eigenvalues of the kernel K" in capsys.readouterr().out
    found = json.loads((tmp_path / "spectrum.json").read_text())
    np.testing.assert_allclose(found["exact"], EXACT, rtol=1e-9)
    np.testing.assert_allclose(found["eigenvalues"], model.network.eigenvalues(), rtol=1e-9)
    assert found["errors"] == pytest.approx(model.report["eigenvalue_errors"])
    assert found["deviation"] < 0.05  # of the data's finite number of fields
    steps = [entry["step"] for entry in found["history"]]
    assert steps == model.history["step"].tolist()
    np.testing.assert_allclose(found["history"][-1]["eigenvalues"], found["eigenvalues"])
    assert (tmp_path / "index.html").exists() and list(tmp_path.glob("*.png"))
