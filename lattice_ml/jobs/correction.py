r"""From samples of a model to the exact distribution.

A model that knows its density q gives every sample the weight log w = -S - log q, and whatever the
model has learned, weighted averages converge to those of exp(-S)/Z with Z = <w>_q, as long as q
vanishes nowhere.  Four ways to use or to judge the weights:

* `reweight`: keep the weights, and say what the samples are worth with them;
* `metropolis`: make an unweighted Markov chain of the samples, as proposals;
* `refine`: move the samples by a sampler of the true action;
* `forward_ess`, `missed_mode`: judge by reference configurations, which lie also where the model
  never goes; its own samples cannot tell.

All but `refine` need nothing but log weights, and work in float64 on the host.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import numpy.typing as npt

from lattice_ml import statistics
from lattice_ml.chains.run import Chains, run, tune
from lattice_ml.fields.lattice import Lattice
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.statistics import Resampled
from lattice_ml.statistics.series import as_numbers

__all__ = [
    "Metropolis",
    "Reweighting",
    "forward_ess",
    "metropolis",
    "missed_mode",
    "refine",
    "reweight",
]

Array = npt.NDArray[np.float64]

_BLOCKS = 16  # at least so many for a jackknife error
_SIGNIFICANT, _FACTOR = 4.5, 10  # standard errors, and ratio: see `missed_mode`
_TUNING_CHAINS, _TUNING_UPDATES = 64, 200


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
        """Why weighted averages may be wrong by more than their errors, or None."""
        return statistics.doubt(self.n, self.n * self.ess, self.pareto_k)

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
    log_z = statistics.log_mean(log_weights)
    n = np.size(log_weights)
    return Reweighting(
        ess=statistics.kish(log_weights) / n,
        pareto_k=statistics.pareto_k(log_weights),
        log_z=log_z.value,
        log_z_error=log_z.error,
        n=n,
    )


@dataclass(frozen=True)
class Metropolis:
    """Chains made of proposals; prints as one line."""

    indices: npt.NDArray[np.intp]  # proposal that is kept at each step, (n_chains, n // n_chains)
    acceptance: float  # of all proposals but the first of each chain, which it starts from
    longest_stay: int  # steps that a chain kept the same proposal, 1 if it never did
    tau_int: float  # of the observable, in steps
    tau_int_error: float

    def __str__(self) -> str:
        n_chains, n_steps = self.indices.shape
        return (
            f"acceptance {self.acceptance:.3f}, longest stay {self.longest_stay} of {n_steps} "
            f"steps, tau_int {self.tau_int:.2f} +- {self.tau_int_error:.2f}, chains {n_chains}"
        )


def metropolis(
    seed: int | Sequence[int] | npt.NDArray[np.integer] | np.random.Generator,
    log_weights: npt.ArrayLike,
    n_chains: int = 1,
    *,
    observable: npt.ArrayLike | None = None,
) -> Metropolis:
    """Run independence Metropolis through the proposals, in their order.

    A chain at x moves to the next proposal y with probability min(1, w(y) / w(x)) and else counts
    x once more (arXiv:1904.12072; J. S. Liu, Statistics and Computing 6 (1996) 113).  It forgets
    its start, the first proposal, like (1 - <w>/w_max)^t.

    Args:
        seed: what `numpy.random.default_rng` takes.
        log_weights: log w of all proposals, `(n,)`; chain c takes the c-th n_chains-th part.
        n_chains: number of chains; it must divide n.
        observable: number per proposal, `(n,)`, whose tau_int along the chains is estimated.
            By default log w itself: chains stay longest where w is largest.

    Raises:
        ValueError: shapes or numbers do not fit, or something is not finite.
    """
    log_w = as_numbers("log_weights", log_weights).astype(np.float64)
    given = log_w if observable is None else as_numbers("observable", observable)
    values = given.astype(np.float64)
    least = n_chains * statistics.MIN_CONFIGS
    if log_w.ndim != 1 or n_chains < 1 or log_w.size < least or log_w.size % n_chains:
        raise ValueError(
            f"log_weights must have shape (n,), n a multiple of n_chains = {n_chains} >= 1 and at "
            f"least {statistics.MIN_CONFIGS} per chain, got {log_w.shape}"
        )
    if values.shape != log_w.shape or not np.isfinite(log_w).all():
        raise ValueError(
            f"log_weights must be finite, and observable have their shape {log_w.shape}; got "
            f"{values.shape} and {np.count_nonzero(~np.isfinite(log_w))} weights not finite"
        )
    steps = np.arange(log_w.size).reshape(n_chains, -1)
    rises = np.random.default_rng(seed).standard_exponential(log_w.shape)  # -log u
    indices = np.stack([_walk(part, log_w, log_w + rises) for part in steps])
    moves = np.flatnonzero(indices == steps)
    tau = statistics.estimate(values[indices])
    return Metropolis(
        indices=indices,
        acceptance=(len(moves) - n_chains) / (log_w.size - n_chains),
        longest_stay=int(np.diff(moves, append=log_w.size).max()),
        tau_int=tau.tau_int,
        tau_int_error=tau.tau_int_error,
    )


def _walk(
    steps: npt.NDArray[np.intp], log_weights: Array, thresholds: Array
) -> npt.NDArray[np.intp]:
    """Return the proposal kept at each step: the last y with log w(x) < log w(y) - log u."""
    kept = np.empty_like(steps)
    log_w, limits = log_weights[steps].tolist(), thresholds[steps].tolist()
    at = 0
    for step, limit in enumerate(limits):
        if log_w[at] < limit:
            at = step
        kept[step] = at
    return steps[kept]


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
    reverse, forward = statistics.kish(model) / model.size, forward_ess(reference)
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


def refine(
    key: jax.Array,
    sampler: Sampler,
    lattice: Lattice,
    cfgs: npt.ArrayLike,
    n_updates: int,
    *,
    dtype: str = "float32",
) -> Chains:
    """Move every configuration by `n_updates` updates of a sampler of the true action.

    An exact update leaves weighted averages as they are: with the weights that the configurations
    came with, carried along unchanged, the result is exact after any number of updates.  Without
    weights it is exact only in the limit of many.  `HMC(action, n_steps=1, step_size=e)` is MALA
    with step e^2/2.  What the sampler leaves to "auto" is tuned first, on copies that are then
    thrown away: adapting while the configurations move would depend on them.

    Args:
        key: the only source of randomness; use another one for every batch.
        sampler: e.g. `HMC(action)`.
        lattice: where the fields live.
        cfgs: `(n, *L)`.
        n_updates: of each configuration, at least 1.
        dtype: of the dynamics and of the result, "float32" or "float64".

    Returns:
        Chains of one configuration each: `cfgs` `(n, *L)` in the order given, and histories such
        as "acceptance", the mean over the updates, `(n, 1)`.

    Raises:
        ValueError: shapes or numbers do not fit.
        RunError: the dynamics diverged.
    """
    fields = as_numbers("cfgs", cfgs)
    if fields.shape[1:] != lattice.shape or not fields.size or n_updates < 1:
        raise ValueError(
            f"refine takes configurations (n, *{lattice.shape}) and n_updates >= 1, got "
            f"{fields.shape} and {n_updates=}"
        )
    tuning, moving = jax.random.split(key)
    if sampler.unsettled:
        sampler = tune(
            tuning,
            sampler,
            lattice,
            n_chains=min(_TUNING_CHAINS, len(fields)),
            n_thermalise=_TUNING_UPDATES,
            start=fields,
            dtype=dtype,
        )
    return run(
        moving,
        sampler,
        lattice,
        n_chains=len(fields),
        n_configs=1,
        n_thermalise=0,
        thin=n_updates,
        start=fields,
        dtype=dtype,
    )


def _sums_without_one(logs: Array) -> Array:
    """log sum_{j != i} exp(logs_j) for every i, without cancellation: `(n,)`."""
    before = np.logaddexp.accumulate(np.concatenate([[-np.inf], logs[:-1]]))
    after = np.logaddexp.accumulate(np.concatenate([[-np.inf], logs[:0:-1]]))[::-1]
    return np.logaddexp(before, after)
