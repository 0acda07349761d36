r"""Whether what was stored while the chains ran is what the configurations give.

Every primary of every configuration is measured again and may differ by rounding alone, that of
its largest terms: of phi_x phi_{x+mu} for a link sum that is nearly zero.  Where no configurations
were kept the primaries still have to fit each other: S/V and phi dS/dphi of a quartic action are
sums of phi^2, phi^4 and the link sum, and these obey inequalities.

What the sampler reported cannot be measured again, but its numbers contradict each other where one
of them was altered: an update makes k proposals (k = 1 for HMC), and of the means over them

    0 <= P(dH < 0) <= acceptance <= min(1, <exp(-dH)>),    <exp(-dH)> >= exp(-<dH>)

with equality of acceptance and <exp(-dH)> where no dH was negative, and of acceptance and 1 where
all were.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from lattice_ml.actions import Quartic
from lattice_ml.analysis.certificates.evidence import Evidence, Missing
from lattice_ml.fields.types import Flags, Floats
from lattice_ml.observables import PRIMARIES

__all__ = ["PASSED_FAILED", "judge"]

PASSED_FAILED = (
    "the configurations are those of the run",
    "the configurations, their order, the histories or the action were changed after the run",
)

_SHARES = ("acceptance", "dh_negative", "divergent", "cluster_size", "clusters")
_ROUNDING = 1e-5  # of numbers that a sampler reported, whatever the precision of the fields


def judge(evidence: Evidence) -> tuple[str, float]:
    """How many configurations contradict a history, and which."""
    bad = dict([*_primaries(evidence), *_reported(evidence.stored)])
    worst = max(bad, key=lambda name: np.sum(bad[name]), default="")
    if worst and bad[worst].any():
        return f"{np.sum(bad[worst])} of {bad[worst].size} configurations differ in {worst}", 0.0
    if not evidence.measured:
        raise Missing("no configurations were kept, from which histories could be measured again")
    if not bad.keys() & PRIMARIES.keys():
        raise Missing("there is no history of what is measured")
    return f"0 of {evidence.measured['phi2'].size} configurations differ", 1.0


def _primaries(evidence: Evidence) -> Iterator[tuple[str, Flags]]:
    """Stored primaries by name, and where they differ from what they should be."""
    stored = {name: evidence.stored[name] for name in PRIMARIES if name in evidence.stored}
    if evidence.measured:
        scales = _scales(evidence, evidence.measured)
        for name, series in stored.items():
            yield name, _beyond(series - evidence.measured[name], evidence.rounding * scales[name])
    else:
        yield from _relations(evidence, stored)


def _scales(evidence: Evidence, series: Mapping[str, Floats]) -> dict[str, Floats]:
    """What the rounding of a primary is relative to: the sizes of the terms that it sums."""
    phi2, phi4, two_point = (series[name] for name in ("phi2", "phi4", "two_point_min"))
    links = len(evidence.shape) * phi2  # no link sum is larger
    scales = {
        "phi2": phi2,
        "phi4": phi4,
        "link_sum": links,
        "magnetisation": np.sqrt(phi2),
        "two_point_min": 2 * np.sqrt(two_point * phi2 * max(evidence.shape)) + phi2,
    }
    volume = math.prod(evidence.shape)
    if isinstance(evidence.action, Quartic):
        h, a, b = (abs(float(coupling)) for coupling in evidence.action.couplings())
        scales |= _quartic((-h, a, b), volume, phi2, phi4, links)
    elif "action" in series:  # of unknown terms: those of a free field, and the fluctuations
        for name, sites in (("action", volume), ("schwinger_dyson", 1)):
            spread = 100 * float(np.std(series[name]))
            scales[name] = np.abs(series[name]) + sites + spread
    return scales


def _relations(evidence: Evidence, stored: Mapping[str, Floats]) -> Iterator[tuple[str, Flags]]:
    """Where primaries that were stored alone do not fit each other."""
    needed = ("phi2", "phi4", "link_sum", "magnetisation", "two_point_min")
    if not all(name in stored for name in needed):
        return
    phi2, phi4, links, m, two_point = (stored[name] for name in needed)
    room = 1 + evidence.rounding
    volume, ndim, longest = math.prod(evidence.shape), len(evidence.shape), max(evidence.shape)
    modes = evidence.shape.count(longest) * (1 if longest == 2 else 2)
    yield "phi4", phi2**2 > room * phi4
    yield "magnetisation", m**2 > room * phi2
    yield "link_sum", np.abs(links) > room * ndim * phi2
    yield "two_point_min", (two_point < 0) | (m**2 + modes * two_point / volume > room * phi2)
    if isinstance(evidence.action, Quartic):
        scales = _scales(evidence, stored)
        h, a, b = map(float, evidence.action.couplings())
        for name, expected in _quartic((h, a, b), volume, phi2, phi4, links).items():
            if name in stored:
                yield name, _beyond(stored[name] - expected, evidence.rounding * scales[name])


def _quartic(
    couplings: tuple[float, float, float], volume: int, phi2: Floats, phi4: Floats, links: Floats
) -> dict[str, Floats]:
    """The primaries of an action in (h, a, b) that are sums of other primaries."""
    h, a, b = couplings
    return {
        "action": volume * (a * phi2 + b * phi4 - h * links),
        "schwinger_dyson": 2 * a * phi2 + 4 * b * phi4 - 2 * h * links,
    }


def _reported(stored: Mapping[str, Floats]) -> Iterator[tuple[str, Flags]]:
    """What a sampler reported by name, and where that cannot be."""
    for name, series in stored.items():
        if name in PRIMARIES:
            continue
        kind = next((share for share in _SHARES if name.startswith(share)), None)
        if kind or name.endswith("acceptance"):
            yield name, ~((series >= 0) & (series <= 1 + _ROUNDING))
        elif name.startswith(("exp_minus_dh", "max_abs_dh")):
            yield name, ~(series >= 0)
    suffixes = (n.removeprefix("acceptance") for n in stored if n.startswith("acceptance"))
    for suffix in suffixes:
        yield from _of_proposals(stored, suffix)


def _of_proposals(stored: Mapping[str, Floats], suffix: str) -> Iterator[tuple[str, Flags]]:
    """Where the numbers of the proposals of an update contradict each other."""
    names = (f"{name}{suffix}" for name in ("acceptance", "exp_minus_dh", "dh_negative", "dh"))
    accepted, weight, negative, dh = (stored.get(name) for name in names)
    if accepted is None or weight is None or negative is None:
        return
    more = 1 + _ROUNDING
    expected = np.where(negative >= 1, 1.0, np.where(negative <= 0, weight, accepted))
    lowest, highest = negative / more, np.minimum(1.0, weight) * more
    outside = (accepted < lowest) | (accepted > highest)
    differs = np.abs(accepted - expected) > _ROUNDING * np.maximum(accepted, 1e-30)
    yield f"acceptance{suffix} and exp_minus_dh{suffix}", outside | differs
    if dh is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            slack = weight * _ROUNDING * (1 + np.abs(dh)) + 1e-30  # where float32 underflows
            yield f"dh{suffix}", weight + slack < np.exp(-dh)


def _beyond(difference: Floats, allowed: Floats) -> Flags:
    """Where a difference is more than allowed, or not a number."""
    return np.asarray(~(np.abs(difference) <= allowed))
