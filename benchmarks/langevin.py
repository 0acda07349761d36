"""Is Langevin dynamics right: its bias at every step, and its limit of zero step?

Two tables.  First the bias of <phi^2> of quartic sites (kappa = 0, lam = 0.3), per scheme
and step size, measured and exact (`analysis/dynamics/finite_step.py`), with the measured slope of
log |bias| in log eps: 1 for Euler, 2 for the others.  Then phi^4 theory on 16^2 at kappa = 0.264
and 0.27, extrapolated to zero step by `lattice_ml.extrapolate`, beside the independent Monte Carlo
values of tests/data/phi4_reference.json.  The exit status is 1 if a |z| reaches 4, a slope is off
by more than 0.2 and three errors, or, at full size, an extrapolated error
of leimkuhler_matthews exceeds 0.5 % of phi2 or phi4 or 2 % of m2 or binder.

    python benchmarks/langevin.py [--size toy|small|full] [--out DIR] [--json FILE]
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattice_ml.runtime.devices import use_all_cores

DATA = Path(__file__).parents[1] / "tests" / "data" / "phi4_reference.json"
CASES = {0.264: "mc.scan_L16_k0.264", 0.27: "mc.wang_repo_L16_k0.27"}
OBSERVABLES = {"phi2": "phi2", "phi4": "phi4", "m2": "M2", "binder": "U_L"}
ALLOWED = {"phi2": 0.005, "phi4": 0.005, "m2": 0.02, "binder": 0.02}  # relative errors
MAX_Z = 4.0
REFERENCE_FACTOR = 1.5  # on Monte Carlo errors next to the critical point, as their source says

LAM = 0.3  # of the quartic site, S = (1 - 2 lam) phi^2 + lam phi^4
SITE_STEPS = {
    "euler": (0.01, 0.02, 0.04),
    "heun": (0.02, 0.03, 0.045),
    "leimkuhler_matthews": (0.06, 0.08, 0.11),
    "kramers": (0.1, 0.14, 0.2),
}
SITE_SHARE = {"leimkuhler_matthews": 4}  # times as many configurations: its bias is the smallest
ORDERS = {"euler": 1, "heun": 2, "leimkuhler_matthews": 2, "kramers": 2}

# Of phi^4: sampler settings, steps in the scaling window, and a share of the configurations: a
# first-order scheme needs steps twenty times smaller.
RUNS = {
    "leimkuhler_matthews": ({"sampler__fourier_mass_squared": 0.5}, (0.03, 0.05, 0.07), 1.0),
    "euler": ({"sampler__fourier_mass_squared": 0.5}, (0.0025, 0.005, 0.0075), 0.1),
}
PRECISE = "leimkuhler_matthews"  # whose errors have to be small at full size

SIZES = {  # of sites: schemes, configurations per chain; of phi^4: schemes, the same
    "toy": (("euler",), 100, ("leimkuhler_matthews",), 60),
    "small": (tuple(SITE_STEPS), 2000, ("leimkuhler_matthews",), 600),
    "full": (tuple(SITE_STEPS), 4000, tuple(RUNS), 4000),
}
N_CHAINS = 128


class Bias(NamedTuple):
    """<phi^2> of quartic sites at one step size, minus its value at zero step."""

    scheme: str
    step_size: float
    bias: float  # relative
    error: float
    exact: float | None  # relative; not known of Kramers at finite friction

    @property
    def z(self) -> float:
        return 0.0 if self.exact is None else (self.bias - self.exact) / self.error

    def __str__(self) -> str:
        exact = "" if self.exact is None else f"{self.exact:.3e}"
        z = "" if self.exact is None else f"{self.z:+.1f}"
        return (
            f"| {self.scheme} | {self.step_size} | {self.bias:.3e} ± {self.error:.0e} | {exact} | "
            f"{z} |"
        )


class Row(NamedTuple):
    """One extrapolated observable of phi^4 theory."""

    scheme: str
    kappa: float
    observable: str
    value: float
    error: float
    chi2_dof: float
    reference: float
    reference_error: float
    warnings: tuple[str, ...]

    @property
    def z(self) -> float:
        return (self.value - self.reference) / math.hypot(self.error, self.reference_error)

    @property
    def precise(self) -> bool:
        return self.error <= ALLOWED[self.observable] * abs(self.value)

    def __str__(self) -> str:
        return (
            f"| {self.scheme} | {self.kappa} | {self.observable} | {self.value:.5g} ± "
            f"{self.error:.1g} ({100 * self.error / abs(self.value):.2f} %) | "
            f"{self.reference:.5g} ± "
            f"{self.reference_error:.1g} | {self.z:+.1f} | {self.chi2_dof:.1f} | "
            f"{' '.join(self.warnings) or 'none'} |"
        )


def generated(folder: Path, n_configs: int, **keys: Any) -> Any:
    """An ensemble of histories with the given keys of a config, `section__key=value`."""
    from lattice_ml.jobs.config import parse
    from lattice_ml.jobs.generate import generate
    from lattice_ml.runtime.arguments import as_arguments

    keys |= {"chain__n_chains": N_CHAINS, "chain__n_configs": n_configs}
    keys |= {"chain__n_thermalise": 100, "output__save_configs": False}
    words = as_arguments({name.replace("__", "."): value for name, value in keys.items()})
    return generate(parse(words), folder)


def drift(phi: np.ndarray) -> np.ndarray:
    """K of the quartic site."""
    return -2 * (1 - 2 * LAM) * phi - 4 * LAM * phi**3


def exact_bias(scheme: str, step_size: float) -> float:
    """Of <phi^2> on the quartic site, relative to zero step."""
    from lattice_ml.analysis.dynamics.finite_step import site_moments

    return float(site_moments(scheme, drift, step_size, (2,), radius=3.2)[0] / site_limit() - 1)


def site_limit() -> float:
    """<phi^2> of the quartic site."""
    phi = np.linspace(-8, 8, 8001)
    weight = np.exp(-(1 - 2 * LAM) * phi**2 - LAM * phi**4)
    return float(np.sum(phi**2 * weight) / np.sum(weight))


def biases(schemes: Sequence[str], n_configs: int, folder: Path) -> Iterator[Bias]:
    """Measure the bias of schemes at every step."""
    from lattice_ml import estimate
    from lattice_ml.analysis.dynamics.finite_step import SCHEMES

    limit = site_limit()
    for scheme in schemes:
        sampler: dict[str, Any] = {"sampler__kind": "Kramers", "sampler__accept": False}
        if scheme in SCHEMES:
            sampler = {"sampler__kind": "Langevin", "sampler__scheme": scheme}
        for seed, eps in enumerate(SITE_STEPS[scheme], start=1):
            ensemble = generated(
                folder / f"{scheme}-{eps}",
                n_configs * SITE_SHARE.get(scheme, 1),
                seed=seed,
                lattice__shape=[16, 16],
                action__kappa=0.0,
                action__lam=LAM,
                sampler__step_size=eps,
                **sampler,
            )
            found = estimate(ensemble.series("phi2"))
            exact = exact_bias(scheme, eps) if scheme in SCHEMES else None
            yield Bias(scheme, eps, found.value / limit - 1, found.error / limit, exact)


def slope(points: Sequence[Bias]) -> tuple[float, float]:
    """d log|bias| / d log eps and its error, by weighted least squares."""
    x = np.log([p.step_size for p in points])
    y = np.log([abs(p.bias) for p in points])
    weights = np.array([(p.bias / p.error) ** 2 for p in points])
    centre = np.average(x, weights=weights)
    spread = np.sum(weights * (x - centre) ** 2)
    return float(np.sum(weights * (x - centre) * y) / spread), float(1 / math.sqrt(spread))


def limits(scheme: str, kappa: float, n_configs: int, folder: Path) -> Iterator[Row]:
    """Generate one ensemble per step size, extrapolate, and compare."""
    from lattice_ml import extrapolate

    settings, steps, share = RUNS[scheme]
    ensembles = [
        generated(
            folder / f"{scheme}-{kappa}-{eps}",
            round(share * n_configs),
            seed=seed,
            lattice__shape=[16, 16],
            action__kappa=kappa,
            action__lam=0.022,
            sampler__kind="Langevin",
            sampler__scheme=scheme,
            sampler__step_size=eps,
            **settings,
        )
        for seed, eps in enumerate(steps, start=1)
    ]
    found = extrapolate(ensembles)
    values = json.loads(DATA.read_text())["cases"][CASES[kappa]]["values"]
    for ours, theirs in OBSERVABLES.items():
        line = found[ours]
        assert line is not None, ours
        reference, error = values[theirs]
        yield Row(
            scheme,
            kappa,
            ours,
            line.value,
            line.error,
            line.chi2 / line.dof,
            reference,
            REFERENCE_FACTOR * error,
            line.marks,
        )


def draw(points: Sequence[Bias], folder: Path) -> None:
    """|bias| against the step size, with the exact curves: `langevin_bias.png`."""
    from matplotlib.figure import Figure

    from lattice_ml.analysis.dynamics.finite_step import SCHEMES
    from lattice_ml.report import page

    with page.style():
        figure = Figure(figsize=(5.6, 4.2), layout="constrained")
        axis = figure.subplots()
        colours = dict(zip(SITE_STEPS, ("#d55e00", "#1f7fc4", "#3a9d6e", "#8a63b0"), strict=True))
        for scheme, colour in colours.items():
            mine = [p for p in points if p.scheme == scheme]
            if not mine:
                continue
            steps = np.array([p.step_size for p in mine])
            found = np.abs([p.bias for p in mine])
            label = f"{scheme.replace('_', '-')}, slope {slope(mine)[0]:.2f}"
            axis.errorbar(steps, found, [p.error for p in mine], fmt="o", color=colour, label=label)
            if scheme not in SCHEMES:
                continue
            grid = np.geomspace(0.8 * steps[0], 1.2 * steps[-1], 12)
            exact = np.abs([exact_bias(scheme, eps) for eps in grid])
            axis.plot(grid, exact, color=colour, linewidth=0.9)
        axis.set(
            xscale="log",
            yscale="log",
            ylim=(1e-4, None),
            xlabel=r"step size $\epsilon$ ($\delta$ of Kramers)",
        )
        axis.set_ylabel(r"|bias| of $\langle\phi^2\rangle$, relative")
        axis.set_title("Quartic site: measured (points) and exact (lines)")
        axis.legend()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "langevin_bias.png", dpi=150, facecolor="white")


def tables(
    folder: Path, site_schemes: Sequence[str], n_sites: int, schemes: Sequence[str], n_configs: int
) -> tuple[list[Bias], dict[str, tuple[float, float]], list[Row]]:
    """Measure and print: biases, their slopes, limits."""
    print("| scheme | step size | bias of phi2 | exact | z |\n|---|---|---|---|---|")
    points = []
    for point in biases(site_schemes, n_sites, folder):
        print(point, flush=True)
        points.append(point)
    slopes = {name: slope([p for p in points if p.scheme == name]) for name in site_schemes}
    for name, (value, error) in slopes.items():
        print(f"{name}: slope {value:.3f} ± {error:.3f}, order {ORDERS[name]}")
    print("\n| scheme | kappa | observable | at zero step | reference | z | chi2/dof | warnings |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for scheme in schemes:
        for kappa in CASES:
            begin = time.perf_counter()
            found = list(limits(scheme, kappa, n_configs, folder))
            print(*found, sep="\n", flush=True)
            print(f"{scheme} at {kappa}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
            rows += found
    return points, slopes, rows


def main(words: Sequence[str] | None = None) -> int:
    """Print both tables; 1 where a number misses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", help="directory of the plot")
    parser.add_argument("--json", help="also write all numbers to this file")
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported

    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as directory:
        points, slopes, rows = tables(Path(directory), *SIZES[options.size])
    if options.out:
        draw(points, Path(options.out))
    failures = [
        f"{point.scheme} at {point.step_size}: z = {point.z:+.1f}"
        for point in points
        if abs(point.z) >= MAX_Z
    ]
    failures += [
        f"slope of {name}: {value:.2f} ± {error:.2f}, not {ORDERS[name]}"
        for name, (value, error) in slopes.items()
        if abs(value - ORDERS[name]) > 0.2 + 3 * error
    ]
    for row in rows:
        if abs(row.z) >= MAX_Z:
            failures.append(f"{row.scheme} {row.observable} at {row.kappa}: z = {row.z:+.1f}")
        if options.size == "full" and row.scheme == PRECISE and not row.precise:
            failures.append(f"{row.scheme} {row.observable} at {row.kappa}: error {row.error:.1g}")
    if options.json:
        table = {
            "bias": [point._asdict() for point in points],
            "slopes": slopes,
            "limits": [row._asdict() for row in rows],
        }
        Path(options.json).write_text(json.dumps(table, indent=1))
    print(*failures or ["all good"], sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
