r"""Whether configurations are there more than once, in whatever disguise.

A copy that is translated, reflected, turned, put on other axes of equal extent or multiplied by -1
has the same power in every momentum shell.  The amplitudes |phi(p)| of the K lowest shells are the
fingerprint of a configuration, in units of a typical difference between two; d is the root mean
square of the K differences.  Of N fingerprints that are continuously distributed in K dimensions,

    P(any two are closer than r)  <  N^2/2 r^(K/2),

where the exponent is K for fingerprints that fill their dimensions evenly: half of it leaves room
for those that lie on sheets of thickness sqrt(r), as in the Ising limit.  Nothing within the r
where this is 1e-6 is a coincidence.  Sheets are as thick as phi^2 is wide, w = sqrt(V) std(phi^2) /
<phi^2>; where that is less than sqrt(r), r is w sqrt(r) instead.  With K = 16 (from 8 x 8 sites on:
15) and 64,000 configurations r = 0.01, so copies are also found when noise of a hundredth of the
fluctuations was added to them.

Neighbours in a chain that moves slowly are close without being copies: within chains r is at most
the square of the length that three in four steps do not exceed.  Configurations that are equal,
site by site, to an earlier one of their chain are rejections and left to `repeats`; those
that follow with the same |phi| at every site are rejections too, after which clusters changed sign:
at a site where phi is small that makes no difference.
"""

import math

import numpy as np

from lattice_ml.analysis.certificates.evidence import Evidence, Missing
from lattice_ml.fields.types import Flags, Floats, Integers

__all__ = ["PASSED_FAILED", "fingerprints", "judge", "stays", "steps"]

PASSED_FAILED = (
    "no configuration is a copy of another, moved, turned, of other sign or with a little noise",
    "configurations are copies of others up to symmetries of the lattice, their sign and a little "
    "noise: there are fewer than it seems",
)

_DIMENSIONS = 16
_COINCIDENCE = 1e-6
_ROUNDING = 1e-12  # of fingerprints where there are few
_PAIRS = 4096  # of configurations, for what a typical difference is
_NEIGHBOURS = 4  # looked at, itself included


def judge(evidence: Evidence) -> tuple[str, float]:
    """How many configurations are copies, and the probability that the closest two are not."""
    from scipy import spatial

    if evidence.digests is None:
        raise Missing("no configurations were kept")
    marks = fingerprints(evidence)
    n_chains, n_configs, k = marks.shape
    n = n_chains * n_configs
    first = _first_in_chain(evidence.digests)
    if np.sum(first) < 2:
        raise Missing("there is a single configuration")
    reach = (2 * _COINCIDENCE / n**2) ** (2 / k)
    phi2 = evidence.measured["phi2"]
    thickness = float(np.sqrt(math.prod(evidence.shape)) * np.std(phi2) / np.mean(phi2))
    sheets = min(1.0, thickness / np.sqrt(reach))
    reach *= sheets
    if reach < _ROUNDING:
        raise Missing("the lattice has too few momenta to tell configurations apart")
    chain = np.broadcast_to(np.arange(n_chains)[:, None], first.shape)[first]
    stay = _stay(evidence)[first]
    points = marks[first] / np.sqrt(k)
    own_reach = np.clip(_usual_step(marks) ** 2, _ROUNDING, reach)
    near, where = spatial.cKDTree(points).query(
        points, k=range(1, _NEIGHBOURS + 1), distance_upper_bound=reach, workers=-1
    )
    found, other = np.nonzero(np.isfinite(near))
    partner = where[found, other]
    same = chain[found] == chain[partner]
    close = near[found, other] <= np.where(same, own_reach, reach)
    close &= (found != partner) & ~(same & (stay[found] == stay[partner]))
    if not close.any():
        return f"0 of {n}", 1.0
    closest = max(float(near[found, other][close].min()), _ROUNDING)
    copies = len(np.unique(found[close]))
    p_value = n**2 / 2 * (closest / sheets) ** (k / 2)
    return f"{copies} of {n}, the closest two {closest:.1g} apart", p_value


def fingerprints(evidence: Evidence) -> Floats:
    """Amplitudes of the lowest shells `(n_chains, n_configs, k)`, in units of their differences.

    A quarter of some pairs, drawn at random, differ by less than the unit.
    """
    if not evidence.two_point:
        raise Missing("no configurations were kept")
    names = list(evidence.two_point)[:-1][:_DIMENSIONS]
    marks = np.sqrt(np.stack([evidence.two_point[name] for name in names], axis=-1))
    flat = marks.reshape(-1, len(names))
    pairs = np.random.default_rng(1).integers(len(flat), size=(2, _PAIRS))
    units = np.quantile(np.abs(flat[pairs[0]] - flat[pairs[1]]), 0.25, axis=0)
    return np.asarray(marks / np.where(units > 0, units, 1))


def steps(marks: Floats) -> Floats:
    """How far every configuration is from the one before it, `(n_chains, n_configs - 1)`."""
    return np.asarray(np.sqrt(np.mean(np.diff(marks, axis=1) ** 2, axis=2)))


def _usual_step(marks: Floats) -> float:
    """What three in four steps do not exceed, in half of the chains."""
    if marks.shape[1] < 2:
        return 0.0
    return float(np.median(np.quantile(steps(marks), 0.75, axis=1)))


def stays(evidence: Evidence) -> Flags:
    """Whether |phi| is at every site that of the configuration before, `(n_chains, n_configs - 1)`.

    Then phi^2 and phi^4 are equal to the last bit.
    """
    phi2, phi4 = evidence.measured["phi2"], evidence.measured["phi4"]
    return np.asarray((np.diff(phi2, axis=1) == 0) & (np.diff(phi4, axis=1) == 0))


def _stay(evidence: Evidence) -> Integers:
    """Numbers of the stays within the chains: equal where nothing but signs may have changed."""
    if "swap_acceptance" in evidence.stored:  # others were there in between
        phi4 = evidence.measured["phi4"]
        return np.unique(phi4, return_inverse=True)[1].reshape(phi4.shape)
    moved = np.cumsum(~stays(evidence), axis=1)
    return np.pad(moved, ((0, 0), (1, 0)))


def _first_in_chain(digests: Integers) -> Flags:
    """Where a configuration is seen for the first time in its chain."""
    first = np.zeros(digests.shape, bool)
    for chain, seen in zip(digests, first, strict=True):
        seen[np.unique(chain, return_index=True)[1]] = True
    return first
