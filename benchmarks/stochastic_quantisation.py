"""Does Langevin dynamics approach equilibrium as it must, and how does it beside reverse diffusion?

Three parts, each judged by numbers that are known:

    field      phi^4 in two dimensions at kappa = 0.2705, lam = 0.022: <M^2>, Binder's cumulant and
               G(p) along Langevin time from cold and hot starts, beside the reverse diffusion of a
               model along its noise, against HMC
    well       the effective action -log P(phi, tau) of the double well of arXiv:2309.17082,
               S = -phi^2/2 + 0.4 phi^4/4!, against the Fokker-Planck equation
    free       <phi^2>(tau) of a free field from cold and hot starts, every scheme at a coarse step,
               against the scheme's own exact curve

    python benchmarks/stochastic_quantisation.py --out DIR [--size toy|small|full] [--json FILE]

DIR gets index.html and a PNG of every figure; the numbers go to FILE, by default
DIR/stochastic_quantisation.json.  The model is a trained `shallow` one, at toy size no network but
the Gaussian theory.  The exit status is 1 if anything is more than 4.5 standard errors off; the
model, which only approximates, is judged by its samples with their weights.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import relaxation_figures
from stochastic_field import Part, Size, field, worst

from lattice_ml import FreeField, Langevin, Lattice, Phi4, run
from lattice_ml.analysis.dynamics import fokker_planck, relaxation
from lattice_ml.analysis.dynamics.finite_step import SCHEMES
from lattice_ml.analysis.dynamics.relaxation import Curve
from lattice_ml.report.page import Table, write_page

BOUND = 4.5
WELL_STEP, FREE_STEP = 0.05, 0.1

CAPTIONS = {
    "field": "Left: Langevin dynamics from a cold and a hot start; high momenta arrive first. "
    "Right: reverse diffusion of a model. Its fields carry noise, and the lines are what "
    "equilibrium becomes under it: as the noise falls, low momenta show first. Dashed: "
    "equilibrium, by HMC.",
    "well": "Effective action of one degree of freedom at fictitious time tau, from a Gaussian of "
    "width 1 on top of the barrier: Langevin samples on the solution of the Fokker-Planck "
    "equation. Dashed: the action itself.",
    "free": "Relaxation of a free field at a coarse step, each scheme on its own exact curve. "
    "Dashed: continuous time. The bias of euler and heun stays; leimkuhler-matthews has one on "
    "its way only.",
}

SIZES = {
    "toy": Size(4, 64, 60.0, 10, 60, 0, 256),
    "small": Size(8, 128, 300.0, 18, 200, 1500, 512),
    "full": Size(16, 256, 1000.0, 22, 400, 4000, 2048),
}


def free(size: Size) -> Part:
    """The free field against the exact curve of every scheme."""
    shape = (4, 4)
    theory = FreeField(0.5, 2)
    form = relaxation.quadratic_form(theory, Lattice(shape))
    n_chains = 4 * size.n_chains
    white = np.random.default_rng(40).normal(size=(n_chains, *shape))
    steps = np.arange(61)  # from the start on
    tau = FREE_STEP * steps
    measured: dict[str, Any] = {scheme: {} for scheme in SCHEMES}
    exact: dict[str, Any] = {scheme: {} for scheme in SCHEMES}
    rows, largest = [], {}
    for i, scheme in enumerate(SCHEMES):
        sampler = Langevin(theory, FREE_STEP, trajectory_length=FREE_STEP, scheme=scheme)
        for variance, (name, start) in enumerate({"cold": 0 * white, "hot": white}.items()):
            chains = run(
                jax.random.key(2 * i + variance),
                sampler,
                Lattice(shape),
                n_chains=n_chains,
                n_configs=len(steps) - 1,
                n_thermalise=0,
                start=start,
            )
            power = relaxation.stepped_power(scheme, form, variance, steps, FREE_STEP)
            error = np.sqrt(2 * np.sum(power**2, axis=(1, 2)) / n_chains) / form.size
            exact[scheme][name] = power.mean(axis=(1, 2))
            measured[scheme][name] = Curve(
                relaxation.relaxation(chains, tau[1:]).phi2.value, error[1:]
            )
            value, predicted = measured[scheme][name]
            z = worst((value - exact[scheme][name][1:]) / predicted)
            largest[f"free field, {scheme}, {name} start"] = z
            bias = exact[scheme][name][-1] / np.mean(1 / form) - 1
            rows.append((scheme, name, f"{z:.2f}", f"{100 * bias:+.2f} %"))
    limit = {
        name: relaxation.relaxed_power(form, variance, tau).mean(axis=(1, 2))
        for variance, name in enumerate(("cold", "hot"))
    }
    numbers = {
        "step_size": FREE_STEP,
        "times": tau,
        "continuous": limit,
        "exact": exact,
        "measured": {s: {k: c.to_json() for k, c in v.items()} for s, v in measured.items()},
    }
    caption = f"Free field, 4^2, m^2 = 0.5, steps of {FREE_STEP:g}: phi^2 until tau = {tau[-1]:g}"
    table = Table(caption, ("scheme", "start", "max |z|", "bias at the end"), rows)
    figure = relaxation_figures.free_field(tau, measured, exact, limit)
    return Part(numbers, table, figure, largest)


def well(size: Size) -> Part:
    """The double well against the Fokker-Planck equation."""
    theory = Phi4(h=0.0, a=-0.5, b=0.4 / 24)
    times, edges = np.array([0.5, 1.0, 2.0, 8.0]), np.linspace(-7, 7, 29)
    potential = fokker_planck.site_potential(theory)
    solution = fokker_planck.evolve(potential, times, width=1.0)
    shape = (4 * size.extent, 4 * size.extent)
    chains = run(
        jax.random.key(50),
        Langevin(theory, WELL_STEP, trajectory_length=0.5, scheme="heun"),
        Lattice(shape),
        n_chains=64,
        n_configs=16,
        n_thermalise=0,
        start=np.random.default_rng(51).normal(size=(64, *shape)),
    )
    sites = chains.cfgs.reshape(16, -1)[(2 * times).astype(int) - 1].astype(np.float64)
    n, expected = sites.shape[1], solution.probabilities(edges)
    counts = np.array([np.histogram(values, edges)[0] for values in sites])
    spread = np.sqrt(n * expected * (1 - expected))
    z = np.where(spread > 7, (counts - n * expected) / np.maximum(spread, 1), 0)  # normal enough
    m2, m4, m8 = solution.moments([2, 4, 8]).T
    z2 = ((sites**2).mean(axis=1) - m2) / np.sqrt((m4 - m2**2) / n)
    z4 = ((sites**4).mean(axis=1) - m4) / np.sqrt((m8 - m4**2) / n)
    rates = fokker_planck.relaxation_rates(potential, 4)
    actions = [fokker_planck.measured_action(values, edges) for values in sites]
    numbers = {
        "step_size": WELL_STEP,
        "n_samples": n,
        "times": times,
        "edges": edges,
        "exact": -np.log(np.maximum(expected, 1e-300) / np.diff(edges)),
        "measured": [action.to_json() for action in actions],
        "phi2": {"exact": m2, "measured": (sites**2).mean(axis=1)},
        "rates": rates,
    }
    columns = (z2, z4, np.abs(z).max(axis=1))
    rows = [
        (f"{tau:g}", f"{exact:.5f}", f"{np.mean(values**2):.4f}", *map("{:.2f}".format, pulls))
        for tau, exact, values, *pulls in zip(times, m2, sites, *columns, strict=True)
    ]
    caption = f"Double well, {n:,} sites; rates 0, {', '.join(f'{r:.6g}' for r in rates[1:])}"
    header = ("tau", "exact phi^2", "phi^2", "z of phi^2", "z of phi^4", "max |z| of bins")
    end = fokker_planck.equilibrium(potential)
    figure = relaxation_figures.effective_actions(solution, actions, edges, end)
    largest = {"double well, histogram": worst(z), "double well, moments": worst([z2, z4])}
    return Part(numbers, Table(caption, header, rows), figure, largest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the numbers; 1 where a number misses what it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of the page")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--json", help="file of the numbers")
    options = parser.parse_args(arguments)
    begin, size, out = time.perf_counter(), SIZES[options.size], Path(options.out)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"field": field(size, Path(folder)), "well": well(size), "free": free(size)}
    seconds = time.perf_counter() - begin
    largest = {name: z for part in parts.values() for name, z in part.largest.items()}
    rows = [(n, f"{z:.2f}", "FAIL" if z > BOUND else "pass") for n, z in largest.items()]
    write_page(
        out / "index.html",
        title="Stochastic quantisation beside reverse diffusion",
        summary=[
            ("command", f"python benchmarks/stochastic_quantisation.py --size {options.size}"),
            ("reference", "arXiv:2309.17082"),
            ("seconds", f"{seconds:.0f}"),
        ],
        tables=[
            Table(f"Checks: max |z| must be below {BOUND:g}", ("what", "max |z|", "verdict"), rows),
            *(part.table for part in parts.values()),
        ],
        figures=[(name, part.figure, CAPTIONS[name]) for name, part in parts.items()],
    )
    record = {"size": options.size, "seconds": seconds, "largest_z": largest}
    record |= {name: part.numbers for name, part in parts.items()}
    text = json.dumps(record, indent=1, default=np.ndarray.tolist, allow_nan=False)
    Path(options.json or out / "stochastic_quantisation.json").write_text(text + "\n")
    print(*("  ".join(row) for row in rows), sep="\n")
    print(f"{seconds:.0f} s; the page is {out / 'index.html'}")
    return int(any(z > BOUND for z in largest.values()))


if __name__ == "__main__":
    from lattice_ml.runtime.devices import prepare

    prepare()
    raise SystemExit(main())
