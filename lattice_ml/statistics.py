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
Wrong shapes, values that are not finite and fewer than 4 configurations per chain are refused
with a ValueError. Where `function` is not finite at the means, the result is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

if TYPE_CHECKING:
    import jax

    Function = Callable[[jax.Array], jax.Array]

__all__ = [
    "Autocorrelation",
    "ChainAgreement",
    "Estimate",
    "Resampled",
    "autocorrelation",
    "bootstrap",
    "chain_agreement",
    "effective_sample_size",
    "estimate",
    "jackknife",
    "kish",
    "r_hat",
]

Array = npt.NDArray[np.float64]

MIN_CONFIGS = 4  # per chain: the window needs rho(1), and lags are used up to half a chain


@dataclass(frozen=True)
class Estimate:
    """A value with its error and autocorrelation time; prints as ``1.2345(67)``."""

    value: float
    error: float
    error_error: float
    tau_int: float  # in updates: thin * tau_m, and thin / 2 where nothing is correlated
    tau_int_error: float
    window: int  # W in stored configurations
    n: int  # configurations in all chains together
    n_chains: int
    thin: int = 1  # updates between stored configurations

    @property
    def short(self) -> bool:
        """Whether a chain is shorter than 50 tau, so that `error` itself is not reliable."""
        return self.n / self.n_chains < 50 * self.tau_int / self.thin

    def __str__(self) -> str:
        if not (math.isfinite(self.value) and self.error > 0):
            return f"{self.value:.15g}({self.error:g})"
        digits, exponent = f"{self.error:.1e}".split("e")
        if int(exponent) >= 1:
            return f"{self.value:.0f}({self.error:.0f})"
        if int(exponent) == 0:
            return f"{self.value:.1f}({digits})"
        return f"{self.value:.{1 - int(exponent)}f}({digits.replace('.', '')})"


class Autocorrelation(NamedTuple):
    """Normalised autocorrelation function at lags 0, 1, ... in stored configurations."""

    rho: Array  # (n_lags,)
    error: Array  # (n_lags,)


class Resampled(NamedTuple):
    """Value and error found by resampling."""

    value: float
    error: float


