r"""Training of `MarkovField` towards data, or towards an action (arXiv:2102.09449).

p = exp(-theta . t(phi)) / Z is an exponential family with the couplings theta and the statistics
t = dS/dtheta = (-phi_x phi_{x+mu}, phi_x^2, phi_x^4, phi_x).  Its Fisher matrix F = Cov(t, t) is
measured on the model's own configurations, and a natural gradient step is theta += F^-1 g with

    g = <t> - <t>_data           minus the gradient of KL(data || p): this is Newton's step
    g = Cov(t, S_target - S)     minus the gradient of KL(p || target)

The second is the regression of S_target on the statistics: exact in one step where the target is
in the family.  A step is halved until the configurations, reweighted to the couplings after it,
keep an ESS of a tenth, and no b falls below a floor: p is normalisable all the way.

First comes a search, until a step is whole and its gain, 1/2 step F step nats, is about its noise.
Then `n_iterations` times a step from the mean of all results so far (Robbins-Monro with the gain
1/k); the fit is the mean of the results.  Configurations come from a callable, for instance HMC
(`docs/markov_field.md`); everything else is float64 on the host.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
import numpy.typing as npt

from lattice_ml import statistics
from lattice_ml.actions import Action
from lattice_ml.fields.types import Floats
from lattice_ml.models.markov_field import COUPLINGS, MarkovField, kl_divergence, log_weights
from lattice_ml.statistics.series import as_numbers

__all__ = ["Fit", "fit_action", "fit_data"]

Fields = npt.NDArray[np.floating]
Start = str | Fields  # "hot", or configurations to go on from, `(n, *L)`
Sample = Callable[[jax.Array, MarkovField, Start], npt.ArrayLike]
Found = tuple[Floats, float, float]  # a gradient, what is left to gain, and the noise of that
Slope = Callable[[Fields, Floats, Floats, MarkovField], Found]

_CHUNK = 4096  # configurations of the data at a time
_OVERLAP = 0.1  # ESS/n that the configurations keep when reweighted from before a step to after
_SHRINK = 4  # a step divides no b by more
_MAX_SEARCH = 200
_NOISE = 6  # a gain of so many times its noise ends the search: chains are correlated
_RIDGE = 1e-7  # relative; the two links of a pair on an extent of 2 make F singular


@dataclass(frozen=True)
class Fit:
    """What training found."""

    field: MarkovField
    error: MarkovField  # standard errors of the couplings; 0 where a coupling was not trained
    fisher: Floats  # Cov(t, t) under the model, (n_couplings, n_couplings), in the order of `train`
    kl: Floats  # (n_steps,), before each step of the search and the n_iterations after it
    cfgs: Fields  # the last configurations, the latest first, (n, *L)


def fit_data(
    key: jax.Array,
    data: npt.ArrayLike,
    sample: Sample,
    start: MarkovField,
    *,
    train: Sequence[str] = ("h", "a", "b"),
    homogeneous: bool = False,
    n_iterations: int = 12,
    floor: float = 1e-3,
) -> Fit:
    """Minimise KL(data || p): maximum likelihood, which is concave in the couplings.

    `Fit.kl` is 1/2 g F^-1 g, to second order what is left to gain; at the fit it is noise, of mean
    n_couplings/(2 n) for n independent configurations.  `Fit.error` is for independent data:
    multiply it by sqrt(2 tau) of correlated ones.  It does not hold where b rests on its floor.

    Args:
        key: the only source of randomness.
        data: configurations, `(n_data, *L)`.
        sample: `sample(key, field, start)` gives configurations `(n, *L)` of exp(-S), n more than
            twice the number of couplings; `start` is the previous ones, the latest first (the data
            at first), for persistent chains.
        start: couplings to begin from, and those that are not trained.
        train: which of "h", "a", "b" and "r".
        homogeneous: one h, one a, one b and one r for the whole lattice.
        n_iterations: results that are averaged, at least 2.
        floor: b stays at or above it, so that the field is normalisable at every step.

    Raises:
        ValueError: an argument or what `sample` gives makes no sense.
        RuntimeError: the search does not arrive.
    """
    family = _Family(start, tuple(train), homogeneous, floor)
    known = _checked(data, start.shape, 1, "data")
    parts = np.array_split(known, -(-len(known) // _CHUNK))
    observed = sum(family.statistics(part).sum(axis=0) for part in parts) / len(known)

    def slope(cfgs: Fields, t: Floats, fisher: Floats, field: MarkovField) -> Found:
        gradient = t.mean(axis=0) - observed
        return gradient, 0.5 * gradient @ _inverse(fisher) @ gradient, 1 / len(t) + 1 / len(known)

    fit, variance = _descend(key, sample, family, slope, known, n_iterations)
    variance += np.diag(_inverse(fit.fisher)) / len(known)
    return replace(fit, error=family.error(variance))


def fit_action(
    key: jax.Array,
    target: Action,
    sample: Sample,
    start: MarkovField,
    *,
    train: Sequence[str] = ("h", "a", "b"),
    homogeneous: bool = False,
    n_iterations: int = 12,
    floor: float = 1e-3,
) -> Fit:
    """Minimise KL(p || target) for a target action known in closed form, without data.

    `Fit.kl` is `kl_divergence` of the samples of every iteration.  p avoids what the target avoids,
    but may miss a well of it; and it need not be the best fit to configurations of the target.

    Args:
        key: the only source of randomness.
        target: any action, a pytree; its constants do not matter.
        sample: as for `fit_data`; `start` is "hot" at first.
        start, train, homogeneous, n_iterations, floor: as for `fit_data`.

    Raises:
        ValueError: an argument or what `sample` gives makes no sense.
        RuntimeError: the search does not arrive.
    """
    family = _Family(start, tuple(train), homogeneous, floor)

    def slope(cfgs: Fields, t: Floats, fisher: Floats, field: MarkovField) -> Found:
        log_w = log_weights(field, target, cfgs)
        gradient = t.T @ (log_w.mean() - log_w) / len(t)  # one of the two centred is enough
        return gradient, kl_divergence(log_w), float(np.var(log_w)) / len(t)

    return _descend(key, sample, family, slope, "hot", n_iterations)[0]


@dataclass(frozen=True)
class _Family:
    """The couplings that are trained as one vector theta, `(n_couplings,)`, and the others."""

    base: MarkovField
    train: tuple[str, ...]
    homogeneous: bool
    floor: float

    def __post_init__(self) -> None:
        self.base.check(len(self.base.shape))
        names, least = self.train, float(np.min(self.base.b))
        if not names or len(set(names)) < len(names) or not set(names) <= set(COUPLINGS):
            raise ValueError(
                f"train must name some of {', '.join(COUPLINGS)}, once each, got {names}"
            )
        if not 0 < self.floor <= least:
            raise ValueError(
                f"floor must be positive and at most the smallest b of the start, {least:.6g}, "
                f"got {self.floor}"
            )

    @property
    def theta(self) -> Floats:
        """Where training begins."""
        return self._join({name: np.asarray(self.base.parts[name]) for name in self.train})

    def field(self, theta: Floats) -> MarkovField:
        """The base with theta in it."""
        couplings = self.base.parts | self._split(theta)
        return MarkovField(**couplings, z2=self.base.z2 and "r" not in self.train)

    def error(self, variance: Floats) -> MarkovField:
        """Standard errors of all couplings; what is not trained has none."""
        zeros = {name: np.zeros(np.shape(value)) for name, value in self.base.parts.items()}
        return MarkovField(**zeros | self._split(np.sqrt(variance)), z2=False)

    def statistics(self, cfgs: Fields) -> Floats:
        """t of every configuration, `(n, n_couplings)`."""
        parts = MarkovField.statistics(cfgs)
        rows = [parts[name].reshape(len(cfgs), -1) for name in self.train]
        if self.homogeneous:
            rows = [np.sum(row, axis=1, keepdims=True) for row in rows]
        return np.concatenate(rows, axis=1)

    def lowest(self, theta: Floats) -> Floats:
        """What a step from theta may not fall below."""
        shapes = zip(self.train, self._shapes, strict=True)
        of_b = self._join({name: np.full(shape, name == "b") for name, shape in shapes})
        return np.where(of_b > 0, np.maximum(self.floor, theta / _SHRINK), -np.inf)

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Of what is trained."""
        return [np.shape(self.base.parts[name]) for name in self.train]

    def _join(self, parts: Mapping[str, npt.ArrayLike]) -> Floats:
        rows = [np.ravel(parts[name]).astype(np.float64) for name in self.train]
        return np.concatenate([[row.mean()] if self.homogeneous else row for row in rows])

    def _split(self, theta: Floats) -> dict[str, Floats]:
        sizes = [1 if self.homogeneous else math.prod(shape) for shape in self._shapes]
        parts = np.split(theta, np.cumsum(sizes)[:-1])
        return {
            name: np.resize(part, shape)
            for name, part, shape in zip(self.train, parts, self._shapes, strict=True)
        }


