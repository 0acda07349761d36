r"""The two-point function: G(p) = <|phi(p)|^2>/V at every momentum, and its time slices.

C(t) = (1/L_0) sum_p G(p, 0, ..., 0) exp(i p t) is the correlator of fields averaged over all axes
but the first, times the spatial volume.  Errors are those of the jackknife over bins of
consecutive configurations, so that non-linear functions of G have honest errors too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lattice_ml.analysis.certificates.evidence import pieces
from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics import jackknife_error
from lattice_ml.statistics.series import as_weights

__all__ = ["TwoPoint", "bin_numbers", "two_point"]

_BINS = 64
_BIN_SITES = 1 << 24  # sites of all bins together, 128 MiB; on larger lattices there are fewer bins


@dataclass(frozen=True)
class TwoPoint:
    """Sums of |phi(p)|^2 / V over bins, and what follows from them with errors.

    Attributes:
        lattice: the lattice.
        sums: `(n_bins, *L)` weighted sums of |phi(p)|^2 / V.
        weights: `(n_bins,)` sums of the weights; numbers of configurations without any.
    """

    lattice: Lattice
    sums: np.ndarray
    weights: np.ndarray

    def momentum(self) -> tuple[np.ndarray, np.ndarray]:
        """G(p) and its error, `(*L)` each in FFT order."""
        return self._jackknife(lambda g: g)

    def shells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """p_hat^2 of every shell, G averaged over the shell, and its error: `(n_shells,)` each."""
        return self.lattice.shells[0], *self._jackknife(self.lattice.shell_means)

    def time_slices(self) -> tuple[np.ndarray, np.ndarray]:
        """C(t) for t = 0 ... L_0 - 1 along the first axis, and its error."""
        return self._jackknife(self._correlator)

    def correlation_length(self) -> tuple[float, float]:
        """1/m from the cosh effective mass of C(t), averaged over a plateau, with its error.

        m(t) = arcosh[(C(t-1) + C(t+1)) / (2 C(t))] is averaged with inverse variances over all t
        between 1 and L_0/2 where C(t) is known to 5 % and m(t) is real; nan without such t.
        The lowest t carry excited states: a definition for comparisons, not for spectroscopy.
        """
        correlator, error = self.time_slices()
        times = np.arange(1, max(2, self.lattice.shape[0] // 2))

        def effective_mass(g: np.ndarray) -> np.ndarray:
            c = self._correlator(g)
            ratio = (c[times - 1] + np.take(c, times + 1, mode="wrap")) / (2 * c[times])
            return np.arccosh(np.where(ratio > 1, ratio, np.nan))

        masses, spread = self._jackknife(effective_mass)
        good = (error[times] < 0.05 * correlator[times]) & np.isfinite(masses) & (spread > 0)
        if not good.any():
            return math.nan, math.nan
        weights = np.where(good, 1 / np.where(good, spread, 1) ** 2, 0)
        mean, spread = self._jackknife(
            lambda g: np.sum(weights) / np.nansum(weights * effective_mass(g))
        )
        return float(mean), float(spread)

    def _correlator(self, g: np.ndarray) -> np.ndarray:
        line = g.reshape(len(g), -1)[:, 0]
        return np.asarray(np.fft.ifft(line).real)

    def _jackknife(
        self, function: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        sums, weights = self.sums.sum(axis=0), self.weights.sum()
        bins = zip(self.sums, self.weights, strict=True)
        left_out = np.array([function((sums - s) / (weights - w)) for s, w in bins])
        return function(sums / weights), jackknife_error(left_out)


@ordinary()
def two_point(ensemble: Ensemble, *, n_bins: int | None = None, weights: bool = True) -> TwoPoint:
    """Measure G(p) of all configurations, read in blocks.

    Args:
        ensemble: with `cfgs` and `blocks()`, or arrays in memory.
        n_bins: about so many bins are made, of whole chains or of consecutive parts of chains;
            by default 64, on more than 512^2 sites fewer, down to 16, to need less memory.
        weights: use the ensemble's `log_weight` where it has one.

    Raises:
        ValueError: fewer than two bins.
    """
    lattice = Lattice(ensemble.shape)
    n_chains, n_configs = ensemble.n_chains, ensemble.n_configs
    n_bins = n_bins or max(16, min(_BINS, _BIN_SITES // lattice.volume))
    bins = bin_numbers(n_chains, n_configs, n_bins)
    number = int(bins.max()) + 1
    if number < 2:
        raise ValueError(
            f"errors of G(p) need at least two bins, got {n_chains} chains x {n_configs} "
            f"configurations in {number}"
        )
    log_weight = ensemble.log_weight if weights else None
    sample_weights = as_weights(log_weight, (n_chains, n_configs)).T.reshape(-1)
    sums = np.zeros((number, *lattice.shape))
    for start, fields in pieces(ensemble):
        here = slice(start, start + len(fields))
        modes = np.fft.fftn(fields, axes=tuple(range(1, fields.ndim)))
        scale = sample_weights[here].reshape(-1, *(1,) * lattice.ndim) / lattice.volume
        np.add.at(sums, bins[here], scale * np.abs(modes) ** 2)
    return TwoPoint(lattice, sums, np.bincount(bins, weights=sample_weights))


def bin_numbers(n_chains: int, n_configs: int, n_bins: int = _BINS) -> np.ndarray:
    """The bin of every sample, configuration-major: `(n_configs * n_chains,)`.

    About `n_bins` bins are made, of whole chains or of consecutive parts of chains.
    """
    groups = min(n_chains, n_bins)  # of chains
    parts = min(n_configs, -(-n_bins // groups))
    samples = np.arange(n_chains * n_configs)
    numbers: np.ndarray = samples // n_chains * parts // n_configs * groups
    return numbers + samples % n_chains % groups
