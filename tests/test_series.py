"""What every function that takes numbers refuses: masks, text, and what has no numbers yet."""

import jax
import numpy as np
import pytest

from lattice_ml import FreeField, Lattice, correction
from lattice_ml.analysis import figures
from lattice_ml.models import classifiers, markov_field
from lattice_ml.observables import measure_configurations
from lattice_ml.statistics import (
    bootstrap,
    doubt_of,
    effective_sample_size,
    estimate,
    jackknife,
)
from lattice_ml.statistics.cumulants import cumulants

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
    "forward_ess": correction.forward_ess,
    "missed_mode": lambda x: correction.missed_mode(x, FEW),
    "missed_mode of a reference": lambda x: correction.missed_mode(FEW, x),
    "reweight": correction.reweight,
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
