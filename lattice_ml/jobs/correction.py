r"""From samples of a model, with weights w = exp(-S) / q, to the exact distribution.

* `metropolis`: make an unweighted Markov chain of the samples, as proposals; it needs nothing but
  log weights, and works in float64 on the host;
* `refine`: move the samples by a sampler of the true action, their weights unchanged.

What the weights themselves are worth says `statistics.reweighting`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
import numpy.typing as npt

from lattice_ml import statistics
from lattice_ml.chains.run import Chains, run, tune
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.statistics.series import as_numbers

__all__ = ["Metropolis", "metropolis", "refine"]

_TUNING_CHAINS, _TUNING_UPDATES = 64, 200


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
    steps: npt.NDArray[np.intp], log_weights: Floats, thresholds: Floats
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
        n = {"n_chains": min(_TUNING_CHAINS, len(fields)), "n_thermalise": _TUNING_UPDATES}
        sampler = tune(tuning, sampler, lattice, **n, start=fields, dtype=dtype)
    n = {"n_chains": len(fields), "n_configs": 1, "n_thermalise": 0, "thin": n_updates}
    return run(moving, sampler, lattice, **n, start=fields, dtype=dtype)
