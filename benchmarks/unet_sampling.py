"""Does the usual diffusion model, the U-Net of arXiv:2309.17082, reproduce phi^4?

The package's own HMC makes the training data, in the symmetric (kappa = 0.21) and in the broken
phase (0.5, cold start).  The noise is variance exploding, dx = base^s dW, and its largest sigma
exceeds the distance between any two fields; the reverse process is stepped by Euler and Maruyama.
Printed is one row per observable of the raw samples.  The exit status is 1 if phi2, |M| or the
action density is off by 3 % or more, or a well holds less than 45 % or more than 55 %.

    python benchmarks/unet_sampling.py [--size toy|small|full] [--kappa K ...] [--json FILE]

The couplings run beside each other, one per core; `full` takes about 15 minutes on two.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

from lattice_ml.benches.unet import Effort, noise_schedule, sample, train

LAM = 0.022
KAPPAS = (0.21, 0.5)
ALLOWED = 0.03  # relative, of means
WELLS = 0.05  # absolute, of the share of samples with M > 0
JUDGED = ("phi2", "abs_magnetisation", "action_density")


class Size(NamedTuple):
    """How much is done."""

    extent: int
    n_data: int
    channels: tuple[int, ...]
    train_steps: int
    batch_size: int
    n_samples: int
    sde_steps: int

    @property
    def effort(self) -> Effort:
        return Effort(self.train_steps, self.batch_size, self.n_samples, self.sde_steps)


SIZES = {
    "toy": Size(4, 256, (4, 4), 20, 16, 128, 10),
    "small": Size(16, 10240, (16, 32, 64), 1000, 64, 2048, 150),
    "full": Size(32, 10240, (16, 32, 64, 64), 1200, 64, 4096, 150),
}


class Row(NamedTuple):
    """One observable: equilibrium with its error, and the U-Net's samples."""

    kappa: float
    observable: str
    exact: float
    exact_error: float
    sampled: float
    sampled_error: float
    good: bool | None  # None where nothing is asked

    def __str__(self) -> str:
        ratio = f"{self.sampled / self.exact:.4f}"
        verdict = {True: "yes", False: "**no**", None: ""}[self.good]
        return (
            f"| {self.kappa} | {self.observable} | {self.exact:.5g} ± {self.exact_error:.1g} "
            f"| {self.sampled:.5g} ± {self.sampled_error:.1g} | {ratio} | {verdict} |"
        )


def equilibrium(kappa: float, size: Size) -> Any:
    """Chains of the package's own HMC."""
    import jax

    import lattice_ml

    action = lattice_ml.action("kappa", 2, kappa=kappa, lam=LAM)
    return lattice_ml.run(
        jax.random.key(1),
        lattice_ml.HMC(action),
        lattice_ml.Lattice((size.extent, size.extent)),
        n_chains=64,
        n_configs=size.n_data // 64,
        thin=5,
        start="cold" if kappa > 0.27 else "hot",
    )


def compare(kappa: float, chains: Any, samples: Any) -> list[Row]:
    """Observables of samples beside those of equilibrium."""
    import numpy as np

    import lattice_ml
    from lattice_ml.observables import measure_configurations
    from lattice_ml.statistics import estimate

    exact = lattice_ml.measure(chains)
    series = measure_configurations(chains.action, samples)
    m = series["magnetisation"]
    found = {
        "phi2": series["phi2"],
        "abs_magnetisation": np.abs(m),
        "action_density": series["action"] / samples[0].size,
        "phi4": series["phi4"],
        "link_sum": series["link_sum"],
        "m2": m**2,
        "schwinger_dyson": series["schwinger_dyson"],
    }
    rows = []
    for name, values in found.items():
        mean = estimate(values[None])
        off = abs(mean.value / exact[name].value - 1)
        good = bool(off < ALLOWED) if name in JUDGED else None
        known = exact[name].value, exact[name].error
        rows.append(Row(kappa, name, *known, mean.value, mean.error, good))
    up = float(np.mean(m > 0))
    error = 0.5 / math.sqrt(len(m))
    return [*rows, Row(kappa, "share of M > 0", 0.5, 0.0, up, error, abs(up - 0.5) <= WELLS)]


def run(kappa: float, size: Size) -> tuple[list[Row], dict[str, float]]:
    """One coupling: rows, and the seconds of processor time."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from lattice_ml.models.diffusion.networks.unet import UNet
    from lattice_ml.models.measured import measure_theory

    jax.config.update("jax_enable_x64", True)
    times = [time.process_time()]
    chains = equilibrium(kappa, size)
    times.append(time.process_time())
    theory = measure_theory(chains.action, [(chains.cfgs, None)]).astype(jnp.float32)
    schedule = noise_schedule(theory)
    network = UNet(channels=size.channels, rngs=nnx.Rngs(0))
    fields = jnp.asarray(chains.cfgs)
    network, losses = train(jax.random.key(2), network, theory, schedule, fields, size.effort)
    times.append(time.process_time())
    samples = sample(jax.random.key(3), network, theory, schedule, size.effort)
    times.append(time.process_time())
    seconds = dict(
        zip(("data", "training", "sampling"), (b - a for a, b in pairwise(times)), strict=True)
    )
    tail = float(jnp.mean(losses[-len(losses) // 10 :]))
    sigma = float(schedule.sigma(jnp.ones(())))
    return compare(kappa, chains, samples), seconds | {"loss": tail, "largest sigma": sigma}


def results(kappas: Sequence[float], size: Size) -> Iterator[tuple[list[Row], dict[str, float]]]:
    """`run` of every coupling, as many at once as there are cores."""
    workers = min(len(kappas), len(os.sched_getaffinity(0)))
    if workers == 1 or size is SIZES["toy"]:
        yield from (run(kappa, size) for kappa in kappas)
        return
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # a core for each
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        yield from pool.map(run, kappas, [size] * len(kappas))


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where the samples are not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--kappa", type=float, nargs="+", default=KAPPAS)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args(words)
    size = SIZES[options.size]
    print(
        "| kappa | observable | equilibrium | U-Net | ratio | good |\n|---|---|---|---|---|---|",
        flush=True,
    )
    rows = []
    for kappa, (found, numbers) in zip(options.kappa, results(options.kappa, size), strict=True):
        rows += found
        print(*found, sep="\n")
        print(f"kappa = {kappa}:", *(f"{k} {v:.4g}," for k, v in numbers.items()), flush=True)
    if options.json:
        with open(options.json, "w") as stream:
            json.dump([row._asdict() for row in rows], stream, indent=1)
    return int(any(row.good is False for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
