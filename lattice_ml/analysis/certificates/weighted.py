"""Whether the weights of an ensemble are those of its action, and leave enough to judge by."""

import numpy as np

from lattice_ml import statistics
from lattice_ml.analysis.certificates.evidence import Evidence, Missing, Undecided

__all__ = ["PASSED_FAILED", "judge", "require_short_tail"]

PASSED_FAILED = (
    "the weights leave enough configurations to judge by",
    "the weights are not those of this action and density: one of them was changed",
)

_NO_FOURTH = 0.25  # Pareto k from which on the error of an average is itself without error


def require_short_tail(evidence: Evidence, p_value: float) -> None:
    """Leave open an average that seems wrong, where weights have too long a tail for such tests.

    Raises:
        Undecided: as said.
    """
    if evidence.log_weights is None:
        return
    tail = statistics.pareto_k(evidence.log_weights)
    if not tail < _NO_FOURTH:
        raise Undecided(
            f"p = {p_value:.2g} would be too small, but weights of Pareto k = {tail:.2f} "
            f"(allowed is k < {_NO_FOURTH}) do that as often: draw more, or train on"
        )


def judge(evidence: Evidence) -> tuple[str, float]:
    """What the weights are worth, and whether they are exp(-S) over the density."""
    if evidence.log_weights is None:
        raise Missing("all configurations count alike")
    n, tail = evidence.log_weights.size, statistics.pareto_k(evidence.log_weights)
    worth = statistics.kish(evidence.log_weights)
    value = f"{n} samples are worth {worth:.4g}, Pareto k {tail:.2f}"
    if evidence.log_prob is not None:
        expected = statistics.log_weights(evidence.primary("action"), evidence.log_prob)
        off = np.abs(evidence.log_weights - expected) > 1e-3 + 1e-5 * np.abs(expected)
        if off.any():
            return f"{value}; {np.sum(off)} of them differ from -S - log q", 0.0
    if reason := statistics.doubt(n, worth, tail):
        raise Undecided(reason)
    return value, 1.0
