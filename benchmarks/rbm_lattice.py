"""Does a Gaussian RBM learn the spectrum of a free field, up to its regulators and no further?

A part of `rbm_figures.py`; the data are infinite, that is the exact second moment.  Every spectrum
is compared with its closed form: N_h hidden fields learn the N_h lowest kappa that lie below mu^2,
the rest is mu^2; where mu^2 is trained, 1/mu^2 is the mean of 1/kappa over the rest.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rbm_drawings as drawings
from rbm_parts import Check, Part

from lattice_ml.analysis.dynamics.learning import gradient_flow, learning_time
from lattice_ml.benches.free_rbm import MASS_SQUARED, N_SITES, begin, exact, fit, learn
from lattice_ml.models.rbm.fit import RBMSettings
from lattice_ml.report.page import Table

REGULATORS = (9.0, 7.8, 7.1, 5.8, 4.8)
FIXED = 9.0
PLANE_MASS_SQUARED = 0.25
RATES = (1.0, 0.7)  # of the natural gradient, in two dimensions


class Size(NamedTuple):
    """How much is done: steps of the fits and of the plain gradient, its rate, and lattices."""

    n_steps: int
    flow_time: float
    flow_rate: float
    extents: tuple[int, ...]
    plane_steps: int


SIZES = {
    "toy": Size(600, 60.0, 0.05, (4,), 100),
    "full": Size(1000, 600.0, 0.02, (8, 16), 200),
}


def evolve(size: Size, rate: float) -> dict[str, Any]:
    """Plain gradient on the chain, noted at steps that are even in the logarithm."""
    moments, kappa = exact((N_SITES,), MASS_SQUARED)
    settings = RBMSettings(train_eta=False, natural=False)
    scale = 0.03
    state = begin(N_SITES, N_SITES, FIXED, settings, scale)
    last = round(size.flow_time / rate)
    steps = np.unique(np.geomspace(max(1, round(0.5 / rate)), last, 120).round().astype(int))
    spectra, done = [], 0
    for step in steps.tolist():
        state = fit(settings, state, moments, step - done, rate)
        spectra.append(np.asarray(state.rbm.eigenvalues()))
        done = step
    t, y0 = steps * rate, scale**2 * FIXED
    flow = gradient_flow(kappa, FIXED, y0, t)
    y = FIXED - np.array(spectra)
    half = [
        float(np.exp(np.interp(a / 2, mode, np.log(t)))) if mode[-1] > a / 2 else None
        for mode, a in zip(y.T, FIXED - kappa, strict=True)
    ]
    return {
        "learning_rate": rate,
        "mu_squared": FIXED,
        "y0": y0,
        "kappa": kappa.tolist(),
        "t": t.tolist(),
        "eigenvalues": np.array(spectra).tolist(),
        "flow": flow.tolist(),
        "largest_deviation": float(np.max(np.abs(np.array(spectra) / flow - 1))),
        "half_time": half,
        "half_time_exact": learning_time(kappa, FIXED, y0).tolist(),
    }


def plane(extent: int, rate: float, size: Size) -> dict[str, Any]:
    """Natural gradient on the square lattice: the largest deviation against the steps."""
    moments, kappa = exact((extent, extent), PLANE_MASS_SQUARED)
    settings = RBMSettings(train_eta=False)
    state = begin(extent**2, extent**2, 2 * kappa[-1], settings, 0.3)
    fit(settings, state, moments, 0)  # compile
    points = np.unique(np.geomspace(1, size.plane_steps, 24).round().astype(int)).tolist()
    steps, deviations, seconds, spent = [], [], [], 0.0
    for step in points:
        start = time.perf_counter()
        state = fit(settings, state, moments, step - (steps[-1] if steps else 0), rate)
        state.rbm.w.block_until_ready()
        spent += time.perf_counter() - start
        learned = np.asarray(state.rbm.eigenvalues())
        steps.append(step)
        seconds.append(spent)
        deviations.append(float(np.max(np.abs(learned / kappa - 1))))
        if deviations[-1] < 1e-3:
            break
    there = next((i for i, d in enumerate(deviations) if d < 0.01), None)
    return {
        "extent": extent,
        "learning_rate": rate,
        "kappa": kappa.tolist(),
        "eigenvalues": learned.tolist(),
        "steps": steps,
        "deviations": deviations,
        "seconds": seconds,
        "steps_to_1_percent": None if there is None else steps[there],
        "seconds_to_1_percent": None if there is None else seconds[there],
    }


def run(size_name: str, _: Path) -> Part:
    """Measure, judge and draw the figures of the lattice; nothing is stored."""
    size, part = SIZES[size_name], Part()
    kappa = exact((N_SITES,), MASS_SQUARED)[1]
    counts = (10, 8, 5, 2, 1) if size_name == "toy" else range(N_SITES, 0, -1)
    mass = [learn(N_SITES, mu_squared, size.n_steps) for mu_squared in REGULATORS]
    trained = [learn(n, None, size.n_steps) for n in counts]
    fixed = [learn(n, FIXED, size.n_steps) for n in counts]
    flow, doubled = evolve(size, size.flow_rate), evolve(size, 2 * size.flow_rate)
    planes = [plane(extent, rate, size) for extent in size.extents for rate in RATES]
    part.numbers = {
        "kappa": kappa.tolist(),
        "mass_regulator": mass,
        "flow": flow,
        "flow_deviation_at_twice_the_rate": doubled["largest_deviation"],
        "hidden_trained": trained,
        "hidden_fixed": fixed,
        "plane": planes,
    }
    part.tables = [*_chain_tables(mass, trained, fixed), _plane_table(planes)]
    part.figures = [
        ("mass_regulator", drawings.mass(kappa, mass), drawings.MASS),
        ("evolution", drawings.evolution(flow), drawings.EVOLUTION),
        ("hidden_fields", drawings.hidden(kappa, trained, fixed), drawings.HIDDEN),
        ("hidden_kl", drawings.divergence(trained, fixed), drawings.DIVERGENCE),
        ("dispersion", drawings.planes(planes, PLANE_MASS_SQUARED), drawings.DISPERSION),
    ]
    everything = [*mass, *trained, *fixed]
    part.checks = [
        Check("chain: spectrum against its closed form", _worst(everything, "deviation"), 0.01),
        Check(
            "chain: KL against its closed form",
            max(abs(row["kl"] - row["kl_exact"]) for row in everything),
            1e-6,
        ),
        Check("chain: trained mu^2", _worst(trained, "mu_squared_deviation"), 1e-4),
        Check(
            "chain: training against the gradient flow, over the learning rate",
            flow["largest_deviation"] / flow["learning_rate"],
            0.5,
        ),
        Check("square lattices: spectrum", max(min(p["deviations"]) for p in planes), 0.01),
    ]
    return part


def _worst(rows: list[dict[str, Any]], key: str) -> float:
    return max(row[key] for row in rows)


def _chain_tables(mass: list[Any], trained: list[Any], fixed: list[Any]) -> list[Table]:
    header = ("N_h", "mu^2", "mu^2, closed form", "spectrum off by", "KL", "KL, closed form")
    cells = [
        [
            (
                row["n_hidden"],
                f"{row['mu_squared']:.6f}",
                None if row["mu_squared_exact"] is None else f"{row['mu_squared_exact']:.6f}",
                f"{row['deviation']:.1e}",
                f"{row['kl']:.9f}",
                f"{row['kl_exact']:.9f}",
            )
            for row in rows
        ]
        for rows in (mass, trained, fixed)
    ]
    captions = (
        "Free chain, N_v = 10, m^2 = 4: mu^2 as regulator",
        "N_h as regulator, mu^2 trained (N_h = 10 leaves it free)",
        "N_h as regulator, mu^2 = 9 fixed",
    )
    return [Table(name, header, rows) for name, rows in zip(captions, cells, strict=True)]


def _plane_table(planes: list[dict[str, Any]]) -> Table:
    return Table(
        "Square lattices, m^2 = 0.25, natural gradient: from 1 % of all eigenvalues on",
        ("lattice", "learning rate", "steps to 1 %", "seconds to 1 %", "in the end"),
        [
            (
                f"{p['extent']}^2",
                p["learning_rate"],
                p["steps_to_1_percent"],
                None if p["seconds_to_1_percent"] is None else f"{p['seconds_to_1_percent']:.2f}",
                f"{p['deviations'][-1]:.1e}",
            )
            for p in planes
        ],
    )
