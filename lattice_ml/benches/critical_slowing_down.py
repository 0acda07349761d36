"""How does the cost of an independent sample grow towards the continuum?

At a critical coupling the correlation length is the lattice, and tau_int grows as L^z.  z is
fitted to log tau_int = c + z log L, weighted with the errors; corrections to scaling are not in its
error, and chi^2 says where they are seen.
"""

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from lattice_ml.actions import conventions
from lattice_ml.benches import classical, peers
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import Drawn, colours, empty
from lattice_ml.fields.lattice import Lattice
from lattice_ml.observables import DERIVED
from lattice_ml.report.page import style

__all__ = ["Settings", "draw", "fit_exponent", "run"]


@dataclass(frozen=True)
class Settings:
    """Where and how long."""

    kappa: float
    lam: float
    extents: tuple[int, ...]  # L of the lattices, at least two
    # names in `classical.CLASSICAL`, or in `peers.PEERS`, which are left out where they are not
    # installed
    samplers: tuple[str, ...]
    n_configs: int  # stored per chain
    n_thermalise: int  # warm-up, in stored configurations
    n_chains: int = 64  # of every sampler
    ndim: int = 2  # of the lattices
    # names in `observables.DERIVED`; the first is drawn, and decides who wins
    observables: tuple[str, ...] = ("m2",)

    def __post_init__(self) -> None:
        classical.check_names("samplers", self.samplers, (*classical.CLASSICAL, *peers.PEERS))
        classical.check_names("observables", self.observables, tuple(DERIVED))
        if len(set(self.extents)) < max(2, len(self.extents)):
            raise ValueError(f"extents must be at least two different ones, got {self.extents}")


COLUMNS = (
    Column("sampler", "sampler", "key"),
    Column("observable", "observable", "key"),
    Column("extent", "L", "key"),
    Column("tau_int", "tau_int, updates", "ratio"),
    Column("rate", "independent values per second", "ratio"),
    Column("chi2", "chi^2/dof"),
)
_FIT = "fit of z"


def run(settings: Settings, seed: int) -> Result:
    """Measure all samplers on all lattices, and fit z where tau_int is its power."""
    action = conventions.action("kappa", settings.ndim, kappa=settings.kappa, lam=settings.lam)
    counts = {name: vars(settings)[name] for name in ("n_chains", "n_configs", "n_thermalise")}
    absent = sorted({*settings.samplers} & {*peers.PEERS} - {*peers.installed()})
    rows: list[Row] = []
    for extent in settings.extents:
        key = jax.random.fold_in(jax.random.key(seed), extent)
        lattice = Lattice((extent,) * settings.ndim)
        start = classical.equilibrium(
            key, action, lattice, **counts | {"n_configs": min(32, settings.n_configs)}
        )
        for name in settings.samplers:
            if name in absent:
                continue
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            if name in peers.PEERS:
                samples = peers.run(name, own, action, start, n_configs=settings.n_configs)
            else:
                samples = classical.run(name, own, action, start, **counts)
            for observable in settings.observables:
                tau, rate = classical.independent(samples, observable)
                entry = {"sampler": name, "observable": observable, "extent": extent}
                tuned = dict(samples.tuned or {})
                rows.append(entry | {"tau_int": tau, "rate": rate, "tuned": tuned})
    first = [row for row in rows if row["observable"] == settings.observables[0]]
    notes = ["the last rows hold the exponent z of tau_int ~ L^z", winners(first)]
    if absent:
        notes.append(f"not installed: {', '.join(absent)}")
    return Result(COLUMNS, [*rows, *_fits(rows)], notes)


