r"""The finest odd sites given their neighbours: an exact conditional, to the accuracy of a fit.

Given the even sites the odd ones are independent, p(x | f) ~ exp(-a x^2 - b x^4 + f x), where f is
h times the sum of the neighbours.  The map x = G(f, z) of a normal z is fitted once per theory: a
polynomial in z and in a bounded function of f, odd in both together and monotone in z.  Its
derivative is in the density, so an error of the fit is in the weights and not in the answer.

The odd sites can be integrated out as well: log of the integral over x is fitted as a function of
f, and a training that needs the weights of even sites alone never draws the odd ones.
"""

import itertools
import math
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.fields.types import Floats, Scalar
from lattice_ml.models.model import host

__all__ = ["HeatBath", "draw_sites", "fit_heat_bath", "log_partition", "solve_sites"]

_FIELD_POWERS, _PARTITION_POWERS = 13, 14
_NORMALS = 5.8  # beyond which float32 normals do not reach
# Powers of the normal, and how much the far ends count: more of both where sites are far from
# Gaussian, so that the map stays monotone.
_TRIALS = ((7, 1e-4), (11, 1e-3), (11, 1e-2), (11, 0.1))
_SCALES = (0.25, 0.5)  # of the bounded function of the field, in units of the largest
_BENDS = (1.5, 2.5, 4.0, 8.0)  # where the map of normals turns over to a root
_TIE = 0.1
_NEWTON_STEPS = 8
_SMALL_ERROR, _LARGEST_ERROR = 3e-6, 0.01  # variance of log w of a site


@pytree
class HeatBath:
    """A fitted map of normals, and a fitted log of the integral.

    Args:
        table: of t^i s^j, `(i, j)`, zero where i + j is even.
        bend: s = z / (1 + (z / bend)^2)^(1/4): like z, and in the tails like its root.
        partition: log of the integral is partition[-1] + f^2 times a polynomial in t^2 with the
            others as coefficients.
        scale: of f: t = f / sqrt(f^2 + scale^2).
    """

    table: jax.Array
    bend: Scalar
    partition: jax.Array
    scale: Scalar


def fit_heat_bath(a: float, b: float, strength: float, rms: float) -> HeatBath:
    """Fit the conditional distribution of a site.

    Args:
        a, b: of x^2 and x^4, with a = 1 - 2 b.
        strength: f of neighbours that are all 1.
        rms: root mean square of the sites.

    Raises:
        ValueError: no smooth map has the distribution of a site: it has two narrow wells.
    """
    aim = _Aim.of(a, b, strength, rms)
    found: list[tuple[float, HeatBath]] = []
    for n_powers, far in _TRIALS:
        for scale, bend in itertools.product(_SCALES, _BENDS):
            bath = aim.fit(n_powers, far, scale, bend)
            if (error := aim.error(bath)) < _LARGEST_ERROR:
                found.append((error, bath))
        if found and min(found, key=itemgetter(0))[0] < _SMALL_ERROR:
            break
    if not found:
        raise ValueError(
            f"a flow model cannot draw single sites of exp({-a:.4g} x^2 - {b:.4g} x^4) given "
            "their neighbours: they have two wells too narrow for a smooth map"
        )
    return min(found, key=itemgetter(0))[1]


class _Aim(NamedTuple):
    """What is fitted, on a grid of fields and normals."""

    a: float
    b: float
    fields: Floats  # (fields,)
    normals: Floats
    values: Floats  # x at the normals' quantiles, (fields, normals)
    log_integral: Floats  # of exp(-a x^2 - b x^4 + f x), (fields,)
    likely: Floats  # how much a field counts

    @classmethod
    def of(cls, a: float, b: float, strength: float, rms: float) -> "_Aim":
        field_rms = strength * rms + 1e-3
        reach = strength * _reach(a, b, field_rms) + 1e-2
        fields, normals = np.linspace(-reach, reach, 121), np.linspace(-_NORMALS, _NORMALS, 81)
        likely = 1 / (1 + (fields / (1.2 * field_rms)) ** 8)
        return cls(a, b, fields, normals, *_quantiles(a, b, fields, normals), likely)

    def log_p(self, x: Floats) -> Floats:
        """Log density of sites `(fields, normals)`."""
        site = -self.a * x**2 - self.b * x**4 + self.fields[:, None] * x
        return site - self.log_integral[:, None]

    def fit(self, n_powers: int, far: float, scale: float, bend: float) -> HeatBath:
        """Least squares of what a change of the map changes in log w, to first order."""
        i, j = np.array(
            [(i, j) for i in range(_FIELD_POWERS + 1) for j in range(n_powers + 1) if (i + j) % 2]
        ).T
        x, z, width = self.values, self.normals, scale * self.fields.max()
        slope = np.exp(_log_normal(z) - self.log_p(x))
        score = -2 * self.a * x - 4 * self.b * x**3 + self.fields[:, None]
        t = self.fields / np.sqrt(self.fields**2 + width**2)
        r = 1 / np.sqrt(1 + (z / bend) ** 2)
        s, change = z * np.sqrt(r), np.sqrt(r) * (1 - 0.5 * (z / bend) ** 2 * r**2)
        by_field = t[:, None, None] ** i
        rows = by_field * s[:, None] ** j
        slopes = by_field * j * s[:, None] ** np.maximum(j - 1, 0) * change[:, None]
        log_w = score[..., None] * rows + slopes / slope[..., None]
        tied = _TIE * rows / slope[..., None]  # the map itself, so that it is that of the quantiles
        weight = (self.likely[:, None] + far) * (np.exp(-(z**2) / 2.5) + far)
        table = np.zeros((_FIELD_POWERS + 1, n_powers + 1))
        table[i, j] = _fit(
            np.concatenate([log_w, tied]).reshape(-1, len(i)),
            np.concatenate([score * x + 1.0, _TIE * x / slope]).ravel(),
            np.concatenate([weight, weight]).ravel(),
        )
        powers = (t**2)[:, None] ** np.arange(_PARTITION_POWERS) * self.fields[:, None] ** 2
        series = np.concatenate([powers, np.ones((len(t), 1))], axis=1)
        partition = _fit(series, self.log_integral, self.likely + 1e-4)
        return HeatBath(host(table), bend, host(partition), float(width))

    def error(self, bath: HeatBath) -> float:
        """Variance of log w that a fit adds per site; infinite where it is not monotone."""
        x, slope = map(np.asarray, draw_sites(bath, host(self.fields[:, None]), host(self.normals)))
        if not np.all(slope[self.likely > 1e-4] > 0):
            return math.inf
        log_q = _log_normal(self.normals) - np.log(np.maximum(slope, 1e-30))
        share = self.likely[:, None] * np.exp(_log_normal(self.normals))
        return float(np.sum(share * (self.log_p(x) - log_q) ** 2) / share.sum())


