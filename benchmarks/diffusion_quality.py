"""How good are the samples of the diffusion model, per second of training and of sampling?

Every row generates data with HMC, trains from small lattices to the one it names, draws samples
with their exact density, and prints, for each seed and as the median over seeds,

    training   seconds of all stages, compilation apart, and evaluations of the network in them
    ESS/n      Kish's effective sample size of weights w = exp(-S)/q, with Pareto k
    doubling   rms and mean change of log w when the sampler's steps are doubled
    forward    ESS/n on HMC configurations held out: it falls to 0 where a mode is missed
    log Z      against thermodynamic integration of HMC from kappa = 0, in standard errors
    ESS/s      effective samples per second of sampling

    taskset -c 0 python benchmarks/diffusion_quality.py [--rows NAME ...] [--seeds 1 2 3]
        [--size toy|full] [--json FILE] [--folder runs/diffusion_quality]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from lattice_ml import Lattice, action, generate, sample, train
from lattice_ml.benches.record import Number
from lattice_ml.benches.thermodynamic import integrate
from lattice_ml.jobs import config
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.diffusion.sections import SamplingSection
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.statistics import log_weights, reweight

LAM = 0.022
CRITICAL, BROKEN, SYMMETRIC = (0.2705,), (0.5,), (0.21,)
COUPLINGS = (0.19, 0.215, 0.235, 0.25, 0.262, 0.27)
HELD_OUT = (0.2, 0.225, 0.245, 0.257, 0.267)


@dataclass(frozen=True)
class Row:
    """One model: its data, how it is trained, and how it is sampled."""

    extents: tuple[int, ...]
    n_steps: tuple[int, ...]
    fine_tune_steps: tuple[int, ...]
    flow_steps: tuple[int, ...]
    sampling_steps: int
    kappas: tuple[float, ...] = CRITICAL
    targets: tuple[float, ...] = ()  # couplings to sample at; those of the data by default
    ndim: int = 2
    lam: float = LAM
    batch: tuple[int, ...] = (64,)
    n_samples: int = 10_240
    n_configs: int = 320


ROWS = {
    "critical-8": Row((8,), (1500,), (200,), (4,), 6),
    "critical-16": Row((8, 16), (1500, 300), (100, 180), (4, 6), 6),
    "critical-32": Row((8, 16, 32), (1500, 300, 150), (100, 60, 160), (4, 6, 6), 8),
    "critical-64": Row(
        (8, 16, 32, 64),
        (1500, 300, 150, 100),
        (100, 60, 80, 120),
        (4, 6, 6, 8),
        10,
        batch=(64, 64, 64, 32),
        n_samples=2048,
    ),
    "broken-16": Row((16,), (2000,), (250,), (4,), 8, BROKEN),
    "broken-32": Row((16, 32), (1500, 250), (120, 100), (4, 4), 8, BROKEN),
    "symmetric-32": Row((8, 32), (1500, 250), (150, 120), (4, 4), 6, SYMMETRIC),
    "conditional-8": Row((8,), (4000,), (700,), (4,), 6, COUPLINGS, HELD_OUT, n_configs=160),
    "conditional-16": Row(
        (8, 16), (3000, 500), (300, 250), (4, 6), 8, COUPLINGS, HELD_OUT, n_configs=160
    ),
    "example-4a": Row((4,), (2000,), (900,), (6,), 16, (0.2,), batch=(128,)),
    "example-4b": Row((4,), (3000,), (600,), (8,), 16, (0.3,), lam=0.5),
    "cube-8": Row((4, 8), (1500, 300), (200, 150), (4, 4), 24, (0.19225,), ndim=3, lam=0.9),
}
EXACT_LOG_Z = {(4, 0.2, 0.022): 10.0506545245, (4, 0.3, 0.5): 14.4225019418}  # 2d, by quadrature
NEAR_CRITICAL = (0.2, 0.255, 0.265, 0.272, 0.28, 0.31)  # where the integrand bends, in 2d
# Below NEAR_CRITICAL, where log Z needs a single interval of couplings.
TOY = Row((4,), (60,), (20,), (4,), 6, (0.19,), n_samples=256, n_configs=20)


def make_data(row: Row, folder: Path) -> tuple[list[Path], float]:
    """HMC ensembles of all lattices and couplings of a row, and the seconds they took."""
    paths, seconds = [], 0.0
    for extent in row.extents:
        for kappa in row.kappas:
            path = folder / "data" / f"{row.ndim}d-{extent}-{kappa}-{row.n_configs}"
            paths.append(path)
            new = not (path / "ensemble.h5").exists()
            begin = time.perf_counter()
            table = {
                "lattice.shape": [extent] * row.ndim,
                "action.kappa": kappa,
                "action.lam": row.lam,
                "chain.n_configs": row.n_configs // (4 if extent == 64 else 1),
                "chain.n_thermalise": 300,
                "chain.thin": 4 if extent == 64 else 2,
                "chain.start": "cold",
            }
            generate(config.parse(as_arguments(table)), path)
            (path / "seconds").write_text(str(time.perf_counter() - begin)) if new else None
            seconds += float((path / "seconds").read_text())
    return paths, seconds


def log_z(extent: int, kappa: float, lam: float, ndim: int, n_configs: int) -> Number:
    """log Z by thermodynamic integration of HMC, six nodes on every piece."""
    return integrate(
        jax.random.key(100),
        action("kappa", ndim, kappa=kappa, lam=lam),
        Lattice((extent,) * ndim),
        n_nodes=6,
        cuts=[2 * k for k in NEAR_CRITICAL if k < kappa and ndim == 2],
        n_chains=64,
        n_configs=n_configs,
        n_thermalise=300,
    ).log_z


def independent_log_z(row: Row, kappa: float, folder: Path, toy: bool) -> tuple[float, float]:
    """The exact value where it is known, else `log_z` of the row's lattice, computed once."""
    if (row.extents[-1], kappa, row.lam) in EXACT_LOG_Z:
        return EXACT_LOG_Z[row.extents[-1], kappa, row.lam], 0.0
    path = folder / f"log_z-{row.ndim}d-{row.extents[-1]}-{kappa}.json"
    if not path.exists():
        n_configs = 20 if toy else (400 if row.extents[-1] < 64 else 100)
        found = log_z(row.extents[-1], kappa, row.lam, row.ndim, n_configs)
        path.write_text(json.dumps(found))
    return tuple(json.loads(path.read_text()))


