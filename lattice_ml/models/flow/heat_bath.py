r"""The finest odd sites given their neighbours: an exact conditional, to the accuracy of a fit.

Given the even sites the odd ones are independent, p(x | f) ~ exp(-a x^2 - b x^4 + f x), where f is
h times the sum of the neighbours.  The map x = G(f, z) of a normal z is fitted once per theory: a
polynomial in a bounded t(f) and in s(z - c(f)), odd in both together and monotone in z.  Where
sites have two wells, c is the normal at which x = 0: all that is steep is then at s = 0.

What an error of the map does to the weights is linear in it: for G = x + e,

    log p - log q = e d(log p)/dx + (de/dz) / (dx/dz),

so least squares of this is the smallest variance of log w.  The derivative of the fitted map is in
the density: an error of the fit is in the weights and not in the answer.

The odd sites can be integrated out as well: log of the integral over x is fitted as a function of
f, and a training that needs the weights of even sites alone never draws the odd ones.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.fields.types import Floats, Scalar
from lattice_ml.models.flow.pointwise import implicit
from lattice_ml.models.flow.site import Site, tabulate
from lattice_ml.models.model import host

__all__ = ["HeatBath", "draw_sites", "fit_heat_bath", "log_partition", "solve_sites"]

_FIELD_POWERS, _NORMAL_POWERS, _CENTRE_POWERS = 9, 11, 6
_PARTITION_POWERS = 18
_NORMALS = 6.0  # beyond which float32 normals do not reach
_WIDTHS = 5  # of the likely fields, beyond which the map does not change
_SCALES = (0.7, 0.4, 0.2)  # of f, in units of its largest
_BENDS = (5.0, 3.0, 1.2, 0.8, 0.5, 0.3, 1e3)  # where the map of normals may turn over to a root
_FIELDS_SEEN, _NORMALS_SEEN = 41, 61
_SOLVER_STEPS, _MARGIN = 8, 1e-3  # the margin is of a bracket
_GOOD_ERROR, _LARGEST_ERROR = 3e-7, 0.01  # variance of log w of a site
_SMALLEST_SLOPE = 0.02  # of the true one


@pytree
class HeatBath:
    """A fitted map of normals, and a fitted log of the integral.

    Args:
        table: of t^i s^j, `(i, j)`, zero where i + j is even.
        centre: of t^(2 k + 1) in c.
        bend: s = y / (1 + (y / bend)^2)^(1/4) of y = z - c: in the tails like the root of y.
        scale: of f: t = f / sqrt(f^2 + scale^2).
        largest: |f| beyond which the map does not change any more.
        partition: log of the integral is partition[-1] + f^2 times a polynomial in a linear
            function of t^2, from -1 to 1, with the others as coefficients.
        partition_slope: of log of the integral beyond the largest f.
    """

    table: jax.Array
    centre: jax.Array
    bend: Scalar
    scale: Scalar
    largest: Scalar
    partition: jax.Array
    partition_slope: Scalar


def fit_heat_bath(a: float, b: float, means: Floats, width: float) -> HeatBath:
    """Fit the conditional distribution of a site.

    Args:
        a, b: of x^2 and x^4.
        means, width: f is likely normal around one of +-`means` `(n,)`, with this deviation.

    Raises:
        ValueError: no smooth map has the distribution of a site: it has two narrow wells.
    """
    largest = float(np.max(means) + _WIDTHS * width)
    site = tabulate(
        a,
        b,
        np.linspace(0, largest, 2 * _FIELDS_SEEN - 1),
        np.linspace(-_NORMALS, _NORMALS, 2 * _NORMALS_SEEN - 1),
    )
    distances = np.abs(site.fields[:, None] - np.append(means, -means)) / width
    likely = np.exp(-0.5 * distances**2).sum(axis=1)
    likely /= likely.max()
    best: tuple[float, HeatBath | None] = _LARGEST_ERROR, None
    for centred, bend, ratio in itertools.product((0, 1), _BENDS, _SCALES):
        bath = _fit_map(site, likely, centred, bend, ratio * largest)
        error = _error(bath, site, likely)
        if error < best[0]:
            best = error, bath
        if error < _GOOD_ERROR:
            break
    if best[1] is None:
        raise ValueError(
            f"a flow model cannot draw single sites of exp({-a:.4g} x^2 - {b:.4g} x^4) given "
            "their neighbours: they have two wells too narrow for a smooth map"
        )
    return best[1]


def draw_sites(bath: HeatBath, field: jax.Array, normal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x given its neighbours' field and a normal, and dx / dnormal."""
    t, centre = _bounded(bath, field)
    near = jnp.clip(normal, -_NORMALS, _NORMALS)
    s, change = _bend(bath, near - centre)
    value, slope = _polynomial(_in_s(bath, t), s)
    slope = slope * change
    return value + slope * (normal - near), slope


