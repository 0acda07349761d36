r"""The Fokker-Planck equation of one degree of freedom, solved to nearly machine precision.

Langevin dynamics, dphi = -S'(phi) dtau + sqrt(2 alpha) dW, spreads a density as

    d_tau P = d_phi (alpha d_phi P + S' P)                                                       (1)

(G. Parisi and Y. Wu, 1981; P. Damgaard and H. Hueffel, Phys. Rep. 152 (1987) 227).  With
P = exp(-S/2 alpha) psi it is d_tau psi = -H psi, and H has a square root:

    H = -alpha d^2 + S'^2/(4 alpha) - S''/2 = A^T A,    A = sqrt(alpha) d + S'/(2 sqrt(alpha)).  (2)

So its eigenvalues, the relaxation rates, are squares of singular values of A: none is negative, the
ground state exp(-S/2 alpha) has zero, and the tunnelling rate between wells, exponentially small in
the barrier, keeps its digits, which an eigenvalue of H would lose below 10^-13.

All functions of phi are known by their values on an even grid, wide and fine enough for the start
and the equilibrium; derivatives and interpolation by sines are exact up to exponentially small
terms.  In time (1) is a matrix exponential, exact for every tau.  It is not taken of (2), because
exp(+S/2 alpha) times a wide start overflows, but of (1) itself with the drift in skew-symmetric
form, (S'P)' = [(S'P)' + S'P' + S''P]/2, which is stable where the plain one blows up.  The error of
P is about 10^-16 tau |L|, |L| the largest rate on the grid, until equilibrium is reached: 10^-12
for the double well of arXiv:2309.17082 from a start of its own size, 10^-10 from one five times as
wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike
from scipy.linalg import expm, svdvals
from scipy.special import sici

from lattice_ml.actions import Quartic
from lattice_ml.analysis.dynamics.relaxation import Curve
from lattice_ml.fields.types import Floats

__all__ = [
    *("Density", "equilibrium", "evolve", "measured_action"),
    *("relaxation_rates", "site_potential"),
]

_LEVEL = 80.0  # (S - min S)/alpha at the ends of the grid
_WIDTHS = 8.6  # of the start inside the grid: exp(-8.6^2/2) = 10^-16
_PER_WIDTH = 2.5  # grid points per width of the narrowest feature
_FLOOR = 1e-10  # densities below are rounding, in units of the largest one
_TERMS = 18  # of the series of exp(L tau) with |L| tau = 1
_MANY = 3000  # grid points that are too many for a laptop


@dataclass(frozen=True)
class Density:
    """P(phi, tau) at some times, band-limited between the points of a grid."""

    times: Floats  # tau, `(n_times,)`
    phi: Floats  # the grid, `(n_grid,)`, evenly spaced
    values: Floats  # P there, `(n_times, n_grid)`

    @property
    def spacing(self) -> float:
        """Distance of two points of the grid."""
        return float(self.phi[1] - self.phi[0])

    def at(self, phi: ArrayLike) -> Floats:
        """P at any points `(n,)`: `(n_times, n)`."""
        steps = (np.asarray(phi, np.float64)[:, None] - self.phi) / self.spacing
        return self.values @ np.sinc(steps).T

    def probabilities(self, edges: ArrayLike) -> Floats:
        """The probability of every bin between rising `edges` `(n + 1,)`: `(n_times, n)`."""
        steps = (np.asarray(edges, np.float64)[:, None] - self.phi) / self.spacing
        below = 0.5 + sici(np.pi * steps)[0] / np.pi  # the integral of sinc up to an edge
        return np.maximum(np.diff(self.spacing * self.values @ below.T, axis=1), 0.0)

    def moments(self, orders: ArrayLike) -> Floats:
        """<phi^k> for every order k `(n,)`: `(n_times, n)`."""
        powers = self.phi[:, None] ** np.asarray(orders)
        return self.spacing * self.values @ powers

    def effective_action(self, phi: ArrayLike) -> Floats:
        """-log P at any points `(n,)`: `(n_times, n)`; NaN where P is below 10^-10 of its peak."""
        density = self.at(phi)
        known = density > _FLOOR * self.values.max(axis=1, keepdims=True)
        return np.where(known, -np.log(np.where(known, density, 1)), np.nan)


def site_potential(action: Quartic) -> Polynomial:
    """S(phi) of one site, where the action couples no sites: a phi^2 + b phi^4.

    Raises:
        ValueError: sites are coupled.
    """
    h, a, b = (float(coupling) for coupling in action.couplings())
    if h != 0:
        raise ValueError(
            "sites are degrees of freedom of their own only where the coupling h between them is "
            f"0, got h = {h:.6g}"
        )
    return Polynomial([0, 0, a, 0, b])


def evolve(
    potential: Polynomial,
    times: ArrayLike,
    *,
    width: float,
    means: ArrayLike = 0.0,
    temperature: float = 1.0,
) -> Density:
    """Solve (1) from Gaussians of equal weight and width.

    A cold start, all fields at one value, is a narrow Gaussian: about a minimum of S its width
    changes the variance by width^2 exp(-2 S'' tau), and it costs a grid as fine.

    Args:
        potential: S, a polynomial of even degree, bounded below.
        times: tau >= 0, `(n_times,)`.
        width: standard deviation of the start.
        means: centres of the start, one number or `(n,)`.
        temperature: alpha; the density tends to exp(-S/alpha).

    Raises:
        ValueError: S is not bounded below, times are negative, or width and temperature are not
            positive; or the grid would have too many points.
    """
    at = np.atleast_1d(np.asarray(times, np.float64))
    centres = np.atleast_1d(np.asarray(means, np.float64))
    _check(potential, temperature)
    if not (width > 0 and math.isfinite(width) and np.isfinite(centres).all() and centres.size):
        raise ValueError(
            "a start needs finite means and a positive width, got means = "
            f"{centres.tolist()} and width = {width:.6g}"
        )
    if not (at.ndim == 1 and np.all(at >= 0) and np.all(np.isfinite(at))):
        raise ValueError(f"times must be finite and not negative, got {at.tolist()}")
    phi = _grid(potential, temperature, width, centres)
    gaussians = np.exp(-0.5 * ((phi[:, None] - centres) / width) ** 2)
    start = gaussians.mean(axis=1) / (math.sqrt(2 * math.pi) * width)
    generator = _generator(potential, temperature, phi)
    weight = _equilibrium(potential, temperature, phi)
    return Density(at, phi, _exponentials(generator, start, at, weight).T)


def equilibrium(potential: Polynomial, temperature: float = 1.0) -> Density:
    """exp(-S/alpha)/Z, the density at `times` = inf.

    Raises:
        ValueError: S is not bounded below, or the temperature is not positive.
    """
    _check(potential, temperature)
    phi = _grid(potential, temperature)
    values = _equilibrium(potential, temperature, phi) / (phi[1] - phi[0])
    return Density(np.array([np.inf]), phi, values[None])


def relaxation_rates(potential: Polynomial, n: int, temperature: float = 1.0) -> Floats:
    """The `n` lowest eigenvalues of H in (2), the first of them 0: `(n,)`.

    Density and observables approach equilibrium as exp(-rate tau).  The lowest non-zero rate of a
    double well is that of tunnelling; far below the barrier it follows Kramers,
    sqrt(S''_min |S''_max|) / pi exp(-barrier/alpha).  Relative errors are about
    10^-13 / sqrt(rate) in units of the curvature, so that rates below 10^-24 are not known.

    Raises:
        ValueError: S is not bounded below, the temperature is not positive, or the rates asked for
            are not 1 to a quarter of the points of the grid.
    """
    _check(potential, temperature)
    phi = _grid(potential, temperature, level=2 * _LEVEL)
    if not 1 <= n <= len(phi) // 4:
        raise ValueError(f"this grid knows 1 to {len(phi) // 4} rates, got n = {n}")
    root = math.sqrt(temperature)
    factor = root * _derivative(phi) + np.diag(potential.deriv()(phi) / (2 * root))
    rates: Floats = svdvals(factor)[::-1][:n] ** 2
    rates[0] = 0
    return rates


def measured_action(samples: ArrayLike, edges: ArrayLike) -> Curve:
    """-log P in bins, from a histogram of independent samples: `(n_bins,)`.

    P is the mean over a bin; the error is the binomial one, sqrt((1 - p)/(n p)).  Both are NaN
    where a bin is empty.

    Args:
        samples: phi, of any shape; sites of an action without coupling are independent.
        edges: rising, `(n_bins + 1,)`.
    """
    values, cuts = np.asarray(samples, np.float64).ravel(), np.asarray(edges, np.float64)
    share = np.histogram(values, cuts)[0] / values.size
    share[share == 0] = np.nan
    error = np.sqrt((1 - share) / (share * values.size))
    return Curve(-np.log(share / np.diff(cuts)), error)


# ------------------------------------------------------------------------- grid and operators


def _grid(
    potential: Polynomial,
    temperature: float,
    width: float = math.inf,
    means: Floats | None = None,
    level: float = _LEVEL,
) -> Floats:
    """Evenly spaced points, an odd number, that hold the equilibrium and the start."""
    ends = _real_roots(potential - potential(_bottom(potential)) - level * temperature)
    low, high = ends.min(), ends.max()
    steepest = potential.deriv(2)(np.linspace(low, high, 1001)).max()
    narrowest = min(width, math.sqrt(temperature / steepest))
    if means is not None:
        low = min(low, means.min() - _WIDTHS * width)
        high = max(high, means.max() + _WIDTHS * width)
    n = math.ceil(_PER_WIDTH * (high - low) / narrowest) // 2 * 2 + 1
    if n > _MANY:
        raise ValueError(
            f"a start of width {width:.3g} between {low:.4g} and {high:.4g} needs {n} grid points, "
            f"more than {_MANY}: take a wider start, or centres closer to the minima of S"
        )
    return np.linspace(low, high, n)


def _derivative(phi: Floats) -> Floats:
    """d/dphi of what is periodic on an odd number of points and band-limited: antisymmetric."""
    n, spacing = len(phi), phi[1] - phi[0]
    steps = np.arange(1, n)
    column = np.zeros(n)
    column[1:] = np.pi / (n * spacing) * (-1.0) ** steps / np.sin(np.pi * steps / n)
    difference = np.subtract.outer(np.arange(n), np.arange(n))
    return np.asarray(np.sign(difference) * column[np.abs(difference)])


def _generator(potential: Polynomial, temperature: float, phi: Floats) -> Floats:
    """The right side of (1), with the drift in skew-symmetric form."""
    d, slope, bend = _derivative(phi), potential.deriv()(phi), potential.deriv(2)(phi)
    drift = 0.5 * (d * slope + slope[:, None] * d + np.diag(bend))
    return np.asarray(temperature * d @ d + drift)


def _equilibrium(potential: Polynomial, temperature: float, phi: Floats) -> Floats:
    """exp(-S/alpha) on the grid, with the sum 1."""
    weight = np.exp(-(potential(phi) - potential(_bottom(potential))) / temperature)
    return np.asarray(weight / weight.sum())


def _exponentials(generator: Floats, start: Floats, times: Floats, fixed: Floats) -> Floats:
    """exp(L tau) P_0 at all times at once, `(n_grid, n_times)`.

    Times are multiples of delta = 1/|L| and a rest: exp(L delta) is squared, and multiplies the
    densities whose multiple has that bit.  Squares are scaled to keep `fixed`, the equilibrium.
    """
    delta = 1 / np.abs(generator).sum(axis=0).max()
    multiples = np.floor(times / delta).astype(np.int64)
    found = _short(generator, np.tile(start[:, None], len(times)), times - multiples * delta)
    step = expm(delta * generator)
    while multiples.any():
        odd = multiples % 2 == 1
        found[:, odd] = step @ found[:, odd]
        multiples //= 2
        if multiples.any():
            step = step @ step
            step /= (step @ fixed).sum()
    return found


def _short(generator: Floats, columns: Floats, times: Floats) -> Floats:
    """exp(L tau) of every column by Taylor's series, where |L| tau <= 1."""
    term, total = columns, columns.copy()
    for k in range(1, _TERMS + 1):
        term = generator @ term * (times / k)
        total += term
    return total


def _bottom(potential: Polynomial) -> float:
    """Where S is least."""
    extrema = _real_roots(potential.deriv())
    return float(extrema[np.argmin(potential(extrema))])


def _real_roots(polynomial: Polynomial) -> Floats:
    roots = np.asarray(polynomial.roots(), np.complex128)
    return np.asarray(roots.real[np.abs(roots.imag) < 1e-6 * (1 + np.abs(roots.real))])


def _check(potential: Polynomial, temperature: float) -> None:
    trimmed = potential.trim()
    if trimmed.degree() < 2 or trimmed.degree() % 2 or trimmed.coef[-1] <= 0:
        raise ValueError(
            "the potential must be a polynomial of even degree with a positive leading "
            f"coefficient, got coefficients {trimmed.coef.tolist()}"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive, got {temperature:.6g}")
