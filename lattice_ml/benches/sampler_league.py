"""Which sampler is right, and what does an independent sample cost, training included?

Every sampler and every model of a theory is one row, beside a long run of HMC: the bias of four
observables in standard errors, the autocorrelation time of M^2, the effective share of weighted
samples, independent samples of M^2 per second of sampling, and for a model the seconds of data and
training and after how many independent samples they are paid back,

    n = training / (1/rate_best - 1/rate_model),

against the fastest classical sampler without bias; "never" where the model is no faster than that.
"""

import math
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.benches import classical
from lattice_ml.benches.classical import CLASSICAL
from lattice_ml.benches.learned import MODELS, ModelMaker, ModelSettings, effective_share
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import BLUE, ORANGE, Drawn, colours, empty, in_errors
from lattice_ml.benches.timing import Samples
from lattice_ml.fields.lattice import Lattice
from lattice_ml.report.page import style

__all__ = ["OBSERVABLES", "Settings", "draw", "pay_back", "run"]

OBSERVABLES = ("phi2", "abs_magnetisation", "m2", "action_density")
_KNOWN = (*CLASSICAL, *MODELS)


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Where, who, and how long; `ModelSettings` has the keys of the models."""

    kappa: float
    lam: float
    extents: tuple[int, ...]  # L of the lattices, each a league of its own
    n_configs: int  # stored per chain of every classical sampler
    n_thermalise: int  # warm-up, in stored configurations
    reference_configs: int  # per chain of the reference
    rows: tuple[str, ...] = _KNOWN  # names in `classical.CLASSICAL` and `learned.MODELS`
    n_chains: int = 64  # of every classical sampler
    ndim: int = 2  # of the lattices

    def __post_init__(self) -> None:
        classical.check_names("rows", self.rows, _KNOWN)
        if not self.extents:
            raise ValueError("extents must hold at least one lattice extent, got none")


COLUMNS = (
    Column("extent", "L", "key"),
    Column("sampler", "sampler", "key"),
    *(Column(f"z_{name}", f"z of {name}") for name in OBSERVABLES),
    Column("tau_int", "tau_int of M^2", "ratio"),
    Column("ess", "ESS/n"),
    Column("rate", "independent M^2 per s", "ratio"),
    Column("training_seconds", "training, s", "ratio"),
    Column("break_even", "paid back after"),
)


def run(settings: Settings, seed: int) -> Result:
    """Make and judge all rows of all lattices."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for extent in settings.extents:
            rows += _league(settings, extent, seed, Path(folder) / str(extent))
    notes = (
        "z: difference to the reference in standard errors, that of the reference included",
        "training: HMC data and gradient steps, compilation apart",
    )
    return Result(COLUMNS, rows, notes)


