"""`sample` and `spectrum` of a flow: densities, corrections, and chains with it as a proposal."""

import jax
import numpy as np
import pytest
from references import CASES
from trained_flows import train
from trained_models import make_ensemble
from verbs import refused, run

from lattice_ml.actions import conventions
from lattice_ml.jobs import config
from lattice_ml.jobs import spectrum as spectra
from lattice_ml.jobs import train as training
from lattice_ml.models.flow.sections import FlowSamplingSection
from lattice_ml.observables import measure_configurations
from lattice_ml.statistics import estimate, reweight
from lattice_ml.storage.ensemble import open_ensemble

pytestmark = pytest.mark.unoptimised

EXACT = CASES["torus4x4_kappa_k=0.3_l=0.5"]["values"]
COUPLINGS = {"action.kappa": 0.3, "action.lam": 0.5}
UNTRAINED = {"training_kl_steps": 0, "training_n_steps": 0}
BATCH = {"sampling_batch_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e44", couplings=COUPLINGS)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A flow that has learned nothing: the Gaussian part of the data and exact odd sites."""
    return train(tmp_path_factory.mktemp("models") / "untrained", [data], **UNTRAINED)


def drawer_of(model, dtype="float32", shape=(4, 4)):
    asked = conventions.from_config(model.stages[0].actions[0], 2)
    return model.drawer(shape, asked, FlowSamplingSection(16), jax.random.key(3), dtype)


def test_a_lattice_or_an_action_that_no_flow_draws_is_refused(model):
    sampling, key = FlowSamplingSection(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"are of actions .*, got action\.kind = none: Phi4"):
        model.drawer((4, 4), None, sampling, key)
    with pytest.raises(ValueError, match=r"even extents, got lattice\.shape = \[4, 5\]"):
        drawer_of(model, shape=(4, 5))
    with pytest.raises(ValueError, match=r"has one level, and lattice\.shape = \[16, 16\] has 2"):
        drawer_of(model, shape=(16, 16))


# Corrections, from the command line.


def assert_exact(made, largest=0.1):
    """What an ensemble's samples say of the exact case, with their weights where they have them."""
    cfgs = np.asarray(made.cfgs[:], np.float64)
    found = {"S_per_site": measure_configurations(made.action, cfgs)["action"] / 16}
    m = cfgs.mean(axis=(1, 2))
    found |= {"M2": m**2, "M4": m**4, "phi2": np.mean(cfgs**2, axis=(1, 2))}
    for name, values in found.items():
        got = estimate(values.reshape(-1, made.n_chains).T, log_weights=made.log_weight)
        assert abs(got.value - EXACT[name][0]) < 4 * got.error, name
        assert name == "S_per_site" or got.error < largest * EXACT[name][0]


@pytest.mark.parametrize("correct", ["reweight", "metropolis"])
def test_corrected_samples_have_the_exact_values(correct, model, tmp_path, capsys):
    words = ["--correct", correct, "--n-samples", 4096, "--sampling.batch-size", 16]
    out = tmp_path / "samples"
    status, _, err = run(capsys, "sample", model.directory, "--out", out, *words)
    assert status == 0, err
    made = open_ensemble(out)
    assert_exact(made)
    if correct == "reweight":
        worth = reweight(made.log_weight)
        assert abs(worth.log_z - EXACT["lnZ"][0]) < 4 * worth.log_z_error < 0.2
        assert 0.2 < worth.ess < 0.95, "not trained"


def test_a_chain_of_a_diffusion_model_is_refused(data, tmp_path, capsys):
    job = config.parse_training(["--model.denoiser", "zero"])
    model = training.train(job, tmp_path / "m", data=[data])
    words = ["--correct", "latent", "--n-samples", 16, "--out", tmp_path / "s"]
    said = refused(capsys, "sample", model.directory, *words)
    assert "cannot correct by latent: chains need the density of every field" in said
    assert "of a diffusion model it costs 4 steps of a flow, like a sample" in said
    assert "use metropolis, hmc or reweight" in said
    assert not (tmp_path / "s").exists()


def test_noise_under_a_flow_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"known without noise: leave --noise out"):
        spectra.spectrum(model.directory, tmp_path / "s", noise=[1.0])
