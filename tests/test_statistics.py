"""The Gamma method against pyerrors and closed forms, and what all of statistics refuses."""

import dataclasses
import math
import sys

import jax
import numpy as np
import pytest
from synthetic import ar1, binder, exact_tau, moments

from lattice_ml.statistics import (
    Estimate,
    autocorrelation,
    bootstrap,
    chain_agreement,
    effective_sample_size,
    estimate,
    jackknife,
    kish,
    r_hat,
)


def as_pyerrors(series):
    """Return an Obs with fluctuations about the mean over all replica, as is our convention."""
    pyerrors = pytest.importorskip("pyerrors")
    mean = series.mean()
    names = [f"ensemble|r{chain:03d}" for chain in range(len(series))]
    obs = pyerrors.Obs(list(series - mean), names, means=[mean] * len(series))
    obs._value = mean
    return obs


def assert_equal_to_pyerrors(ours, obs):
    obs.gamma_method()
    (ensemble,) = obs.e_names
    expected = {
        "value": obs.value,
        "error": obs.dvalue,
        "error_error": obs.ddvalue,
        "tau_int": obs.e_tauint[ensemble],
        "tau_int_error": obs.e_dtauint[ensemble],
        "window": obs.e_windowsize[ensemble],
    }
    got = {key: getattr(ours, key) for key in expected}
    assert got == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("n_chains", "n_configs", "a"),
    [(1, 5, 0.5), (1, 64, -0.5), (1, 2000, 0.9), (1, 1009, 0.0), (7, 501, 0.8), (64, 20, 0.5)],
)
def test_mean_equals_pyerrors(n_chains, n_configs, a):
    series = 3 + ar1(1, (n_chains, n_configs), a)
    assert_equal_to_pyerrors(estimate(series), as_pyerrors(series))


@pytest.mark.parametrize(("n_chains", "n_configs"), [(1, 3000), (6, 500)])
def test_function_of_means_equals_pyerrors(n_chains, n_configs):
    primaries = moments(1 + ar1(2, (n_chains, n_configs), 0.8))
    m2, m4 = map(as_pyerrors, primaries)
    assert_equal_to_pyerrors(estimate(primaries, binder), 1 - m4 / (3 * m2**2))


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seed", [3, 4])
def test_ar1_has_its_exact_autocorrelation_time_and_error(a, seed):
    result = estimate(ar1(seed, (8, 20_000), a))
    tau = exact_tau(a)
    assert abs(result.tau_int - tau) < 4.5 * max(result.tau_int_error, 1e-2)
    assert abs(result.error - math.sqrt(2 * tau / 160_000)) < 4.5 * result.error_error
    assert abs(result.value) < 4.5 * result.error


@pytest.mark.parametrize(("n_chains", "n_configs", "a"), [(1, 2000, 0.8), (40, 100, 0.6)])
def test_error_covers_one_sigma_in_two_cases_of_three(n_chains, n_configs, a):
    ensembles = ar1(5, (200, n_chains, n_configs), a)
    results = [estimate(series) for series in ensembles]
    covered = np.mean([abs(result.value) < result.error for result in results])
    assert abs(covered - 0.683) < 3.5 * math.sqrt(0.683 * 0.317 / 200)


def test_thinning_changes_units_only():
    series = ar1(6, (4, 4000), 0.8)
    every, fifth = estimate(series), estimate(series, thin=5)
    assert fifth.tau_int == 5 * every.tau_int
    assert fifth.tau_int_error == 5 * every.tau_int_error
    assert (fifth.error, fifth.short) == (every.error, every.short)
    assert effective_sample_size(fifth) == pytest.approx(effective_sample_size(series))


def test_effective_sample_size_is_that_of_independent_draws_with_the_same_error():
    series = ar1(7, (4, 20_000), 0.5)
    independent = series.var() / estimate(series).error ** 2
    assert effective_sample_size(series) == pytest.approx(independent, rel=1e-3)


def test_chains_at_different_values_enlarge_the_error():
    # fluctuations about the mean of each chain would not see that the chains disagree
    series = ar1(8, (8, 1000), 0.5) + 5 * np.arange(8)[:, None]
    assert estimate(series).error > 10 * estimate(series - 5 * np.arange(8)[:, None]).error


