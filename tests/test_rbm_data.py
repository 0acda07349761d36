"""What a Gaussian RBM is trained on: images without an action, and what is refused."""

import numpy as np
import pytest
from rows import each
from trained_models import make_ensemble
from trained_rbms import FREE, job, sample, train

from lattice_ml import cli, measure
from lattice_ml.jobs import config
from lattice_ml.jobs import train as training
from lattice_ml.jobs.exchange import import_array
from lattice_ml.runtime.arguments import ConfigError

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """A free chain of ten sites."""
    return make_ensemble(tmp_path_factory.mktemp("free") / "e", (10,), couplings=FREE)


@pytest.fixture(scope="module")
def model(free, tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "m", free, training_n_steps=1)


# -------------------------------------------------------------------------- data without an action


OF_IMAGES = {"model_mu_squared": 100.0, "model_train_eta": False}


@pytest.fixture
def images(tmp_path):
    """Images of 4 x 5 pixels, some of which never change."""
    values = np.random.default_rng(0).uniform(size=(200, 4, 5)).astype(np.float32)
    values[:, 0] = 0
    np.save(tmp_path / "images.npy", values)
    config_ = {"action": {"kind": "none"}, "lattice": {"shape": (4, 5)}}
    return import_array(tmp_path / "images.npy", tmp_path / "images", config=config_)


def test_images_are_learned_and_sampled_without_an_action(images, tmp_path):
    model = train(tmp_path / "m", images.directory, **OF_IMAGES)
    data = np.linalg.eigvalsh(model.theories[0].second)[::-1]
    expected = np.minimum(1 / np.maximum(data, 1e-9), 100)
    np.testing.assert_allclose(model.network.eigenvalues(), np.sort(expected), rtol=1e-3)
    errors = np.array(model.report["eigenvalue_errors"])
    assert np.array_equal(errors > 0, np.sort(expected) < 100)  # what is regulated has none
    made = sample(model, tmp_path / "s", 100)
    assert made.action is None and made.cfgs.shape == (100, 4, 5)
    assert set(made.history) == {"magnetisation", "phi2", "phi4", "link_sum", "two_point_min"}
    assert measure(made)["phi2"] is not None and measure(made)["action_density"] is None
    assert cli.main(["info", str(tmp_path / "s")]) == 0
    assert cli.main(["info", str(tmp_path / "m")]) == 0
    assert cli.main(["measure", str(tmp_path / "s"), "--out", str(tmp_path / "page")]) == 0


def test_images_have_no_certificates_and_no_weights(images, tmp_path, capsys):
    model = train(tmp_path / "m", images.directory, training_n_steps=3, **OF_IMAGES)
    with pytest.raises(ValueError, match=r"cannot correct by reweight: the action of the data"):
        sample(model, tmp_path / "s", correct="reweight")
    assert cli.main(["check", str(images.directory)]) == 2
    assert "against their action, but action.kind = none" in capsys.readouterr().err
    for kind in ("Diffusion", "Flow"):
        job = config.parse_training(["--model.kind", kind])
        said = rf"a {kind.lower()} model needs the action .*, but {images.directory} has"
        with pytest.raises(ValueError, match=said + r" action\.kind = none: import .* GaussianRBM"):
            training.train(job, tmp_path / "d", data=[images.directory])
    with pytest.raises(ValueError, match=r"training.augment needs data with an action"):
        train(tmp_path / "a", images.directory, training_augment=True)


# ------------------------------------------------------------------------------------ bad input


def test_chains_do_not_move_an_rbm_s_samples(model, tmp_path):
    said = r"cannot correct by latent: .*, and this kind of model gives it outside of their program"
    with pytest.raises(ValueError, match=said):
        sample(model, tmp_path / "s", correct="latent")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_mu_squared": -1.0}, r"model.mu_squared must be positive, got -1.0"),
        ({"model_sigma": 0.0}, r"model.sigma must be positive, got 0.0"),
    ],
)
def test_settings_that_define_no_model_are_refused(free, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "m", free, **changes)
    assert not (tmp_path / "m").exists(), "the same directory serves the mended job"


