r"""`check`: does an ensemble follow the action that it claims, and did its chains get there?

No reference is needed.  A certificate is a number whose expectation is known exactly in
equilibrium, or that has to be the same in all parts of an ensemble:

* `weights`: weights are exp(-S) over the density that was stored, and leave enough configurations
  to judge by the rest;
* `schwinger_dyson`: <Re[phi(p)* (dS/dphi)(p)]>/V = 1 at every momentum, for any action (alpha for
  ensembles of exp(-S/alpha));
* `cluster_signs`: <M^2>, staggered where h < 0, is that of clusters whose signs are independent
  (nearest neighbours);
* `exp_minus_dh`, `acceptance`: <exp(-dH)> = 1 and <min(1, exp(-dH))> = 2 P(dH < 0), at any volume;
* `chains_agree`, `halves_agree`: M^2, |M|, phi^2, the link sum and S have one mean in all chains,
  and before and after the middle of the run;
* `z2_balance`: <M> = 0, and M > 0 as often as M < 0, where the action declares `z2`;
* `histories_agree`: what was stored while the chains ran is what the configurations give now, see
  `histories`;
* `repeats`: a configuration follows itself, but for signs, no more often than proposals are
  rejected, and never comes back, here or in another chain;
* `chains_independent`: the action of no chain moves with that of another;
* `amplitudes`, `copies`, `movement`, `rejections`, `steps`: what gives ensembles away that look
  right but were not made as they say, see the modules `amplitudes`, `copies` and `movement`.

The Schwinger-Dyson equations hold inside a well or around a frozen domain wall as well: what sees
those are the clusters, the chains, the halves and the balance.  Configurations are read in blocks
and measured anew, so that data altered after the run are seen; histories are used where none were
kept.

A test that is not for this kind of ensemble (no histories, a single chain, no symmetry) is not
applicable.  One that is for it, and that too few or too short chains leave open, is undecided: an
ensemble passes where nothing fails and nothing is left open.  The five of `amplitudes` to `steps`
come on top of the others, and are not applicable where chains are too short for them alone.

Averages are judged as in `judging`.  Every certificate may fail a correct ensemble with
probability 1e-3 divided by their number, so all of them together with 1e-3.
`benchmarks/false_alarms.py` measures that for every sampler, `benchmarks/fooling.py` what is found
and from how many configurations on (docs/check.md).
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from lattice_ml import statistics
from lattice_ml.analysis.certificates import (
    amplitudes,
    copies,
    histories,
    judging,
    movement,
    repeats,
    weighted,
)
from lattice_ml.analysis.certificates.certificate import Certificate
from lattice_ml.analysis.certificates.evidence import Evidence, Missing, Undecided, gather
from lattice_ml.analysis.certificates.judging import Mean, judge, stretches
from lattice_ml.fields.types import Floats
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics import ChainAgreement

__all__ = ["FALSE_ALARM_RATE", "certify", "check"]

FALSE_ALARM_RATE = 1e-3  # of all certificates together

_MANY_CHAINS = 16
_AVERAGES = {  # are judged by errors, which uneven weights make too small
    *("schwinger_dyson", "cluster_signs", "exp_minus_dh", "acceptance", "chains_agree"),
    *("halves_agree", "z2_balance", "amplitudes"),
}


@ordinary()
def check(ensemble: Ensemble, *, weights: bool = True) -> list[Certificate]:
    """Test an ensemble against its own action and its own chains.

    Args:
        ensemble: from `open_ensemble` or `run`.
        weights: use the ensemble's `log_weight` where it has one.

    Returns:
        One certificate per test, those that do not apply included.

    Raises:
        ValueError: a configuration is not finite, or the action is not known.
    """
    if ensemble.action is None:
        raise ValueError("fields are tested against their action, but action.kind = none")
    return certify(gather(ensemble, weights=weights))


def certify(evidence: Evidence, names: Collection[str] | None = None) -> list[Certificate]:
    """The tests of `check`, or those of some names, of what was already read."""
    chosen = _TESTS if names is None else names
    return [_certify(name, test, evidence) for name, test in _TESTS.items() if name in chosen]


class _Test(NamedTuple):
    """A test and the sentence for either verdict."""

    judge: Callable[[Evidence], tuple[str, float]]  # what was found, and its p-value
    passed: str
    failed: str


def _certify(name: str, test: _Test, evidence: Evidence) -> Certificate:
    try:
        value, p_value = test.judge(evidence)
        if p_value < _level() and name in _AVERAGES:
            weighted.require_short_tail(evidence, p_value)
    except Undecided as reason:
        return Certificate(name, "undecided", "", math.nan, str(reason))
    except Missing as reason:
        return Certificate(name, "not applicable", "", math.nan, str(reason))
    if p_value < _level():
        return Certificate(name, "fail", value, p_value, test.failed)
    return Certificate(name, "pass", value, p_value, test.passed)


# ------------------------------------------------------------------------ how it is judged


def _level() -> float:
    """The probability with which a test may fail a correct ensemble."""
    return FALSE_ALARM_RATE / len(_TESTS)


def _zero(delta: Floats) -> Mean:
    """Whether a series `(n_chains, n_configs)` has mean zero."""
    return judge(float(delta.mean()), stretches(delta))


def _drift(delta: Floats) -> Mean:
    """How much higher a series is after its middle than before.

    With many chains the error is that of the differences within chains.  With few it is that of
    the second half, so that a drift in the first does not hide itself.
    """
    half = delta.shape[1] // 2
    first, second = delta[:, :half], delta[:, -half:]
    parts = stretches(second)
    if len(delta) >= _MANY_CHAINS or len(parts) == len(delta):
        return _zero(second - first)
    return judge(float(second.mean() - first.mean()), math.sqrt(2) * parts)


def _worst(judged: Mapping[str, Mean | ChainAgreement]) -> tuple[str, float]:
    """The most significant of several; they pass together where every one could be judged."""
    p_values = {name: one.p_value for name, one in judged.items()}
    found = judging.worst(p_values)
    short = [name for name, p_value in p_values.items() if math.isnan(p_value)]
    if found is None or (short and found[1] >= _level()):
        what = f"the mean of {short[0]}" if short[0] else "this mean"
        raise Undecided(f"the chains are too short, or too few, to judge {what}: run longer")
    return found


def _require_movement(evidence: Evidence) -> None:
    """Leave open what is said of chains that have shown one configuration each.

    Raises:
        Undecided: as said.
    """
    seen = evidence.primary("action") if evidence.digests is None else evidence.digests
    if seen.shape[1] < 2:
        raise Undecided("there is one configuration per chain: run longer")
    if not np.any(seen[:, 1:] != seen[:, :-1]):
        raise Undecided("nothing moved: no chain has left its first configuration")


# ------------------------------------------------------------------------------ the tests


def _schwinger_dyson(evidence: Evidence) -> tuple[str, float]:
    terms = evidence.schwinger_dyson or {"all momenta": evidence.history("schwinger_dyson")}
    means = {name: _zero(evidence.weights * (term - 1)) for name, term in terms.items()}
    name, p_value = _worst(means)
    return f"{means[name].show(1)} at {name}", p_value


def _cluster_signs(evidence: Evidence) -> tuple[str, float]:
    if evidence.cluster_signs is None:
        raise Missing("there are no clusters: not nearest neighbours, or no configurations")
    difference, configs = evidence.cluster_signs
    weights = evidence.weights
    mean = _zero((weights[:, configs] if isinstance(weights, np.ndarray) else 1.0) * difference)
    _, p_value = _worst({"": mean})
    return f"<M^2> is {mean.show()} above that of independent clusters", p_value


def _exp_minus_dh(evidence: Evidence) -> tuple[str, float]:
    finite = np.minimum(evidence.history("exp_minus_dh"), 1e50)  # it may have overflowed
    mean = _zero(evidence.weights * (finite - 1))
    _, p_value = _worst({"": mean})
    markov = 1 / max(1.0, 1 + mean.value)  # bounds the tail of any positive number with mean 1
    return f"<exp(-dH)> = {mean.show(1)}", min(1.0, 2 * min(p_value, markov))


def _acceptance(evidence: Evidence) -> tuple[str, float]:
    difference = evidence.history("acceptance") - 2 * evidence.history("dh_negative")
    mean = _zero(evidence.weights * difference)
    _, p_value = _worst({"": mean})
    return f"<acceptance> - 2 P(dH < 0) = {mean.show()}", p_value


def _chains_agree(evidence: Evidence) -> tuple[str, float]:
    series = evidence.quantities()
    n_chains, n_configs = series["action"].shape
    if n_chains < 2:
        raise Missing("there is a single chain")
    _require_movement(evidence)
    if n_configs < statistics.MIN_CONFIGS:
        raise Undecided(f"{n_configs} configurations per chain do not show its mean: run longer")
    found = {k: statistics.chain_agreement(x, evidence.log_weights) for k, x in series.items()}
    slow = [name for name, agreement in found.items() if math.isnan(agreement.p_value)]
    if slow:  # the slowest mode is in all of them
        raise Undecided(
            f"chains are shorter than 20 tau_int of {slow[0]}, and one that is stuck would not be "
            f"seen: run longer, or with cluster updates or replica exchange"
        )
    name, p_value = _worst(found)
    value = f"chi2 = {found[name].chi2:.1f} of {name} with {found[name].dof} degrees of freedom"
    return f"{value}, R-hat {statistics.r_hat(series[name]):.3f}", p_value


def _halves_agree(evidence: Evidence) -> tuple[str, float]:
    _require_movement(evidence)
    weights, quantities = evidence.weights, evidence.quantities()
    means = {
        name: _drift(weights * (series - np.mean(weights * series)))
        for name, series in quantities.items()
    }
    name, p_value = _worst(means)
    return f"{name} rises by {means[name].show()}", p_value


def _z2_balance(evidence: Evidence) -> tuple[str, float]:
    if not evidence.z2:
        raise Missing("the action does not declare the symmetry phi -> -phi")
    m = evidence.primary("magnetisation")
    mean, sign = _zero(evidence.weights * m), _zero(evidence.weights * np.sign(m))
    _, p_value = _worst({"M": mean, "sign": sign})
    positive = 50 * (1 + sign.value)
    return f"<M> = {mean.show()}, M > 0 in {positive:.1f} %", p_value


def _chains_independent(evidence: Evidence) -> tuple[str, float]:
    from scipy import fft, special

    action = evidence.primary("action")
    n_chains, n_modes = action.shape[0], action.shape[1] - 1
    if n_chains < 2:
        raise Missing("there is a single chain")
    n_pairs = n_chains * (n_chains - 1) // 2
    if 0.5 * n_pairs * special.erfc(math.sqrt(n_modes / 2)) > _level():
        raise Undecided("the chains are too short to tell: run longer")
    # cosine modes of a stationary series are nearly independent, and a drift is in few of them
    signs = np.sign(fft.dct(action, axis=1)[:, 1:])
    largest = max(np.max(signs[:c] @ signs[c]) for c in range(1, n_chains))
    p_value = 0.5 * n_pairs * float(special.erfc(largest / math.sqrt(2 * n_modes)))
    return f"largest coherence of two chains {largest / n_modes:.2f}", min(1.0, p_value)


_TESTS = {
    "weights": _Test(weighted.judge, *weighted.PASSED_FAILED),
    "schwinger_dyson": _Test(
        _schwinger_dyson,
        "at every momentum the fields answer to this action as they must",
        "the configurations do not follow exp(-S) of this action: wrong couplings, convention, "
        "boundary or scale, a biased sampler, or no equilibrium",
    ),
    "cluster_signs": _Test(
        _cluster_signs,
        "domains have the signs that they must have",
        "domains do not have the signs that they must have: domain walls of the start that do not "
        "move, or wrong couplings",
    ),
    "exp_minus_dh": _Test(
        _exp_minus_dh,
        "the dynamics conserves the measure that the chains are in",
        "the chains are not in equilibrium, or the sampler is wrong",
    ),
    "acceptance": _Test(
        _acceptance,
        "a trajectory and its reverse are equally likely",
        "the chains are not in equilibrium, or the sampler is wrong",
    ),
    "chains_agree": _Test(
        _chains_agree,
        "all chains have found the same distribution",
        "the chains sample different distributions: frozen, or made with different couplings",
    ),
    "halves_agree": _Test(
        _halves_agree,
        "the run was stationary",
        "the run drifted: it was still thermalising",
    ),
    "z2_balance": _Test(
        _z2_balance,
        "both signs of the magnetisation are sampled alike",
        "one sign of the magnetisation is preferred: a well is missing",
    ),
    "histories_agree": _Test(histories.judge, *histories.PASSED_FAILED),
    "repeats": _Test(repeats.judge, *repeats.PASSED_FAILED),
    "chains_independent": _Test(
        _chains_independent,
        "no two chains move together",
        "chains move together: they drift, or share their random numbers",
    ),
    "amplitudes": _Test(amplitudes.judge, *amplitudes.PASSED_FAILED),
    "copies": _Test(copies.judge, *copies.PASSED_FAILED),
    **{name: _Test(*test) for name, test in movement.TESTS.items()},
}
