"""Schwinger-Dyson equations of second order: exact for every action; what they see."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_fields import certificate, draw, ensemble

from lattice_ml import Phi4
from lattice_ml.analysis.certificates import amplitudes
from lattice_ml.analysis.certificates.evidence import gather

pytestmark = pytest.mark.unoptimised

ONES = {"any": np.ones((16, 400))}


@pytest.fixture(scope="module")
def gaussian():
    """6,400 exact draws `(n_configs, n_chains, *L)`."""
    return draw(1, n_configs=400)


def single_sites(a, b, seed=2):
    """Exact draws of sites that do not know of each other, weight exp(-a phi^2 - b phi^4)."""
    grid = np.linspace(-6, 6, 20001)
    law = np.cumsum(np.exp(-a * grid**2 - b * grid**4))
    uniform = np.random.default_rng(seed).uniform(0, law[-1], (400, 16, 8, 8))
    return np.interp(uniform, law, grid).astype(np.float32)


def judged(cfgs, **change):
    return certificate(replace(ensemble(cfgs, ONES), **change), "amplitudes")


def pulls(made):
    """Mean over error of every group of momenta, for independent configurations."""
    evidence = gather(made)
    series = [amplitudes.terms(evidence, name) for name in evidence.two_point]
    return np.array([x.mean() / (x.std() / np.sqrt(x.size)) for x in series])


def test_the_identities_hold_at_all_momenta_of_a_free_field(gaussian):
    found = pulls(ensemble(gaussian, ONES))
    assert len(found) == 14
    assert np.abs(found).max() < 4
    assert judged(gaussian).verdict == "pass"


@pytest.mark.parametrize("couplings", [(0.5, 0.25), (-2.0, 1.0)])
def test_the_identities_hold_for_fields_that_are_not_gaussian(couplings):
    cfgs, action = single_sites(*couplings), Phi4(0.0, *couplings)
    assert np.abs(pulls(replace(ensemble(cfgs, ONES), action=action))).max() < 4
    assert judged(cfgs, action=action).verdict == "pass"


def test_gaussian_fields_are_not_those_of_a_double_well():
    cfgs, action = single_sites(-2.0, 1.0), Phi4(0.0, -2.0, 1.0)
    width = np.sqrt(np.mean(cfgs.astype(float) ** 2))
    white = width * np.random.default_rng(3).standard_normal(cfgs.shape)
    assert judged(white.astype(np.float32), action=action).verdict == "fail"


def test_the_temperature_is_that_of_the_ensemble(gaussian):
    hot = np.float32(np.sqrt(2)) * gaussian
    assert judged(hot, temperature=2.0).verdict == "pass"
    assert np.abs(pulls(replace(ensemble(hot, ONES), temperature=2.0))).max() < 4


def noisy(cfgs, kurtosis, part):
    """`part` of every configuration times noise f, <f^2> = 1 and <f^4> = kurtosis."""
    signs = np.random.default_rng(4).choice([-1, 1], (*cfgs.shape[:2], 1, 1))
    factor = np.sqrt(1 + np.sqrt(kurtosis - 1) * signs)
    return (cfgs + (factor - 1) * part).astype(np.float32)


@pytest.mark.parametrize(("kurtosis", "total"), [(1.01, False), (1.05, False), (1.5, True)])
def test_noise_on_amplitudes_is_found_and_schwinger_dyson_does_not_see_it(
    gaussian, kurtosis, total
):
    part = gaussian.mean(axis=(2, 3), keepdims=True) if total else gaussian
    made = ensemble(noisy(gaussian, kurtosis, part), ONES)
    assert certificate(made, "schwinger_dyson").verdict == "pass"
    found = certificate(made, "amplitudes")
    assert found.verdict == "fail"
    assert ("shell 0" if total else "all momenta") in found.value


def test_what_is_found_is_in_proportion_to_the_kurtosis(gaussian):
    """F = P/(P + 3 <P>) of a power that is nearly <P>: 3/16 of the variance of f^2."""
    series = gather(ensemble(noisy(gaussian, 1.05, gaussian), ONES))
    excess = amplitudes.terms(series, "all momenta").mean()
    assert 0.7 * 0.05 * 3 / 16 < excess < 1.3 * 0.05 * 3 / 16


def test_weights_are_used(gaussian):
    made = ensemble(gaussian, ONES, mass_squared=0.32)
    evidence = gather(made)
    log_weights = -0.5 * 0.02 * 64 * evidence.measured["phi2"]
    weighted = replace(evidence, log_weights=log_weights)
    assert amplitudes.judge(weighted)[1] > 1e-3
    series = amplitudes.terms(weighted, "all momenta")
    assert abs(series.mean()) < 4 * series.std() / np.sqrt(series.size)
    with pytest.raises(amplitudes.Missing, match="too few independent amplitudes"):
        amplitudes.judge(replace(evidence, log_weights=100 * log_weights))


def test_few_amplitudes_are_not_judged(gaussian):
    few = certificate(ensemble(gaussian[:10], {"any": np.ones((16, 10))}), "amplitudes")
    assert few.meaning == "there are too few independent amplitudes to tell: run longer"
    slow = draw(5, n_configs=30, memory=0.95)
    few = certificate(ensemble(slow, {"any": np.ones((16, 30))}), "amplitudes")
    assert few.verdict == "not applicable"
    kept = replace(gather(ensemble(gaussian, ONES)), two_point={})
    with pytest.raises(amplitudes.Missing, match="no configurations were kept"):
        amplitudes.judge(kept)
