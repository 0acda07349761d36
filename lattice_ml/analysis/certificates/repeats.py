"""Whether configurations are there more often than the sampler put them there.

Asked is |phi|.  Cluster updates change signs whether or not the trajectory before them was
accepted, and may change back what the last one changed: while trajectories are rejected |phi| stays
as it is, and once one was accepted it never comes back.  So |phi| follows itself as often as
proposals are rejected, whatever the parts of a cycle are.

With replica exchange a configuration may come back to its own chain: it went to another value,
where trajectories were rejected, and was swapped back.  Two rejections and two swaps are rarer than
rejections: an import, which does not tell how it was made, is undecided where that is so.
"""

import numpy as np

from lattice_ml.analysis.certificates.evidence import Evidence, Missing, Undecided
from lattice_ml.fields.types import Flags, Integers

__all__ = ["PASSED_FAILED", "judge"]

PASSED_FAILED = (
    "no configuration is there more often than the sampler put it",
    "configurations were duplicated, the chains have not left a common start, or their number "
    "is not the one stated",
)
_RARE = 0.1  # returns with replica exchange per rejection


def judge(evidence: Evidence) -> tuple[str, float]:
    """What was found, and its p-value."""
    if evidence.digests is None:
        raise Missing("no configurations were kept")
    digests = evidence.digests
    repeats = digests[:, 1:] == digests[:, :-1]
    exchanged = "swap_acceptance" in evidence.stored
    n, elsewhere = int(np.sum(repeats)), _in_another_chain(digests)
    returns = elsewhere if exchanged else _returns(digests, repeats)
    known = "acceptance" in evidence.stored
    if returns and not (known or elsewhere) and returns < _RARE * n:
        raise Undecided(
            f"{returns} configurations come back later in their own chain, which is right for "
            f"replica exchange alone: keep histories, or look for duplicates"
        )
    value, p_value = f"{n} configurations follow themselves", 1.0
    if known and repeats.size:
        accepted = evidence.stored["acceptance"]
        if exchanged:  # or waited where trajectories are rejected more often
            accepted = np.minimum(accepted, evidence.stored["ladder_acceptance"])
        rejected = (1 - accepted[:, 1:]) ** evidence.thin
        value += f", {np.sum(rejected):.0f} rejections"
        p_value = _at_least(n, repeats.size, float(np.mean(rejected)))
    where = "in another chain" if exchanged else "later or in another chain"
    return f"{value}; {returns} come back {where}", 0.0 if returns else p_value


def _returns(digests: Integers, repeats: Flags) -> int:
    """How many configurations come back after others, here or in another chain."""
    first_seen = np.concatenate([digests[:, 0], digests[:, 1:][~repeats]])
    return len(first_seen) - len(np.unique(first_seen))


def _in_another_chain(digests: Integers) -> int:
    """How many configurations come back in another chain."""
    seen = np.concatenate([np.unique(chain) for chain in digests])
    return len(seen) - len(np.unique(seen))


def _at_least(k: int, n: int, p: float) -> float:
    """Probability of k or more successes in n trials with probability p."""
    from scipy import special

    return float(special.betainc(k, n - k + 1, p)) if k else 1.0
