r"""The weight exp(-V), V = a phi^2 + b phi^4, of a site without neighbours: draws from it.

A draw is made of a standard normal z by inversion: phi has the sign of z, and |phi| is where both
distribution functions agree, P(|phi| < r) = P(|normal| < |z|).  The integrals of the weight are
tabulated where it is more than e^-40 of its maximum, by trapezia with the correction of their ends,
and between two of the 8192 points |phi| is a straight line in |z|: right to 2e-7 of itself, the
rounding of float32.
"""

import math
from statistics import NormalDist

import numpy as np

__all__ = ["from_normals"]

_POINTS = 8192
_DEPTH = 40.0  # V above its minimum at the ends of the table; the normals that we draw reach 17
_LINEAR = 1e-5  # probabilities up to which z is proportional to them
_AT_ONCE = 1 << 20  # numbers whose copies in float64 are held


def from_normals(normals: np.ndarray, a: float, b: float) -> np.ndarray:
    """Draws from exp(-V), one for every standard normal and rising with it: an array like that.

    Args:
        normals: of any shape.
        a, b: couplings, b > 0.
    """
    points, quantiles = _table(a, b)
    found = np.empty_like(normals)
    flat, out = normals.reshape(-1), found.reshape(-1)
    for first in range(0, flat.size, _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        out[part] = np.copysign(np.interp(np.abs(flat[part]), quantiles, points), flat[part])
    return found


def _table(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of |phi| and the |z| with the same probability to be below, both rising."""
    well = max(0.0, -a / (2 * b))  # phi^2 of the minimum
    width = math.sqrt(_DEPTH / b)
    if well:
        low, high = math.sqrt(max(0.0, well - width)), math.sqrt(well + width)
    else:
        low, high = 0.0, math.sqrt(2 * _DEPTH / (a + math.sqrt(a * a + 4 * b * _DEPTH)))
    r = np.linspace(low, high, _POINTS)
    square = r * r
    weight = np.exp(-((square - well) * (a + b * (square + well))))
    slope = -2 * r * (a + 2 * b * square) * weight
    step = r[1] - r[0]
    pieces = step * (weight[1:] + weight[:-1]) / 2 - step**2 * np.diff(slope) / 12
    below = np.concatenate([[0.0], np.cumsum(pieces)])
    above = np.concatenate([np.cumsum(pieces[::-1])[::-1], [0.0]])
    inverse = NormalDist().inv_cdf
    total = below[-1]
    quantiles = [
        -inverse(q / 2) if p > _LINEAR else math.sqrt(math.pi / 2) * p
        for p, q in zip(below[:-1] / total, above[:-1] / total, strict=True)
    ]
    return r[:-1], np.asarray(quantiles)
