r"""Distributions of correlated and weighted samples: histograms, and how far two are apart.

A histogram keeps sums of weights per cell *and per stretch* of the chains, stretches being long
enough to be independent of each other (or whole chains).  The scatter of the stretches gives the
error of everything, whatever the autocorrelation and the weights, and 10^6 configurations need no
more memory than 100.  A distribution of F(x) known with var F(x) is worth

    N_eff = sum_x F (1 - F) / sum_x var F

independent draws; a sign that never flips within a chain counts in it.

The largest distance of two distributions, D, is judged by the largest variance of F_a - F_b.  The
tail of Kolmogorov's law, 2 exp(-2 N D^2), is 2 exp(-D^2 / (2 sigma^2)) with the largest variance
of N independent draws, sigma^2 = 1/(4N); with sigma measured it bounds the tail of any Gaussian
fluctuation of F.  N_eff, an average over x, does not: with it, chains that seldom leave their well
gave ten times the alarms they should at p < 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.resampling import Resampled, jackknife_error, jackknife_variance
from lattice_ml.statistics.series import Array, as_numbers

__all__ = [
    *("Histogram", "KolmogorovSmirnov", "common_edges", "few_stretches", "jensen_shannon"),
    *("kolmogorov_smirnov", "kullback_leibler", "wasserstein"),
]

_CELLS = 256
_COARSE = 32  # cells of the divergences


@dataclass(frozen=True)
class Histogram:
    """Sums of weights of one sample."""

    edges: Array  # `(n_cells + 1,)`, increasing; nothing lies outside
    sums: Array  # `(n_stretches, n_cells)`

    @classmethod
    def of(
        cls,
        values: npt.ArrayLike,
        stretch: npt.ArrayLike,
        edges: Array,
        weights: npt.ArrayLike | None = None,
        n_stretches: int | None = None,
    ) -> Histogram:
        """Count values, each in the stretch of its number.

        Args:
            values: `(n, ...)`; a configuration may have several.
            stretch: `(n,)` integers.
            edges: from `common_edges`; values beyond them count in the outermost cells.
            weights: `(n,)`; equal by default.
            n_stretches: in all; as many as are named by default.

        Raises:
            ValueError: values that are not finite, or weights that are negative or not finite.
        """
        values, stretch = _finite("values", values), np.asarray(stretch)
        n, n_cells = len(values), len(edges) - 1
        weights = np.ones(n) if weights is None else _finite("weights", weights)
        if np.any(weights < 0):
            raise ValueError(f"weights must not be negative, got {weights.min():.6g}")
        values = values.reshape(n, -1)
        cell = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_cells - 1)
        number = int(stretch.max()) + 1 if n_stretches is None else n_stretches
        share = np.repeat(weights / values.shape[1], values.shape[1])
        flat = (stretch[:, None] * n_cells + cell).ravel()
        counts = np.bincount(flat, weights=share, minlength=number * n_cells)
        return cls(edges, counts.reshape(number, n_cells).astype(np.float64))

    def __add__(self, other: Histogram) -> Histogram:
        """The two together, stretch by stretch."""
        return Histogram(self.edges, self.sums + other.sums)

    @property
    def probability(self) -> Array:
        """`(n_cells,)`, of sum one."""
        total: Array = self.sums.sum(axis=0)
        return total / total.sum()

    @property
    def cumulative(self) -> Array:
        """F at `edges[1:]`."""
        return np.asarray(np.cumsum(self.probability))

    @property
    def left_out(self) -> Array:
        """Probabilities without one stretch each, `(n_stretches, n_cells)`."""
        rest = self.sums.sum(axis=0) - self.sums
        return np.asarray(rest / rest.sum(axis=1, keepdims=True))

    @property
    def variance(self) -> Array:
        """Variance of F at `edges[1:]` by the jackknife; nan where there is one stretch."""
        if len(self.sums) < 2:
            return np.full(len(self.edges) - 1, math.nan)
        return jackknife_variance(np.cumsum(self.left_out, axis=1))

    @property
    def effective_size(self) -> float:
        """N_eff of the module's docstring; that of a sample of one stretch is not known: nan."""
        f, total = self.cumulative, float(self.variance.sum())
        return float(np.sum(f * (1 - f))) / total if total != 0 else math.inf

    def coarse(self, n_cells: int) -> Histogram:
        """At most so many cells, neighbours put together."""
        step = -(-(len(self.edges) - 1) // n_cells)
        starts = np.arange(0, len(self.edges) - 1, step)
        edges = np.append(self.edges[starts], self.edges[-1])
        return Histogram(edges, np.add.reduceat(self.sums, starts, axis=1))

    def density(self) -> tuple[Array, Array]:
        """Probability density and its error, `(n_cells,)` each; nan where there is one stretch."""
        widths = np.diff(self.edges)
        if len(self.sums) < 2:
            return self.probability / widths, np.full(len(widths), math.nan)
        return self.probability / widths, jackknife_error(self.left_out) / widths


def common_edges(*samples: npt.ArrayLike, n_cells: int = _CELLS) -> Array:
    """Edges of about equally populated cells of some samples together; all values lie within.

    Samples of different size count alike. Values that are all equal make one cell.
    """
    flat = [np.sort(_finite("samples", sample).ravel()) for sample in samples]
    levels = np.linspace(0, 1, n_cells + 1)[1:-1]
    inner = np.concatenate([np.quantile(x, levels) for x in flat])
    inner = np.sort(inner)[len(flat) // 2 :: len(flat)]
    low, high = min(x[0] for x in flat), max(x[-1] for x in flat)
    edges = np.unique(np.concatenate([[low], inner, [high]]))
    if len(edges) == 1:
        return np.array([low - 0.5, low + 0.5])
    if high in inner:  # many values are the largest: they need a cell of their own
        edges = np.append(edges, 2 * edges[-1] - edges[-2])
    return edges


class KolmogorovSmirnov(NamedTuple):
    """Largest distance of two cumulative distributions."""

    value: float  # max |F_a - F_b| over the edges
    where: float  # the edge
    n_eff_a: float
    n_eff_b: float  # inf of a distribution that is known
    p_value: float  # nan where an effective size is not known


def kolmogorov_smirnov(a: Histogram, b: Histogram | Callable[[Array], Array]) -> KolmogorovSmirnov:
    """Test whether two samples, or a sample and a known F(x), have one distribution.

    The p-value is Kolmogorov's at sqrt(N) D = D / (2 sigma), see the module's docstring, with the
    correction of M. A. Stephens (J. R. Stat. Soc. B 32 (1970) 115) for small N, and with that of
    `few_stretches`, as sigma is measured.

    Raises:
        ValueError: the histograms have different cells.
    """
    from scipy import special

    parts = [a]
    if isinstance(b, Histogram):
        _check_cells(a, b)
        parts, other, n_b = [a, b], b.cumulative, b.effective_size
    else:
        other, n_b = np.asarray(b(a.edges[1:]), np.float64), math.inf
    gap = np.abs(a.cumulative - other)
    gap[-1] = 0.0  # nothing of a sample lies beyond the last edge, of a known F something may
    at = int(np.argmax(gap))
    value, where, n_a = float(gap[at]), float(a.edges[1:][at]), a.effective_size
    if value == 0:
        return KolmogorovSmirnov(value, where, n_a, n_b, 1.0)
    variances = [part.variance for part in parts]
    widest = int(np.argmax(sum(variances)))
    squares = [float(variance[widest]) for variance in variances]
    root = 0.5 / math.sqrt(sum(squares)) if sum(squares) != 0 else math.inf
    p_value = float(special.kolmogorov(value * (root + 0.12 + 0.11 / root)))
    p_value = few_stretches(p_value, squares, [len(part.sums) for part in parts])
    return KolmogorovSmirnov(value, where, n_a, n_b, p_value)


def few_stretches(p_value: float, variances: Sequence[float], counts: Sequence[int]) -> float:
    """Correct a p-value for that variances are measured: E[p^(chi^2_f / f)].

    A tail exp(-x / variance) averages to (1 - 2 log(p) / f)^(-f/2) over the law of a variance of f
    degrees of freedom.

    Args:
        p_value: as if the variance were known.
        variances: of the independent parts whose sum it is; f is theirs by Welch.
        counts: stretches that each was found from.
    """
    total = sum(variances)
    if not total > 0 or min(counts) < 2:
        return p_value
    f = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, counts, strict=True))
    return float((1 - 2 * math.log(max(p_value, 1e-300)) / f) ** (-f / 2))


