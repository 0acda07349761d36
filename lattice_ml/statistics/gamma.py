"""Gamma method (U. Wolff, hep-lat/0306017): errors with autocorrelation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.series import Array, Function, fluctuations, in_safe_units
from lattice_ml.statistics.weights import doubt, kish, pareto_k

__all__ = [
    *("Autocorrelation", "Estimate", "autocorrelation", "autocovariance"),
    *("effective_sample_size", "estimate", "summation_window"),
]

_WIDTH = 16  # characters of a number with its error, beyond which there is an exponent
_LEAST_WORTH = 2  # one configuration alone has no scatter
_NO_MEAN = 1.0  # Pareto k from which on weights have no mean


@dataclass(frozen=True)
class Estimate:
    """A value with its error and autocorrelation time; prints as ``1.2345(67)``.

    The error is NaN where it cannot be known: where weights leave less than two configurations, or
    have so long a tail (Pareto k of 1 and more) that they have no mean.
    """

    value: float
    error: float
    error_error: float
    tau_int: float  # in updates: thin * tau_m, and thin / 2 where nothing is correlated
    tau_int_error: float
    window: int  # W in stored configurations
    n: int  # configurations in all chains together
    n_chains: int
    thin: int = 1  # updates between stored configurations
    worth: float = math.inf  # what the weights leave of n; n without weights
    pareto_k: float = 0.0  # of the weights

    @property
    def short(self) -> bool:
        """Whether a chain is shorter than 50 tau, so that `error` itself is not reliable."""
        return self.n / self.n_chains < 50 * self.tau_int / self.thin

    @property
    def doubt(self) -> str | None:
        """Why the weights are worth too little to rely on value or error: `weights.doubt`."""
        return doubt(self.n, self.worth, self.pareto_k)

    @property
    def marks(self) -> tuple[str, ...]:
        """What makes the error uncertain: "short", "weights"."""
        found = {"short": self.short, "weights": self.doubt is not None}
        return tuple(name for name, holds in found.items() if holds)

    def __str__(self) -> str:
        if not (math.isfinite(self.value) and math.isfinite(self.error) and self.error > 0):
            return f"{self.value:.10g}({self.error:g})"
        if len(text := _plain(self.value, self.error)) <= _WIDTH:
            return text
        exponent = math.floor(math.log10(max(abs(self.value), self.error)))
        text = _plain(_shifted(self.value, exponent), _shifted(self.error, exponent))
        if len(text) <= _WIDTH:
            return f"{text}e{exponent:+03d}"
        return f"{self.value:.8g}({self.error:.1e})"  # more digits than a number has


def _plain(value: float, error: float) -> str:
    """Value with the first two digits of its error, without an exponent."""
    digits, exponent = f"{error:.1e}".split("e")
    if int(exponent) >= 1:
        return f"{value:.0f}({error:.0f})"
    if int(exponent) == 0:
        return f"{value:.1f}({digits})"
    return f"{value:.{1 - int(exponent)}f}({digits.replace('.', '')})"


def _shifted(number: float, exponent: int) -> float:
    """number / 10^exponent, rounded once: through its decimal digits."""
    mantissa, own = f"{number:.17e}".split("e")
    return float(f"{mantissa}e{int(own) - exponent}")


class Autocorrelation(NamedTuple):
    """Normalised autocorrelation function at lags 0, 1, ... in stored configurations."""

    rho: Array  # (n_lags,)
    error: Array  # (n_lags,)


def estimate(
    series: npt.ArrayLike,
    function: Function | None = None,
    *,
    log_weights: npt.ArrayLike | None = None,
    thin: int = 1,
    window_parameter: float = 2.0,
) -> Estimate:
    """Estimate a mean, or a function of means, with the Gamma method.

    The window W is the first with exp(-W/d) < d / sqrt(W N), where the decay time d belongs to
    S tau(W) (hep-lat/0306017, section 3.3); tau is corrected for the bias of the mean by
    (1 + (2W+1)/N) / (1 + 1/N) (eq. 49), its error is eq. 42. What is left is a bias of the
    error of order tau / n_configs: see `Estimate.short`. tau_m is at least 1/2, as in pyerrors:
    where neighbours are anticorrelated the error is too large, by 1 / sqrt(2 tau_m) of the true
    tau_m; `jackknife` over bins of many configurations finds the smaller one.

    With weights, errors of errors count what w^2 leaves of the configurations; `Estimate.doubt`
    says where w leaves too little.

    Args:
        series: As in the module's docstring, like `function` and `log_weights`.
        function: None for the mean itself.
        log_weights: None for equal weights.
        thin: Updates between stored configurations, the unit of `Estimate.tau_int`.
        window_parameter: S, the assumed ratio of exponential to integrated time.
    """
    if thin < 1:
        raise ValueError(f"thin must be at least 1 update per stored configuration, got {thin=}")
    value, delta = fluctuations(series, function, log_weights)
    n_chains, n = delta.shape[0], delta.size
    worth, tail, n_squares = _of_weights(log_weights, n)
    whole = {"n": n, "n_chains": n_chains, "thin": thin, "worth": worth, "pareto_k": tail}
    if math.isnan(value) or worth < _LEAST_WORTH or tail >= _NO_MEAN:
        return Estimate(value, math.nan, math.nan, math.nan, math.nan, 0, **whole)
    delta, unit = in_safe_units(delta)
    gamma = autocovariance(delta)
    if gamma[0] == 0:
        return Estimate(value, 0.0, 0.0, 0.5 * thin, 0.0, 0, **whole)
    window, raw_tau = summation_window(gamma / gamma[0], n, window_parameter)
    tau = raw_tau * (1 + (2 * window + 1) / n) / (1 + 1 / n)  # eq. 49
    error = unit * math.sqrt(2 * tau * gamma[0] * (1 + 1 / n) / n)
    return Estimate(
        value=value,
        error=error,
        error_error=error * math.sqrt((window + 0.5) / n_squares),
        tau_int=thin * tau,
        tau_int_error=thin * 2 * raw_tau * math.sqrt(abs(window + 0.5 - raw_tau) / n_squares),
        window=window,
        **whole,
    )


def _of_weights(log_weights: npt.ArrayLike | None, n: int) -> tuple[float, float, float]:
    """What n samples are worth, Pareto k, and what their squared fluctuations are worth.

    Errors are sums of w^2 (a - mean)^2, which know of as many configurations as w^2 leaves.
    """
    if log_weights is None:
        return n, 0.0, n
    log_w = np.asarray(log_weights, np.float64)
    return kish(log_w), pareto_k(log_w), kish(2 * (log_w - log_w.max()))


def autocorrelation(
    series: npt.ArrayLike,
    function: Function | None = None,
    *,
    log_weights: npt.ArrayLike | None = None,
    window_parameter: float = 2.0,
) -> Autocorrelation:
    """Return rho(t) with errors up to four windows (at most half a chain), for plots.

    N error(t)^2 = sum_{k>=1} [rho(k+t) + rho(k-t) - 2 rho(k) rho(t)]^2 (hep-lat/0409106,
    eq. E.11), with rho set to zero beyond the window, where it is noise.

    Raises:
        ValueError: The series is constant, or the function not finite: rho does not exist.
    """
    _, delta = fluctuations(series, function, log_weights)
    delta, _ = in_safe_units(delta)
    gamma = autocovariance(delta)
    if not gamma[0] > 0:
        raise ValueError(f"rho(t) needs a fluctuating, finite quantity, got variance {gamma[0]}")
    rho = gamma / gamma[0]
    window, _ = summation_window(rho, delta.size, window_parameter)
    rho = rho[: 4 * window + 1]
    lags = np.arange(len(rho))
    k = np.arange(1, len(rho) + window)
    seen = np.zeros(2 * len(rho) + window)  # rho(t), zero beyond the window
    seen[: window + 1] = rho[: window + 1]
    terms = [seen[k + t] + seen[abs(k - t)] - 2 * seen[k] * rho[t] for t in lags]
    return Autocorrelation(rho, np.sqrt(np.sum(np.square(terms), axis=1) / delta.size))


def effective_sample_size(source: Estimate | npt.ArrayLike) -> float:
    """Return N / (2 tau_m), the number of independent configurations, of an estimate or series."""
    result = source if isinstance(source, Estimate) else estimate(source)
    return result.n * result.thin / (2 * result.tau_int)


def autocovariance(delta: Array) -> Array:
    """Return Gamma(t), t < n_configs // 2, pooled over chains, by padded FFT."""
    n_chains, n = delta.shape
    n_lags = n // 2
    padded = 1 << (n + n_lags - 1).bit_length()
    power = np.zeros(padded // 2 + 1)
    for chain in delta:  # one at a time, to need little memory
        power += np.abs(np.fft.rfft(chain, padded)) ** 2
    pairs = n_chains * (n - np.arange(n_lags))
    return np.asarray(np.fft.irfft(power, padded)[:n_lags] / pairs)


def summation_window(rho: Array, n: int, window_parameter: float) -> tuple[int, float]:
    """Return the summation window and the tau summed up to it."""
    if not 0 < window_parameter < math.inf:
        raise ValueError(f"window_parameter must be positive, got {window_parameter=}")
    lags = np.arange(1, len(rho))
    tau = np.maximum(0.5 + np.cumsum(rho[1:]), 0.5 + np.finfo(float).eps)
    decay = window_parameter / np.log((2 * tau + 1) / (2 * tau - 1))
    enough = np.exp(-lags / decay) < decay / np.sqrt(lags * n)
    enough[-1] = True
    first = int(np.argmax(enough))
    return int(lags[first]), float(tau[first])
