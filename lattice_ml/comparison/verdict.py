r"""`compare`: all tests of a candidate against a reference, and one verdict.

Every test has a p-value that is honest for correlated and weighted data, nan where the data cannot
tell.  With k tests judged, the candidate is rejected where one has p < 1e-3 / k (Bonferroni), or
where `check` rejects it, which needs no reference and errs with probability 1e-3 too.  It is
undecided where nothing rejects it, but the weights of either leave too few configurations to see
anything by (`statistics.doubt`):

* `observables`: the means of `measure`, judged by stretches of the chains (`analysis.judging`); the
  worst of them, with its p-value times their number;
* `two_point`: chi^2 of G(p) with its covariance (Hotelling);
* `distribution_m`, `_phi`, `_action`: of the magnetisation, the field at a site, and the action
  density, Kolmogorov-Smirnov with the largest measured variance of the difference;
* `configurations`: energy distance between whole configurations;
* `classifier`: a network that learned to tell one half of the configurations apart cannot tell the
  other half (area under the ROC curve);
* `translation`: phi^2 and links are the same everywhere on the lattice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lattice_ml.analysis.certificates import FALSE_ALARM_RATE, Certificate
from lattice_ml.analysis.certificates.judging import worst
from lattice_ml.comparison import means, shapes
from lattice_ml.comparison.means import Observable, Shells
from lattice_ml.comparison.references import Known, check_comparable
from lattice_ml.comparison.shapes import QUANTITIES, Distances, Distribution
from lattice_ml.comparison.sides import Side, gather_side
from lattice_ml.comparison.two_sample import FEWEST, ToldApart, tell_apart
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics import Estimate

__all__ = ["Comparison", "compare", "labelled"]

_FEW = 100.0  # effective configurations

_DISTRIBUTIONS = dict(
    zip(("distribution_m", "distribution_phi", "distribution_action"), QUANTITIES, strict=True)
)

_MEANINGS = {  # where a test passes, where it fails
    "observables": ("all means agree", "means differ"),
    "two_point": (
        "the correlations agree at every momentum",
        "the correlations differ: couplings, boundary, or a scale that was not learned",
    ),
    "distribution_m": (
        "the magnetisation is distributed alike",
        "the magnetisation is distributed differently: a well or its weight, or domain walls",
    ),
    "distribution_phi": (
        "the field at a site is distributed alike",
        "the field at a site is distributed differently",
    ),
    "distribution_action": (
        "the action is distributed alike",
        "the action is distributed differently",
    ),
    "configurations": (
        "configurations lie as they must in the space of fields",
        "configurations lie elsewhere in the space of fields",
    ),
    "classifier": (
        "a network cannot tell the configurations apart",
        "a network can tell the configurations apart, though it may not be said by what",
    ),
    "translation": (
        "no site is special",
        "some sites are special: a boundary that is not periodic, such as zero padding",
    ),
}


@dataclass(frozen=True)
class Comparison:
    """What was found of one candidate; prints as a table and a verdict.

    Attributes:
        reference, candidate: what was compared.
        observables: by the names of `measure`.
        two_point: G(p) of both; None where one of them has none.
        schwinger_dyson: of the candidate, per shell; None without a known action.
        cumulants: of M.
        distributions: of M, phi and the action density, as far as both are known.
        distances: between whole configurations; None where they were not kept.
        told_apart: by a classifier; None without one.
        tests: all that was judged, and what was not with the reason.
        warnings: what to know before relying on the verdict.
    """

    reference: Side | Known
    candidate: Side
    observables: Mapping[str, Observable]
    two_point: Shells | None
    schwinger_dyson: Shells | None
    cumulants: Mapping[str, Observable]
    distributions: Mapping[str, Distribution]
    distances: Distances | None
    told_apart: ToldApart | None
    tests: list[Certificate]
    warnings: list[str] = field(default_factory=list)

    @property
    def rejected_by(self) -> list[str]:
        """Names of the tests that failed."""
        return [test.name for test in self.tests if test.verdict == "fail"]

    @property
    def doubts(self) -> list[str]:
        """What keeps the tests from seeing anything: weights that leave too few configurations."""
        sides = [s for s in (self.reference, self.candidate) if isinstance(s, Side)]
        return [f"{side.label}: {side.doubt}" for side in sides if side.doubt]

    @property
    def accepted(self) -> bool:
        """Whether nothing rejects the candidate, and nothing is in doubt."""
        return not self.rejected_by and not self.doubts

    @property
    def verdict(self) -> str:
        """One line."""
        judged = sum(test.verdict in ("pass", "fail") for test in self.tests)
        if self.accepted:
            return f"accepted: none of {judged} tests finds a difference"
        if not self.rejected_by:
            return f"undecided: {'; '.join(self.doubts)}"
        failed = ", ".join(self.rejected_by)
        return f"REJECTED by {len(self.rejected_by)} of {judged} tests: {failed}"

    def __str__(self) -> str:
        lines = [f"{self.candidate.label} against {self.reference.label}: {self.verdict}"]
        lines.append(f"  {'observable':<26}{'reference':>22}{'candidate':>18}{'z':>9}")
        for name, (known, found, z, _) in self.observables.items():
            shown = f"{'-' if math.isnan(z) else f'{z:+.2f}':>9}"
            doubted = any(isinstance(e, Estimate) and e.doubt for e in (known, found))
            mark = "  weights" if doubted else ""
            lines.append(f"  {name:<26}{known or '-'!s:>22}{found or '-'!s:>18}{shown}{mark}")
        lines += [f"  {test}" for test in self.tests]
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])


@ordinary()
def compare(
    reference: Ensemble | Side | Known,
    candidate: Ensemble,
    *,
    weights: bool = True,
    classifier: bool = True,
) -> Comparison:
    """Judge whether a candidate samples the distribution of a reference.

    Args:
        reference: an ensemble from `open_ensemble` or `run`, what `gather_side` made of one, or
            what is known without: `exact_reference(ensemble)`, `read_values(path)`.
        candidate: an ensemble.
        weights: use the ensembles' `log_weight` where they have one.
        classifier: train a network on half of the configurations and test it on the rest; some
            seconds, a minute on large lattices.

    Raises:
        ValueError: the two are not of one distribution (lattice, action, convention, temperature),
            or too short to have errors.
    """
    if not isinstance(reference, Side | Known):
        check_comparable(reference, candidate)
        reference = gather_side(reference, weights=weights)
    elif isinstance(reference, Side):
        check_comparable(reference.ensemble, candidate)
    side = gather_side(candidate, weights=weights)
    observables = means.compare_observables(reference, side)
    two_point = means.compare_two_point(reference, side)
    distributions = shapes.compare_distributions(reference, side)
    distances = told_apart = None
    if isinstance(reference, Side):
        distances = shapes.compare_fields(reference, side)
        told_apart = tell_apart(reference, side) if classifier else None
    shown = {name: distributions.get(of) for name, of in _DISTRIBUTIONS.items()}
    found = {
        "observables": _observables(observables),
        "two_point": _two_point(two_point) if two_point else None,
        **{name: _distribution(of) if of else None for name, of in shown.items()},
        "configurations": _distances(distances) if distances else None,
        "classifier": _told_apart(told_apart) if told_apart else None,
        "translation": means.translation(side),
    }
    return Comparison(
        reference=reference,
        candidate=side,
        observables=observables,
        two_point=two_point,
        schwinger_dyson=means.schwinger_dyson(side),
        cumulants=shapes.compare_cumulants(reference, side),
        distributions=distributions,
        distances=distances,
        told_apart=told_apart,
        tests=[*_judged(found), *side.certificates],
        warnings=_warnings(reference, side),
    )


def labelled(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with a label of its own for every candidate, where some are equal."""
    used, known = {comparisons[0].reference.label}, []
    for found in comparisons:
        label, number = found.candidate.label, 1
        while label in used:
            number += 1
            label = f"{found.candidate.label} ({number})"
        used.add(label)
        if number > 1:
            found = replace(found, candidate=replace(found.candidate, label=label))
        known.append(found)
    return known