def _league(settings: Settings, extent: int, seed: int, folder: Path) -> list[Row]:
    """All rows of one lattice."""
    couplings = {"kappa": settings.kappa, "lam": settings.lam}
    action = conventions.action("kappa", settings.ndim, **couplings)
    lattice = Lattice((extent,) * settings.ndim)
    key = jax.random.fold_in(jax.random.key(seed), extent)
    counts = {"n_chains": settings.n_chains, "n_thermalise": settings.n_thermalise}
    reference = classical.equilibrium(
        key, action, lattice, n_configs=settings.reference_configs, **counts
    )
    exact = {name: reference.estimate(name) for name in OBSERVABLES}

    def row(name: str, samples: Samples, *, weights: bool = True) -> dict[str, object]:
        entry: dict[str, object] = {"extent": extent, "sampler": name}
        for n, known in exact.items():
            found = samples.estimate(n, weights=weights)
            entry[n] = Number(found.value, found.error)
            entry[f"z_{n}"] = (found.value - known.value) / math.hypot(found.error, known.error)
        return entry

    known_values = {n: Number(e.value, e.error) for n, e in exact.items()}
    rows: list[Row] = [{"extent": extent, "sampler": "reference", **known_values}]
    best: Number | None = None
    for name in (name for name in CLASSICAL if name in settings.rows):
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        samples = classical.run(
            name, own, action, reference, n_configs=settings.n_configs, **counts
        )
        tau, rate = classical.independent(samples)
        if CLASSICAL[name].exact and (best is None or rate.value > best.value):
            best = rate
        tuned = dict(samples.tuned or {})
        rows.append(row(name, samples) | {"tau_int": tau, "rate": rate, "tuned": tuned})
    section = {"kind": "Phi4", "convention": "kappa", **couplings}
    maker = ModelMaker(folder, action, section, lattice, seed, settings.data_configs)
    for name in (name for name in MODELS if name in settings.rows):
        learned = maker.make(name, MODELS[name](settings, extent))
        raw, seconds, change = learned.samples, learned.training_seconds, learned.log_w_change
        entries: list[tuple[str, bool, Number | None]] = [(f"{name}, raw", False, None)]
        if raw.log_weights is not None:
            entries.append((f"{name}, reweighted", True, effective_share(raw)))
        for label, weights, share in entries:
            rate = raw.per_second
            if share is not None:  # times the share
                rate = rate.over(Number(1 / share.value, (share.error or 0.0) / share.value**2))
            entry = row(label, raw, weights=weights)
            entry |= {"ess": share, "rate": rate, "training_seconds": seconds}
            moved = None if change is None or not weights else math.sqrt(np.mean(change**2))
            entry |= {"log_w_change": moved}
            rows.append(entry | {"break_even": pay_back(seconds, rate, best)})
        if learned.chains is not None:
            tau, rate = classical.independent(learned.chains)
            entry = row(f"{name}, latent", learned.chains) | {"tau_int": tau, "rate": rate}
            entry |= {"training_seconds": seconds, "break_even": pay_back(seconds, rate, best)}
            rows.append(entry | {"tuned": dict(learned.chains.tuned or {})})
    return rows


def pay_back(seconds: float, rate: Number, best: Number | None) -> float | str | None:
    """Independent samples after which the seconds of a training have paid; None without a rival.

    Rates are independent samples per second, of the model and of the fastest classical sampler.
    """
    if best is None:
        return None
    if rate.value <= best.value:
        return "never"
    return seconds / (1 / best.value - 1 / rate.value)


@style()
def draw(result: Result) -> Drawn:
    """Rates and biases of all rows, lattice by lattice."""
    found = []
    for extent in dict.fromkeys(row["extent"] for row in result.rows):
        mine = [row for row in result.rows if row["extent"] == extent and "rate" in row][::-1]
        figure = empty(1.0 + 0.27 * len(mine))
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(mine))
        for place, row in zip(places, mine, strict=True):
            colour = ORANGE if row.get("training_seconds") is not None else BLUE
            rate = row["rate"]
            left.errorbar(rate.value, place, xerr=rate.error or 0.0, fmt="o", color=colour)
        left.set_yticks(places, [str(row["sampler"]).replace("_", " ") for row in mine])
        left.set(xscale="log", xlabel="independent $M^2$ per second", title=f"$L = {extent}$")
        for name, shade in zip(OBSERVABLES, colours(len(OBSERVABLES)), strict=True):
            z = [row[f"z_{name}"] for row in mine]
            right.plot(z, places, "o", color=shade, label=_NAMES[name], alpha=0.85)
        in_errors(right)
        right.set(xlabel="bias in standard errors")
        n = len(OBSERVABLES)
        figure.legend(loc="outside upper right", ncols=n, handletextpad=0.0, columnspacing=0.8)
        caption = (
            f"Sampler league at L = {extent}. Left: independent samples of the squared "
            "magnetisation per second of sampling, classical samplers in blue and models in "
            "orange. Right: differences to the reference; the grey band is three standard errors."
        )
        found.append((f"sampler_league_{extent}", figure, caption))
    return found


_NAMES = {
    "phi2": "$\\phi^2$",
    "abs_magnetisation": "$|M|$",
    "m2": "$M^2$",
    "action_density": "$S/V$",
}