def test_fifty_times_tau_make_a_chain_long():
    result = Estimate(0.0, 1.0, 0.1, 4.0, 0.1, 5, n=400, n_chains=4, thin=2)
    assert not result.short  # tau_m = 2, 100 configurations
    assert dataclasses.replace(result, n=396).short


def test_constant_series_has_no_error():
    result = estimate(np.full((3, 20), 0.1), thin=4)
    assert (result.value, result.error, result.tau_int) == (0.1, 0.0, 2.0)
    weighted = estimate(np.full((3, 20), 0.1), log_weights=ar1(9, (3, 20), 0.0))
    assert (weighted.value, weighted.error) == (0.1, 0.0)


def test_function_that_is_not_finite_at_the_means_gives_nan():
    def root(means):
        return jax.numpy.sqrt(means[0] - 10)

    primaries = moments(ar1(10, (2, 100), 0.5))
    assert math.isnan(estimate(primaries, root).value)
    assert math.isnan(estimate(primaries, root).error)
    assert all(map(math.isnan, jackknife(primaries, root)))
    with pytest.raises(ValueError, match="fluctuating, finite"):
        autocorrelation(primaries, root)


def test_results_do_not_depend_on_the_precision_of_jax():
    primaries = moments(1 + ar1(11, (3, 200), 0.5))
    results = []
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            results.append((estimate(primaries, binder), jackknife(primaries, binder)))
            assert jax.config.read("jax_enable_x64") is enabled
    assert results[0] == results[1]
    means = primaries.mean(axis=(1, 2))
    assert results[0][0].value == pytest.approx(binder(means), rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_series_of_any_type_are_averaged_in_double(dtype):
    series = (100 + 10 * ar1(12, (2, 5000), 0.5)).astype(dtype)
    assert estimate(series) == estimate(series.astype(np.float64))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23451, 0.0067, "1.2345(67)"),
        (-0.5, 0.0996, "-0.50(10)"),
        (12.34, 4.46, "12.3(4.5)"),
        (1234.5, 56.7, "1234(57)"),
        (7.0, 0.0, "7(0)"),
        (0.516557019203901, 0.0, "0.5165570192(0)"),
        (1.5e-7, 2.3e-8, "0.000000150(23)"),
        (-1.5e-8, 2.3e-9, "-1.50(23)e-08"),
        (9.96e-12, 9.96e-12, "10(10)e-12"),
        (1e44, 3e42, "1.000(30)e+44"),
        (1e-3, 1e44, "0.0(1.0)e+44"),
        (1.234567e137, 9.9e136, "1.23(99)e+137"),
        (0.5, 1e-80, "0.5(1.0e-80)"),
        (-123456.789, 1e-9, "-123456.79(1.0e-09)"),
        (5e-324, 5e-324, "4.9(4.9)e-324"),
        (math.nan, math.nan, "nan(nan)"),
        (0.516557019203901, math.nan, "0.5165570192(nan)"),
        (1.0, math.inf, "1(inf)"),
        (math.inf, 1.0, "inf(1)"),
    ],
)
def test_estimate_prints_two_digits_of_its_error(value, error, text):
    assert str(Estimate(value, error, 0.0, 0.5, 0.0, 1, 100, 1)) == text


def test_reweighting_a_gaussian_gives_the_shifted_mean():
    # exp(s x - s^2/2) takes N(0, 1) to N(s, 1)
    for seed in (13, 14):
        x = ar1(seed, (8, 5000), 0.7)
        first = estimate(x, log_weights=0.5 * x)
        assert abs(first.value - 0.5) < 4.5 * first.error
        assert first.error < 0.03
        variance = estimate(
            np.stack([x, x**2]), lambda m: m[1] - m[0] ** 2, log_weights=0.5 * x + 700
        )
        assert abs(variance.value - 1) < 4.5 * variance.error


def test_error_of_a_reweighted_mean_is_its_spread():
    ensembles = ar1(15, (200, 2, 1000), 0.5)
    results = [estimate(x, log_weights=0.5 * x) for x in ensembles]
    spread = np.std([result.value for result in results])
    assert np.mean([result.error for result in results]) == pytest.approx(spread, rel=0.17)