def _judged(found: Mapping[str, tuple[str, float] | None]) -> list[Certificate]:
    """All tests, at a level that leaves their joint rate of false alarms."""
    p_values = [test[1] for test in found.values() if test and not math.isnan(test[1])]
    level = FALSE_ALARM_RATE / max(1, len(p_values))
    return [_certificate(name, test, level) for name, test in found.items()]


def _certificate(name: str, test: tuple[str, float] | None, level: float) -> Certificate:
    if test is None or math.isnan(test[1]):
        reason = test[0] if test else "not asked for, or one of the two does not have what it needs"
        return Certificate(name, "not applicable", "", math.nan, reason)
    value, p_value = test
    failed = p_value < level
    meaning = _MEANINGS[name][failed]
    return Certificate(name, "fail" if failed else "pass", value, p_value, meaning)


def _observables(observables: Mapping[str, Observable]) -> tuple[str, float]:
    best = worst({name: row.p_value for name, row in observables.items()})
    if best is None:
        return "the chains are too short, or too few, to tell: run longer", math.nan
    name, p_value = best
    return f"{name} differs by {observables[name].z:+.2f} sigma", p_value


def _two_point(found: Shells) -> tuple[str, float]:
    if found.dof == 0:
        return "fewer effective configurations than ten per shell: run longer", math.nan
    return f"chi^2 = {found.chi2:.1f} of {found.dof} shells", found.p_value


def _distribution(found: Distribution) -> tuple[str, float]:
    return f"D = {found.ks.value:.4f} at {found.ks.where:.4g}", found.ks.p_value


def _distances(found: Distances) -> tuple[str, float]:
    return f"energy distance {found.energy.value:.4g}", found.energy.p_value


def _told_apart(found: ToldApart) -> tuple[str, float]:
    if found.curve is None:
        return f"fewer than {FEWEST} independent stretches of the chains: run longer", math.nan
    return f"AUC = {found.area.value:.3f} +- {found.area.error:.2g}", found.area.p_value


def _warnings(reference: Side | Known, candidate: Side) -> list[str]:
    """What makes a verdict weaker than it looks."""
    said = []
    sides = [candidate, *([reference] if isinstance(reference, Side) else [])]
    for side in sides:
        if side.doubt:
            said.append(f"{side.label}: {side.doubt}")
        if (worth := side.effective_size) < _FEW:
            said.append(
                f"{side.label} is worth {worth:.0f} independent configurations: only large "
                f"differences show"
            )
        if left := [c.name for c in side.certificates if c.verdict == "undecided"]:
            said.append(f"check of {side.label} is undecided: {', '.join(left)}")
    if isinstance(reference, Side):
        if failed := [c.name for c in reference.certificates if c.verdict == "fail"]:
            said.append(
                f"the reference {reference.label} does not pass check itself: {', '.join(failed)}"
            )
        digests = [d for d in (side.evidence.digests for side in sides) if d is not None]
        if len(digests) == 2 and (shared := len(np.intersect1d(digests[0], digests[1]))):
            said.append(f"{shared} configurations are in both ensembles: they are not independent")
    return said
