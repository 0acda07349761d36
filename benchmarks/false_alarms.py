"""How often does `check` refuse a correct ensemble?  Once in 1,000 is what it allows itself.

Correct are exact draws of a free field, every mode an AR(1) process in Monte Carlo time that is
the slower the lower its momentum, with dH drawn from its law at large volume; and HMC runs that
have thermalised.  Printed are the ensembles refused and which part of their p-values is below
0.1 and 0.01: at most these numbers, and less where one p-value stands for several correlated
quantities.  The exit status is 1 where more are refused than a rate of 1e-3 explains.

    python benchmarks/false_alarms.py [--size toy|small|full]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lattice_ml.distributed import use_all_cores

SIZES = {"toy": (1, 1), "small": (20, 10), "full": (200, 50)}  # ensembles per draw, per HMC case

DRAWS = [  # chains, configurations, slowest autocorrelation time
    (64, 200, 1.0),
    (64, 200, 8.0),
    (64, 200, 40.0),  # too short for some tests, which then have to say so
    (256, 50, 1.0),
    (400, 4, 1.0),
    (16, 400, 4.0),
    (4, 1000, 5.0),
    (2, 2000, 3.0),
    (1, 4000, 5.0),
    (1, 2000, 0.0),
]
HMC_CASES = [(64, 200, 0.21), (16, 400, 0.2705), (64, 200, 0.2705), (64, 200, 0.3)]


def free_field(seed: Sequence[int], n_chains: int, n_configs: int, tau: float) -> Any:
    """Draw a correct ensemble: `tau` is the autocorrelation time of the mode p = 0."""
    from lattice_ml.actions import FreeField
    from lattice_ml.chain import Chains
    from lattice_ml.lattice import Lattice

    rng, lattice = np.random.default_rng(seed), Lattice((8, 8))
    action = FreeField(0.1, lattice.ndim)
    propagator = action.propagator(lattice)[:, : lattice.shape[-1] // 2 + 1]
    memory = np.exp(-1 / np.maximum(tau * propagator / propagator[0, 0], 1e-9))

    def draw() -> np.ndarray:
        noise = np.fft.rfft2(rng.standard_normal((n_chains, *lattice.shape)))
        return np.sqrt(propagator) * noise

    fields = np.empty((n_configs, n_chains, *lattice.shape), np.float32)
    modes = draw()
    for i in range(n_configs):
        fields[i] = np.fft.irfft2(modes, s=lattice.shape)
        modes = memory * modes + np.sqrt(1 - memory**2) * draw()
    dh = rng.normal(0.25, np.sqrt(0.5), (n_chains, n_configs))  # variance = 2 mean
    history = {
        "exp_minus_dh": np.exp(-dh),
        "acceptance": np.exp(-np.maximum(dh, 0)),
        "dh_negative": (dh < 0).astype(float),
    }
    flat = fields.reshape(-1, *lattice.shape)
    return Chains(action, lattice.shape, 1, flat, history, {})


def hmc(seed: Sequence[int], n_chains: int, n_configs: int, kappa: float) -> Any:
    """Run HMC at lam = 0.022 long enough to thermalise."""
    import jax

    import lattice_ml

    action = lattice_ml.action("kappa", 2, kappa=kappa, lam=0.022)
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[-1])
    return lattice_ml.run(
        key,
        lattice_ml.HMC(action),
        lattice_ml.Lattice((8, 8)),
        n_chains=n_chains,
        n_configs=n_configs,
        n_thermalise=300,
    )


def judge(make: Callable[..., Any], case: tuple[Any, ...], n: int) -> tuple[int, list[float]]:
    """Check `n` ensembles of a case: how many are refused, and all p-values."""
    from lattice_ml.analysis.certificates import check

    refused, p_values = 0, []
    for seed in range(n):
        certificates = check(make((1, seed), *case))
        refused += any(c.verdict == "fail" for c in certificates)
        p_values += [c.p_value for c in certificates if c.verdict != "not applicable"]
    return refused, p_values


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where the rate is too high."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported
    from scipy import stats

    from lattice_ml.analysis.certificates import FALSE_ALARM_RATE

    jax.config.update("jax_enable_x64", True)
    print("| made by | chains x configurations | tau or kappa | refused | p < 0.1 | p < 0.01 |")
    print("|---|---|---|---|---|---|")
    refused = total = 0
    for make, cases, n in zip(
        (free_field, hmc), (DRAWS, HMC_CASES), SIZES[options.size], strict=True
    ):
        for case in cases:
            begin = time.perf_counter()
            alarms, p_values = judge(make, case, n)
            refused, total = refused + alarms, total + n
            low, lowest = (f"{np.mean(np.less(p_values, p)):.4f}" for p in (0.1, 0.01))
            size = f"{case[0]} x {case[1]} | {case[2]}"
            print(f"| {make.__name__} | {size} | {alarms} of {n} | {low} | {lowest} |", flush=True)
            print(f"{case}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    print(f"\n{refused} of {total} correct ensembles refused; {FALSE_ALARM_RATE:g} allowed")
    return int(stats.binom.sf(refused - 1, total, FALSE_ALARM_RATE) < 0.01)


if __name__ == "__main__":
    raise SystemExit(main())
