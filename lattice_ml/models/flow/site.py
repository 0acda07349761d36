r"""A single site in a field, p(x | f) ~ exp(-a x^2 - b x^4 + f x), tabulated by quadrature.

The distribution functions are summed from both ends and compared with a normal's, summed likewise,
as logarithms: quantiles are accurate in both tails.  On the host, in float64.
"""

from typing import NamedTuple

import numpy as np

from lattice_ml.fields.types import Floats

__all__ = ["Site", "tabulate"]

_POINTS = 6001  # odd: x = 0 is one
_TAIL = 45.0  # log of the smallest density seen


class Site(NamedTuple):
    """A site at some fields, and its quantiles at those of some normals.

    Args:
        a, b: of x^2 and x^4.
        fields, normals: f `(n,)` and z `(m,)`.
        x, slope: x of f and z with the distribution of a site, and dx / dz: `(n, m)`.
        log_integral: log of the integral of exp(-a x^2 - b x^4 + f x), `(n,)`.
        centres: the z at which x = 0, `(n,)`, at least that of the tail.
        largest_mean: <x> at the last field.
    """

    a: float
    b: float
    fields: Floats
    normals: Floats
    x: Floats
    slope: Floats
    log_integral: Floats
    centres: Floats
    largest_mean: float

    @property
    def score(self) -> Floats:
        """d log p / dx at x, `(n, m)`."""
        return self.fields[:, None] - 2 * self.a * self.x - 4 * self.b * self.x**3

    def log_density(self, x: Floats) -> Floats:
        """log p(x | f) of x `(n, m)`."""
        log_p = self.fields[:, None] * x - self.a * x**2 - self.b * x**4
        return log_p - self.log_integral[:, None]


def tabulate(a: float, b: float, fields: Floats, normals: Floats) -> Site:
    """Tabulate a site at fields `(n,)` >= 0 in ascending order and normals `(m,)`."""
    reach = _reach(a, b, fields[-1])
    grid = np.linspace(-reach, reach, _POINTS)
    log_p = fields[:, None] * grid - a * grid**2 - b * grid**4
    below, above, log_integral = _distribution(grid, log_p)
    z = np.linspace(-9, 9, _POINTS)
    (normal_below,), (normal_above,), _ = _distribution(z, -0.5 * z[None] ** 2)
    wanted = np.interp(normals, z, normal_below), np.interp(normals, z, normal_above)
    x = np.array([_quantile(grid, *tails, *wanted) for tails in zip(below, above, strict=True)])
    centres = np.interp(below[:, _POINTS // 2], normal_below, z)
    largest_mean = np.sum(grid * np.exp(log_p[-1] - log_integral[-1])) * (grid[1] - grid[0])
    site = Site(
        a, b, fields, normals, x, np.ones_like(x), log_integral, centres, float(largest_mean)
    )
    log_normal = -0.5 * normals**2 - 0.5 * np.log(2 * np.pi)
    return site._replace(slope=np.exp(log_normal - site.log_density(x)))


def _reach(a: float, b: float, field: float) -> float:
    """The x beyond which the density is nothing."""
    x = np.geomspace(1e-2, 1e3, 4000)
    log_p = field * x - a * x**2 - b * x**4
    return float(x[log_p > max(log_p.max(), 0) - _TAIL].max())


def _distribution(x: Floats, log_p: Floats) -> tuple[Floats, Floats, Floats]:
    """Log of the parts below and above every x, `(n, points)`; log of the integral, `(n,)`."""
    largest = log_p.max(axis=1)
    p = np.exp(log_p - largest[:, None])
    between = (p[:, 1:] + p[:, :-1]) / 2
    total = between.sum(axis=1)
    share = between / total[:, None] + 1e-300
    nothing = np.full((len(p), 1), 1e-300)
    below = np.concatenate([nothing, np.cumsum(share, axis=1)], axis=1)
    above = np.concatenate([np.cumsum(share[:, ::-1], axis=1)[:, ::-1], nothing], axis=1)
    return np.log(below), np.log(above), largest + np.log(total * (x[1] - x[0]))


def _quantile(x: Floats, below: Floats, above: Floats, low: Floats, high: Floats) -> Floats:
    """x with parts of given logarithms below and above, from the smaller of the two."""
    return np.where(low < high, np.interp(low, below, x), -np.interp(high, above[::-1], -x[::-1]))
