"""How fast is one HMC trajectory, against the plain way to write it in JAX, on one core?

Full float32 HMC: momentum refresh, 10 leapfrog steps, energy difference, accept step and the
magnetisation, every trajectory.  `plain` is what one writes first: `jax.vmap` over chains of a
single-chain trajectory with `jnp.roll`, `jax.grad` of the action, `jax.random.normal` and
`jnp.sum`.  Both run interleaved in one process pinned to one core; the table shows medians in
million site updates per second and the median of the ratios.

    python benchmarks/hmc_kernel.py [--size toy|small|full] [--json FILE]
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
from jax import lax

from lattice_ml.actions import Phi4
from lattice_ml.benches.kernel import LENGTH, N_STEPS, advancer, calibrate, rate
from lattice_ml.lattice import Lattice

KAPPA, LAM = 0.21, 0.022
SIZES = {
    "toy": [((8, 8), 64)],
    "small": [((32, 32), 64), ((128, 128), 16)],
    "full": [
        ((8, 8), 64),
        ((32, 32), 64),
        ((32, 32), 1),
        ((64, 64), 64),
        ((128, 128), 16),
        ((256, 256), 16),
        ((16, 16, 16), 64),
        ((8, 8, 8, 8), 64),
    ],
}


def plain(shape: tuple[int, ...], n_chains: int) -> Callable[[int], Any]:
    """The same updates written the obvious way."""

    def action(phi: jax.Array) -> jax.Array:
        links = sum(phi * jnp.roll(phi, 1, axis) for axis in range(phi.ndim))
        return jnp.sum(-2 * KAPPA * links + (1 - 2 * LAM) * phi**2 + LAM * phi**4)

    def trajectory(phi: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        refresh, accept = jax.random.split(key)
        step = LENGTH / N_STEPS
        pi = jax.random.normal(refresh, phi.shape, phi.dtype)
        start = action(phi) + 0.5 * jnp.sum(pi**2)

        def leapfrog(carry: Any, _: None) -> tuple[Any, None]:
            x, p = carry
            p = p - step * jax.grad(action)(x)
            return (x + step * p, p), None

        p = pi - 0.5 * step * jax.grad(action)(phi)
        (x, p), _ = lax.scan(leapfrog, (phi + step * p, p), None, length=N_STEPS - 1)
        p = p - 0.5 * step * jax.grad(action)(x)
        dh = action(x) + 0.5 * jnp.sum(p**2) - start
        phi = jnp.where(jnp.log(jax.random.uniform(accept)) < -dh, x, phi)
        return phi, jnp.mean(phi)

    @partial(jax.jit, donate_argnums=0)
    def run(phi: jax.Array, key: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            keys = jax.random.split(jax.random.fold_in(key, i), n_chains)
            return jax.vmap(trajectory)(carry[0], keys)

        return lax.fori_loop(0, n, body, (phi, jnp.zeros(n_chains)))

    phi, done = 0.7 * jax.random.normal(jax.random.key(0), (n_chains, *shape), jnp.float32), 0

    def advance(n: int) -> Any:
        with jax.enable_x64(False):  # as by default; with it on the plain way is half as fast
            return advance_float32(n)

    def advance_float32(n: int) -> Any:
        nonlocal phi, done
        phi, magnetisation = run(phi, jax.random.fold_in(jax.random.key(2), done), n)
        done += n
        return magnetisation.block_until_ready()

    return advance


def compare(shape: tuple[int, ...], n_chains: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Interleaved rounds of both, each about `seconds` long."""
    sites = Lattice(shape).volume * n_chains
    action = Phi4(2 * KAPPA, 1 - 2 * LAM, LAM)
    runs = {"ours": advancer(action, Lattice(shape), n_chains), "plain": plain(shape, n_chains)}
    trajectories = {name: calibrate(advance, seconds) for name, advance in runs.items()}
    rates = {name: [] for name in runs}
    for _ in range(rounds):
        for name, advance in runs.items():
            found = rate(advance, trajectories[name])
            rates[name].append(sites * N_STEPS * found / 1e6)
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    return {
        "shape": list(shape),
        "n_chains": n_chains,
        "ours": statistics.median(rates["ours"]),
        "plain": statistics.median(rates["plain"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where the ratio is below 3 at 32^2 x 64 or 128^2 x 16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    seconds, rounds = (0.02, 2) if options.size == "toy" else (0.5, 9)
    print(
        "| lattice | chains | ours, M/s | plain, M/s | ratio (min - max) |\n|---|---|---|---|---|"
    )
    rows = []
    for shape, n_chains in SIZES[options.size]:
        row = compare(shape, n_chains, seconds, rounds)
        rows.append(row)
        spread = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
        print(
            f"| {' x '.join(map(str, shape))} | {n_chains} | {row['ours']:.0f} "
            f"| {row['plain']:.0f} | {spread} |",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(rows, stream, indent=1)
    judged = [row for row in rows if tuple(row["shape"]) in ((32, 32), (128, 128))]
    return int(any(row["ratio"] < 3 for row in judged if row["n_chains"] > 1))


if __name__ == "__main__":
    raise SystemExit(main())