def _descend(
    key: jax.Array, sample: Sample, family: _Family, slope: Slope, first: Start, n_iterations: int
) -> tuple[Fit, Floats]:
    """Search, then average; return the fit, and the variance of theta due to sampling."""
    if n_iterations < 2:
        raise ValueError(f"n_iterations must be at least 2, got {n_iterations}")
    theta, start = family.theta, first
    results: list[Floats] = []
    metrics: list[Floats] = []
    kl: list[float] = []
    arrived = False
    while len(results) < n_iterations:
        if len(kl) - len(results) == _MAX_SEARCH:
            raise RuntimeError(
                f"no fit after {_MAX_SEARCH} steps, KL = {kl[-1]:.3g}: begin nearer, for instance "
                f"at a homogeneous fit, and see that the chains of sample equilibrate"
            )
        field = family.field(theta)
        found = sample(jax.random.fold_in(key, len(kl)), field, start)
        start = cfgs = _checked(found, field.shape, 2 * len(theta) + 1, "what sample gives")[::-1]
        t = family.statistics(cfgs)
        fisher = np.atleast_2d(np.cov(t, rowvar=False))
        gradient, distance, noise = slope(cfgs, t, fisher, field)
        kl.append(distance)
        # F and g of the same configurations are correlated: their quotient would be biased.
        metric = np.mean(metrics, axis=0) if metrics else fisher
        step = _step(metric, gradient, family.lowest(theta) - theta)
        share = _share(t @ step)
        if not arrived:
            gain, least = 0.5 * step @ metric @ step, 0.5 * len(step) * noise
            arrived = share == 1 and bool(gain < _NOISE * least)
            theta = theta + share * step
            continue
        results.append(theta + share * step)
        metrics.append(fisher)
        theta = np.mean(results, axis=0)
    variance = np.var(results, axis=0, ddof=1) / n_iterations
    fisher = np.mean(metrics, axis=0)
    return Fit(family.field(theta), family.error(variance), fisher, np.array(kl), cfgs), variance


