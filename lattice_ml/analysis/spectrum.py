r"""Spectra: kernels momentum by momentum, against what they should be.

The *exact* spectrum of a free field is 2a - 2dh + h p_hat^2 in the couplings of `actions`,
m^2 + p_hat^2 for h = 1.  Found ones come as

    1/G(p) of an ensemble, with the line (m_R^2 + p_hat^2)/Z at the lowest momenta;
    <e|J|e> of a score function, see `probes.py`;
    what a kind of model has learned, see `models/X/spectrum.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.actions import Action, Quartic, quadratic_form
from lattice_ml.analysis.two_point import TwoPoint
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats, Scalar
from lattice_ml.runtime.json import JsonTable
from lattice_ml.statistics import jackknife_error

__all__ = [
    *("InversePropagator", "Line", "bare_form", "bare_form_of"),
    *("couplings", "fit_line", "inverse_propagator", "per_shell"),
]


class Line(NamedTuple):
    """y = constant + slope x."""

    constant: float  # of the fit
    slope: float  # of the fit
    covariance: np.ndarray  # of the two, `(2, 2)`
    residual: float  # root mean square of what the line leaves


def fit_line(x: ArrayLike, y: ArrayLike, weights: ArrayLike, *, correlated: bool = False) -> Line:
    """Fit a line by weighted least squares; the errors come from the residuals' own spread.

    Args:
        x, y, weights: `(n,)`, n >= 2.
        correlated: take the residuals to be a smooth function, worth one degree of freedom.
    """
    x, y, weights = (np.asarray(a, np.float64) for a in (x, y, weights))
    rows = np.stack([np.ones_like(x), x], axis=1)
    normal = rows.T @ (weights[:, None] * rows)
    constant, slope = np.linalg.solve(normal, rows.T @ (weights * y))
    chi2 = np.sum(weights * (y - constant - slope * x) ** 2)
    variance = chi2 / (1 if correlated else max(1, len(x) - 2))
    residual = float(np.sqrt(chi2 / weights.sum()))
    return Line(float(constant), float(slope), np.linalg.inv(normal) * variance, residual)


def couplings(
    lattice: Lattice,
    kernel: ArrayLike,
    by_field: np.ndarray | None = None,
    squares: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Read (h, a, b) off a kernel 2a - 2dh + h p_hat^2 + 12 b phi^2, each with its error.

    h is the slope in p_hat^2, b that in the mean of phi^2 from field to field.  What bends where a
    line should be is smooth, so the errors count it as one deviation, not one per shell.

    Args:
        kernel: of every shell, `(n_shells,)`.
        by_field: the kernel at single fields, `(n, n_shells)`; without it phi = 0.
        squares: each field's mean of phi^2, `(n,)`.

    Returns:
        h, a, bare_mass_squared = 2a - 2dh and, where fields are given, b.
    """
    sizes, ndim = lattice.shell_sizes, lattice.ndim
    line = fit_line(lattice.shells[0], kernel, sizes, correlated=True)
    constant, shift, b = line.constant, 0.0, None
    if by_field is not None and squares is not None:
        square = np.mean(squares)
        change = squares - square
        slopes = change @ by_field / np.sum(change**2)
        slope = np.average(slopes, weights=sizes)
        spread = np.sqrt(np.average((slopes - slope) ** 2, weights=sizes))
        constant, shift = constant - slope * square, spread * square
        b = float(slope / 12), float(spread / 12)
    both = np.array([1, 2 * ndim])  # 2a = bare_mass_squared + 2dh
    of_both = float(np.hypot(np.sqrt(both @ line.covariance @ both), shift))
    of_mass = float(np.hypot(np.sqrt(line.covariance[0, 0]), shift))
    return {
        "h": (line.slope, float(np.sqrt(line.covariance[1, 1]))),
        "a": (float(both @ [constant, line.slope]) / 2, of_both / 2),
        "bare_mass_squared": (float(constant), of_mass),
        **({} if b is None else {"b": b}),
    }


class InversePropagator(NamedTuple):
    """1/G(p) of an ensemble, and its line (m_R^2 + p_hat^2)/Z at the lowest momenta."""

    value: np.ndarray  # 1/G of every shell, `(n_shells,)`
    error: np.ndarray  # of the value, `(n_shells,)`
    # of the line, each with its error; NaN with fewer than two momenta
    z: tuple[float, float]
    mass_squared: tuple[float, float]
    n_fitted: int  # shells that the line was fitted to; the zero mode is not among them


def inverse_propagator(two_point: TwoPoint, n_fitted: int = 3) -> InversePropagator:
    """1/G(p) per shell with the jackknife's errors, and the renormalised mass.

    The line is fitted to the `n_fitted` lowest shells but the zero mode, which near a transition
    and in the broken phase is no Gaussian.  1/G bends upwards at larger p_hat^2: the fit's own
    systematic error, which falls with the volume.
    """
    lattice, total = two_point.lattice, two_point.weights.sum()
    p_hat_squared, _ = lattice.shells
    moving = np.arange(1, min(n_fitted + 1, len(p_hat_squared)))
    sums = lattice.shell_means(two_point.sums)
    whole = sums.sum(axis=0)
    value = total / whole
    left_out = (total - two_point.weights)[:, None] / (whole - sums)  # (bins, n_shells)
    error = jackknife_error(left_out)
    if len(moving) < 2:
        return InversePropagator(value, error, (np.nan, np.nan), (np.nan, np.nan), 0)

    def read(inverse: np.ndarray) -> np.ndarray:
        weights = 1 / np.maximum(error[moving], 1e-12 * value[moving]) ** 2
        line = fit_line(p_hat_squared[moving], inverse[moving], weights)
        return np.array([1 / line.slope, line.constant / line.slope])

    z, mass_squared = read(value)
    dz, dm = jackknife_error(np.array([read(one) for one in left_out]))
    return InversePropagator(value, error, (z, dz), (mass_squared, dm), len(moving))


def per_shell(
    lattice: Lattice,
    learned: np.ndarray,
    error: np.ndarray,
    exact: np.ndarray,
    **columns: np.ndarray,
) -> JsonTable:
    """The lists of `spectrum.json` where they have one entry per shell, and the table `shells`.

    The table's columns are of equal length; `ratio` is learned/exact if it is not given.
    """
    known = {"p_hat_squared": lattice.shells[0], "multiplicity": lattice.shell_sizes}
    ratio = np.asarray(learned) / np.asarray(exact)
    table = {"learned": learned, "error": error, "exact": exact, "ratio": ratio}
    lists = {"eigenvalues": learned, "errors": error, "exact": exact}
    return lists | known | {"shells": known | table | columns}


def bare_form(h: Scalar, a: Scalar, lattice: Lattice) -> Floats:
    """The quadratic form of every shell, exact without phi^4."""
    return quadratic_form(float(h), float(a), lattice.ndim, lattice.shells[0])


def bare_form_of(action: Action | None, lattice: Lattice) -> tuple[np.ndarray, float]:
    """The bare form of an action, NaN if it is not known, and the coefficient b of phi^4."""
    if not isinstance(action, Quartic):
        return np.full(len(lattice.shells[0]), np.nan), math.nan
    h, a, b = action.couplings()
    return bare_form(h, a, lattice), float(b)
