"""`train` with each kind of network, and the couplings that only some of them know."""

import numpy as np
import pytest
from trained_models import as_words, make_ensemble, metrics, train

from lattice_ml import config, training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e44")


def test_several_couplings_need_a_network_that_knows_them(data, tmp_path):
    other = make_ensemble(tmp_path / "e", action_kappa=0.2)
    with pytest.raises(ValueError, match=r"several ensembles .* set model\.conditional = true"):
        train(tmp_path / "m", [data, other])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("denoiser", "settings"),
    [
        ("convnet", {"model_channels": 2, "model_n_layers": 1}),
        ("unet", {"model_channels": [2, 3], "model_target": "data"}),
    ],
)
def test_every_network_is_trained_and_opened_again(data, tmp_path, denoiser, settings):
    words = {"training_n_steps": 4, "training_batch_size": 8} | settings
    job = config.parse_training(
        as_words(
            {"model.denoiser": denoiser} | {k.replace("_", ".", 1): v for k, v in words.items()}
        )
    )
    model = training.train(job, tmp_path / "m", data=[data])
    assert model.report["theories"][0]["ess"] > 0
    assert np.all(np.isfinite([line["loss"] for line in metrics(model.directory)]))
    assert set(model.report["equivariance"]) == {"z2", "translation", "hypercubic"}
