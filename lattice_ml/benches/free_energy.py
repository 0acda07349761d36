"""How many seconds does log Z take, to a statistical error that one wants?

A method makes log Z once, and says what another error would cost: seconds for whatever error,
which are the training of a model or the warm-up of chains, and seconds times error^2 of its draws
or chains,

    seconds(error) = before + cost / error^2.

Another method is a function with a line in `METHODS`.  Its value is judged by the others', in
units of the combined error; what is wrong with a value beyond its statistical error shows there,
and in how it changes with smaller steps or more nodes.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import Quartic, conventions
from lattice_ml.benches import classical, thermodynamic
from lattice_ml.benches.learned import DENSITIES, DensitySettings, ModelMaker
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import Drawn, colours, empty, in_errors
from lattice_ml.fields.lattice import Lattice
from lattice_ml.report.page import style
from lattice_ml.statistics import estimate, reweight

__all__ = ["METHODS", "Found", "Settings", "Task", "cheaper_below", "draw", "pulls", "run"]

ERROR = 0.01  # of log Z, that costs are compared at
THERMODYNAMIC = "thermodynamic"


class Found(NamedTuple):
    """log Z by one method, and what an error costs: before + cost / error^2 seconds."""

    log_z: Number
    before: float  # seconds, whatever the error: of training, or of warm-up
    cost: Number  # seconds of draws or chains times error^2, and what is not known of the error
    refined: Number | None  # change of log Z with smaller steps or more nodes, where there are any
    doubt: str | None = None  # why the error may be wrong


@dataclass(frozen=True)
class Task:
    """What log Z is wanted of."""

    action: Quartic
    lattice: Lattice
    key: jax.Array
    settings: "Settings"
    maker: ModelMaker  # of the models


def _thermodynamic(task: Task) -> Found:
    """Of chains of HMC, once with more nodes to see what that changes."""
    at = task.settings
    counts = {name: vars(at)[name] for name in ("n_chains", "n_configs", "n_thermalise")}
    cuts = [2 * kappa for kappa in at.cuts]
    few, many = (
        thermodynamic.integrate(
            jax.random.fold_in(task.key, n),
            task.action,
            task.lattice,
            n_nodes=n,
            cuts=cuts,
            **counts,
        )
        for n in (at.n_nodes, at.finer_nodes)
    )
    error = math.hypot(few.log_z.error or 0.0, many.log_z.error or 0.0)
    change = Number(many.log_z.value - few.log_z.value, error)
    return Found(few.log_z, few.warm_up, few.cost, change)


def _reweighted(name: str, task: Task) -> Found:
    """Of weighted draws of a model of `learned.DENSITIES`."""
    made = task.maker.make(name, DENSITIES[name](task.settings, task.lattice.shape[0]))
    logs, change = made.samples.log_weights, made.log_w_change
    assert logs is not None, "what is in `DENSITIES` has weights"
    largest = float(logs.max())
    mean = estimate(np.exp(logs - largest)[None], lambda means: jnp.log(means[0]))
    seconds = logs.size / made.samples.per_second.value
    squared = Number(mean.error**2, 2 * mean.error * mean.error_error)
    moved = None
    if change is not None:
        moved = Number(float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change)))
    return Found(
        Number(largest + mean.value, mean.error),
        made.training_seconds,
        squared.scaled(seconds),
        moved,
        reweight(logs).warning,
    )


METHODS: dict[str, Callable[[Task], Found]] = {
    THERMODYNAMIC: _thermodynamic,
    **{name: partial(_reweighted, name) for name in DENSITIES},
}


@dataclass(frozen=True)
class Settings(DensitySettings):
    """Where, how, and how long; `DensitySettings` has the keys of the models."""

    kappa: float
    lam: float
    extents: tuple[int, ...]  # L of the lattices
    n_nodes: int  # of thermodynamic integration, on every piece
    finer_nodes: int  # once more, to see what that changes
    n_configs: int  # per chain at every node
    n_thermalise: int  # warm-up at every node
    cuts: tuple[float, ...] = ()  # kappas between 0 and kappa that divide it into pieces
    methods: tuple[str, ...] = tuple(METHODS)
    n_chains: int = 64  # at every node
    ndim: int = 2  # of the lattices

    def __post_init__(self) -> None:
        classical.check_names("methods", self.methods, tuple(METHODS))
        if not self.extents:
            raise ValueError("extents must hold at least one lattice extent, got none")
        if not 0 < self.n_nodes < self.finer_nodes:
            raise ValueError(
                "finer_nodes must be more than n_nodes, and that at least 1, got "
                f"{self.finer_nodes} and {self.n_nodes}"
            )
        if any(low >= high for low, high in pairwise([0.0, *self.cuts, self.kappa])):
            raise ValueError(
                f"cuts must rise between 0 and kappa = {self.kappa}, got {list(self.cuts)}"
            )


COLUMNS = (
    Column("extent", "L", "key"),
    Column("method", "method", "key"),
    Column("log_z", "log Z"),
    Column("z", "z to the others"),
    Column("refined", "change when refined"),
    Column("seconds", f"s to an error of {ERROR}", "ratio"),
    Column("before", "training or warm-up, s", "ratio"),
    Column("break_even", "pays below an error of"),
)


def run(settings: Settings, seed: int) -> Result:
    """Find log Z of all lattices by all methods."""
    couplings = {"kappa": settings.kappa, "lam": settings.lam}
    action = conventions.action("kappa", settings.ndim, **couplings)
    section = {"kind": "Phi4", "convention": "kappa", **couplings}
    rows: list[Row] = []
    notes = [
        "z: difference to the weighted mean of the others, in units of the combined error",
        "refined: twice the steps of a model, or more nodes; no part of the error",
        "training: HMC data and gradient steps, compilation apart",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for extent in settings.extents:
            lattice = Lattice((extent,) * settings.ndim)
            inside = Path(folder) / str(extent)
            maker = ModelMaker(inside, action, section, lattice, seed, settings.data_configs)
            key = jax.random.fold_in(jax.random.key(seed), extent)
            task = Task(action, lattice, key, settings, maker)
            found = {name: METHODS[name](task) for name in METHODS if name in settings.methods}
            notes += [
                f"L = {extent}, {name}: {one.doubt}" for name, one in found.items() if one.doubt
            ]
            rows += _rows(extent, found)
    return Result(COLUMNS, rows, notes)


def _rows(extent: int, found: Mapping[str, Found]) -> Iterator[Row]:
    """What the methods found on one lattice."""
    rival, z = found.get(THERMODYNAMIC), pulls([one.log_z for one in found.values()])
    for (name, one), pull in zip(found.items(), z, strict=True):
        yield {
            "extent": extent,
            "method": name,
            "log_z": one.log_z,
            "z": pull,
            "refined": one.refined,
            "seconds": one.cost.scaled(ERROR**-2),
            "before": one.before,
            "break_even": None if one is rival else cheaper_below(one, rival),
        }


def pulls(values: Sequence[Number]) -> list[float | None]:
    """Difference of each number to the weighted mean of the others, in units of both errors."""
    found: list[float | None] = []
    for i, one in enumerate(values):
        others = [other for j, other in enumerate(values) if j != i]
        shares = np.array([(other.error or math.inf) ** -2 for other in others])
        if not shares.sum():
            found.append(None)
            continue
        mean = float(np.average([other.value for other in others], weights=shares))
        found.append((one.value - mean) / math.hypot(one.error or 0.0, shares.sum() ** -0.5))
    return found


def cheaper_below(one: Found, rival: Found | None) -> float | str | None:
    """The error of log Z below which a method takes less seconds than another, all counted."""
    if rival is None:
        return None
    if one.cost.value >= rival.cost.value:
        return "never"
    if one.before <= rival.before:
        return "any"
    return math.sqrt((rival.cost.value - one.cost.value) / (one.before - rival.before))


@style()
def draw(result: Result) -> Drawn:
    """Seconds against the error that is wanted, and how the values agree, lattice by lattice."""
    found = []
    errors = np.geomspace(1e-4, 1.0, 200)
    for extent in dict.fromkeys(row["extent"] for row in result.rows):
        mine = [row for row in result.rows if row["extent"] == extent]
        figure = empty(3.2, 9.0)
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        for place, (row, shade) in enumerate(zip(mine, colours(len(mine)), strict=True)):
            label = str(row["method"]).replace("_", " ")
            seconds = row["before"] + row["seconds"].value * (ERROR / errors) ** 2
            left.plot(errors, seconds, color=shade, label=label)
            if row["z"] is not None:
                right.plot(row["z"], -place, "o", color=shade)
        left.set(xscale="log", yscale="log", title=f"$L = {extent}$")
        left.set(xlabel="error of $\\log Z$", ylabel="seconds, all counted")
        left.legend()
        in_errors(right)
        right.set(xlabel="difference to the others in standard errors", yticks=[])
        caption = (
            f"Free energies at L = {extent}. Left: seconds that log Z takes, training or warm-up "
            "included, against its statistical error. Right: difference of each value to the "
            "weighted mean of the others; the grey band is three standard errors."
        )
        found.append((f"free_energy_{extent}", figure, caption))
    return found
