"""Whether chains agree: calibration and power."""

import math

import numpy as np
import pytest
from synthetic import ar1, exact_tau

from lattice_ml.statistics import (
    chain_agreement,
    r_hat,
)


def test_r_hat_is_one_for_mixed_chains_and_large_for_stuck_ones():
    series = ar1(25, (8, 4001), 0.5)
    assert r_hat(series) == pytest.approx(1, abs=0.005)
    assert r_hat(series + np.arange(8)[:, None]) > 1.5
    assert r_hat(series[:1] + np.linspace(0, 4, 4001)) > 1.2  # the halves disagree
    assert r_hat(np.ones((2, 8))) == 1
    assert r_hat(np.arange(2)[:, None] * np.ones((2, 8))) == math.inf


def test_r_hat_is_the_closed_form_of_bda3():
    halves = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 6.0], [3.0, 5.0]])  # W = 3.5, B/n = 2.25
    series = halves.reshape(2, 4)
    assert r_hat(series) == pytest.approx(math.sqrt((0.5 * 3.5 + 2.25) / 3.5), rel=1e-12)


@pytest.mark.parametrize(
    ("n_chains", "n_configs", "a"), [(2, 50, 0.0), (2, 450, 0.8), (8, 225, 0.8), (32, 100, 1 / 3)]
)
def test_p_values_of_agreeing_chains_are_uniform_enough(n_chains, n_configs, a):
    ensembles = ar1(26, (600, n_chains, n_configs), a)
    p = np.array([chain_agreement(series).p_value for series in ensembles])
    p = p[~np.isnan(p)]
    assert len(p) > 570
    assert np.sum(p < 1e-4) <= 1
    for level, fewest in ((0.02, 1), (0.2, 35), (0.5, 120)):
        assert fewest <= np.sum(p < level) <= level * len(p) + 2 * math.sqrt(level * len(p))


def test_skewed_observables_do_not_raise_false_alarms():
    # squares of AR(1) have tau = (1 + a^2) / (1 - a^2) / 2 = 2.27: 50 tau is 114
    p = [chain_agreement(x).p_value for x in ar1(27, (200, 64, 114), 0.8) ** 2]
    assert np.sum(np.array(p) < 0.01) < 9


def test_chains_of_some_twenty_tau_do_not_raise_false_alarms():
    # tau = 10 of the squares: the density falls before the first mode, and means are skewed
    p = np.array([chain_agreement(x).p_value for x in ar1(28, (400, 64, 220), 0.951) ** 2])
    assert np.sum(p >= 0) > 300
    assert np.sum(p < 0.01) < 9


def test_one_chain_of_64_shifted_by_six_errors_is_found():
    for seed in (28, 29):
        series = ar1(seed, (64, 3000), 0.5)
        error = math.sqrt(2 * exact_tau(0.5) / 3000)
        assert chain_agreement(series).p_value > 1e-3
        series[7] += 6 * error - series[7].mean() + np.delete(series, 7, axis=0).mean()
        assert chain_agreement(series).p_value < 1e-4


def test_many_slightly_shifted_chains_are_found():
    series = ar1(30, (64, 3000), 0.5)
    error = math.sqrt(2 * exact_tau(0.5) / 3000)
    shifts = np.where(np.arange(64) % 2, error, -error)[:, None]
    chi2, dof, p_value = chain_agreement(series + 1.5 * shifts)
    assert dof == 63
    assert chi2 == pytest.approx(64 * (1 + 1.5**2), rel=0.35)
    assert p_value < 1e-4


def test_chains_frozen_apart_are_found_and_identical_ones_agree():
    frozen = np.arange(4.0)[:, None] * np.ones((4, 30))
    assert chain_agreement(frozen) == (math.inf, 3, 0.0)
    assert chain_agreement(np.ones((4, 30))) == (0.0, 3, 1.0)
    trembling = ar1(31, (4, 400), 0.3) + 10 * np.arange(4)[:, None]
    assert chain_agreement(trembling).p_value < 1e-9
    same = np.repeat(ar1(31, (1, 400), 0.3), 4, axis=0)
    assert chain_agreement(same).p_value == pytest.approx(1)


@pytest.mark.parametrize("n_chains", [2, 64])
def test_chains_shorter_than_twenty_tau_give_no_verdict(n_chains):
    ensembles = ar1(32, (100, n_chains, 95), 0.9)  # ten tau
    verdicts = [chain_agreement(series).p_value for series in ensembles]
    assert np.mean(np.isnan(verdicts)) > 0.7


def test_a_weighted_chain_agrees_by_its_weighted_mean():
    x = ar1(33, (16, 4000), 0.5)
    x[3] += 0.5  # drawn from N(0.5, 1) and reweighted to N(0, 1)
    log_weights = np.where(np.arange(16)[:, None] == 3, -0.5 * x + 0.125, 0.0)
    assert chain_agreement(x).p_value < 1e-4
    assert chain_agreement(x, log_weights).p_value > 1e-2


def test_chains_with_uneven_weights_do_not_raise_false_alarms():
    """Log-normal weights of which `weights.doubt` says nothing, of chains that are all right."""
    rng = np.random.default_rng(34)
    draws, logs = rng.standard_normal((2, 20, 256, 50))
    p_values = [chain_agreement(x**2, 1.5 * log) for x, log in zip(draws, logs, strict=True)]
    assert all(found.p_value > 1e-4 for found in p_values)
    draws[0, 7] += 4
    assert chain_agreement(draws[0] ** 2, logs[0]).p_value < 1e-4
