r"""A power law in the step size, fitted to one observable and tested.

    O(eps) = O(0) + c eps^n,   chi^2 = sum_i [O_i - O(0) - c eps_i^n]^2 / sigma_i^2,

by weighted least squares.  A straight line hides what it leaves out; it is doubted where

    fit      p(chi^2) < LEVEL
    curved   of three or more step sizes, a term eps^(n+1) is significant: O(0) moves with it
    far      c is significant, and at the smallest step c eps^n exceeds a tenth of O(0), or of the
             spread of O from one configuration to the next where that is larger
    short    chains are shorter than 50 tau_int, so that the errors are themselves uncertain
    weights  weights leave too few configurations to know value or error

Significant is what has a false-alarm rate of `LEVEL`, per observable and test, corrected for
nothing.  A slope that is compatible with zero is never doubted for its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from lattice_ml.statistics import Estimate, effective_sample_size

__all__ = ["LEVEL", "SIGNIFICANT", "Curved", "Doubts", "Extrapolated", "fit", "listed", "printed"]

LEVEL = 0.01
SIGNIFICANT = NormalDist().inv_cdf(1 - LEVEL / 2)  # in errors, two-sided
_FAR = 0.1

Doubts = list[tuple[str, str]]  # mark and sentence


class Curved(NamedTuple):
    """The fit with the next power added: O(0) + slope eps^n + curvature eps^(n+1)."""

    value: float
    error: float  # of the value
    slope: float
    curvature: float


@dataclass(frozen=True)
class Extrapolated:
    """An observable at step size zero; prints as ``1.2345(67)``.

    Attributes:
        value: O(0).
        error: of it.
        slope: c in O(eps) = O(0) + c eps^order.
        slope_error: of it.
        covariance: of value and slope.
        order: n, the power of the step size.
        chi2: of the fit.
        dof: degrees of freedom, points minus two.
        p_value: probability of a larger chi^2; None for two points.
        curved: the fit with a term eps^(order + 1) added; None for two step sizes.
        step_sizes: of the points, increasing.
        points: what was measured there.
        marks: one word per warning.
        warnings: sentences; none where nothing speaks against the fit.
    """

    value: float
    error: float
    slope: float
    slope_error: float
    covariance: float
    order: int
    chi2: float
    dof: int
    p_value: float | None
    curved: Curved | None
    step_sizes: tuple[float, ...]
    points: tuple[Estimate, ...]
    marks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return printed(self.value, self.error)

    def doubted(self, doubts: Doubts) -> Extrapolated:
        """The same with further marks and their sentences."""
        marks, sentences = zip(*doubts, strict=True) if doubts else ((), ())
        return replace(self, marks=(*self.marks, *marks), warnings=(*self.warnings, *sentences))


def fit(step_sizes: Sequence[float], points: Sequence[Estimate], order: int) -> Extrapolated:
    """Fit one observable and test the fit.

    Args:
        step_sizes: `(n,)`, at least two of them distinct.
        points: `(n,)` independent estimates with positive errors.
        order: power of the step size.

    Raises:
        ValueError: fewer than two distinct step sizes, or an error that is not positive.
    """
    from scipy import special  # here, because no other start should pay for its import

    n_distinct = len(set(step_sizes))
    if len(step_sizes) != len(points) or n_distinct < 2:
        raise ValueError(
            f"a fit needs points at two or more step sizes, got {len(points)} points at "
            f"{n_distinct} step sizes"
        )
    if bad := [point.error for point in points if not 0 < point.error < math.inf]:
        raise ValueError(f"a fit needs positive, finite errors, got {bad[0]}")
    by_step = sorted(zip(step_sizes, points, strict=True), key=lambda pair: pair[0])
    steps, estimates = tuple(s for s, _ in by_step), tuple(p for _, p in by_step)
    line = _least_squares(steps, estimates, (0, order))
    dof = len(steps) - 2
    curved = None
    if n_distinct > 2:
        parabola = _least_squares(steps, estimates, (0, order, order + 1))
        value, slope, curvature = map(float, parabola.values)
        curved = Curved(value, math.sqrt(parabola.covariance[0, 0]), slope, curvature)
    found = Extrapolated(
        value=float(line.values[0]),
        error=math.sqrt(line.covariance[0, 0]),
        slope=float(line.values[1]),
        slope_error=math.sqrt(line.covariance[1, 1]),
        covariance=float(line.covariance[0, 1]),
        order=order,
        chi2=line.chi2,
        dof=dof,
        p_value=float(special.gammaincc(dof / 2, line.chi2 / 2)) if dof else None,
        curved=curved,
        step_sizes=steps,
        points=estimates,
    )
    return found.doubted(list(_doubts(found)))


def listed(steps: Sequence[float]) -> str:
    """Step sizes as words."""
    return ", ".join(f"{step:g}" for step in steps)


def printed(value: float, error: float) -> str:
    """A number with its error in brackets, as estimates are printed."""
    unknown = math.nan
    return str(Estimate(value, error, unknown, unknown, unknown, 0, 0, 0))


class _Solution(NamedTuple):
    values: np.ndarray  # (n_parameters,)
    covariance: np.ndarray  # (n_parameters, n_parameters)
    chi2: float


def _least_squares(
    step_sizes: Sequence[float], points: Sequence[Estimate], powers: Sequence[int]
) -> _Solution:
    """Weighted least squares of a sum of powers of the step size, by QR."""
    steps = np.asarray(step_sizes, np.float64)
    error = np.array([point.error for point in points])
    y = np.array([point.value for point in points]) / error
    unit = steps.max() ** np.array(powers, np.float64)  # well-conditioned in any units
    design = steps[:, None] ** np.array(powers, np.float64) / unit / error[:, None]
    q, r = np.linalg.qr(design)
    inverse = np.linalg.inv(r)
    values = inverse @ (q.T @ y)
    residual = y - design @ values
    covariance = inverse @ inverse.T / np.outer(unit, unit)
    return _Solution(values / unit, covariance, float(residual @ residual))


def _doubts(found: Extrapolated) -> Iterator[tuple[str, str]]:
    """What of the module's docstring speaks against a fit, as marks and sentences."""
    if found.p_value is not None and found.p_value < LEVEL:
        yield (
            "fit",
            f"the fit is poor, chi^2/dof = {found.chi2:.1f}/{found.dof} with "
            f"p = {found.p_value:.1g} below {LEVEL}: steps are too large for this power, or errors "
            "too small because chains are short or not in equilibrium",
        )
    if found.curved is not None:
        moved = abs(found.curved.value - found.value)
        # of nested fits: the variance of the difference is the difference of the variances
        error = math.sqrt(max(0.0, found.curved.error**2 - found.error**2))
        if moved > SIGNIFICANT * error:
            yield (
                "curved",
                f"a term eps^{found.order + 1} moves the value at zero from {found} to "
                f"{printed(*found.curved[:2])}, by {moved / error:.1f} errors of the difference: "
                "not all steps are in the scaling window; leave out the largest or add smaller "
                "ones",
            )
    point, step = found.points[0], found.step_sizes[0]
    spread = point.error * math.sqrt(effective_sample_size(point))
    size, correction = max(abs(found.value), spread), abs(found.slope) * step**found.order
    if abs(found.slope) > SIGNIFICANT * found.slope_error and correction > _FAR * size:
        of = "the value at zero" if size > spread else "the spread between configurations"
        yield (
            "far",
            f"at the smallest step, {step:g}, the correction is {100 * correction / size:.0f} % "
            f"of {of}, more than {100 * _FAR:.0f} %: it is not in the scaling window; add smaller "
            "ones",
        )
    pairs = list(zip(found.step_sizes, found.points, strict=True))
    if short := sorted({step for step, point in pairs if point.short}):
        yield (
            "short",
            f"the chains at step size {listed(short)} are shorter than 50 tau_int: their errors "
            "are themselves uncertain, and chi^2 with them",
        )
    for step, point in pairs:
        if point.doubt:
            yield "weights", f"at step size {step:g} {point.doubt}"
            break
