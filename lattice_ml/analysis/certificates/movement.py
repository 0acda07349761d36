r"""Whether the chains move as the sampler makes them.

* `movement`: the logarithm of the length of a step, in the fingerprints of `copies` and where one
  was taken, has one mean in all chains: one that is frozen, with a little noise and a random sign,
  is far from the others.  Chains too short for their slowest quantity may lie in parts of the
  configuration space where steps differ, and are not judged.
* `rejections`: where an update is one proposal, a configuration stays, up to signs of its sites,
  exactly where it was rejected: sum_t (stays_t - (1 - acceptance_t)) has the mean zero.  Noise on
  the configurations, or another order of them in time, takes the rejections away.
* `steps`: an update moves no mode by more, on average, than

      <(|phi'(p)| - |phi(p)|)^2>/V  <=  B,    B = T^2 (1 + jitter^2/3)   HMC of length T
                                              2 alpha T                  Langevin time T, MALA: eps
                                              T^2                        Kramers

  because |phi' - phi| is at most the time integral of |dphi/dt|, whose mean square is known
  (Cauchy and Schwarz), or by the Dirichlet form <(f' - f)^2> <= 2 T alpha <|grad f|^2>.  n updates
  of a reversible chain move it by at most n B, others by n^2 B.  A slow series in another order
  moves by twice its variance.  A factor 2 is for the finite step size.
"""

import math
from collections.abc import Mapping

import numpy as np

from lattice_ml import statistics
from lattice_ml.analysis.certificates import judging
from lattice_ml.analysis.certificates.copies import fingerprints, stays, steps
from lattice_ml.analysis.certificates.evidence import Evidence, Missing
from lattice_ml.fields.types import Floats, Integers
from lattice_ml.observables import PRIMARIES

__all__ = ["TESTS", "longest_step"]

_LOWEST = 8  # momentum shells whose steps are compared with what an update can do
_FINITE_STEP = 2.0
_OF_HMC = {"acceptance", "exp_minus_dh", "dh", "dh_negative", "max_abs_dh", "divergent"}
_OF_CLUSTERS = {"cluster_size", "clusters"}  # change signs and nothing else


def _movement(evidence: Evidence) -> tuple[str, float]:
    marks = fingerprints(evidence)
    n_chains, n_configs, _ = marks.shape
    if n_chains < 2:
        raise Missing("there is a single chain")
    if n_configs <= statistics.MIN_CONFIGS:
        raise Missing(f"{n_configs} configurations per chain do not show how it moves")
    quantities = evidence.quantities()
    slow = (statistics.chain_agreement(quantities[name]) for name in ("M^2", "phi2", "link_sum"))
    if any(math.isnan(agreement.p_value) for agreement in slow):
        raise Missing("chains are shorter than 20 tau_int of the slowest quantity: run longer")
    lengths = steps(marks)
    moved = lengths > 0
    if not moved.any():
        raise Missing("nothing moved")
    logs = np.log(lengths, where=moved, out=np.zeros_like(lengths))
    logs = np.where(moved, logs, logs[moved].mean())
    found = statistics.chain_agreement(logs)
    if math.isnan(found.p_value):
        raise Missing("chains are shorter than 20 tau_int of their own movement: run longer")
    means = np.exp(logs.mean(axis=1) - logs.mean())
    value = f"typical steps of the chains {means.min():.3g} to {means.max():.3g} of the average"
    return value, found.p_value


def _rejections(evidence: Evidence) -> tuple[str, float]:
    from scipy import special

    if not evidence.measured:
        raise Missing("no configurations were kept")
    rejected = 1 - _of_single_proposals(evidence.stored)[:, 1:]
    if not rejected.size:
        raise Missing("there is one configuration per chain")
    n, k, rate = rejected.size, int(np.sum(stays(evidence))), float(np.mean(rejected))
    at_least = special.bdtrc(k - 1, n, rate) if k else 1.0
    tails = special.bdtr(k, n, rate), at_least
    value = f"{k} configurations stay as they were, {n * rate:.0f} rejections"
    return value, min(1.0, 2 * float(min(tails)))


