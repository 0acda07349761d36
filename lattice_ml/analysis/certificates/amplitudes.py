r"""Whether amplitudes fluctuate as the action demands: Schwinger-Dyson equations of second order.

The equations <phi(p)* (dS/dphi)(p)> = V see means only.  Noise that multiplies the amplitude of
some modes, or of whole configurations, and leaves <|phi(p)|^2> as it is passes them in a free
theory, and nearly so in others.  Integration by parts with any function F of the power P of n modes
that are moved together, P = sum_i q_i^2/n and T = sum_i q_i dS/dq_i / n, gives exactly

    <F (T - 1)> = (2/n) <P F'(P)>        for any action.

F = P is the most sensitive to such noise, but has the tails of an eighth power of a Gaussian.
F = P/(P + 3 <P>) has those of a square and is as sensitive within 10 %.  What of it moves with
T - 1 is taken off, since <T - 1> = 0 is known and is tested by itself.
"""

import math

import numpy as np

from lattice_ml import statistics
from lattice_ml.analysis.certificates import judging
from lattice_ml.analysis.certificates.evidence import Evidence, Missing
from lattice_ml.fields.types import Floats

__all__ = ["PASSED_FAILED", "judge", "terms"]

PASSED_FAILED = (
    "the amplitudes of the fields fluctuate as this action demands",
    "the fields have the right mean squares but not their distribution: amplitudes carry noise, "
    "or the configurations belong to another action or temperature",
)

_FEWEST, _FEWEST_CONFIGS = 4000, 200  # independent amplitudes and configurations: it is skewed
_BEND = 3.0  # of F, in units of <P>


def judge(evidence: Evidence) -> tuple[str, float]:
    """The momenta whose amplitudes fluctuate least as they must, and the p-value of all."""
    if not evidence.two_point or not evidence.schwinger_dyson:
        raise Missing("no configurations were kept")
    means, log_weights = {}, evidence.log_weights
    share = 1.0 if log_weights is None else statistics.kish(2 * log_weights) / log_weights.size
    for name, power in evidence.two_point.items():
        needed = max(_FEWEST_CONFIGS, _FEWEST / evidence.modes[name])
        tau = _tau_int(power) if power.size >= needed else math.inf
        if share * power.size / (2 * tau) >= needed:
            delta = terms(evidence, name)
            starts = judging.stretch_starts(delta, tau_int=tau)
            parts = judging.stretch_means(delta, starts)
            means[name] = judging.judge(float(delta.mean()), parts)
    found = judging.worst({name: mean.p_value for name, mean in means.items()})
    if found is None:
        raise Missing("there are too few independent amplitudes to tell: run longer")
    name, p_value = found
    return f"excess {means[name].show()} at {name}", p_value


def terms(evidence: Evidence, name: str) -> Floats:
    """Series `(n_chains, n_configs)` of mean zero for some momenta, in units of its mean square.

    For Gaussian amplitudes whose square is multiplied by noise f of mean one it rises in
    proportion to <f^2> - 1.
    """
    power, weights, n = evidence.two_point[name], evidence.weights, evidence.modes[name]
    first = evidence.schwinger_dyson[name] - 1
    bend = _BEND * float(np.mean(weights * power))
    share = power / (power + bend)
    second = share * first - 2 / n * share * (1 - share)  # P F' = F (1 - F)
    slope = np.mean(weights * second * first) / max(float(np.mean(weights * first**2)), 1e-300)
    return np.asarray(weights * (second - slope * first))


def _tau_int(series: Floats) -> float:
    """tau_int of a series in configurations; half a chain where chains are too short to tell."""
    n_configs = series.shape[1]
    if n_configs < statistics.MIN_CONFIGS:
        return n_configs / 2
    tau = statistics.estimate(series).tau_int
    return tau if n_configs >= 20 * tau else n_configs / 2
