r"""Which phase is a configuration of?  Trained far from the transition, asked next to it.

Of every coupling one half of the chains trains and the other is judged.  Training sees the lowest
and the highest kappa alone.  `near` is the area under the ROC curve for two couplings next to the
transition, `far` that for the couplings of the training, and `kappa` is where half of the
configurations are called ordered, which moves to kappa_c as L grows (arXiv:1605.01735 for Ising).

* `magnetisation`: |M| alone, the order parameter: what the others have to beat;
* `moments`: logistic regression on |M|, M^2, phi^2, phi^4 and the links;
* `fields`: logistic regression on the fields themselves, which phi -> -phi makes blind;
* `cnn`: a small periodic convolutional network.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from lattice_ml.benches import classical
from lattice_ml.benches.paper_2309_17082 import equilibrium
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import GREY, Drawn, colours, empty
from lattice_ml.comparison.classifiers import fit_cnn, fit_logistic, log_odds, moments
from lattice_ml.report.page import style
from lattice_ml.statistics.roc import Scores, auc, roc_curve

__all__ = ["CLASSIFIERS", "Settings", "draw", "half_ordered", "run"]

Odds = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int], Odds]  # of fields and labels, with a seed


def _logistic(features: Callable[[np.ndarray], np.ndarray]) -> Fit:
    def fit(fields: np.ndarray, labels: np.ndarray, seed: int) -> Odds:
        plane = fit_logistic(features(fields), labels)
        return lambda phi: plane(features(phi))

    return fit


def _cnn(fields: np.ndarray, labels: np.ndarray, seed: int) -> Odds:
    network = fit_cnn(jax.random.key(seed), fields, labels)
    return lambda phi: log_odds(network, phi)


CLASSIFIERS: dict[str, Fit] = {
    "magnetisation": _logistic(lambda phi: moments(phi)[:, :1]),
    "moments": _logistic(moments),
    "fields": _logistic(lambda phi: phi.reshape(len(phi), -1)),
    "cnn": _cnn,
}


@dataclass(frozen=True)
class Settings:
    """Couplings, lattices and classifiers."""

    # from the disordered to the ordered phase; the first and the last train
    kappas: tuple[float, ...]
    near: tuple[float, ...]  # two of them, on either side of the transition
    lam: float  # quartic coupling
    extents: tuple[int, ...]  # L of the lattices
    n_data: int  # configurations per coupling, a multiple of 64
    classifiers: tuple[str, ...] = tuple(CLASSIFIERS)  # names in `CLASSIFIERS`

    def __post_init__(self) -> None:
        classical.check_names("classifiers", self.classifiers, tuple(CLASSIFIERS))
        if len(self.kappas) < 2 or list(self.kappas) != sorted(set(self.kappas)):
            raise ValueError(f"kappas must be at least two, rising, got {self.kappas}")
        if len(self.near) != 2 or not set(self.near) <= set(self.kappas):
            raise ValueError(f"near must be two of kappas {self.kappas}, got {self.near}")
        if self.n_data < 128 or self.n_data % 64:
            raise ValueError(f"n_data must be a multiple of 64, at least 128, got {self.n_data}")


COLUMNS = (
    Column("extent", "L", "key"),
    Column("classifier", "classifier", "key"),
    Column("near", "AUC near", "ratio"),
    Column("far", "AUC far"),
    Column("half_ordered", "kappa where half is ordered"),
)


def run(settings: Settings, seed: int) -> Result:
    """Train and judge all classifiers on all lattices."""
    rows: list[Row] = []
    low, high = sorted(settings.near)
    ends = settings.kappas[0], settings.kappas[-1]
    for extent in settings.extents:
        training, judging = {}, {}
        for i, kappa in enumerate(settings.kappas):
            made = equilibrium(kappa, settings.lam, extent, settings.n_data, 1000 * seed + i)
            chains = np.arange(len(made.cfgs)) % made.n_chains
            half = chains < made.n_chains // 2
            training[kappa] = made.cfgs[half]
            judging[kappa] = made.cfgs[~half], chains[~half]
        fields = np.concatenate([training[kappa] for kappa in ends])
        labels = np.repeat([0, 1], [len(training[kappa]) for kappa in ends])
        for name in settings.classifiers:
            odds = CLASSIFIERS[name](fields, labels, seed)
            scores = {kappa: Scores(odds(phi), chain) for kappa, (phi, chain) in judging.items()}
            shares = [_share(scores[kappa]) for kappa in settings.kappas]
            near, far = auc(scores[high], scores[low]), auc(scores[ends[1]], scores[ends[0]])
            curve = roc_curve(scores[high], scores[low])
            grid = np.linspace(0, 1, 101)
            row = {"extent": extent, "classifier": name, "kappas": settings.kappas}
            row |= {"near": Number(near.value, near.error), "far": Number(far.value, far.error)}
            row |= {"half_ordered": half_ordered(settings.kappas, shares), "shares": shares}
            row |= {"roc": np.interp(grid, curve.false_positive, curve.true_positive).tolist()}
            rows.append(row)
    notes = (
        f"near: kappa = {low:g} against {high:g}; far: {ends[0]:g} against {ends[1]:g}, "
        "the couplings of the training",
    )
    return Result(COLUMNS, rows, notes)


def _share(scores: Scores) -> Number:
    """Share of configurations that are called ordered, with the scatter of chains."""
    chain = np.asarray(scores.stretch)
    called = np.asarray(scores.values) > 0
    means = [called[chain == number].mean() for number in np.unique(chain)]
    return Number(float(np.mean(means)), float(np.std(means, ddof=1) / math.sqrt(len(means))))


def half_ordered(kappas: Sequence[float], shares: Sequence[Number]) -> Number | None:
    """Where the share of ordered configurations crosses 1/2, between two of the rising couplings.

    None where it does not cross upwards just once.
    """
    above = np.array([share.value > 0.5 for share in shares])
    crossings = np.flatnonzero(above[1:] != above[:-1])
    if len(crossings) != 1 or above[0]:
        return None
    i = int(crossings[0])
    (low, low_error), (high, high_error) = shares[i], shares[i + 1]
    x = (0.5 - low) / (high - low)
    error = math.hypot((1 - x) * (low_error or 0.0), x * (high_error or 0.0)) / (high - low)
    step = kappas[i + 1] - kappas[i]
    return Number(kappas[i] + x * step, error * step)


@style()
def draw(result: Result) -> Drawn:
    """ROC curves of the near couplings, and the share called ordered against kappa, per lattice."""
    found = []
    for extent in dict.fromkeys(row["extent"] for row in result.rows):
        mine = [row for row in result.rows if row["extent"] == extent]
        figure = empty(3.2)
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
        right.axhline(0.5, color=GREY, linewidth=0.6)
        for row, colour in zip(mine, colours(len(mine)), strict=True):
            grid = np.linspace(0, 1, len(row["roc"]))
            text = f"{row['classifier']}, {row['near'].value:.3f}"
            left.plot(grid, row["roc"], color=colour, label=text, linewidth=1.2)
            shares = [(share.value, share.error or 0.0) for share in row["shares"]]
            right.errorbar(
                row["kappas"], *zip(*shares, strict=True), fmt="o-", color=colour, linewidth=0.8
            )
        left.set(xlabel="disordered taken for ordered", ylabel="ordered recognised")
        left.set(xlim=(0, 1), ylim=(0, 1), title=f"$L = {extent}$, next to the transition")
        left.legend(loc="lower right", title="area under the curve")
        right.set(xlabel="$\\kappa$", title="share called ordered", ylim=(-0.03, 1.03))
        caption = (
            f"Phase classification at L = {extent}. Left: receiver operating characteristics for "
            "two couplings on either side of the transition. Right: share of the configurations "
            "that is called ordered; only the outermost couplings were trained on."
        )
        found.append((f"phase_classification_{extent}", figure, caption))
    return found
