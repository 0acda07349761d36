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
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

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


def noise_schedule(theory: Any) -> Any:
    """Variance exploding until no two fields can be told apart.

    The largest sigma is the distance between the ends of the zero mode's distribution, or ten
    times the spread of any other mode.
    """
    from scipy.optimize import brentq

    from lattice_ml.models.noise import VarianceExploding

    largest = max(2 * float(theory.quantiles.max()), 10 * math.sqrt(float(theory.c_max)))
    return VarianceExploding(
        brentq(lambda base: (base**2 - 1) / (2 * math.log(base)) - largest**2, 1.01, 1e6)
    )


def train(network: Any, theory: Any, schedule: Any, fields: Any, size: Size) -> Any:
    """Return the network with the running average of its weights.

    Every field comes with its mirror image and the mirrored noise, so that what the network has
    of even parts is unlearned without noise; shifts and reflections are drawn at random.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from lattice_ml.models.fitting import transform

    graph, weights = nnx.split(network)
    rate = optax.warmup_cosine_decay_schedule(
        1e-4, 2e-3, size.train_steps // 20, size.train_steps, 1e-5
    )
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    decay = 1 - 10 / size.train_steps
    piece = 8  # fields differentiated at once; more do not fit the cache

    def loss(weights: Any, key: jax.Array) -> jax.Array:
        rows, symmetry, level, noise = jax.random.split(key, 4)
        phi = fields[jax.random.randint(rows, (piece // 2,), 0, len(fields))]
        phi = theory.modes.forward(transform(symmetry, phi, theory.modes.shape))
        steps = jnp.arange(piece // 2) + jax.random.uniform(level, (piece // 2,), jnp.float32)
        t = schedule.variance(1e-3 + (1 - 1e-3) * steps / (piece // 2))
        eps = jax.random.normal(noise, phi.shape, jnp.float32)
        both = [jnp.concatenate([x, -x]) for x in (phi, eps)]
        each = nnx.merge(graph, weights).loss(theory, *both, jnp.concatenate([t, t]), "data")
        return jnp.mean(each) / theory.modes.volume

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        weights, average, memory = state

        def add(total: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            value, slope = jax.value_and_grad(loss)(weights, key)
            return jax.tree.map(jnp.add, total, slope), value

        zeros = jax.tree.map(jnp.zeros_like, weights)
        slope, values = jax.lax.scan(add, zeros, jax.random.split(key, size.batch_size // piece))
        change, memory = optimiser.update(slope, memory, weights)
        weights = optax.apply_updates(weights, change)
        average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)
        return (weights, average, memory), jnp.mean(values)

    @jax.jit
    def run(state: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(step, state, keys)

    keys = jax.random.split(jax.random.key(2), size.train_steps)
    state, losses = run((weights, weights, optimiser.init(weights)), keys)
    if not bool(jnp.all(jnp.isfinite(losses))):
        raise RuntimeError("the loss is not finite; lower the learning rate")
    return nnx.merge(graph, state[1]), losses


def sample(network: Any, theory: Any, schedule: Any, size: Size) -> Any:
    """Fields `(n_samples, *L)` from noise."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from lattice_ml.models.reverse import draw_noise, euler_maruyama, uniform_grid

    graph, weights = nnx.split(network)
    n = 16  # fields at once; more do not fit the cache
    shape = (n, *theory.propagator.shape)

    @jax.jit
    def draw(weights: Any, keys: jax.Array) -> jax.Array:
        def batch(key: jax.Array) -> jax.Array:
            start, steps = jax.random.split(key)
            x = draw_noise(start, schedule, shape, jnp.float32)
            denoise = partial(nnx.merge(graph, weights).denoise, theory)
            x, _ = euler_maruyama(steps, denoise, schedule, x, uniform_grid(size.sde_steps))
            return theory.modes.inverse(x)

        return jax.lax.map(batch, keys)

    keys = jax.random.split(jax.random.key(3), -(-size.n_samples // n))
    return jax.device_get(draw(weights, keys)).reshape(-1, *theory.modes.shape)[: size.n_samples]


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

    from lattice_ml.models.measured import measure_theory
    from lattice_ml.models.networks.unet import UNet

    jax.config.update("jax_enable_x64", True)
    times = [time.process_time()]
    chains = equilibrium(kappa, size)
    times.append(time.process_time())
    theory = measure_theory(chains.action, [(chains.cfgs, None)]).astype(jnp.float32)
    schedule = noise_schedule(theory)
    network = UNet(channels=size.channels, rngs=nnx.Rngs(0))
    network, losses = train(network, theory, schedule, jnp.asarray(chains.cfgs), size)
    times.append(time.process_time())
    samples = sample(network, theory, schedule, size)
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