def _of_single_proposals(stored: Mapping[str, Floats]) -> Floats:
    """The acceptance, of updates that are one proposal, and perhaps flips of clusters, each."""
    if not {"acceptance", "exp_minus_dh", "dh", "dh_negative"} <= stored.keys():
        raise Missing("there is no history of proposals that were accepted or rejected")
    if not stored.keys() <= _OF_HMC | _OF_CLUSTERS | PRIMARIES.keys():
        raise Missing("an update moves the fields by more than one proposal")
    negative, dh = stored["dh_negative"], stored["dh"]
    with np.errstate(over="ignore"):
        single = np.isclose(stored["exp_minus_dh"], np.exp(-dh), rtol=1e-4, atol=1e-30)
    if not np.all(single & ((negative == 0) | (negative == 1))):
        raise Missing("there are several proposals from one configuration to the next")
    return stored["acceptance"]


def _steps(evidence: Evidence) -> tuple[str, float]:
    if jumps := _jumps(evidence.order):
        return f"{jumps} configurations are not those that follow in their chain", 0.0
    if not evidence.two_point:
        raise Missing("no configurations were kept")
    longest = longest_step(evidence)
    means, moved = {}, {}
    for name in list(evidence.two_point)[:-1][:_LOWEST]:
        squares = np.diff(np.sqrt(evidence.two_point[name]), axis=1) ** 2
        if not squares.size:
            raise Missing("there is one configuration per chain")
        delta = squares - _FINITE_STEP * longest
        mean = judging.judge(float(delta.mean()), judging.stretches(delta))
        moved[name] = float(squares.mean()) / longest
        means[name] = 1.0 if mean.value <= 0 and mean.p_value >= 0 else mean.p_value
    found = judging.worst(means)
    if found is None:
        raise Missing("the chains are too short, or too few, to tell: run longer")
    largest = max(moved, key=lambda name: moved[name])
    value = f"mean square step at most {moved[largest]:.2g} of what the sampler can, at {largest}"
    return value, found[1]


def _jumps(order: Mapping[str, Integers]) -> int:
    """How many configurations were stored with numbers that do not follow those before them."""
    wrong = 0
    if "chain" in order:
        wrong += int(np.sum(order["chain"] != np.arange(len(order["chain"]))[:, None]))
    if "trajectory" in order and order["trajectory"].shape[1] > 1:
        rise = np.diff(order["trajectory"], axis=1)
        wrong += int(np.sum(rise != max(1, rise[0, 0])))
    return wrong


def longest_step(evidence: Evidence) -> float:
    """What <(|phi'(p)| - |phi(p)|)^2>/V cannot exceed from one configuration to the next.

    Raises:
        Missing: it is not known for the sampler, or there is none.
    """
    settings, thin = evidence.sampler, evidence.thin
    kind = settings.get("kind")
    try:
        if kind == "HMC":
            length = settings["step_size"] * settings["n_steps"]
            return thin * length**2 * (1 + settings.get("jitter", 1.0) ** 2 / 3)
        if kind == "MALA":
            return 2 * thin * settings["step_size"]
        if kind in ("Langevin", "Kramers"):
            step = settings["step_size"]
            length = step * max(1, round(settings["trajectory_length"] / step))
            if kind == "Kramers":
                return (thin * length) ** 2
            if settings.get("fourier_mass_squared") is None:
                return 2 * thin * length * settings.get("temperature", 1.0)
    except (KeyError, TypeError):  # not tuned yet, or not by this program
        pass
    raise Missing("how far an update moves the fields is not known")


TESTS = {
    "movement": (
        _movement,
        "all chains move alike",
        "some chains are frozen, perhaps with noise on them, or move otherwise than the others",
    ),
    "rejections": (
        _rejections,
        "configurations stay where they were rejected and nowhere else",
        "noise was added to the configurations, or they were put in another order",
    ),
    "steps": (
        _steps,
        "configurations follow each other as near as this sampler's updates leave them",
        "the configurations are not in the order of the run, or not of this sampler",
    ),
}