def draw_sites(bath: HeatBath, field: jax.Array, normal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x given its neighbours' field and a normal, and dx / dnormal."""
    t = field * lax.rsqrt(field * field + bath.scale * bath.scale)
    t2, z2 = t * t, normal * normal / (bath.bend * bath.bend)
    r = lax.rsqrt(1 + z2)
    root = jnp.sqrt(r)
    s, change = normal * root, root * (1 - 0.5 * z2 * r * r)
    value, slope = jnp.zeros_like(t), jnp.zeros_like(t)
    for j in range(bath.table.shape[1] - 1, -1, -1):
        odd = 1 - j % 2  # of the power of t
        inner = jnp.zeros_like(t)
        for i in range(_FIELD_POWERS - 1 + odd, -1, -2):
            inner = inner * t2 + bath.table[i, j]
        value, slope = value * s + (inner * t if odd else inner), slope * s + value
    return value, slope * change


def solve_sites(bath: HeatBath, field: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The normal that `draw_sites` maps to x, and dx / dnormal: Newton's method in a bracket."""
    reach = jnp.full_like(x, _NORMALS)

    def step(_: int, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        z, low, high = found
        value, slope = draw_sites(bath, field, z)
        low, high = jnp.where(value < x, z, low), jnp.where(value < x, high, z)
        z = z - (value - x) / slope
        return jnp.where((z >= low) & (z <= high), z, (low + high) / 2), low, high

    value, slope = draw_sites(bath, field, jnp.zeros_like(x))
    guess = jnp.clip((x - value) / slope, -3, 3)
    z = lax.fori_loop(0, _NEWTON_STEPS, step, (guess, -reach, reach))[0]
    return z, draw_sites(bath, field, z)[1]


def log_partition(bath: HeatBath, field: jax.Array) -> jax.Array:
    """Log of the integral of exp(-a x^2 - b x^4 + f x) over x."""
    f2 = field * field
    t2 = f2 / (f2 + bath.scale * bath.scale)
    series = jnp.zeros_like(t2)
    for k in range(_PARTITION_POWERS - 1, -1, -1):
        series = series * t2 + bath.partition[k]
    return bath.partition[-1] + f2 * series


def _reach(a: float, b: float, field: float, log_density: float = 12.0) -> float:
    """The x beyond which the density of a site is exp(-log_density) of its largest, about."""
    x = np.geomspace(1e-2, 1e3, 4000)
    log_p = field * x - a * x**2 - b * x**4
    return float(x[log_p > log_p.max() - log_density].max())


def _log_normal(z: Floats) -> Floats:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


def _quantiles(a: float, b: float, fields: Floats, normals: Floats) -> tuple[Floats, Floats]:
    """x at the quantiles of normals, `(fields, normals)`, and log of the integrals `(fields,)`."""
    from scipy.stats import norm

    reach = _reach(a, b, fields.max(), log_density=60.0)
    x, step = np.linspace(-reach, reach, 40001, retstep=True)
    values, log_integral = [], []
    below_normal, above_normal = norm.logcdf(normals), norm.logsf(normals)
    for field in fields:
        log_p = -a * x**2 - b * x**4 + field * x
        largest = log_p.max()
        p = np.exp(log_p - largest)
        between = (p[1:] + p[:-1]) / 2
        below = np.log(np.append(0, np.cumsum(between)) / between.sum() + 1e-300)
        above = np.log(np.append(np.cumsum(between[::-1])[::-1], 0) / between.sum() + 1e-300)
        low, high = np.interp(below_normal, below, x), np.interp(-above_normal, -above, x)
        values.append(np.where(normals <= 0, low, high))
        log_integral.append(largest + np.log(p.sum() * step))
    return np.array(values), np.array(log_integral)


def _fit(rows: Floats, values: Floats, weight: Floats) -> Floats:
    """Weighted least squares, with columns of like size."""
    size = np.abs(rows).max(axis=0)
    root = np.sqrt(weight)
    found: Floats = np.linalg.lstsq(rows / size * root[:, None], values * root, rcond=1e-12)[0]
    return found / size
