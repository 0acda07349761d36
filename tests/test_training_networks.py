"""`train` with each kind of network, and the couplings that only some of them know."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from trained_models import make_ensemble, metrics, train

from lattice_ml.jobs import config
from lattice_ml.jobs import train as training
from lattice_ml.runtime.arguments import as_arguments

pytestmark = pytest.mark.unoptimised


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
        as_arguments(
            {"model.denoiser": denoiser} | {k.replace("_", ".", 1): v for k, v in words.items()}
        )
    )
    model = training.train(job, tmp_path / "m", data=[data])
    assert model.report["theories"][0]["ess"] > 0
    assert np.all(np.isfinite([line["loss"] for line in metrics(model.directory)]))
    assert set(model.report["equivariance"]) == {"z2", "translation", "hypercubic"}


@pytest.mark.slow
def test_the_benchmark_of_quality_prints_a_row_with_all_numbers(tmp_path, capsys):
    path = Path(__file__).parents[1] / "benchmarks" / "diffusion_quality.py"
    spec = importlib.util.spec_from_file_location("diffusion_quality", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    assert benchmark.main(["--size", "toy", "--folder", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| toy |")]
    assert 0.5 < float(row.split("|")[6]) <= 1
    assert len(row.split("|")) == 16
    assert abs(float(row.split("|")[13])) < 4.5  # log Z against thermodynamic integration
