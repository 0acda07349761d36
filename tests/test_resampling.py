"""Jackknife and bootstrap."""

import math

import jax
import numpy as np
import pytest
from synthetic import ar1, binder, moments

from lattice_ml.statistics import (
    bootstrap,
    estimate,
    jackknife,
)


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9])
def test_resampling_agrees_with_the_gamma_method(a):
    primaries = moments(1 + ar1(20, (4, 10_000), a))
    gamma = estimate(primaries, binder)
    for result in (jackknife(primaries, binder), bootstrap(1, primaries, binder)):
        assert result.value == pytest.approx(gamma.value, rel=1e-12)
        assert result.error == pytest.approx(gamma.error, rel=0.15)


def test_jackknife_of_a_mean_is_the_spread_of_bins():
    series = ar1(21, (2, 1000), 0.5)
    bins = series.reshape(-1, 50).mean(axis=1)
    expected = np.std(bins, ddof=1) / math.sqrt(len(bins))
    assert jackknife(series, bin_size=50).error == pytest.approx(expected, rel=1e-12)


def test_resampling_reweights():
    x = ar1(22, (4, 5000), 0.5)
    gamma = estimate(x, log_weights=0.5 * x)
    for result in (jackknife(x, log_weights=0.5 * x), bootstrap(2, x, log_weights=0.5 * x)):
        assert result.value == pytest.approx(gamma.value, rel=1e-12)
        assert result.error == pytest.approx(gamma.error, rel=0.15)


def test_no_configuration_is_dropped_where_bins_do_not_fit():
    series = ar1(23, (2, 103), 0.0)
    series[:, -1] = 50
    assert jackknife(series, bin_size=10).value == pytest.approx(series.mean())


def test_bootstrap_is_fixed_by_its_seed():
    series = ar1(24, (2, 500), 0.5)
    key = jax.random.key_data(jax.random.key(1))
    assert bootstrap(1, series) == bootstrap(1, series) != bootstrap(2, series)
    assert bootstrap(np.asarray(key), series).value == bootstrap(1, series).value