def test_constant_weights_change_nothing():
    primaries = moments(1 + ar1(16, (3, 300), 0.5))
    constant = np.full((3, 300), -812.3)
    assert estimate(primaries, binder, log_weights=constant) == estimate(primaries, binder)
    assert jackknife(primaries, binder, log_weights=constant) == jackknife(primaries, binder)
    assert chain_agreement(primaries[0], constant) == chain_agreement(primaries[0])


def one_large_weight(n, above):
    """Log weights of `n` draws, one of which outweighs the others by so much."""
    return np.where(np.arange(n) == n // 3, above, 0.0)[None]


def test_one_configuration_that_has_all_the_weight_has_no_error():
    x = ar1(36, (1, 900), 0.0)
    found = estimate(x, log_weights=one_large_weight(900, 50))
    assert found.value == pytest.approx(x[0, 300])
    assert math.isnan(found.error) and math.isnan(found.error_error)
    assert found.worth == pytest.approx(1) and found.pareto_k == math.inf
    assert found.marks == ("weights",) and len(str(found)) < 20


def test_weights_that_leave_a_handful_are_marked_and_their_errors_uncertain():
    x, w = np.random.default_rng(37).normal(size=(2, 1, 2000))
    found = estimate(x, log_weights=2 * w)
    assert 0.7 < found.pareto_k < 1 < found.worth < 60 and found.marks == ("weights",)
    assert found.error_error > found.error / 8, "not 1/40, as 2000 would have"
    endless = estimate(x, log_weights=6 * w)
    assert endless.worth > 2 and endless.pareto_k > 1 and math.isnan(endless.error)
    light = estimate(x, log_weights=0.3 * x)
    assert light.worth > 1500 and light.pareto_k < 0.5 and light.marks == ()


def test_errors_of_weighted_errors_are_their_spread():
    """Weights e^{x'/2} that do not know of x: the squares of w count, 1/<w^4>/<w^2>^2 of them."""
    rng = np.random.default_rng(38)
    x, log_w = rng.normal(size=(2, 400, 1, 1000))
    found = [estimate(x, log_weights=0.5 * w) for x, w in zip(x, log_w, strict=True)]
    expected = np.mean([e.error_error / math.sqrt(e.window + 0.5) for e in found])
    gamma_0 = [e.error / math.sqrt(2 * e.tau_int) for e in found]
    kurtosis = 3 * math.exp(1) / 2 - 0.5  # of w x about that of x: (3 <w^4>/<w^2>^2 - 1) / 2
    assert np.std(gamma_0) / np.mean(gamma_0) == pytest.approx(math.sqrt(kurtosis / 2000), rel=0.2)
    assert expected / np.mean([e.error for e in found]) == pytest.approx(
        math.sqrt(math.exp(1) / 1000), rel=0.1
    )


def test_anticorrelated_series_have_errors_that_are_too_large_but_not_of_the_jackknife():
    """tau = 1/2 (1 + a) / (1 - a): documented, and the way out with it."""
    ensembles = ar1(39, (60, 1, 4000), -0.9)
    honest = math.sqrt(2 * exact_tau(-0.9) / 4000)
    errors = np.mean([estimate(series).error for series in ensembles])
    assert errors / honest == pytest.approx(1 / math.sqrt(2 * exact_tau(-0.9)), rel=0.05)  # 4.4
    binned = np.mean([jackknife(series, bin_size=100).error for series in ensembles])
    assert binned == pytest.approx(honest, rel=0.1)


def test_kish_counts_equal_weights_and_a_dominant_one():
    assert kish(np.full(10, 1e4)) == pytest.approx(10)
    assert kish([[0.0, -800.0], [-800.0, -800.0]]) == pytest.approx(1)
    assert kish(np.log([3.0, 1.0])) == pytest.approx(16 / 10)


def test_autocorrelation_of_ar1_is_a_power_within_errors():
    rho, error = autocorrelation(ar1(17, (16, 20_000), 0.8))
    pulls = (rho - 0.8 ** np.arange(len(rho)))[1:] / error[1:]
    assert (rho[0], error[0]) == (1, 0)
    assert len(rho) > 30
    assert np.all(np.abs(pulls) < 4.5)


def test_error_of_the_autocorrelation_is_its_spread():
    curves = [autocorrelation(series) for series in ar1(18, (200, 1, 2000), 0.5)]
    lags = slice(1, 8)
    spread = np.std([curve.rho[lags] for curve in curves], axis=0)
    expected = np.mean([curve.error[lags] for curve in curves], axis=0)
    np.testing.assert_allclose(expected, spread, rtol=0.2)


def test_autocorrelation_sums_to_tau():
    series = ar1(19, (4, 500), 0.6)
    result, rho = estimate(series), autocorrelation(series).rho
    n, width = result.n, 2 * result.window + 1
    tau = 0.5 + rho[1 : result.window + 1].sum()
    assert result.tau_int == pytest.approx(tau * (1 + width / n) / (1 + 1 / n), rel=1e-13)


def a_nan_at(chain, config):
    series = np.zeros((2, 10))
    series[chain, config] = math.nan
    return series


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (np.zeros(10), r"shape \(n_chains, n_configs\), got \(10,\); a single chain"),
        (np.zeros((2, 0)), r"got \(2, 0\)"),
        (np.zeros((5, 3)), "too few configurations: 3 per chain, at least 4 needed"),
        (a_nan_at(1, 7), "series must be finite, got nan in chain 1, configuration 7"),
        (a_nan_at(0, 2) - np.inf, "got -inf in chain 0, configuration 0"),
    ],
)
@pytest.mark.parametrize("function", [estimate, autocorrelation, jackknife, chain_agreement, r_hat])
def test_bad_series_are_refused(function, series, message):
    with pytest.raises(ValueError, match=message):
        function(series)


