"""How often does `check` refuse a correct ensemble?  Once in 1,000 is what it allows itself.

Correct are exact draws of a free field, every mode an AR(1) process in Monte Carlo time that is
the slower the lower its momentum, with dH drawn from its law at large volume; and thermalised runs
of every sampler and of cycles, on lattices of one to three dimensions, from a free field to almost
Ising spins.  One program per sampler and lattice runs on and on; its configurations are cut into
ensembles, every second of which is judged without its histories, as an import is.  Langevin
dynamics has a bias: its scheme of second order with a small step, so that the bias is a thousandth
and the errors are hundredths.

Printed are the ensembles refused and undecided, and which part of their p-values is below 0.1 and
0.01: at most these numbers, and less where one p-value stands for several correlated quantities.
Every refusal is named.  The exit status is 1 where more are refused than a rate of 1e-3 explains.

    python benchmarks/false_alarms.py [--minutes 20] [--only HMC+Wolff ...]

Rounds over all cases are made until the time is up; the first takes some ten minutes of one core.
"""

import argparse
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lattice_ml.runtime.devices import use_all_cores

PORTION = 20  # ensembles of a case in one round
N_THERMALISE = 1000

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

SMOOTH = [  # shape, kappa, lam, start
    ((16,), 0.3, 0.5, "hot"),
    ((2, 2), 0.2, 0.022, "hot"),
    ((4, 4), 0.2705, 0.022, "hot"),
    ((8, 8), 0.2, 0.022, "hot"),
    ((8, 8), 0.3, 0.022, "cold"),
    ((4, 4, 4), 0.19, 0.9, "hot"),
    ((8, 8, 8), 0.15, 1.0, "hot"),
]
ISING = [  # no other update changes signs here
    ((16,), 0.4, 100.0, "cold"),
    ((4, 4), 0.3, 100.0, "cold"),
    ((8, 8), 0.25, 10.0, "cold"),
    ((8, 8, 8), 0.1, 10.0, "cold"),
]
SIZES = {  # chains, configurations: one program for all couplings of a lattice
    (4, 4): (4, 800),
    (8, 8): (16, 250),
    (16,): (1, 3000),
    (2, 2): (64, 100),
    (4, 4, 4): (32, 150),
    (8, 8, 8): (8, 400),
}

LANGEVIN = {"scheme": "leimkuhler_matthews", "step_size": 0.02, "trajectory_length": 0.4}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {  # updates between configurations, settings
    "HMC": (1, {}),
    "FourierHMC": (1, {}),
    "MALA": (4, {}),
    "Kramers": (3, {}),
    "Langevin": (3, LANGEVIN),
    "ReplicaExchange": (1, {}),
    "HMC+MALA": (2, {}),
    "HMC+Wolff": (1, {}),
    "HMC+SwendsenWang": (1, {}),
    "Wolff+MALA": (3, {}),
    "Kramers+SwendsenWang": (2, {}),
    "FourierHMC+Wolff": (1, {}),
    "Langevin+Wolff": (2, LANGEVIN | {"scheme": "heun", "step_size": 0.004}),
    "ReplicaExchange+Wolff": (1, {}),
    "HMC+Wolff+SwendsenWang": (1, {}),
}


def free_field(seed: Sequence[int], n_chains: int, n_configs: int, tau: float) -> Any:
    """Draw a correct ensemble: `tau` is the autocorrelation time of the mode p = 0."""
    from lattice_ml.actions import FreeField
    from lattice_ml.chains.run import Chains
    from lattice_ml.fields.lattice import Lattice

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


@dataclass
class Tally:
    """What was said of correct ensembles."""

    n: int = 0
    refused: int = 0
    undecided: int = 0
    p_values: list[float] = field(default_factory=list)

    def add(self, certificates: Sequence[Any]) -> list[Any]:
        """Count one ensemble; returns what failed."""
        from lattice_ml.analysis.certificates import verdict

        failed = [c for c in certificates if c.verdict == "fail"]
        self.n += 1
        self.refused += bool(failed)
        self.undecided += verdict(certificates) == "undecided"
        self.p_values += [c.p_value for c in certificates if c.p_value >= 0]
        return failed

    def __add__(self, other: "Tally") -> "Tally":
        numbers = (self.n + other.n, self.refused + other.refused)
        undecided = self.undecided + other.undecided
        return Tally(*numbers, undecided, self.p_values + other.p_values)

    def __str__(self) -> str:
        low, lowest = (f"{np.mean(np.less(self.p_values, p)):.4f}" for p in (0.1, 0.01))
        return f"{self.n} | {self.refused} | {self.undecided} | {low} | {lowest}"


@dataclass(frozen=True)
class Case:
    """Correct ensembles without end.

    Attributes:
        kind: of the sampler.
        name: lattice, couplings, size.
        ensembles: starts to make them.
    """

    kind: str
    name: str
    ensembles: Callable[[], Iterator[Any]]
    tally: Tally = field(default_factory=Tally)