def winners(rows: Sequence[Row]) -> str:
    """The sampler with most independent values per second on every lattice, in one line."""
    found = []
    for extent in sorted({row["extent"] for row in rows}):
        rates = {row["sampler"]: row["rate"].value for row in rows if row["extent"] == extent}
        first, *others = sorted(rates, key=lambda name: -rates[name])
        lead = f" ({rates[first] / rates[others[0]]:.2f} times {others[0]})" if others else ""
        found.append(f"{first} at L = {extent}{lead}")
    return f"most independent {rows[0]['observable']} per second: {', '.join(found)}"


def _fits(rows: Sequence[Row]) -> list[Row]:
    """A row with z for every sampler and observable."""
    fits: list[Row] = []
    for name, observable in dict.fromkeys((row["sampler"], row["observable"]) for row in rows):
        mine = [r for r in rows if (r["sampler"], r["observable"]) == (name, observable)]
        times = [row["tau_int"] for row in mine]
        z, chi2, dof = fit_exponent([row["extent"] for row in mine], times)
        entry = {"sampler": name, "observable": observable, "extent": _FIT}
        fits.append(entry | {"tau_int": z, "chi2": chi2 / dof if dof else None})
    return fits


def fit_exponent(extents: Sequence[int], times: Sequence[Number]) -> tuple[Number, float, int]:
    """z of tau ~ L^z with its error, chi^2 and its degrees of freedom.

    Where a time has no error, all points weigh the same and z has none.
    """
    x = np.log(extents)
    y = np.log([tau.value for tau in times])
    known = all(tau.error for tau in times)
    errors = np.array([(tau.error or 0.0) / tau.value if known else 1.0 for tau in times])
    weights = 1 / errors**2
    centre = np.average(x, weights=weights)
    spread = float(np.sum(weights * (x - centre) ** 2))
    slope = float(np.sum(weights * (x - centre) * y)) / spread
    rest = y - np.average(y, weights=weights) - slope * (x - centre)
    error = 1 / math.sqrt(spread) if known else None
    return Number(slope, error), float(np.sum(weights * rest**2)), len(x) - 2


@style()
def draw(result: Result) -> Drawn:
    """tau_int with the fits, and the rates, against L."""
    figure = empty(3.4, 9.0)
    left, right = figure.subplots(1, 2)
    first = result.rows[0]["observable"]
    symbol = {"m2": "$M^2$", "abs_magnetisation": "$|M|$", "magnetisation": "$M$"}.get(first, first)
    rows = [row for row in result.rows if row["observable"] == first]
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    for name, colour, marker in zip(names, colours(len(names)), itertools.cycle("os^vD<>P")):
        mine = [row for row in rows if row["sampler"] == name]
        points, z = [row for row in mine if row["extent"] != _FIT], mine[-1]["tau_int"]
        extents = np.array([row["extent"] for row in points])
        points_style = {"color": colour, "marker": marker, "linestyle": "none"}
        values, errors = _parts(points, "rate")
        label = f"{name.replace('_', ' ')}, $z = {z.value:.2f}$"
        right.errorbar(extents, values, errors, **points_style, label=label)
        right.plot(extents, values, color=colour, linewidth=0.8)
        values, errors = _parts(points, "tau_int")
        left.errorbar(extents, values, errors, **points_style)
        weights = (values / errors) ** 2
        centre = np.average(np.log(values) - z.value * np.log(extents), weights=weights)
        left.plot(extents, np.exp(centre) * extents**z.value, color=colour, linewidth=0.8)
    for axis, title in (
        (left, f"$\\tau_{{int}}$ of {symbol}, updates"),
        (right, f"independent {symbol} per second"),
    ):
        axis.set(xscale="log", yscale="log", xlabel="$L$", title=title)
        axis.set_xticks(extents, [str(extent) for extent in extents])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    right.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    caption = (
        f"Critical slowing down. Left: autocorrelation time of {symbol} with fits of L to the "
        "power z. Right: independent values of it per second."
    )
    return [("critical_slowing_down", figure, caption)]


def _parts(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([row[key].value for row in rows])
    return values, np.array([row[key].error or 1e-9 for row in rows])
