"""Does `compare` accept correct ensembles, and does it find faults that have been published?

Correct pairs are two independent draws of a free field whose modes are AR(1) processes (see
`false_alarms.py`), of which at most one in 100 may be refused.  The faults, in ensembles worth
about 2,000 independent configurations and against correct ones of the same size:

* `exp(-2S)`: Langevin dynamics with noise sqrt(dt) instead of sqrt(2 dt);
* `missing well`: chains that never leave the well with M > 0;
* `domain walls`: a tenth of the chains frozen in stripes;
* `zero padding`: fields made by a convolution that pads with zeros where it should be periodic;
* `wrong convention`: fields of the `standard` normalisation with the couplings of `kappa`.

    python benchmarks/verdicts.py [--size toy|small|full]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lattice_ml.runtime.devices import use_all_cores

sys.path.insert(0, str(Path(__file__).parent))
from false_alarms import free_field

SIZES = {"toy": (2, 1), "small": (40, 5), "full": (200, 100)}  # correct pairs, tries per fault

PAIRS = [(64, 200, 1.0), (16, 400, 4.0), (256, 50, 1.0), (2, 2000, 3.0)]
SHAPE = (16, 16)


def ensemble(
    kappa: float, seed: int, *, sampler: Any = None, n_configs: int = 64, **how: Any
) -> Any:
    """64 chains of HMC, or of another sampler; their configurations are nearly independent."""
    import jax

    import lattice_ml

    action = lattice_ml.action("kappa", 2, kappa=kappa, lam=0.022)
    sampler = lattice_ml.HMC(action) if sampler is None else sampler(action)
    settings = {"n_chains": 64, "n_configs": n_configs, "n_thermalise": 200, "thin": 2} | how
    return lattice_ml.run(jax.random.key(seed), sampler, lattice_ml.Lattice(SHAPE), **settings)


def bare(made: Any, cfgs: Any = None) -> Any:
    """Configurations without their history, as others publish them."""
    cfgs = made.cfgs if cfgs is None else cfgs.astype(np.float32)
    magnetisation = cfgs.reshape(-1, made.n_chains, *made.shape).mean(axis=(2, 3)).T
    return replace(made, cfgs=cfgs, histories={"magnetisation": magnetisation}, temperature=1.0)


def correct(seed: int) -> tuple[Any, Any]:
    """Nothing is wrong."""
    return ensemble(0.26, 2 * seed), ensemble(0.26, 2 * seed + 1)


def twice_the_action(seed: int) -> tuple[Any, Any]:
    """Noise sqrt(dt): half the temperature."""
    from lattice_ml import Langevin

    def cold(action: Any) -> Any:
        return Langevin(action, step_size=0.05, temperature=0.5, scheme="leimkuhler_matthews")

    return ensemble(0.26, seed), bare(ensemble(0.26, seed, sampler=cold))


def missing_well(seed: int) -> tuple[Any, Any]:
    """All chains start with M > 0 and nothing flips them."""
    from lattice_ml import HMC

    start = np.full((1, *SHAPE), 3.5, np.float32)
    single = ensemble(0.35, seed, sampler=lambda a: HMC(a, sign_flip=False), start=start)
    return ensemble(0.35, seed, start="cold"), bare(single)


def domain_walls(seed: int) -> tuple[Any, Any]:
    """Stripes that live for ever, in one chain of ten."""
    from lattice_ml import HMC

    stripe = np.where(np.arange(16) < 8, 4.8, -4.8) * np.ones((16, 1))
    start = np.stack([stripe, *[np.full(SHAPE, 4.8)] * 9]).astype(np.float32)
    frozen = ensemble(0.5, seed, sampler=lambda a: HMC(a, trajectory_length=1.0), start=start)
    return ensemble(0.5, seed, start="cold"), bare(frozen)


def zero_padding(seed: int) -> tuple[Any, Any]:
    """Noise through one convolution, periodic and padded with zeros."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    kernel = np.exp(-np.hypot(*np.mgrid[-2:3, -2:3]))
    made = []
    for mode in ("wrap", "constant"):
        noise = rng.standard_normal((2048, *SHAPE))
        fields = np.stack([ndimage.convolve(x, kernel, mode=mode) for x in noise])
        made.append(_published(fields.astype(np.float32)))
    return made[0], made[1]


def _published(fields: np.ndarray) -> Any:
    """Independent fields whose action nobody stated."""
    from lattice_ml.chains.run import Chains

    chains = fields.reshape(-1, 64, *SHAPE)
    return Chains(None, SHAPE, 1, fields, {"magnetisation": chains.mean(axis=(2, 3)).T}, {})


def wrong_convention(seed: int) -> tuple[Any, Any]:
    """phi_0 = sqrt(2 kappa) phi, labelled as phi."""
    reference, other = correct(seed)
    return reference, bare(other, other.cfgs * np.sqrt(2 * 0.26))


FAULTS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "exp(-2S)": twice_the_action,
    "missing well": missing_well,
    "domain walls": domain_walls,
    "zero padding": zero_padding,
    "wrong convention": wrong_convention,
}


def judge(make: Callable[[], tuple[Any, Any]], n: int) -> tuple[int, list[Any]]:
    """How many of n pairs are rejected, and all comparisons."""
    from lattice_ml.comparison import compare

    found = [compare(*make_one) for make_one in (make(i) for i in range(n))]
    return sum(not one.accepted for one in found), found


def main(words: Sequence[str] | None = None) -> int:
    """Print both tables; exit 1 where more is refused, or less found, than stated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported

    jax.config.update("jax_enable_x64", True)
    n_pairs, n_tries = SIZES[options.size]
    begin = time.perf_counter()
    p_values: dict[str, list[float]] = {}

    def pair(i: int) -> tuple[Any, Any]:
        shape = PAIRS[i % len(PAIRS)]
        return free_field((1, i, 0), *shape), free_field((1, i, 1), *shape)

    refused, found = judge(pair, n_pairs)
    for one in found:
        for test in one.tests:
            if test.verdict in ("pass", "fail"):
                p_values.setdefault(test.name, []).append(test.p_value)
    print("| test of correct pairs | judged | p < 0.1 | p < 0.01 | smallest p |")
    print("|---|---|---|---|---|")
    for name, values in p_values.items():
        low, lowest = (f"{np.mean(np.less(values, p)):.3f}" for p in (0.1, 0.01))
        print(f"| {name} | {len(values)} | {low} | {lowest} | {min(values):.2g} |")
    print(f"\n{refused} of {n_pairs} correct pairs refused; 1 % allowed\n")
    print("| fault | found | by | largest p of the best test | n_eff |")
    print("|---|---|---|---|---|")
    missed = 0
    for name, make in FAULTS.items():
        rejected, found = judge(make, n_tries)
        missed += n_tries - rejected
        named = sorted({test for one in found for test in one.rejected_by})
        best = max(min(t.p_value for t in one.tests if t.p_value >= 0) for one in found)
        worth = np.median([one.candidate.effective_size for one in found])
        row = (name, f"{rejected} of {n_tries}", ", ".join(named), f"{best:.1g}", f"{worth:.0f}")
        print(f"| {' | '.join(row)} |", flush=True)
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return int(refused > 0.01 * n_pairs or missed > 0.01 * n_tries * len(FAULTS))


if __name__ == "__main__":
    raise SystemExit(main())
