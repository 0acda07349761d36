"""Observables, the two-point function, identities and symmetries: comparisons of means."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lattice_ml.analysis.certificates.evidence import Momenta
from lattice_ml.analysis.certificates.judging import (
    hotelling,
    judge,
    stretch_means,
    stretch_starts,
    worst,
)
from lattice_ml.comparison.references import Known, Value
from lattice_ml.comparison.sides import Side
from lattice_ml.fields.types import Floats
from lattice_ml.observables import DERIVED, Derived
from lattice_ml.statistics import Estimate
from lattice_ml.statistics.series import fluctuations

__all__ = [
    *("NOT_JUDGED", "Observable", "Shells", "compare_observables", "compare_two_point"),
    *("schwinger_dyson", "translation", "z_score"),
]

# chi2 = V <M^2> is m2 once more, and the acceptance is a sampler's own
NOT_JUDGED = ("chi2", "acceptance")

_NEEDED_PER_SHELL = 10  # effective configurations


class Observable(NamedTuple):
    """One observable of reference and candidate; None where it is not defined or not known."""

    reference: Estimate | Value | None
    candidate: Estimate | None
    z: float  # difference in units of its error; nan without both
    p_value: float  # nan where it is not judged


def compare_observables(reference: Side | Known, candidate: Side) -> dict[str, Observable]:
    """Every observable with its difference and the probability of as large a one."""
    known = reference.values if isinstance(reference, Known) else reference.estimates
    return {
        name: _observable(name, known.get(name), found, reference, candidate)
        for name, found in candidate.estimates.items()
    }


def z_score(known: Estimate | Value | None, found: Estimate | Value | None) -> float:
    """The difference in units of its error; nan without both."""
    if known is None or found is None:
        return math.nan
    difference, error = found.value - known.value, math.hypot(known.error, found.error)
    if error > 0 or math.isnan(error):
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def _observable(
    name: str,
    known: Estimate | Value | None,
    found: Estimate | None,
    reference: Side | Known,
    candidate: Side,
) -> Observable:
    if known is None or found is None:
        return Observable(known, found, math.nan, math.nan)
    z, difference = z_score(known, found), found.value - known.value
    if name in NOT_JUDGED:
        return Observable(known, found, z, math.nan)
    parts = [_parts(candidate, DERIVED[name])]
    if isinstance(reference, Side):
        parts.append(-_parts(reference, DERIVED[name]))
    known_error = known.error if isinstance(known, Value) else 0.0
    return Observable(known, found, z, judge(difference, *parts, known_error=known_error).p_value)


def _parts(side: Side, observable: Derived) -> Floats:
    """What the observable does in stretches that are independent of each other."""
    _, delta = fluctuations(
        [of(side.series) for of in observable.of],
        lambda means: observable.function(side.lattice, *means) + 0 * jnp.sum(means),
        side.log_weights,
    )
    return _stretches(delta)


@dataclass(frozen=True)
class Shells:
    """Numbers of momentum shells, the higher ones in groups, and what they say together.

    Attributes:
        p_hat_squared: `(n,)`.
        reference, candidate: `(n,)` values; those of the reference are nan where not known.
        errors: `(n,)` of the difference.
        chi2, dof: of the lowest shells together, as many as the data can judge.
        p_value: nan where none are.
    """

    p_hat_squared: Floats
    reference: Floats
    candidate: Floats
    errors: Floats
    chi2: float
    dof: int
    p_value: float


def compare_two_point(reference: Side | Known, candidate: Side) -> Shells | None:
    """G(p) of both; None where configurations were not kept or the reference does not know it.

    chi^2 takes the full covariance of the shells and, because that is measured, only as many of
    the lowest as a tenth of the effective configurations.
    """
    momenta = Momenta(candidate.lattice)
    names, p_hat_squared = momenta.names[:-1], momenta.p_hat_squared[:-1]
    sides = [candidate, *([reference] if isinstance(reference, Side) else [])]
    if not all(side.evidence.two_point for side in sides):
        return None
    values, parts = [], []
    for side, sign in zip(sides, (1, -1), strict=False):
        series = np.stack([side.evidence.two_point[name] for name in names], axis=-1)
        weights = side.weights[..., None]
        value = np.mean(weights * series, axis=(0, 1))
        values.append(value)
        parts.append(sign * stretch_means(weights * (series - value), side.starts))
    if isinstance(reference, Known):
        if reference.two_point is None:
            return None
        modes = reference.two_point[..., : candidate.lattice.shape[-1] // 2 + 1]
        # `average` divides by V what `measure` gives it unnormalised
        values.append(momenta.average(modes.reshape(1, -1) * candidate.lattice.volume)[0, :-1])
    difference = values[0] - values[1]
    errors = np.sqrt(sum(np.var(part, axis=0) / max(1, len(part) - 1) for part in parts))
    enough = int(min(side.effective_size for side in sides) / _NEEDED_PER_SHELL)
    used = min(len(names), enough, min(len(part) for part in parts) // 3)
    if used < 1:
        return Shells(p_hat_squared, values[1], values[0], errors, math.nan, 0, math.nan)
    found = hotelling(difference[:used], *(part[:, :used] for part in parts))
    return Shells(p_hat_squared, values[1], values[0], errors, *found)


def schwinger_dyson(side: Side) -> Shells | None:
    """<Re[phi(p)* (dS/dphi)(p)]>/V per shell, exactly 1; the p-value is that of the worst shell."""
    terms = side.evidence.schwinger_dyson
    if not terms:
        return None
    momenta = Momenta(side.lattice)
    deltas = {name: side.weights * (term - 1) for name, term in terms.items()}
    means = {name: judge(float(delta.mean()), _stretches(delta)) for name, delta in deltas.items()}
    found = worst({name: mean.p_value for name, mean in means.items()})
    where = dict(zip(momenta.names, momenta.p_hat_squared, strict=True))
    return Shells(
        np.array([where[name] for name in terms]),
        np.ones(len(terms)),
        np.array([1 + mean.value for mean in means.values()]),
        np.array([mean.error for mean in means.values()]),
        math.nan,
        len(terms),
        found[1] if found else math.nan,
    )


def translation(side: Side) -> tuple[str, float] | None:
    """Whether phi^2 and the links are the same all along every axis.

    Returns:
        What deviates most, and the probability that anything deviates as much; None where
        configurations were not kept or there are too few stretches.
    """
    if side.fields is None:
        return None
    found, shown = {}, {}
    profiles, weights = _profiles(side)
    total = weights.sum()
    for name, sums in profiles.items():
        profile = sums.sum(axis=0) / total
        # of a stretch: sum of w (x - <x>), in units in which the mean over stretches is the mean
        fluctuation = (sums - weights[:, None] * profile.mean()) * len(weights) / total
        fluctuation -= fluctuation.mean(axis=1, keepdims=True)  # what all positions share
        for position, parts in enumerate(fluctuation.T):
            mean = judge(float(parts.mean()), parts)
            key = f"{name} at {position}"
            found[key] = mean.p_value
            shown[key] = f"{profile[position]:.5g}, on average {profile.mean():.5g}"
    if (best := worst(found)) is None:
        return None
    return f"{best[0]}: {shown[best[0]]}", best[1]


def _profiles(side: Side) -> tuple[dict[str, Floats], Floats]:
    """Weighted sums of phi^2 and links along each axis per stretch, and the sums of weights."""
    sample_weights = side.weights.T.ravel()
    totals = np.bincount(side.stretch, sample_weights, side.n_stretches).astype(np.float64)
    sums = {
        f"{what} along axis {axis}": np.zeros((side.n_stretches, extent))
        for axis, extent in enumerate(side.lattice.shape)
        for what in ("phi^2", "links")
    }
    for start, block in side.blocks():
        phi, here = block.astype(np.float64), slice(start, start + len(block))
        for i, total in enumerate(sums.values()):
            axis = 1 + i // 2
            others = tuple(a for a in range(1, phi.ndim) if a != axis)
            partner = np.roll(phi, -1, axis=axis) if i % 2 else phi
            weighted = sample_weights[here, None] * np.mean(phi * partner, axis=others)
            np.add.at(total, side.stretch[here], weighted)
    return sums, totals


def _stretches(delta: Floats) -> Floats:
    return stretch_means(delta, stretch_starts(delta))