class ChainAgreement(NamedTuple):
    """Result of `chain_agreement`; `p_value` is NaN where the chains are too short to tell."""

    chi2: float
    dof: int
    p_value: float


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
    error of order tau / n_configs: see `Estimate.short`.

    Args:
        series: As in the module's docstring, like `function` and `log_weights`.
        function: None for the mean itself.
        log_weights: None for equal weights.
        thin: Updates between stored configurations, the unit of `Estimate.tau_int`.
        window_parameter: S, the assumed ratio of exponential to integrated time.
    """
    if thin < 1:
        raise ValueError(f"thin must be at least 1 update per stored configuration, got {thin=}")
    value, delta = _fluctuations(series, function, log_weights)
    n_chains, n = delta.shape[0], delta.size
    gamma = _autocovariance(delta)
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0, n, n_chains, thin)
    if gamma[0] == 0:
        return Estimate(value, 0.0, 0.0, 0.5 * thin, 0.0, 0, n, n_chains, thin)
    window, raw_tau = _window(gamma / gamma[0], n, window_parameter)
    tau = raw_tau * (1 + (2 * window + 1) / n) / (1 + 1 / n)  # eq. 49
    error = math.sqrt(2 * tau * gamma[0] * (1 + 1 / n) / n)
    return Estimate(
        value=value,
        error=error,
        error_error=error * math.sqrt((window + 0.5) / n),
        tau_int=thin * tau,
        tau_int_error=thin * 2 * raw_tau * math.sqrt(abs(window + 0.5 - raw_tau) / n),  # eq. 42
        window=window,
        n=n,
        n_chains=n_chains,
        thin=thin,
    )


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
    _, delta = _fluctuations(series, function, log_weights)
    gamma = _autocovariance(delta)
    if not gamma[0] > 0:
        raise ValueError(f"rho(t) needs a fluctuating, finite quantity, got variance {gamma[0]}")
    rho = gamma / gamma[0]
    window, _ = _window(rho, delta.size, window_parameter)
    rho = rho[: 4 * window + 1]
    lags = np.arange(len(rho))
    k = np.arange(1, len(rho) + window)
    seen = np.zeros(2 * len(rho) + window)  # rho(t), zero beyond the window
    seen[: window + 1] = rho[: window + 1]
    terms = [seen[k + t] + seen[abs(k - t)] - 2 * seen[k] * rho[t] for t in lags]
    return Autocorrelation(rho, np.sqrt(np.sum(np.square(terms), axis=1) / delta.size))


def jackknife(
    series: npt.ArrayLike,
    function: Function | None = None,
    *,
    bin_size: int | None = None,
    log_weights: npt.ArrayLike | None = None,
) -> Resampled:
    """Estimate with error^2 = (B-1)/B sum_b (f_b - mean f)^2, bin b of B left out in f_b.

    Bins lie within chains. By default they hold b = (2 N tau_m^2)^(1/3) configurations, where
    the sum of bias tau_m / (2 b) and noise sqrt(b / (2 N)) of the error is smallest.

    Raises:
        ValueError: Fewer than two bins are left.
    """
    bins = _bins(series, function, bin_size, log_weights)
    total = bins.sum(axis=1, keepdims=True)
    left_out = _evaluate(function, total - bins)
    error = math.sqrt((bins.shape[1] - 1) * np.var(left_out))
    return Resampled(float(_evaluate(function, total)[0]), error)


def bootstrap(
    seed: int | Sequence[int] | npt.NDArray[np.integer] | np.random.Generator,
    series: npt.ArrayLike,
    function: Function | None = None,
    n_resamples: int = 1000,
    *,
    bin_size: int | None = None,
    log_weights: npt.ArrayLike | None = None,
) -> Resampled:
    """Estimate with the spread of `n_resamples` draws of bins (as in `jackknife`), put back.

    Args:
        seed: What `numpy.random.default_rng` takes; of a JAX key ``jax.random.key_data(key)``.
        series: As in the module's docstring, like `function` and `log_weights`.
        function: None for the mean itself.
        n_resamples: The error has a relative noise of 1/sqrt(2 n_resamples).
        bin_size: Configurations per bin.
        log_weights: None for equal weights.

    Raises:
        ValueError: Fewer than two bins, or fewer than two resamples.
    """
    if n_resamples < 2:
        raise ValueError(f"bootstrap needs n_resamples >= 2 for a spread, got {n_resamples=}")
    rng = np.random.default_rng(seed)
    bins = _bins(series, function, bin_size, log_weights)
    n_bins = bins.shape[1]
    draws = [bins[:, rng.integers(n_bins, size=n_bins)].sum(axis=1) for _ in range(n_resamples)]
    value = _evaluate(function, bins.sum(axis=1, keepdims=True))[0]
    error = np.std(_evaluate(function, np.stack(draws, axis=1)), ddof=1)
    return Resampled(float(value), float(error))


def chain_agreement(
    series: npt.ArrayLike, log_weights: npt.ArrayLike | None = None
) -> ChainAgreement:
    """Test whether all chains have one mean, by the error that each chain sees by itself.

    chi2 = sum_c (m_c - m)^2 / (s^2 / n), s^2 = 2 tau_m var, has dof = C - 1. s^2 is the spectral
    density at zero frequency and taken from the K = max(1, 8 // C) lowest Fourier modes of every
    chain (P. Heidelberger and P. D. Welch, CACM 24 (1981) 233). They are independent of the chain
    means and need no window, so that chi2 / dof follows F(C - 1, 2 K C).

    One bad chain hides in the chi2 of many. So the largest |m_c - m| is tested too, against
    Student's t with 2 K C degrees of freedom or, where it is heavier, the upper tail of a mean of
    n / (5 tau) squares of Gaussians: as skewed as the mean of an M^2. The p-value is that of the
    more significant of both tests, 1 - (1 - p)^2. With weights the chain means of w (a - m) / <w>
    are compared; the law holds where many configurations of each chain have weight.

    Measured for C = 2 ... 256 and n >= 50 tau: p < 1e-4 in 0.4e-4 to 1.2e-4 of AR(1) ensembles, up
    to 6e-4 of their squares (at n = 25 tau 5e-4 of AR(1)). Of 64 chains, one off by 6 of its errors
    gives p < 1e-4 in 2 of 3 cases for n >= 1000 tau; in 4 of 5 it takes 8 errors at n = 200 tau and
    10 at 50 tau. For n < 20 tau, as seen within the chains, the p-value is NaN: run longer.

    Raises:
        ValueError: There is a single chain.
    """
    _, delta = _fluctuations(series, None, log_weights)
    n_chains, n = delta.shape
    if n_chains < 2:
        raise ValueError(f"agreement of chains needs at least 2 chains, got {n_chains=}")
    dof = n_chains - 1
    means = delta.mean(axis=1)
    if not np.ptp(delta, axis=1).any():  # all constant: frozen apart, or frozen together
        apart = bool(np.ptp(means))
        return ChainAgreement(math.inf if apart else 0.0, dof, 0.0 if apart else 1.0)
    n_modes = max(1, 8 // n_chains)
    waves = np.exp(2j * np.pi * np.outer(np.arange(n), np.arange(1, n_modes + 1)) / n)
    pulls = means / math.sqrt(np.mean(np.abs(delta @ waves) ** 2) / n**2)
    chi2 = float(np.sum(pulls**2))
    gamma = _autocovariance(delta - means[:, None])
    window, tau = _window(gamma / gamma[0], delta.size, 2.0)
    tau *= 1 + (2 * window + 1) / n  # eq. 49 for chains with a mean of their own each
    if n < 20 * tau:
        return ChainAgreement(chi2, dof, math.nan)
    n_waves = 2 * n_modes * n_chains
    largest = float(np.max(np.abs(pulls))) * math.sqrt(n_chains / dof)
    p_largest = _any_of(n_chains, 2 * _upper_tail(largest, n_waves, n / (5 * tau)))
    p_all = float(special.fdtrc(dof, n_waves, chi2 / dof))
    return ChainAgreement(chi2, dof, _any_of(2, min(p_all, p_largest)))


def r_hat(series: npt.ArrayLike) -> float:
    """Return split R-hat, sqrt(((n-1)/n W + B/n) / W) over half chains of length n.

    BDA3 (Gelman et al., Bayesian Data Analysis, 3rd ed.), eqs. 11.3-11.4. It exceeds 1.01 in
    equilibrium for many short chains: print it, and judge by `chain_agreement`.
    """
    chains = _as_primaries(series, None)[0]
    n = chains.shape[1] // 2
    halves = np.concatenate([chains[:, :n], chains[:, -n:]])
    within = float(np.mean(np.var(halves, axis=1, ddof=1)))
    between = float(np.var(np.mean(halves, axis=1), ddof=1))
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((n - 1) / n + between / within)


def effective_sample_size(source: Estimate | npt.ArrayLike) -> float:
    """Return N / (2 tau_m), the number of independent configurations, of an estimate or series."""
    result = source if isinstance(source, Estimate) else estimate(source)
    return result.n * result.thin / (2 * result.tau_int)


def kish(log_weights: npt.ArrayLike) -> float:
    """Return (sum w)^2 / sum w^2, the effective number of independent samples of any shape."""
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.size == 0 or not np.isfinite(log_w).all():
        raise ValueError(f"log_weights must be finite and not empty, got shape {log_w.shape}")
    weights = np.exp(log_w - log_w.max())
    return float(weights.sum() ** 2 / np.sum(weights**2))


def _as_primaries(series: npt.ArrayLike, function: Function | None) -> Array:
    """Check a series and return it as (n_primaries, n_chains, n_configs)."""
    array = np.asarray(series)
    if np.iscomplexobj(array):
        raise TypeError(f"series must be real, got {array.dtype}: take real and imaginary parts")
    names = (
        ("n_chains", "n_configs") if function is None else ("n_primaries", "n_chains", "n_configs")
    )
    if array.ndim != len(names) or array.size == 0:
        raise ValueError(
            f"series must have shape ({', '.join(names)}), got {array.shape}; "
            "a single chain is series[None, :]"
        )
    if array.shape[-1] < MIN_CONFIGS:
        raise ValueError(
            f"too few configurations: {array.shape[-1]} per chain, at least {MIN_CONFIGS} needed; "
            "independent samples belong in one chain, shape (1, N)"
        )
    primaries = array.astype(np.float64).reshape(-1, *array.shape[-2:])
    for chains in primaries:
        _require_finite("series", chains)
    return primaries


def _as_weights(log_weights: npt.ArrayLike | None, shape: tuple[int, ...]) -> Array:
    """Return weights of mean one and shape (n_chains, n_configs)."""
    if log_weights is None:
        return np.ones(shape)
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.shape != shape:
        raise ValueError(
            f"log_weights must have the shape {shape} of the chains, got {log_w.shape}"
        )
    _require_finite("log_weights", log_w)
    weights: Array = np.exp(log_w - log_w.max())
    weights /= weights.mean()
    return weights


def _require_finite(name: str, chains: Array) -> None:
    bad = np.argwhere(~np.isfinite(chains))
    if len(bad):
        chain, config = bad[0]
        raise ValueError(
            f"{name} must be finite, got {chains[chain, config]} "
            f"in chain {chain}, configuration {config} ({len(bad)} such values)"
        )


def _fluctuations(
    series: npt.ArrayLike, function: Function | None, log_weights: npt.ArrayLike | None
) -> tuple[float, Array]:
    """Return the value and its fluctuations (n_chains, n_configs), which average to zero."""
    primaries = _as_primaries(series, function)
    weights = _as_weights(log_weights, primaries.shape[1:])
    origin = primaries[:, :1, :1]  # subtracted first: a constant then has no rounding errors
    shifts = np.mean(weights * (primaries - origin), axis=(1, 2), keepdims=True)
    means = origin + shifts
    delta = weights * (primaries - origin - shifts)
    if function is None:
        return float(means.item()), delta[0]
    value, gradient = _linearise(function, means[:, 0, 0])
    return value, np.tensordot(gradient, delta, axes=1)


def _linearise(function: Function, means: Array) -> tuple[float, Array]:
    """Return f and df/dmeans (n_primaries,) in float64, all NaN where any is not finite."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        point = jnp.asarray(means)
        value = function(point)
        if np.shape(value) != ():
            raise ValueError(f"function must return one number, got shape {np.shape(value)}")
        gradient: Array = np.asarray(jax.grad(function)(point))
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        return math.nan, np.full_like(means, math.nan)
    return float(value), gradient


def _evaluate(function: Function | None, sums: Array) -> Array:
    """Return f (n_samples,) of weighted sums (n_primaries + 1, n_samples), the weights last."""
    means = sums[:-1] / sums[-1]
    if function is None:
        mean: Array = means[0]
        return mean
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        values: Array = np.asarray(jax.vmap(function, in_axes=1)(jnp.asarray(means)))
    return values


def _autocovariance(delta: Array) -> Array:
    """Return Gamma(t), t < n_configs // 2, pooled over chains, by padded FFT."""
    n_chains, n = delta.shape
    n_lags = n // 2
    padded = 1 << (n + n_lags - 1).bit_length()
    power = np.zeros(padded // 2 + 1)
    for chain in delta:  # one at a time, to need little memory
        power += np.abs(np.fft.rfft(chain, padded)) ** 2
    pairs = n_chains * (n - np.arange(n_lags))
    gamma: Array = np.fft.irfft(power, padded)[:n_lags] / pairs
    return gamma


def _window(rho: Array, n: int, window_parameter: float) -> tuple[int, float]:
    """Return the summation window and the tau summed up to it."""
    if not window_parameter > 0:
        raise ValueError(f"window_parameter must be positive, got {window_parameter=}")
    lags = np.arange(1, len(rho))
    tau = np.maximum(0.5 + np.cumsum(rho[1:]), 0.5 + np.finfo(float).eps)
    decay = window_parameter / np.log((2 * tau + 1) / (2 * tau - 1))
    enough = np.exp(-lags / decay) < decay / np.sqrt(lags * n)
    enough[-1] = True
    first = int(np.argmax(enough))
    return int(lags[first]), float(tau[first])


def _bins(
    series: npt.ArrayLike,
    function: Function | None,
    bin_size: int | None,
    log_weights: npt.ArrayLike | None,
) -> Array:
    """Return sums (n_primaries + 1, n_bins) of w a and w; bins differ by at most one in length."""
    primaries = _as_primaries(series, function)
    n_chains, n = primaries.shape[1:]
    weights = _as_weights(log_weights, (n_chains, n))
    if bin_size is None:
        tau = estimate(series, function, log_weights=log_weights).tau_int
        largest = n if n_chains > 1 else n // 2
        bin_size = 1 if math.isnan(tau) else round((2 * n_chains * n * tau**2) ** (1 / 3))
        bin_size = min(bin_size, largest)
    if not 1 <= bin_size <= n or n_chains * (n // bin_size) < 2:
        raise ValueError(
            f"bin_size must leave at least two bins within chains of {n} configurations, "
            f"got {bin_size=} for {n_chains=}"
        )
    n_bins = n // bin_size
    starts = np.arange(n_bins) * n // n_bins
    summands = np.concatenate([weights * primaries, weights[None]])
    bins: Array = np.add.reduceat(summands, starts, axis=2).reshape(len(summands), -1)
    return bins


def _upper_tail(pull: float, dof: float, squares: float) -> float:
    """Return P(> pull) of Student's t or of a standardised chi^2(squares), whichever is larger."""
    skewed = special.gammaincc(squares / 2, (squares + pull * math.sqrt(2 * squares)) / 2)
    return float(max(special.stdtr(dof, -pull), skewed))


def _any_of(n: int, p: float) -> float:
    """Return the probability 1 - (1 - p)^n that any of n tests gives p or less."""
    return float(-special.expm1(n * special.log1p(-p)))