def kullback_leibler(a: Histogram, b: Histogram) -> Resampled:
    """sum_c p_a log(p_a / p_b) over 32 cells, in nats, with the bias of counting removed.

    A cell that is empty in one sample counts there as half a draw of the effective size, so that
    the value is finite: at most about log(2 N_eff). Value and error are those of the jackknife over
    the stretches of both.
    """
    _check_cells(a, b)
    sizes = (h.effective_size for h in (a, b))
    first, second = (0.5 / n if math.isfinite(n) else 1e-300 for n in sizes)
    return _resampled(a, b, lambda p, q: _relative_entropy(p, q, (first, second)))


def jensen_shannon(a: Histogram, b: Histogram) -> Resampled:
    """(KL(a | m) + KL(b | m)) / 2, m = (a + b) / 2, at most log 2; as `kullback_leibler`."""
    _check_cells(a, b)
    tiny = (1e-300, 1e-300)  # the middle is empty nowhere where one of them is not

    def divergence(p: Array, q: Array) -> Array:
        middle = (p + q) / 2
        return (_relative_entropy(p, middle, tiny) + _relative_entropy(q, middle, tiny)) / 2

    return _resampled(a, b, divergence)


def wasserstein(a: Histogram, b: Histogram) -> Resampled:
    """W_1 = integral |F_a - F_b| dx, in the units of x, of distributions uniform within the cells.

    Of equal distributions it is positive, about 1 / sqrt(N_eff): see its error.
    """
    _check_cells(a, b)
    widths = np.diff(a.edges)

    def distance(p: Array, q: Array) -> Array:
        gap = np.cumsum(p - q, axis=-1)
        before = np.concatenate([np.zeros_like(gap[..., :1]), gap[..., :-1]], axis=-1)
        return np.sum(widths * _mean_absolute(before, gap), axis=-1)

    return _resampled(a, b, distance, divergence=False)


