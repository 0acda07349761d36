"""Which faults does `check` find, and from how many configurations on?

Faults are planted in correct HMC runs of 64 chains at lam = 0.022 on 16 x 16 sites:

* configurations that are there twice or eight times, reversed in time, moved, turned, with other
  signs, with noise;
* a chain of 64 that stays at one field but for noise and signs;
* a slow series that was put in another order, with noise of 1e-6 against a comparison bit by bit;
* noise on the amplitudes that leaves all mean squares as they are, of the kurtosis <f^4>/<f^2>^2;
* histories that are not those of the configurations.

Each is cut to several lengths and tried on several runs; a fault that is found in all tries of one
length is not tried at larger ones.  `bare` is without histories and settings, as others publish
their fields.  A second table says how far kappa or lam may be wrong, in brackets in units of the
smallest error that an estimate of it can have (Cramer and Rao): nothing finds less than about four
of these.

    python benchmarks/fooling.py [--size toy|small|full]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lattice_ml.runtime.devices import use_all_cores

SIZES = {"toy": (1, (10, 25)), "small": (4, (10, 25, 100, 250, 1000))}  # runs, configs per chain
SIZES["full"] = (20, SIZES["small"][1])

N_CHAINS, SHAPE, KAPPA, LAM = 64, (16, 16), 0.26, 0.022
DELTAS = {"kappa": (0.0002, 0.0005, 0.001, 0.002, 0.004), "lam": (0.0002, 0.0005, 0.001, 0.002)}
FIXED_LENGTH = {"trajectory_length": 1.0}  # slow: tau_int of M^2 is about 10 trajectories

Fields = np.ndarray  # (n_configs, n_chains, *L)
Random = np.random.Generator


def correct(seed: int, n_configs: int, *, sampler: Any = None, **how: Any) -> Any:
    """A run of HMC, or of another sampler."""
    import jax

    import lattice_ml

    action = lattice_ml.action("kappa", len(SHAPE), kappa=KAPPA, lam=LAM)
    make = (sampler or lattice_ml.HMC)(action, **how)
    settings = {"n_chains": N_CHAINS, "n_configs": n_configs, "n_thermalise": 200}
    key = jax.random.fold_in(jax.random.key(20), seed)
    return lattice_ml.run(key, make, lattice_ml.Lattice(SHAPE), **settings)


def fields(made: Any) -> Fields:
    """Configurations of a run."""
    return made.cfgs.reshape(-1, made.n_chains, *made.shape)


def shorter(made: Any, n_configs: int) -> Any:
    """The first configurations of every chain."""
    histories = {name: x[:, :n_configs] for name, x in made.histories.items()}
    return replace(made, cfgs=made.cfgs[: n_configs * made.n_chains], histories=histories)


def bare(made: Any, cfgs: Fields) -> Any:
    """Other configurations, of which nothing is known but the action."""
    cfgs = np.asarray(cfgs, np.float32)
    magnetisation = cfgs.mean(axis=(2, 3)).T
    flat = cfgs.reshape(-1, *made.shape)
    return replace(made, cfgs=flat, histories={"magnetisation": magnetisation}, tuned={})


def moved(cfgs: Fields, rng: Random) -> Fields:
    """Every configuration translated, reflected, turned and with another sign, at random."""
    out = np.empty_like(cfgs)
    for place in np.ndindex(cfgs.shape[:2]):
        phi = np.roll(cfgs[place], rng.integers(0, 16, 2), (0, 1))
        phi = phi[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        out[place] = rng.choice([-1, 1]) * (phi.T if rng.random() < 0.5 else phi)
    return out


def noisy(cfgs: Fields, size: float, rng: Random) -> Fields:
    """With noise relative to the fluctuations of the field."""
    return cfgs + size * cfgs.std() * rng.standard_normal(cfgs.shape)


def twice(made: Any, rng: Random, *, noise: float = 0.0) -> Any:
    """The first half of every chain, then its copies, backwards in time."""
    half = fields(made)[: made.n_configs // 2]
    return bare(made, np.concatenate([half, noisy(moved(half[::-1], rng), noise, rng)]))


def eightfold(made: Any, rng: Random) -> Any:
    """8 chains as 64: the symmetries of the square."""
    few = fields(made)[:, :8]
    turned = [np.rot90(few, i, (2, 3)) for i in range(4)]
    return bare(made, np.concatenate([*turned, *(-x[..., ::-1] for x in turned)], axis=1))


def frozen(made: Any, rng: Random, *, noise: float = 1e-4) -> Any:
    """One chain stays at its first field."""
    cfgs = fields(made).copy()
    signs = rng.choice([-1, 1], (len(cfgs), 1, 1))
    cfgs[:, 0] = signs * noisy(np.repeat(cfgs[:1, 0], len(cfgs), axis=0), noise, rng)
    return bare(made, cfgs)


def shuffled(made: Any, rng: Random, *, settings: Any = None, across: bool = False) -> Any:
    """Every chain in another order, or all configurations, with noise of 1e-6."""
    cfgs = fields(made)
    if across:
        flat = cfgs.reshape(-1, *made.shape)
        cfgs = flat[rng.permutation(len(flat))].reshape(cfgs.shape)
    order = rng.permuted(np.tile(np.arange(len(cfgs)), (made.n_chains, 1)), axis=1).T
    mixed = np.take_along_axis(cfgs, order[..., None, None], axis=0)
    return replace(bare(made, noisy(mixed, 1e-6, rng)), tuned=settings or {})


def amplitude(made: Any, rng: Random, *, kurtosis: float, total: bool) -> Any:
    """Noise f on the total field, or on the whole configuration: <f^2> = 1, <f^4> = kurtosis."""
    cfgs = fields(made)
    _, same = np.unique(np.abs(cfgs[..., 0, 0]), return_inverse=True)  # rejections stay equal
    signs = rng.choice([-1, 1], same.max() + 1)[same].reshape(*cfgs.shape[:2], 1, 1)
    square = 1 + np.sqrt(kurtosis - 1) * signs
    mean = cfgs.mean(axis=(2, 3), keepdims=True)
    return bare(made, cfgs + (np.sqrt(square) - 1) * (mean if total else cfgs))


def history(made: Any, rng: Random, *, name: str, factor: float = 1.0, shift: float = 0.0) -> Any:
    """One history altered."""
    series = made.series(name)
    altered = factor * series + shift * series.std()
    return replace(made, histories=made.histories | {name: altered})


LANGEVIN = {"step_size": 0.02, "trajectory_length": 0.2, "scheme": "leimkuhler_matthews"}

FAULTS: dict[str, tuple[str, Callable[[Any, Random], Any]]] = {
    "each configuration twice, moved": ("hmc", twice),
    "the same with noise of 1e-6": ("hmc", lambda m, r: twice(m, r, noise=1e-6)),
    "the same with noise of 1e-3": ("hmc", lambda m, r: twice(m, r, noise=1e-3)),
    "the same with noise of 1e-2": ("hmc", lambda m, r: twice(m, r, noise=1e-2)),
    "8 chains as 64 by symmetries": ("hmc", eightfold),
    "one chain of 64 frozen, noise 1e-4": ("hmc", frozen),
    "one chain of 64 frozen, noise 0.03": ("hmc", lambda m, r: frozen(m, r, noise=0.03)),
    "slow HMC shuffled, bare": ("slow", shuffled),
    "slow Langevin shuffled, settings known": (
        "langevin",
        lambda m, r: shuffled(m, r, settings={"kind": "Langevin", **LANGEVIN}),
    ),
    "slow Langevin shuffled within chains, bare": ("langevin", shuffled),
    "slow Langevin shuffled across chains, bare": (
        "langevin",
        lambda m, r: shuffled(m, r, across=True),
    ),
    "noise on the total field, kurtosis 1.05": (
        "hmc",
        lambda m, r: amplitude(m, r, kurtosis=1.05, total=True),
    ),
    "noise on the total field, kurtosis 1.16": (
        "hmc",
        lambda m, r: amplitude(m, r, kurtosis=1.16, total=True),
    ),
    "noise on whole fields, kurtosis 1.01": (
        "hmc",
        lambda m, r: amplitude(m, r, kurtosis=1.01, total=False),
    ),
    "noise on whole fields, kurtosis 1.05": (
        "hmc",
        lambda m, r: amplitude(m, r, kurtosis=1.05, total=False),
    ),
    "history of phi2 times 1.001": ("hmc", lambda m, r: history(m, r, name="phi2", factor=1.001)),
    "history of link_sum + 0.1 std": (
        "hmc",
        lambda m, r: history(m, r, name="link_sum", shift=0.1),
    ),
    "history of exp_minus_dh times 1.1": (
        "hmc",
        lambda m, r: history(m, r, name="exp_minus_dh", factor=1.1),
    ),
}


def runs(n: int, n_configs: int) -> dict[str, list[Any]]:
    """What faults are planted in."""
    import lattice_ml

    return {
        "hmc": [correct(i, n_configs) for i in range(n)],
        "slow": [correct(i, n_configs, **FIXED_LENGTH) for i in range(n)],
        "langevin": [
            correct(i, n_configs, sampler=lattice_ml.Langevin, **LANGEVIN) for i in range(n)
        ],
    }


def found_by(ensemble: Any) -> set[str]:
    """Certificates that fail."""
    from lattice_ml.analysis.certificates import check

    return {c.name for c in check(ensemble) if c.verdict == "fail"}


def faults(made: dict[str, list[Any]], lengths: Sequence[int]) -> dict[str, list[str]]:
    """For every fault how often it was found at each length, and by what."""
    table = {}
    for name, (kind, plant) in FAULTS.items():
        row, names, hits = [], set(), 0
        for n in lengths:
            if hits == len(made[kind]):
                row.append("")
                continue
            hits = 0
            for i, one in enumerate(made[kind]):
                failed = found_by(plant(shorter(one, n), np.random.default_rng((i, n))))
                hits, names = hits + bool(failed), names | failed
            row.append(f"{hits} of {len(made[kind])}")
        table[name] = [*row, ", ".join(sorted(names)) or "not found"]
        print(f"| {' | '.join([name, *table[name]])} |", flush=True)
    return table


def couplings(made: list[Any], lengths: Sequence[int]) -> None:
    """For every error of a coupling how often it was found at each length.

    Schwinger-Dyson terms are linear in the couplings, so that two labels give those of all; the
    other certificates do not know of a label.
    """
    volume = int(np.prod(SHAPE))
    tau = np.mean([tau_int(one) for one in made])
    right = [labelled(one) for one in made]
    for coupling, deltas in DELTAS.items():
        conjugate = np.concatenate([conjugate_of(one, coupling).ravel() for one in made])
        information = volume**2 * conjugate.var() / (2 * tau)
        wrong = [labelled(one, **{coupling: 1.0}) for one in made]
        for delta in deltas:
            row: list[str] = []
            for n in lengths:
                pairs = zip(right, wrong, strict=True)
                cases = [case for pair in pairs for case in windows(*pair, delta, n)]
                hits = sum(map(label_refused, cases))
                best = delta * np.sqrt(information * n * N_CHAINS)
                row.append(f"{hits} of {len(cases)} ({best:.1f})")
            print(f"| {coupling} + {delta:g} | {' | '.join(row)} |", flush=True)


def labelled(made: Any, **change: float) -> Any:
    """The evidence of a run for couplings that are wrong by `change`."""
    import lattice_ml
    from lattice_ml.analysis.certificates.evidence import gather

    right = {"kappa": KAPPA, "lam": LAM}
    changed = {name: value + change.get(name, 0.0) for name, value in right.items()}
    return gather(replace(made, action=lattice_ml.action("kappa", len(SHAPE), **changed)))


def windows(right: Any, wrong: Any, delta: float, n: int) -> Iterator[Any]:
    """Evidence of up to four parts of a run, labelled with a coupling off by `delta`."""
    total = right.digests.shape[1]
    for first in [n * i for i in range(min(4, total // n))]:
        part = np.s_[:, first : first + n]
        terms = {
            name: term[part] + delta * (wrong.schwinger_dyson[name] - term)[part]
            for name, term in right.schwinger_dyson.items()
        }
        power = {name: series[part] for name, series in right.two_point.items()}
        yield replace(right, schwinger_dyson=terms, two_point=power)


def label_refused(evidence: Any) -> bool:
    """Whether a certificate that knows of the couplings fails."""
    from lattice_ml.analysis.certificates import certify

    names = ("schwinger_dyson", "amplitudes")
    return any(c.verdict == "fail" for c in certify(evidence, names))


def conjugate_of(made: Any, coupling: str) -> np.ndarray:
    """-(1/V) dS/dcoupling in the kappa convention, `(n_chains, n_configs)`."""
    if coupling == "kappa":
        return 2 * made.series("link_sum")
    return 2 * made.series("phi2") - made.series("phi4")


def tau_int(made: Any) -> float:
    """Of the link sum, in configurations."""
    from lattice_ml import statistics

    return statistics.estimate(made.series("link_sum")).tau_int


def main(words: Sequence[str] | None = None) -> int:
    """Print both tables; exit 1 where a correct run is refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported

    jax.config.update("jax_enable_x64", True)
    n, lengths = SIZES[options.size]
    begin = time.perf_counter()
    made = runs(n, lengths[-1])
    refused = sum(bool(found_by(one)) for several in made.values() for one in several)
    total = sum(map(len, made.values()))
    print(f"{refused} of {total} correct runs refused\n")
    sizes = " | ".join(f"{k * N_CHAINS:,}" for k in lengths)
    print(f"| fault | {sizes} | found by |\n|---|{'---|' * len(lengths)}---|")
    faults(made, lengths)
    print(f"\n| labelled with | {sizes} |\n|---|{'---|' * len(lengths)}")
    couplings(made["hmc"], lengths)
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return int(refused > 0)


if __name__ == "__main__":
    raise SystemExit(main())