def solve_sites(bath: HeatBath, field: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The normal that `draw_sites` maps to x, and dx / dnormal.

    Newton's method for s in a bracket, from the secant of its ends: x is a polynomial in s.
    """
    field, x = jnp.broadcast_arrays(field, x)
    t, centre = _bounded(bath, field)
    in_s = _in_s(bath, t)
    low, high = _bend(bath, -_NORMALS - centre)[0], _bend(bath, _NORMALS - centre)[0]
    lowest, highest = _polynomial(in_s, low)[0], _polynomial(in_s, high)[0]
    inside = jnp.clip(x, lowest, highest)
    guess = low + (high - low) * (inside - lowest) / (highest - lowest)

    def step(_: int, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        s, low, high = found
        value, slope = _polynomial(in_s, s)
        low, high = jnp.where(value < inside, s, low), jnp.where(value < inside, high, s)
        s = s - (value - inside) / slope
        # a step leaves the bracket by rounding, too: where s is found and the other end is far
        margin = _MARGIN * (high - low)
        kept = (s >= low - margin) & (s <= high + margin)
        return jnp.where(kept, s, (low + high) / 2), low, high

    def find(_: object, guess: jax.Array) -> jax.Array:
        return lax.fori_loop(0, _SOLVER_STEPS, step, (guess, low, high))[0]

    s = implicit(lambda s: _polynomial(in_s, s)[0] - inside, guess, find)
    z = jnp.clip(_unbend(bath, s) + centre, -_NORMALS, _NORMALS)
    s, change = _bend(bath, z - centre)
    slope = _polynomial(in_s, s)[1] * change
    return z + (x - inside) / slope, slope


def log_partition(bath: HeatBath, field: jax.Array) -> jax.Array:
    """Log of the integral of exp(-a x^2 - b x^4 + f x) over x; linear beyond the largest f."""
    size = jnp.abs(field)
    near = jnp.minimum(size, bath.largest)
    u, f2 = _partition_variable(bath.scale, bath.largest, near), near * near
    series = jnp.zeros_like(u)
    for k in range(_PARTITION_POWERS - 1, -1, -1):
        series = series * u + bath.partition[k]
    return bath.partition[-1] + f2 * series + bath.partition_slope * (size - near)


def _bounded(bath: HeatBath, field: jax.Array) -> tuple[jax.Array, jax.Array]:
    """t and c of f."""
    field = jnp.clip(field, -bath.largest, bath.largest)
    t = field * lax.rsqrt(field * field + bath.scale * bath.scale)
    t2, centre = t * t, jnp.zeros_like(t)
    for k in range(_CENTRE_POWERS - 1, -1, -1):
        centre = centre * t2 + bath.centre[k]
    return t, centre * t


def _bend(bath: HeatBath, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """s of y, and ds / dy."""
    y2 = y * y / (bath.bend * bath.bend)
    r = lax.rsqrt(1 + y2)
    root = jnp.sqrt(r)
    return y * root, root * (1 - 0.5 * y2 * r * r)


def _unbend(bath: HeatBath, s: jax.Array) -> jax.Array:
    """y of s."""
    s2 = s * s / (bath.bend * bath.bend)
    return s * jnp.sqrt(0.5 * (s2 + jnp.sqrt(s2 * s2 + 4)))


def _in_s(bath: HeatBath, t: jax.Array) -> list[jax.Array]:
    """The coefficients of x as a polynomial in s, the highest power first."""
    t2, found = t * t, []
    for j in range(_NORMAL_POWERS, -1, -1):
        odd = 1 - j % 2  # of the power of t
        inner = jnp.zeros_like(t)
        for i in range(_FIELD_POWERS - 1 + odd, -1, -2):
            inner = inner * t2 + bath.table[i, j]
        found.append(inner * t if odd else inner)
    return found


def _polynomial(coefficients: list[jax.Array], s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Its value, and its derivative."""
    value, slope = jnp.zeros_like(s), jnp.zeros_like(s)
    for coefficient in coefficients:
        slope = slope * s + value
        value = value * s + coefficient
    return value, slope


class _Columns(NamedTuple):
    """Powers t^i s^j at all fields and normals, `(points, powers)`."""

    value: Floats
    slope: Floats


def _fit_map(site: Site, likely: Floats, centred: int, bend: float, scale: float) -> HeatBath:
    """Least squares of log w, on every second field and normal."""
    t = site.fields / np.sqrt(site.fields**2 + scale**2)
    known = np.sqrt(likely * np.exp(-(site.centres**2) / 4) + 1e-4)
    odd = t[:, None] ** np.arange(1, 2 * _CENTRE_POWERS, 2)
    centre = centred * _fit(odd, site.centres, known)
    y = site.normals - (odd @ centre)[:, None]
    y2 = 1 + (y / bend) ** 2
    s, change = y / y2**0.25, y2**-0.25 * (1 - 0.5 * (1 - 1 / y2))
    powers = itertools.product(range(_FIELD_POWERS + 1), range(_NORMAL_POWERS + 1))
    i, j = np.array([(i, j) for i, j in powers if (i + j) % 2]).T
    every = slice(None, None, 2)
    columns = _columns(t[every], s[every, every], change[every, every], i, j)
    score, slope = site.score[every, every].ravel(), site.slope[every, every].ravel()
    rows = score[:, None] * columns.value + columns.slope / slope[:, None]
    target = score * site.x[every, every].ravel() + 1
    gaussian = np.exp(-(site.normals[every] ** 2) / 2)
    weight = np.sqrt(((likely[every, None] + 1e-4) * (gaussian + 1e-3)).ravel())
    table = np.zeros((_FIELD_POWERS + 1, _NORMAL_POWERS + 1))
    table[i, j] = _fit(rows, target, weight)
    partition = _fit_partition(site, likely, scale)
    largest = float(site.fields[-1])
    return HeatBath(
        host(table), host(centre), bend, scale, largest, host(partition), site.largest_mean
    )


def _columns(t: Floats, s: Floats, change: Floats, i: Floats, j: Floats) -> _Columns:
    powers = np.stack([s**k for k in range(_NORMAL_POWERS + 1)], axis=-1)
    in_t = (t[:, None] ** np.arange(_FIELD_POWERS + 1))[:, None, i]
    value = in_t * powers[..., j]
    slope = in_t * j * powers[..., np.maximum(j - 1, 0)] * change[..., None]
    return _Columns(value.reshape(-1, len(i)), slope.reshape(-1, len(i)))


def _error(bath: HeatBath, site: Site, likely: Floats) -> float:
    """Mean square of log w in float32, or infinity where the map is not monotone."""
    fields, normals = site.fields[:, None], site.normals
    bath, single = jax.tree.map(np.float32, (bath, (fields, normals)))
    x, slope = (np.asarray(found, np.float64) for found in draw_sites(bath, *single))
    if not np.all(slope > _SMALLEST_SLOPE * site.slope):
        return np.inf
    log_q = -0.5 * normals**2 - 0.5 * np.log(2 * np.pi) - np.log(slope)
    log_p = site.log_density(x)
    share = likely[:, None] * np.exp(-(normals**2) / 2)
    return float(np.sum(share * (log_p - log_q) ** 2) / share.sum())


def _partition_variable(scale: Scalar, largest: Scalar, field: jax.Array) -> jax.Array:
    """t^2, from -1 at f = 0 to 1 at the largest."""
    f2, s2, most = field * field, scale * scale, largest * largest
    return 2 * f2 / (f2 + s2) * ((most + s2) / most) - 1


def _fit_partition(site: Site, likely: Floats, scale: float) -> Floats:
    u = np.asarray(_partition_variable(scale, site.fields[-1], host(site.fields)))
    powers = u[:, None] ** np.arange(_PARTITION_POWERS) * site.fields[:, None] ** 2
    rows = np.concatenate([powers, np.ones((len(u), 1))], axis=1)
    return _fit(rows, site.log_integral, np.sqrt(likely + 1e-3))


def _fit(rows: Floats, values: Floats, weight: Floats) -> Floats:
    """Weighted least squares, with columns of like size."""
    rows = rows * weight[:, None]
    size = np.abs(rows).max(axis=0) + 1e-300
    found: Floats = np.linalg.lstsq(rows / size, values * weight, rcond=1e-13)[0]
    return found / size
