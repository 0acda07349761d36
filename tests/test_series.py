"""What every function that takes numbers refuses: masks, text, and what has no numbers yet."""

import math

import jax
import numpy as np
import pytest
from rows import each
from synthetic import ar1, binder, moments

from lattice_ml import FreeField, Lattice
from lattice_ml.comparison import classifiers
from lattice_ml.jobs import correction
from lattice_ml.models import markov_field
from lattice_ml.observables import measure_configurations
from lattice_ml.report import figures
from lattice_ml.statistics import (
    autocorrelation,
    bootstrap,
    chain_agreement,
    doubt_of,
    effective_sample_size,
    estimate,
    forward_ess,
    jackknife,
    kish,
    log_mean,
    missed_mode,
    pareto_k,
    r_hat,
    reweight,
)
from lattice_ml.statistics.cumulants import cumulants
from lattice_ml.statistics.distributions import Histogram, common_edges

FREE = FreeField(1.0, 1)
KEY = jax.random.key(1)
FEW = np.random.default_rng(1).normal(size=(2, 20))
DOORS = {
    "estimate": estimate,
    "estimate of weights": lambda x: estimate(FEW, log_weights=x),
    "several primaries": lambda x: estimate([FEW, x], lambda m: m[0]),
    "effective_sample_size": effective_sample_size,
    "jackknife": lambda x: jackknife(FEW, log_weights=x),
    "bootstrap": lambda x: bootstrap(1, x),
    "cumulants": cumulants,
    "doubt_of": doubt_of,
    "metropolis": lambda x: correction.metropolis(1, x),
    "metropolis of an observable": lambda x: correction.metropolis(1, FEW[0], observable=x),
    "forward_ess": forward_ess,
    "missed_mode": lambda x: missed_mode(x, FEW),
    "missed_mode of a reference": lambda x: missed_mode(FEW, x),
    "reweight": reweight,
    "refine": lambda x: correction.refine(KEY, None, Lattice((20,)), x, 1),
    "measure_configurations": lambda x: measure_configurations(FREE, x),
    "markov_field.log_weights": lambda x: markov_field.log_weights(FREE, FREE, x),
    "kl_divergence": markov_field.kl_divergence,
    "classifiers.moments": classifiers.moments,
    "log_odds": lambda x: classifiers.log_odds(None, x),
    "fit_logistic": lambda x: classifiers.fit_logistic(x, [0, 1]),
    "fit_logistic with weights": lambda x: classifiers.fit_logistic(FEW, [0, 1], x),
    "histogram": lambda x: figures.histogram(x, name="x"),
    "histogram with weights": lambda x: figures.histogram(FEW, name="x", log_weights=x),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_no_function_forgets_a_mask_or_reads_text(door):
    with pytest.raises(ValueError, match="must have no mask, got 1 masked numbers"):
        door(np.ma.masked_array(FEW, np.arange(40).reshape(2, 20) == 7))
    with pytest.raises(TypeError, match="must be real numbers, got an array of <U32"):
        door(FEW.astype("U32"))
    with pytest.raises(TypeError, match=r"got \w+: rows of unequal length, or a value"):
        jax.make_jaxpr(door)(FEW)


def test_weights_of_a_classifier_are_weights():
    for bad in ([1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="weights must be finite and not negative"):
            classifiers.fit_logistic(FEW, [0, 1], bad)


@pytest.mark.parametrize("unit", [1e-200, 1e-300, 1e200, 1e300])
def test_huge_and_tiny_numbers_have_their_errors(unit):
    x = ar1(40, (4, 200), 0.5)
    one, other = estimate(x), estimate(unit * x)
    assert other.value / unit == pytest.approx(one.value)
    assert other.error / unit == pytest.approx(one.error)
    assert other.tau_int == pytest.approx(one.tau_int)
    for resampled in (jackknife, lambda series: bootstrap(1, series, n_resamples=20)):
        assert np.array(resampled(unit * x)) / unit == pytest.approx(np.array(resampled(x)))
    assert chain_agreement(unit * x) == pytest.approx(chain_agreement(x))
    assert r_hat(unit * x) == pytest.approx(r_hat(x))
    np.testing.assert_allclose(autocorrelation(unit * x).rho, autocorrelation(x).rho)
    ratio = estimate(np.stack([unit * x, x**2]), lambda m: m[0] / m[1])
    assert ratio.value / unit == pytest.approx(x.mean() / np.mean(x**2))


@each(
    ("numbers", "message"),
    [
        (np.zeros((2, 10), complex), "must be real, got complex128"),
        (np.full((2, 10), "1.5"), "must be real numbers, got an array of <U3"),
        (np.full((2, 10), 1, object), "must be real numbers, got an array of object"),
        (np.zeros((2, 10), "m8[s]"), "must be real numbers, got an array of timedelta64"),
        (
            [[1.0] * 10, [1.0] * 9],
            "must be an array of real numbers, got list: rows of unequal length",
        ),
    ],
)
def test_what_is_no_number_is_refused(numbers, message):
    series = np.zeros((2, 10))
    for refuse in (estimate, autocorrelation, jackknife, chain_agreement, r_hat):
        with pytest.raises(TypeError, match=f"series {message}"):
            refuse(numbers)
    for refuse in (kish, log_mean, pareto_k, lambda w: estimate(series, log_weights=w)):
        with pytest.raises(TypeError, match=f"log_weights {message}"):
            refuse(numbers)


def test_masks_are_refused_and_not_forgotten():
    x = ar1(41, (2, 30), 0.0)
    masked = np.ma.masked_where(x > 1, x)
    count = int(np.sum(x > 1))
    for function in (estimate, autocorrelation, jackknife, chain_agreement, r_hat):
        with pytest.raises(ValueError, match=f"series must have no mask, got {count} masked"):
            function(masked)
    with pytest.raises(ValueError, match=f"series must have no mask, got {count} masked"):
        estimate([masked, x], lambda m: m[0])
    for function in (kish, log_mean, pareto_k, lambda w: estimate(x, log_weights=w)):
        with pytest.raises(ValueError, match="log_weights must have no mask"):
            function(masked)
    assert estimate(np.ma.masked_array(x)) == estimate(x), "nothing is masked"
    assert estimate(x > 0).value == np.mean(x > 0)


def test_tracing_is_refused_where_it_takes_the_numbers_away_and_else_harmless():
    x = ar1(42, (2, 30), 0.0)
    with pytest.raises(
        TypeError, match="series must be an array of real numbers, got DynamicJaxprTracer"
    ):
        jax.jit(lambda x: estimate(x).value)(x)
    with pytest.raises(TypeError, match="log_weights must be an array of real numbers"):
        jax.grad(lambda w: estimate(x, log_weights=w).value)(x)
    with pytest.raises(TypeError, match="function must give a number, but depends on a value"):
        jax.jit(lambda k: estimate(x[None], lambda m: k * m[0]).value)(2.0)
    inside = jax.jit(lambda k: k * estimate(moments(x), binder).value)(1.0)
    assert float(inside) == pytest.approx(estimate(moments(x), binder).value)


@each(
    ("values", "weights", "error", "match"),
    [
        ([1.0, math.nan], None, ValueError, "values must be finite, got 1 of 2 that are not"),
        ([0.0, 1.0], [1.0, math.inf], ValueError, "weights must be finite, got 1 of 2"),
        ([0.0, 1.0], [1.0, -0.5], ValueError, "weights must not be negative, got -0.5"),
        (np.ma.masked_array([0.0, 9.0], [0, 1]), None, ValueError, "values must have no mask"),
        (["0", "1"], None, TypeError, "values must be real numbers"),
    ],
)
def test_what_would_count_in_the_last_cell_is_refused(values, weights, error, match):
    with pytest.raises(error, match=match):
        Histogram.of(values, [0, 0], np.linspace(0, 1, 3), weights)


def test_edges_need_numbers():
    with pytest.raises(ValueError, match="samples must be finite, got 1 of 2 that are not"):
        common_edges([1.0, math.inf])
    with pytest.raises(ValueError, match="samples must be at least one number, got the shape"):
        common_edges([])