def measure(name: str, row: Row, seed: int, folder: Path, toy: bool) -> list[dict[str, object]]:
    """Train one model and sample it at all target couplings."""
    data, data_seconds = make_data(row, folder)
    table = {
        "seed": seed,
        "model.conditional": str(len(row.kappas) > 1),
        "training.n_steps": list(row.n_steps),
        "training.fine-tune": "True",
        "training.fine-tune-steps": list(row.fine_tune_steps),
        "training.fine-tune-batch": list(row.batch),
        "training.flow-steps": list(row.flow_steps),
    }
    out = folder / f"{name}-{seed}"
    model = train(config.parse_training(as_arguments(table)), out / "model", data=data)
    shape = (row.extents[-1],) * row.ndim
    found = []
    for kappa in row.targets or row.kappas:
        table = {
            "seed": seed,
            "lattice.shape": list(shape),
            "action.kappa": kappa,
            "action.lam": row.lam,
            "sampling.n-steps": row.sampling_steps,
        }
        job = config.parse_sampling(as_arguments(table))
        begin = time.perf_counter()
        drawn = sample(job, model, out / f"samples-{kappa}", n_samples=row.n_samples)
        wall = time.perf_counter() - begin
        log_w = log_weights(drawn.series("action"), drawn.log_prob)
        worth = reweight(log_w)
        doubled = doubling(model, job, shape)
        exact, exact_error = independent_log_z(row, kappa, folder, toy)
        judged = model.report["theories"][-1] if not row.targets else {}
        found.append(
            {
                "row": name,
                "seed": seed,
                "kappa": kappa,
                "n": row.n_samples,
                "data_seconds": data_seconds,
                "training_seconds": model.seconds,
                "evaluations": model.report["evaluations"],
                "ess": worth.ess,
                "pareto_k": worth.pareto_k,
                "forward_ess": judged.get("forward_ess", {}).get("value"),
                "doubling_rms": float(np.sqrt(np.mean(doubled**2))),
                "doubling_mean": float(np.mean(doubled)),
                "log_z": worth.log_z,
                "log_z_error": worth.log_z_error,
                "log_z_pull": (worth.log_z - exact) / math.hypot(worth.log_z_error, exact_error),
                "log_z_independent_error": exact_error,
                "ess_per_second": worth.ess * row.n_samples / wall,
            }
        )
    return found


def doubling(model: object, job: object, shape: tuple[int, ...]) -> np.ndarray:
    """Change of log w of 256 samples under step doubling."""
    from lattice_ml.models.transfer import theory_at

    theory = theory_at(model.theories, job.action, shape).astype("float32")
    key = jax.random.key(99)
    drawing = Drawing.choose(model.network, shape, SamplingSection(n_steps=job.sampling.n_steps))
    return DiffusionDrawer(model.network, theory, drawing, key).step_error(job.action, key, 256)


def show(entries: list[dict[str, object]]) -> str:
    """One line: medians over the entries."""
    middle = {
        key: statistics.median(e[key] for e in entries if e[key] is not None)
        if any(e[key] is not None for e in entries)
        else math.nan
        for key in entries[0]
        if key != "row"
    }
    return (
        f"| {entries[0]['row']} | {middle['kappa']:g} | {middle['data_seconds']:.0f} | "
        f"{middle['training_seconds']:.0f} | {middle['evaluations']:.2g} | {middle['ess']:.4f} | "
        f"{min(e['ess'] for e in entries):.4f} | {middle['pareto_k']:.2f} | "
        f"{middle['forward_ess']:.3f} | {middle['doubling_rms']:.3f} | "
        f"{middle['doubling_mean']:+.4f} | {middle['log_z']:.4f} +- {middle['log_z_error']:.4f} | "
        f"{middle['log_z_pull']:+.1f} | {middle['ess_per_second']:.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--size", choices=["toy", "full"], default="full")
    parser.add_argument("--json")
    parser.add_argument("--folder", default="runs/diffusion_quality")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    toy = options.size == "toy"
    rows = {"toy": TOY} if toy else {name: ROWS[name] for name in options.rows}
    seeds = options.seeds[:1] if toy else options.seeds
    folder, everything = Path(options.folder), []
    print(
        "| row | kappa | HMC data s | training s | evaluations | ESS/n | worst | k | forward | "
        "doubling rms | mean | log Z | pull | ESS/s |"
    )
    for name, row in rows.items():
        entries = [e for seed in seeds for e in measure(name, row, seed, folder, toy)]
        everything += entries
        for kappa in sorted({e["kappa"] for e in entries}):
            print(show([e for e in entries if e["kappa"] == kappa]), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
