"""How does phi^4 approach equilibrium in Langevin time, and how along a model's noise?

A part of `stochastic_quantisation.py`: fields on a ladder of Langevin times from a cold and a hot
start, and fields of a diffusion model at falling noise, both against HMC.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import relaxation_figures
from flax import nnx

from lattice_ml import Langevin, Lattice, generate, measure, run, train
from lattice_ml.analysis.dynamics import relaxation
from lattice_ml.analysis.dynamics.relaxation import Curve, Equilibrium, Relaxation
from lattice_ml.analysis.two_point import two_point
from lattice_ml.jobs import config
from lattice_ml.models.diffusion.denoiser import Zero
from lattice_ml.models.diffusion.reverse import frame_steps, path_grid, path_weights
from lattice_ml.models.measured import measure_theory
from lattice_ml.report.page import Table
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.statistics import jackknife

KAPPA, LAM, STEP = 0.2705, 0.022, 0.05
N_STEPS, N_FRAMES = 72, 19  # of the reverse process


class Size(NamedTuple):
    """How much is done."""

    extent: int  # of the field's lattice
    n_chains: int
    last: float  # Langevin time
    n_times: int
    n_configs: int  # per chain of HMC
    n_steps: int  # of training
    n_samples: int  # of the model


class Part(NamedTuple):
    """What a part found: numbers for JSON, a table, its figure, and the largest |z| by name."""

    numbers: dict[str, Any]
    table: Table
    figure: Any
    largest: dict[str, float]


def worst(z: Any) -> float:
    """The largest |z|; 10^9, which JSON can hold, where one is not a number."""
    return float(np.max(np.where(np.isfinite(z), np.abs(z), 1e9)))


def field(size: Size, folder: Path) -> Part:
    """The interacting field in Langevin time, beside reverse diffusion."""
    table = {
        "lattice.shape": [size.extent, size.extent],
        "action.kappa": KAPPA,
        "action.lam": LAM,
        "chain.n_configs": size.n_configs,
        "chain.n_thermalise": 300,
        "chain.thin": 4,
        "chain.start": "cold",
    }
    data = generate(config.parse(as_arguments(table)), folder / "hmc")
    found, (_, g, g_error) = measure(data), two_point(data).shells()
    m2, binder, phi2 = (
        Curve(np.array(found[name].value), np.array(found[name].error))
        for name in ("m2", "binder", "phi2")
    )
    target = Equilibrium(Lattice(data.shape).volume, m2, binder, Curve(g, g_error))
    white = np.random.default_rng(60).normal(size=(size.n_chains, *data.shape))
    signs = np.where(np.arange(size.n_chains) % 2, -1.0, 1.0).reshape(-1, 1, 1)
    cold = data.action.minimum(2) * signs * np.ones_like(white)
    courses = {
        "cold": langevin(jax.random.key(70), data, cold, size),
        "hot": langevin(jax.random.key(71), data, data.action.site_width() * white, size),
    }
    diffusion, weighted = reverse(size, data, folder / "model")
    ends = [(name, c.m2, c.binder, c.phi2) for name, c in [*courses.items(), ("model", diffusion)]]
    ends += [("model, weighted", *weighted), ("HMC", m2, binder, phi2)]
    largest = {
        f"phi^4, Langevin from a {name} start": worst(pulls(course, target, [0.0])[-1])
        for name, course in courses.items()
    }
    largest["phi^4, model with its weights"] = worst(
        [
            (a.value[-1] - b.value) / np.hypot(a.error[-1], b.error)
            for a, b in zip(weighted, (m2, binder, phi2), strict=True)
        ]
    )
    rows = [(name, *(shown(curve) for curve in curves)) for name, *curves in ends]
    levels = {"m2": m2, "binder": binder, "phi2": phi2, "propagator": target.propagator}
    numbers = {
        "shape": data.shape,
        "step_size": STEP,
        "langevin": {name: course.to_json() for name, course in courses.items()},
        "diffusion": diffusion.to_json(),
        "diffusion_largest_z": worst(pulls(diffusion, target, diffusion.times)),
        "equilibrium": {name: curve.to_json() for name, curve in levels.items()},
    }
    caption = f"phi^4, {size.extent}^2, kappa = {KAPPA}: at tau = {size.last:g} and without noise"
    figure = relaxation_figures.langevin_beside_diffusion(courses, diffusion, target)
    return Part(numbers, Table(caption, ("start", "M^2", "binder", "phi^2"), rows), figure, largest)


def shown(curve: Curve) -> str:
    """The last value with its error."""
    value, error = (np.atleast_1d(values)[-1] for values in curve)
    return f"{value:.4f} ± {error:.4f}"


def langevin(key: jax.Array, data: Any, start: Any, size: Size) -> Relaxation:
    """Fields on a ladder of times, from their start to the last."""
    ladder = np.rint(np.geomspace(STEP, size.last, size.n_times) / STEP)
    ends = np.unique(np.append(ladder, 0)).astype(int)
    frames = [start]
    for first, last in pairwise(ends):
        chains = run(
            jax.random.fold_in(key, first),
            Langevin(data.action, STEP, STEP * (last - first), scheme="heun"),
            Lattice(data.shape),
            n_chains=size.n_chains,
            n_configs=1,
            n_thermalise=0,
            start=frames[-1],
        )
        frames.append(chains.cfgs)
    return relaxation.relaxation_of_frames(np.array(frames), STEP * ends)


def reverse(size: Size, data: Any, folder: Path) -> tuple[Relaxation, list[Curve]]:
    """Fields of a model on their way from noise; M^2, binder and phi^2 of its weighted samples.

    It is not fine-tuned: that mends the end of the flow at the cost of the way there.
    """
    network: Any = Zero()
    if size.n_steps:
        table = {"training.n_steps": size.n_steps, "training.fine_tune": False}
        model = train(config.parse_training(as_arguments(table)), folder, data=[data.directory])
        network, theory = model.network, model.theories[-1]
    else:
        blocks = ((fields, None) for _, fields in data.blocks())
        theory = measure_theory(data.action, blocks)
    theory, (graph, state) = theory.astype(np.float32), nnx.split(network)
    grid = path_grid(theory, N_STEPS)

    @jax.jit
    def path(state: Any) -> tuple[jax.Array, jax.Array]:
        made = path_weights(
            jax.random.key(80),
            nnx.merge(graph, state),
            theory,
            size.n_samples,
            grid,
            snapshots=N_FRAMES,
        )
        return theory.modes.inverse(made.snapshots), made.log_weight

    frames, log_weight = (np.asarray(x, np.float64) for x in path(state))
    m, phi2 = frames[-1].mean(axis=(1, 2)), (frames[-1] ** 2).mean(axis=(1, 2))
    series = np.stack([m**2, m**4, phi2])[:, None]  # one chain of independent samples
    weighted = []
    for function in (lambda s: s[0], lambda s: 1 - s[1] / (3 * s[0] ** 2), lambda s: s[2]):
        found = jackknife(series, function, bin_size=1, log_weights=log_weight[None])
        weighted.append(Curve(np.array([found.value]), np.array([found.error])))
    variances = np.asarray(grid)[frame_steps(N_STEPS, N_FRAMES)]
    return relaxation.relaxation_of_frames(frames, variances), weighted


def pulls(course: Relaxation, target: Equilibrium, noise: Any) -> Any:
    """z of M^2, binder and G(p) against equilibrium under noise: `(n_times, 2 + n_shells)`."""
    expected = target.noised(noise)
    z = [
        (getattr(course, name).value - exact)
        / np.hypot(getattr(course, name).error, getattr(target, name).error)
        for name, exact in zip(("m2", "binder", "propagator"), expected, strict=True)
    ]
    return np.column_stack(z)