@each(
    ("words", "message"),
    [
        (["--model.hidden", "3"], r"model.hidden; did you mean model.n_hidden\?"),
        (["--model.n-hidden", "0"], r"model.n_hidden must be at least 1, got 0"),
        (["--model.initial", "1"], r"model.initial must be in \[0, 1\), got 1.0"),
        (["--training.method", "bp"], r"training.method must be exact or cd or pcd, got bp"),
        (["--training.fine-tune", "true"], r"unknown key on the command line: training.fine_tune"),
        (["--sampling.snapshots", "3"], r"unknown key on the command line: sampling.snapshots"),
    ],
)
def test_a_mistake_in_the_config_is_named(words, message):
    with pytest.raises(ConfigError, match=message):
        config.parse_training(["--model.kind", "GaussianRBM", *words])


def test_an_unknown_kind_of_model_is_named():
    with pytest.raises(ConfigError, match=r"unknown model.kind: RBM.*allowed: .*GaussianRBM"):
        config.parse_training(["--model.kind", "RBM"])


def test_an_ensemble_counts_once(free, tmp_path):
    with pytest.raises(ValueError, match=r"--data must be different ensembles, got"):
        training.train(job(), tmp_path / "m", data=[free, free / ".." / free.name])


def test_few_data_are_learned_without_a_forward_ess(tmp_path):
    fields = 0.4 * np.random.default_rng(0).normal(size=(60, 10))
    np.save(tmp_path / "few.npy", fields)
    action = {"kind": FREE["action.kind"], "mass_squared": FREE["action.mass_squared"]}
    few = import_array(
        tmp_path / "few.npy", tmp_path / "few", config={"action": action}, sample_axis=0
    )
    (entry,) = train(tmp_path / "m", few.directory, training_n_steps=1).report["theories"]
    assert "ess" in entry and "forward_ess" not in entry


def test_data_that_do_not_fit_are_refused(free, model, images, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to train on"):
        training.train(job(), tmp_path / "m")
    with pytest.raises(ValueError, match=r"one distribution on one lattice"):
        np.save(tmp_path / "other.npy", np.random.default_rng(0).normal(size=(40, 8)))
        action = {"kind": FREE["action.kind"], "mass_squared": FREE["action.mass_squared"]}
        other = import_array(
            tmp_path / "other.npy", tmp_path / "e", config={"action": action}, sample_axis=0
        )
        training.train(job(), tmp_path / "m", data=[free, other.directory])
    with pytest.raises(ValueError, match=r"auto needs data that vary in every direction"):
        train(tmp_path / "m2", images.directory, model_mu_squared="auto")
    with pytest.raises(ValueError, match=r"model.n_hidden is 3, but .* was trained with 'auto'"):
        train(tmp_path / "m3", free, init_from=model.directory, model_n_hidden=3)
    with pytest.raises(ValueError, match=r"model.per_site is True"):
        train(tmp_path / "m3", free, init_from=model.directory, model_per_site=True)
    with pytest.raises(ValueError, match=r"the data need weights \(20, 20\).*has \(10, 10\)"):
        train(tmp_path / "m3", images.directory, init_from=model.directory)
    assert not (tmp_path / "m3").exists()
    with pytest.raises(ValueError, match=r"model.kind is Diffusion, but .* is a GaussianRBM"):
        diffusion = config.parse_training(["--model.denoiser", "zero"])
        training.train(diffusion, tmp_path / "m4", data=[free], init_from=model.directory)
    with pytest.raises(ValueError, match=r"one weight per site of \[10\]"):
        sample(model, tmp_path / "s", lattice_shape=[12])


def test_fields_that_are_all_zero_teach_nothing(tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros((20, 4)))
    config_ = {"action": {"kind": "none"}}
    data = import_array(tmp_path / "zero.npy", tmp_path / "e", config=config_, sample_axis=0)
    with pytest.raises(ValueError, match=r"all zero or do not vary"):
        train(tmp_path / "m", data.directory)