def judge(ensembles: Iterable[Any], n: int, tally: Tally) -> Iterator[Any]:
    """Count the next `n` ensembles; yields every certificate that fails."""
    from lattice_ml.analysis.certificates import check

    for _, ensemble in zip(range(n), ensembles, strict=False):
        yield from tally.add(check(ensemble))


def draws(n_chains: int, n_configs: int, tau: float) -> Iterator[Any]:
    """Exact draws, one seed after another."""
    return (free_field((1, seed), n_chains, n_configs, tau) for seed in range(10**9))


def sampler(kind: str, action: Any) -> Any:
    """A sampler or a cycle, with the settings of `KINDS` where a part has them."""
    from lattice_ml import Cycle
    from lattice_ml.samplers import kinds

    def part(name: str) -> Any:
        cls = kinds.KINDS[name]
        known = cls.__dataclass_fields__
        given = {key: value for key, value in KINDS[kind][1].items() if key in known}
        if name == "ReplicaExchange":
            h = float(action.couplings()[0])
            given |= {"coupling": "h", "ladder": (0.96 * h, 0.92 * h)}
        return cls(action, **given)

    parts = tuple(part(name) for name in kinds.parts(kind))
    return parts[0] if len(parts) == 1 else Cycle(parts)


def runs(kind: str, theory: tuple[Any, ...], n_chains: int, n_configs: int) -> Iterator[Any]:
    """One run that goes on and on, as ensembles of `n_configs`, every second without histories."""
    import jax

    import lattice_ml

    shape, kappa, lam, start = theory
    action = lattice_ml.action("kappa", len(shape), kappa=kappa, lam=lam)
    chosen, lattice = sampler(kind, action), lattice_ml.Lattice(shape)
    counts = {"n_chains": n_chains, "n_configs": n_configs, "thin": KINDS[kind][0]}
    key = jax.random.key(zlib.crc32(f"{kind} {theory}".encode()))
    found = lattice_ml.run(key, chosen, lattice, n_thermalise=N_THERMALISE, start=start, **counts)
    tuned = chosen.retuned(**found.tuned)
    for number in range(10**9):
        key = jax.random.fold_in(key, number)
        last = found.cfgs[-n_chains:]
        found = lattice_ml.run(key, tuned, lattice, n_thermalise=0, start=last, **counts)
        some = {"magnetisation": found.series("magnetisation")}
        yield replace(found, histories=some) if number % 2 else found


def cases(only: Sequence[str]) -> list[Case]:
    """All cases, or those of some kinds."""
    found = []
    for size in DRAWS:
        name = f"{size[0]} x {size[1]}, tau {size[2]:g}"
        found.append(Case("exact draws", name, partial(draws, *size)))
    for (shape, size), kind in itertools.product(SIZES.items(), KINDS):
        signs_move = "Langevin" not in kind and {"Wolff", "SwendsenWang"} & set(kind.split("+"))
        for theory in (*SMOOTH, *(ISING if signs_move else ())):  # Langevin: too stiff
            if theory[0] == shape:
                extents = " x ".join(map(str, shape))
                name = f"{extents}, kappa {theory[1]:g}, lam {theory[2]:g}, {size[0]} x {size[1]}"
                found.append(Case(kind, name, partial(runs, kind, theory, *size)))
    return [case for case in found if not only or case.kind in only]


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables; exit 1 where the rate is too high."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--only", nargs="*", default=[], choices=["exact draws", *KINDS])
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported
    from scipy import stats

    from lattice_ml.analysis.certificates import FALSE_ALARM_RATE

    jax.config.update("jax_enable_x64", True)
    chosen = cases(options.only)
    running = [case.ensembles() for case in chosen]
    until = time.monotonic() + 60 * options.minutes
    for case, ensembles in itertools.cycle(zip(chosen, running, strict=True)):
        if time.monotonic() > until:
            break
        for failed in judge(ensembles, PORTION, case.tally):
            print(f"{case.kind}, {case.name}: {failed}", file=sys.stderr)
        print(f"{case.kind}, {case.name}: {case.tally}", file=sys.stderr, flush=True)
    chosen = [case for case in chosen if case.tally.n]
    header = "ensembles | refused | undecided | p < 0.1 | p < 0.01 |"
    print(f"| sampler | {header}\n|---|---|---|---|---|---|")
    for kind in dict.fromkeys(case.kind for case in chosen):
        together = sum((case.tally for case in chosen if case.kind == kind), Tally())
        print(f"| {kind} | {together} |")
    print(f"\n| case | {header}\n|---|---|---|---|---|---|")
    for case in chosen:
        print(f"| {case.kind}: {case.name} | {case.tally} |")
    total = sum((case.tally for case in chosen), Tally())
    print(f"\n{total.refused} of {total.n} correct ensembles refused; {FALSE_ALARM_RATE:g} allowed")
    return int(stats.binom.sf(total.refused - 1, total.n, FALSE_ALARM_RATE) < 0.01)


if __name__ == "__main__":
    raise SystemExit(main())
