"""Errors of Markov chain averages: Gamma method, resampling, and whether the chains agree.

A series is an array (n_chains, n_configs) of one number per stored configuration. With

    Gamma(t) = <delta_s delta_{s+t}>,  rho = Gamma / Gamma(0),  tau_m = 1/2 + sum_{t=1}^{W} rho(t),

the error of a mean over N configurations is error^2 = 2 tau_m Gamma(0) / N (U. Wolff,
hep-lat/0306017). Everything else is brought to this case by linearisation: a weighted mean
sum w a / sum w fluctuates like w (a - mean) / <w>, and a function f of the means of several
primaries like sum_i (df/dmean_i) delta_i. Fluctuations are taken about the mean over *all*
chains, which is right for many short chains; only `chain_agreement` and `r_hat` ask what each
chain sees by itself. All is float64 on the host, whatever JAX's global precision.

The same arguments everywhere:
    series: (n_chains, n_configs), or with `function` (n_primaries, n_chains, n_configs).
    function: Map of the means (n_primaries,) to a number, differentiable, in JAX operations,
        such as ``lambda m: 1 - m[1] / (3 * m[0] ** 2)``.
    log_weights: (n_chains, n_configs), up to a constant.
Wrong shapes, masks, values that are not finite (a configuration of weight zero is to be left out)
and fewer than 4 configurations per chain are refused with a ValueError; what is no real number
(complex, text, traced by JAX) with a TypeError. Numbers may be as large as 1e200 or as small as
1e-200. Where `function` is not finite at the means, the result is NaN.
"""

from lattice_ml.statistics.agreement import ChainAgreement, chain_agreement, r_hat
from lattice_ml.statistics.gamma import (
    Autocorrelation,
    Estimate,
    autocorrelation,
    effective_sample_size,
    estimate,
)
from lattice_ml.statistics.resampling import (
    Resampled,
    bootstrap,
    jackknife,
    jackknife_error,
    jackknife_variance,
)
from lattice_ml.statistics.reweighting import Reweighting, forward_ess, missed_mode, reweight
from lattice_ml.statistics.roc import Area, Curve, Scores, auc, roc_curve
from lattice_ml.statistics.series import MIN_CONFIGS, weights_of
from lattice_ml.statistics.weights import (
    MIN_DRAWS,
    LogMean,
    doubt,
    doubt_of,
    kish,
    log_mean,
    log_weights,
    log_z_doubt,
    pareto_k,
)

__all__ = [
    "MIN_CONFIGS",
    "MIN_DRAWS",
    "Area",
    "Autocorrelation",
    "ChainAgreement",
    "Curve",
    "Estimate",
    "LogMean",
    "Resampled",
    "Reweighting",
    "Scores",
    "auc",
    "autocorrelation",
    "bootstrap",
    "chain_agreement",
    "doubt",
    "doubt_of",
    "effective_sample_size",
    "estimate",
    "forward_ess",
    "jackknife",
    "jackknife_error",
    "jackknife_variance",
    "kish",
    "log_mean",
    "log_weights",
    "log_z_doubt",
    "missed_mode",
    "pareto_k",
    "r_hat",
    "reweight",
    "roc_curve",
    "weights_of",
]
