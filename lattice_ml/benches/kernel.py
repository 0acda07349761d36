"""How many sites does the HMC kernel update per second?

Full float32 HMC as a production run does it: momentum refresh, leapfrog, energy difference, accept
step of every trajectory, and all primary observables at the end of each call.  A site update is one
site in one leapfrog step.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from lattice_ml.actions import Action, conventions
from lattice_ml.benches.record import Column, Number, Result
from lattice_ml.benches.style import Drawn, colours, empty
from lattice_ml.chains.engine import Engine
from lattice_ml.chains.program import Program
from lattice_ml.fields.lattice import Lattice
from lattice_ml.report.page import style
from lattice_ml.runtime.printable import shape_label
from lattice_ml.samplers.hmc import HMC

__all__ = ["LENGTH", "N_STEPS", "Settings", "advancer", "calibrate", "draw", "rate", "run"]

N_STEPS, LENGTH = 10, 1.0
_MOST = 2000  # trajectories in a call


@dataclass(frozen=True)
class Settings:
    """Which lattices, and for how long; the three lists have one entry per row."""

    extents: tuple[int, ...]  # L of the lattices
    dimensions: tuple[int, ...]  # of the lattices
    n_chains: tuple[int, ...]  # advanced together
    seconds: float  # of one repeat
    repeats: int  # whose median is taken
    kappa: float = 0.21  # the kernel's speed does not depend on the couplings
    lam: float = 0.022

    def __post_init__(self) -> None:
        lengths = {len(self.extents), len(self.dimensions), len(self.n_chains)}
        if lengths == {0} or len(lengths) > 1:
            raise ValueError(
                "extents, dimensions and n_chains must have one entry per row each, got "
                f"{len(self.extents)}, {len(self.dimensions)} and {len(self.n_chains)}"
            )
        if self.repeats < 2 or self.seconds <= 0:
            raise ValueError(
                "repeats must be at least 2 and seconds positive, got "
                f"{self.repeats} and {self.seconds:g}"
            )


COLUMNS = (
    Column("lattice", "lattice", "key"),
    Column("n_chains", "chains", "key"),
    Column("rate", "million site updates per second", "ratio"),
)


def run(settings: Settings, seed: int) -> Result:
    """Time every row."""
    rows = []
    for extent, ndim, n_chains in zip(
        settings.extents, settings.dimensions, settings.n_chains, strict=True
    ):
        lattice = Lattice((extent,) * ndim)
        action = conventions.action("kappa", ndim, kappa=settings.kappa, lam=settings.lam)
        advance = advancer(action, lattice, n_chains, seed)
        n = calibrate(advance, settings.seconds)
        sites = lattice.volume * n_chains * N_STEPS / 1e6
        rates = [sites * rate(advance, n) for _ in range(settings.repeats)]
        entry = {"lattice": shape_label(lattice.shape), "n_chains": n_chains, "rates": rates}
        entry |= {"volume": lattice.volume, "ndim": ndim}
        rows.append(entry | {"rate": Number.median(rates)})
    return Result(COLUMNS, rows)


def advancer(
    action: Action, lattice: Lattice, n_chains: int, seed: int = 1, dtype: str = "float32"
) -> Callable[[int], np.ndarray]:
    """A function that advances all chains by n trajectories with the program of a real run."""
    sampler = HMC(action, trajectory_length=LENGTH, n_steps=N_STEPS, step_size=LENGTH / N_STEPS)
    engine = Engine(jax.random.key(seed), lattice, n_chains, dtype)
    program = Program(engine, size=1, slots=2048, save=False)
    state, done = engine.start(sampler, "hot"), 0

    def advance(n: int) -> np.ndarray:
        nonlocal state, done
        state, output = program(sampler, state, done, 1, n)
        done += n
        return np.asarray(program.collect(output)[1]["magnetisation"])

    return advance


def calibrate(advance: Callable[[int], np.ndarray], seconds: float) -> int:
    """Trajectories that take about `seconds`; compiles first."""
    advance(2)
    return max(2, min(_MOST, int(seconds * rate(advance, 5))))


def rate(advance: Callable[[int], np.ndarray], n: int) -> float:
    """Trajectories per second in one call of n."""
    begin = time.perf_counter()
    advance(n)
    return n / (time.perf_counter() - begin)


@style()
def draw(result: Result) -> Drawn:
    """Rates against the volume, by the number of chains."""
    figure = empty(3.4, 5.6)
    axis = figure.subplots()
    kinds = sorted({row["n_chains"] for row in result.rows})
    for n_chains, colour in zip(kinds, colours(len(kinds)), strict=True):
        mine = sorted(
            (row for row in result.rows if row["n_chains"] == n_chains), key=lambda r: r["volume"]
        )
        axis.errorbar(
            [row["volume"] for row in mine],
            [row["rate"].value for row in mine],
            [row["rate"].error or 0.0 for row in mine],
            fmt="o",
            color=colour,
            label=f"{n_chains} chain" + "s" * (n_chains > 1),
        )
    for row in result.rows:
        place = row["volume"], row["rate"].value
        axis.annotate(f"{row['ndim']}d", place, (4, 3), textcoords="offset points", fontsize=8)
    axis.set(xscale="log", xlabel="sites", ylabel="million site updates per second")
    axis.set(ylim=(0, None), title="HMC kernel")
    axis.legend()
    caption = (
        "Site updates per second of full HMC, float32; the error bars are those of the median."
    )
    return [("kernel", figure, caption)]
