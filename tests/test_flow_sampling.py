"""`sample` and `spectrum` of a flow: densities, corrections, and chains with it as a proposal."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from references import CASES
from trained_flows import sample, train
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


# Drawing.


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-3), ("float64", 1e-9)])
def test_the_density_of_given_fields_is_that_of_the_drawn(dtype, off, model):
    drawer = drawer_of(model, dtype)
    drawn = drawer.draw(5, 3)
    assert drawn.fields.dtype == dtype and drawn.fields.shape == (48, 4, 4)
    np.testing.assert_allclose(drawer.log_prob(drawn.fields), drawn.log_prob, atol=off)
    # a number of fields that fills no batch, and one batch alone
    few = drawer.log_prob(drawn.fields[:5])
    np.testing.assert_allclose(few, drawn.log_prob[:5], atol=off)
    np.testing.assert_array_equal(drawer.draw(6, 1).fields, drawn.fields[16:32])


def test_the_number_of_devices_does_not_matter(model, monkeypatch):
    drawer = drawer_of(model)
    two = drawer.draw(0, 5)
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    one = drawer.draw(0, 5)
    np.testing.assert_array_equal(one.fields, two.fields)
    np.testing.assert_array_equal(one.log_prob, two.log_prob)


def test_a_lattice_or_an_action_that_no_flow_draws_is_refused(model):
    sampling, key = FlowSamplingSection(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"needs an action, got action\.kind = none"):
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


@pytest.mark.parametrize("correct", ["reweight", "metropolis", "latent"])
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
    if correct == "latent":
        assert made.n_chains == 16 and made.n_configs == 256
        assert 0.2 < made.series("acceptance").mean() < 0.98
        assert made.series("acceptance_HMC").mean() > 0.6
        assert estimate(made.series("magnetisation") ** 2).tau_int < 2


# Chains that move in between.


def test_a_chain_is_exact_even_of_a_flow_that_is_bad(data, model, tmp_path):
    """Weights far from those that were trained: nearly no proposal is accepted."""
    random = np.random.default_rng(2)
    leaves = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.15 * random.normal(size=leaf.shape), np.float32),
        model.network.weights,
    )
    bad = replace(model, network=replace(model.network, weights=leaves))
    made = sample(bad, tmp_path / "bad", 8192, correct="latent", sampling_batch_size=32)
    assert made.series("acceptance").mean() < 0.3
    assert_exact(made, largest=0.2)


def test_a_chain_goes_on_with_the_same_bits(model, tmp_path):
    whole = sample(model, tmp_path / "whole", 96, correct="latent", **BATCH)
    part = tmp_path / "part"
    sample(model, part, 32, correct="latent", **BATCH)
    longer = sample(model, part, 96, correct="latent", **BATCH)
    np.testing.assert_array_equal(longer.cfgs[:], whole.cfgs[:])
    np.testing.assert_array_equal(longer.series("acceptance"), whole.series("acceptance"))
    assert longer.log_weight is None


def test_a_chain_of_a_diffusion_model_is_refused(data, tmp_path, capsys):
    job = config.parse_training(["--model.denoiser", "zero"])
    model = training.train(job, tmp_path / "m", data=[data])
    words = ["--correct", "latent", "--n-samples", 16, "--out", tmp_path / "s"]
    said = refused(capsys, "sample", model.directory, *words)
    assert "cannot correct by latent: chains need the density of every field" in said
    assert "use metropolis, hmc or reweight" in said
    assert not (tmp_path / "s").exists()


# The spectrum.


def test_the_spectrum_of_a_free_flow_is_that_of_the_action(tmp_path):
    couplings = {"action.kind": "FreeField", "action.mass_squared": 1.0}
    data = make_ensemble(tmp_path / "free", n_configs=200, couplings=couplings)
    model = train(tmp_path / "m", [data], **UNTRAINED)
    found = spectra.spectrum(model.directory, tmp_path / "s", n_fields=16)
    assert found["median_deviation"] < 0.15
    assert found["kind"] == "Flow" and found["shape"] == [4, 4]
    assert found["off_diagonal"] < 0.2


def test_noise_under_a_flow_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"known without noise: leave --noise out"):
        spectra.spectrum(model.directory, tmp_path / "s", noise=[1.0])
