r"""What the weights of a model's samples are worth, and what they cannot show.

A model that knows its density q gives every sample the weight log w = -S - log q, and whatever the
model has learned, weighted averages converge to those of exp(-S)/Z with Z = <w>_q, as long as q
vanishes nowhere.  `reweight` says what the samples are worth with them.  `forward_ess` and
`missed_mode` judge by reference configurations, which lie also where the model never goes; its own
samples cannot tell.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.resampling import Resampled
from lattice_ml.statistics.series import Array, as_numbers
from lattice_ml.statistics.weights import doubt, kish, log_mean, log_z_doubt, pareto_k

__all__ = ["Reweighting", "forward_ess", "missed_mode", "reweight"]

_BLOCKS = 16  # at least so many for a jackknife error
_SIGNIFICANT, _FACTOR = 4.5, 10  # standard errors, and ratio: see `missed_mode`


@dataclass(frozen=True)
class Reweighting:
    """What weighted samples are worth; prints as one line, with a warning where it is due."""

    ess: float  # Kish's effective number of samples over n, in (0, 1]
    pareto_k: float  # NaN for fewer than 25 samples
    log_z: float  # log of Z = integral of exp(-S) over all fields
    log_z_error: float
    n: int

    @property
    def warning(self) -> str | None:
        """Why weighted averages, or log Z, may be wrong by more than their errors, or None."""
        return doubt(self.n, self.n * self.ess, self.pareto_k) or log_z_doubt(self.pareto_k)

    def __str__(self) -> str:
        text = (
            f"ESS/n {self.ess:.4f}, Pareto k {self.pareto_k:.2f}, "
            f"log Z {self.log_z:.10g} +- {self.log_z_error:.2g}, n {self.n}"
        )
        return f"{text}; warning: {self.warning}" if self.warning else text


def reweight(log_weights: npt.ArrayLike) -> Reweighting:
    """Judge independent samples with weights w = exp(-S) / q.

    Args:
        log_weights: log w of any shape, with all constants of S and log q for `log_z` to mean Z.

    Raises:
        ValueError: there are none, or not all are finite.
    """
    n = np.size(log_weights)
    return Reweighting(kish(log_weights) / n, pareto_k(log_weights), *log_mean(log_weights), n)


def forward_ess(log_weights: npt.ArrayLike) -> Resampled:
    """Return 1 / (<w>_p <1/w>_p), in (0, 1], from configurations of the exact distribution p.

    It is 1 / integral(p^2 / q), the number that Kish's ESS/n of the model's own samples tends to
    (arXiv:2302.14082).  Where q misses a part of p, w is huge on the configurations there, and the
    forward ESS goes to 0, while among the model's own samples nothing seems wrong.  The
    configurations must show that part: symmetrise them under all exact symmetries (phi and -phi
    side by side in one chain), since data from one well cannot tell of the other.

    Args:
        log_weights: log w = -S - log q of reference configurations, `(n_chains, n_configs)`, up
            to a constant.

    Returns:
        Value, and error by jackknife over chains, or over 16 or more blocks of fewer chains; it
        holds where a block is longer than tau_int.

    Raises:
        ValueError: wrong shape, too few configurations, or something is not finite.
    """
    log_w = as_numbers("log_weights", log_weights).astype(np.float64)
    if log_w.ndim != 2 or log_w.size < _BLOCKS or not np.isfinite(log_w).all():
        raise ValueError(
            f"log_weights of reference configurations must be finite and have shape (n_chains, "
            f"n_configs) with at least {_BLOCKS} in all, got {log_w.shape} with "
            f"{np.count_nonzero(~np.isfinite(log_w))} not finite"
        )
    n_chains, n = log_w.shape
    n_blocks = min(n, -(-_BLOCKS // n_chains))
    starts = np.arange(n_blocks) * n // n_blocks
    counts = np.tile(np.diff(starts, append=n), n_chains)
    logs = [np.logaddexp.reduceat(sign * log_w, starts, axis=1).ravel() for sign in (1, -1)]
    value = math.exp(2 * math.log(log_w.size) - sum(np.logaddexp.reduce(x) for x in logs))
    rest = 2 * np.log(log_w.size - counts) - sum(_sums_without_one(x) for x in logs)
    error = math.sqrt((len(counts) - 1) * np.var(np.exp(rest)))
    return Resampled(min(1.0, value), error)


def missed_mode(
    log_weights_model: npt.ArrayLike, log_weights_reference: npt.ArrayLike
) -> str | None:
    """Say that the model misses a part of the distribution, or return None.

    If q leaves a part of weight f under p so empty that n samples show nothing of it, it gives it
    no more than about 3/n, and so 1/ESS >= f^2 n / 3, although the samples claim an ESS/n of R.
    The forward ESS is refused where it is below R/10 by more than 4.5 of its errors.  Factor 10
    catches every f > sqrt(30 / (n R)), 9 % for n = 4096 and R = 1, and smaller ones where q is
    smaller still, as between two wells.  Honest weights with a long tail do not come near: R is
    the smaller of Kish's ESS/n and exp(-var log w), the value for log-normal weights, since the
    first is too large where n samples do not show the tail.  Measured: none of 7,200 models with
    log-normal weights (standard deviation of log w from 0.5 to 6) was refused, and all of 6,300
    whose weights are larger by e^5 or more on half of p.

    Args:
        log_weights_model: log w of the model's own independent samples, any shape.
        log_weights_reference: log w of configurations of the exact distribution that the model
            was not trained on, `(n_chains, n_configs)`, symmetrised as for `forward_ess`.

    Returns:
        A sentence with the numbers, or None where nothing is missed.

    Raises:
        ValueError: as `reweight` and `forward_ess`.
    """
    model, reference = (
        as_numbers("log_weights", x).astype(np.float64)
        for x in (log_weights_model, log_weights_reference)
    )
    reverse, forward = kish(model) / model.size, forward_ess(reference)
    claimed = min(reverse, math.exp(-np.var(model)))
    if forward.value + _SIGNIFICANT * forward.error > claimed / _FACTOR:
        return None
    beyond = np.mean(reference > model.max())
    return (
        f"the model misses a part of the distribution: ESS/n is {forward.value:.2g} on reference "
        f"configurations, but {reverse:.2g} on its own samples; {100 * beyond:.1f} % of the "
        f"reference have a larger weight than any of {model.size} samples. Train on all of the "
        f"distribution, and check that the reference is in equilibrium"
    )


def _sums_without_one(logs: Array) -> Array:
    """log sum_{j != i} exp(logs_j) for every i, without cancellation: `(n,)`."""
    before = np.logaddexp.accumulate(np.concatenate([[-np.inf], logs[:-1]]))
    after = np.logaddexp.accumulate(np.concatenate([[-np.inf], logs[:0:-1]]))[::-1]
    return np.logaddexp(before, after)
