r"""The finest odd sites given their neighbours: an exact conditional, to the accuracy of a fit.

Given the even sites the odd ones are independent, p(x | f) ~ exp(-a x^2 - b x^4 + f x), where f is
h times the sum of the neighbours.  The map x = G(f, z) of a normal z is fitted once per theory: a
polynomial in z and in a bounded function of f, odd in both together and monotone in z.  Its
derivative is in the density, so an error of the fit is in the weights and not in the answer.

The odd sites can be integrated out as well: log of the integral over x is fitted as a function of
f, and a training that needs the weights of even sites alone never draws the odd ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.fields.types import Floats, Scalar
from lattice_ml.models.model import host

__all__ = ["HeatBath", "draw_sites", "fit_heat_bath", "log_partition", "solve_sites"]

_NORMAL_POWERS, _FIELD_POWERS = 7, 13
_PARTITION_POWERS = 14
_NORMALS = 5.8  # beyond which float32 normals do not reach
_BENDS = (1.5, 2.5, 4.0, 8.0, 1e3)  # where the map of normals may turn over to a root
_NEWTON_STEPS = 10
_LARGEST_ERROR = 0.01  # variance of log w of a site


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
    field_rms = strength * rms + 1e-3
    reach = strength * _reach(a, b, field_rms) + 1e-2
    fields, normals = np.linspace(-reach, reach, 121), np.linspace(-_NORMALS, _NORMALS, 81)
    values, log_integral = _quantiles(a, b, fields, normals)
    scale = reach / 4
    t = fields / np.sqrt(fields**2 + scale**2)
    i, j = np.array(
        [(i, j) for i in range(_FIELD_POWERS + 1) for j in range(_NORMAL_POWERS + 1) if (i + j) % 2]
    ).T
    likely = np.exp(-0.5 * (fields / field_rms) ** 2 / 2)
    gaussian = np.exp(-(normals**2) / 4.4)
    weight = ((likely[:, None] + 3e-3) * (gaussian + 1e-3)).ravel()
    partition = _fit_partition(fields, t, log_integral, likely)
    best: tuple[float, HeatBath | None] = _LARGEST_ERROR, None
    for bend in _BENDS:
        s = normals / (1 + (normals / bend) ** 2) ** 0.25
        rows = t[:, None, None] ** i * s[:, None] ** j
        table = np.zeros((_FIELD_POWERS + 1, _NORMAL_POWERS + 1))
        table[i, j] = _fit(rows.reshape(-1, len(i)), values.ravel(), weight)
        bath = HeatBath(host(table), bend, host(partition), scale)
        x, slope = map(np.asarray, draw_sites(bath, host(fields[:, None]), host(normals)))
        if np.all(slope > 0):
            log_q = -0.5 * normals**2 - 0.5 * np.log(2 * np.pi) - np.log(slope)
            log_p = -a * x**2 - b * x**4 + fields[:, None] * x - log_integral[:, None]
            share = likely[:, None] * np.exp(-(normals**2) / 2)
            error = float(np.sum(share * (log_p - log_q) ** 2) / share.sum())
            best = min(best, (error, bath), key=lambda pair: pair[0])
    if best[1] is None:
        raise ValueError(
            f"a flow model cannot draw single sites of exp({-a:.4g} x^2 - {b:.4g} x^4) given "
            "their neighbours: they have two wells too narrow for a smooth map"
        )
    return best[1]


def draw_sites(bath: HeatBath, field: jax.Array, normal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x given its neighbours' field and a normal, and dx / dnormal."""
    t = field * lax.rsqrt(field * field + bath.scale * bath.scale)
    t2, z2 = t * t, normal * normal / (bath.bend * bath.bend)
    r = lax.rsqrt(1 + z2)
    root = jnp.sqrt(r)
    s, change = normal * root, root * (1 - 0.5 * z2 * r * r)
    value, slope = jnp.zeros_like(t), jnp.zeros_like(t)
    for j in range(_NORMAL_POWERS, -1, -1):
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
        return jnp.where((z > low) & (z < high), z, (low + high) / 2), low, high

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


def _fit_partition(fields: Floats, t: Floats, log_integral: Floats, likely: Floats) -> Floats:
    f2 = fields**2
    powers = (t**2)[:, None] ** np.arange(_PARTITION_POWERS) * f2[:, None]
    rows = np.concatenate([powers, np.ones((len(fields), 1))], axis=1)
    return _fit(rows, log_integral, likely + 1e-4)


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