def _step(metric: Floats, gradient: Floats, lowest: Floats) -> Floats:
    """F^-1 g, but at `lowest` what would fall below it, and the rest solved anew."""
    free = np.ones(len(gradient), bool)
    step = _inverse(metric) @ gradient
    while (step < lowest).any():
        free &= step >= lowest
        step = np.where(free, 0, lowest)
        rest = gradient - metric @ step
        step[free] = _inverse(metric[np.ix_(free, free)]) @ rest[free]
    return step


def _share(change: Floats) -> float:
    """The part 1, 1/2, 1/4 ... of a step that changes S by `change` `(n,)` that can be trusted."""
    share = 1.0
    while statistics.kish(-share * change) < _OVERLAP * len(change):
        share /= 2
    return share


def _inverse(fisher: Floats) -> Floats:
    """F^-1; where F is singular a coupling's error comes out as very large."""
    scale = np.sqrt(np.diag(fisher))
    correlation = fisher / np.outer(scale, scale)
    return np.linalg.inv(correlation + _RIDGE * np.eye(len(scale))) / np.outer(scale, scale)


def _checked(cfgs: npt.ArrayLike, shape: tuple[int, ...], least: int, what: str) -> Fields:
    """Refuse configurations that are too few, of another lattice, or not finite."""
    fields = as_numbers(what, cfgs)
    if fields.shape[1:] != shape or len(fields) < least:
        raise ValueError(
            f"{what} must be at least {least} configurations (n, {', '.join(map(str, shape))}), "
            f"got {fields.shape}"
        )
    if bad := np.count_nonzero(~np.isfinite(fields)):
        raise ValueError(f"{what} must be finite, but {bad} numbers are not")
    return fields