def _mean_absolute(left: Array, right: Array) -> Array:
    """Mean of |f| over an interval on which f goes linearly from left to right."""
    spread = np.abs(left) + np.abs(right)
    crossing = (left**2 + right**2) / np.maximum(2 * spread, 1e-300)
    return np.where(left * right < 0, crossing, spread / 2)


def _relative_entropy(p: Array, q: Array, floors: tuple[float, float]) -> Array:
    ratio = np.maximum(p, floors[0]) / np.maximum(q, floors[1])
    return np.asarray(np.sum(p * np.log(ratio), axis=-1))


def _resampled(
    a: Histogram,
    b: Histogram,
    function: Callable[[Array, Array], Array],
    *,
    divergence: bool = True,
) -> Resampled:
    """Jackknife over the stretches of both samples, which vary independently.

    Divergences are those of coarse cells, and their bias is removed.
    """
    if divergence:
        a, b = a.coarse(_COARSE), b.coarse(_COARSE)
    value = float(function(a.probability, b.probability))
    if min(len(a.sums), len(b.sums)) < 2:
        return Resampled(value, math.nan)
    variance = bias = 0.0
    for values in (function(a.left_out, b.probability), function(a.probability, b.left_out)):
        variance += float(jackknife_variance(values))
        bias += (len(values) - 1) * (float(values.mean()) - value)
    return Resampled(value - bias if divergence else value, math.sqrt(variance))


def _finite(name: str, values: npt.ArrayLike) -> Array:
    """Read numbers, at least one, in float64; a cell that is not one would count in the last."""
    numbers = as_numbers(name, values).astype(np.float64)
    if bad := np.count_nonzero(~np.isfinite(numbers)):
        raise ValueError(f"{name} must be finite, got {bad} of {numbers.size} that are not")
    if not numbers.size:
        raise ValueError(f"{name} must be at least one number, got the shape {numbers.shape}")
    return numbers


def _check_cells(a: Histogram, b: Histogram) -> None:
    if not np.array_equal(a.edges, b.edges):
        raise ValueError(
            f"histograms are compared cell by cell, got {len(a.edges) - 1} cells from "
            f"{a.edges[0]:.6g} to {a.edges[-1]:.6g} and {len(b.edges) - 1} from "
            f"{b.edges[0]:.6g} to {b.edges[-1]:.6g}"
        )