def test_bad_primaries_and_functions_are_refused():
    with pytest.raises(ValueError, match=r"\(n_primaries, n_chains, n_configs\), got \(2, 10\)"):
        estimate(np.zeros((2, 10)), binder)
    with pytest.raises(ValueError, match=r"function must return one number, got shape \(2,\)"):
        estimate(np.zeros((2, 2, 10)), lambda m: m)


def test_bad_weights_are_refused():
    series = np.zeros((2, 10))
    with pytest.raises(ValueError, match=r"log_weights must have the shape \(2, 10\).*got \(10,\)"):
        estimate(series, log_weights=np.zeros(10))
    with pytest.raises(ValueError, match="log_weights must be finite, got nan in chain 1"):
        estimate(series, log_weights=a_nan_at(1, 3))
    with pytest.raises(ValueError, match="finite and not empty, got 0 with 0 not finite"):
        kish([])
    with pytest.raises(ValueError, match="log_weights must be finite"):
        kish([0.0, math.inf])


def test_bad_numbers_are_refused():
    series = ar1(34, (2, 10), 0.0)
    with pytest.raises(ValueError, match=r"thin must be at least 1.*got thin=0"):
        estimate(series, thin=0)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"window_parameter must be positive, got.*{bad}"):
            estimate(series, window_parameter=bad)
    with pytest.raises(ValueError, match=r"at least two bins.*got bin_size=0 for n_chains=2"):
        jackknife(series, bin_size=0)
    with pytest.raises(ValueError, match=r"at least two bins.*got bin_size=6 for n_chains=1"):
        jackknife(series[:1], bin_size=6)
    with pytest.raises(ValueError, match="n_resamples >= 2 for a spread, got n_resamples=1"):
        bootstrap(0, series, n_resamples=1)
    with pytest.raises(ValueError, match="at least 2 chains, got n_chains=1"):
        chain_agreement(series[:1])
    with pytest.raises(ValueError, match="fluctuating, finite quantity, got variance 0"):
        autocorrelation(np.ones((2, 10)))


def test_plain_means_need_no_jax(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # importing it raises ImportError
    series = ar1(35, (2, 100), 0.5)
    assert estimate(series).error > 0
    assert jackknife(series).error > 0
    assert chain_agreement(series).dof == 1
    with pytest.raises(ImportError):
        estimate(moments(series), binder)
