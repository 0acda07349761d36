"""Does `generate` reproduce values that were computed independently?

Every lattice field theory of tests/data/phi4_reference.json goes through config, `generate` and
`measure`.  Printed is one row per observable with z = (ours - reference) / error, both errors
included.  The exit status is 1 if a |z| reaches 4, or if our error exceeds 2 % for phi2, phi4 or
m2 (5 % for m2 next to a critical point).

    python benchmarks/reference_table.py [--size toy|small|full] [--json FILE]
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

import lattice_ml
from lattice_ml.runtime.devices import use_all_cores

DATA = Path(__file__).parents[1] / "tests" / "data" / "phi4_reference.json"

# The file's words for our conventions, their parameters and our observables.
CONVENTIONS = {"kappa": "kappa", "standard": "standard", "dphi2_no_half": "nohalf", "beta": "beta"}
PARAMETERS = {"kappa": "kappa", "beta": "beta", "lambda": "lam", "m2": "mass_squared", "g": "g"}
OBSERVABLES = {
    "phi2": "phi2",
    "phi4": "phi4",
    "M2": "m2",
    "M4": "m4",
    "absM": "abs_magnetisation",
    "S_per_site": "action_density",
    "link_sum": "link_sum",
    "chi2": "chi2",
    "chi2_signed_zero_mean": "chi2",
    "chi_conn_abs": "susceptibility",
    "U_L": "binder",
    "xi_2nd": "correlation_length",
}
KAPPA_CRITICAL = {2: 0.27088, 3: 0.19225}
CRITICAL_FACTOR = 1.5  # on the reference's Monte Carlo errors next to a critical point
MAX_Z = 4.0

SIZES = {  # largest volume, chains, warm-up, configurations per chain
    "toy": (2, 128, 100, 400),
    "small": (64**2, 128, 400, 400),
    "full": (128**2, 64, 600, 1000),
}


class Row(NamedTuple):
    """One observable of one case."""

    case: str
    observable: str
    value: float
    error: float
    reference: float
    reference_error: float
    z: float
    good: bool

    def __str__(self) -> str:
        ours = f"{self.value:.6g} ± {self.error:.1g}"
        exact = self.reference_error < 1e-6
        theirs = f"{self.reference:.6g}" + ("" if exact else f" ± {self.reference_error:.1g}")
        z = f"{self.z:+.1f}" if self.good else f"**{self.z:+.1f}**"
        return f"| {self.case} | {self.observable} | {ours} | {theirs} | {z} |"


def load() -> dict[str, dict[str, Any]]:
    """The cases that are field theories on a lattice, small volumes first."""
    cases = json.loads(DATA.read_text())["cases"]
    fields = {name: case for name, case in cases.items() if convention(case) in CONVENTIONS}
    return dict(sorted(fields.items(), key=lambda item: math.prod(shape(item[1]))))


def convention(case: dict[str, Any]) -> str:
    return case["action"].split(":")[0]


def shape(case: dict[str, Any]) -> list[int]:
    known = case["parameters"]
    return known.get("shape") or [known.get("L") or known["N"]] * known["d"]


def near_critical(case: dict[str, Any]) -> bool:
    critical = KAPPA_CRITICAL.get(len(shape(case)), math.inf)
    return abs(case["parameters"].get("kappa", 0) / critical - 1) < 0.05


def arguments(case: dict[str, Any]) -> list[str]:
    """Lattice and action as arguments of `lattice-ml generate`."""
    couplings = {PARAMETERS[k]: v for k, v in case["parameters"].items() if k in PARAMETERS}
    if convention(case) == "standard":
        couplings = {"g": 0.0} | couplings
    words = ["--lattice.shape", *map(str, shape(case))]
    words += ["--action.convention", CONVENTIONS[convention(case)]]
    return words + [word for k, v in couplings.items() for word in (f"--action.{k}", str(v))]


def reference_values(case: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Value and error of what the case and we both know; links summed over directions."""
    known = case["values"]
    values = {ours: tuple(known[theirs]) for theirs, ours in OBSERVABLES.items() if theirs in known}
    if "link" in known:
        values["link_sum"] = tuple(len(shape(case)) * x for x in known["link"])
    if "link_space" in known:
        both = zip(known["link_space"], known["link_time"], strict=True)
        values["link_sum"] = tuple(map(sum, both))
    return values | {"schwinger_dyson": (1.0, 0.0)}


def compare(name: str, case: dict[str, Any], measured: dict[str, Any]) -> Iterator[Row]:
    """Judge every observable of a case by `measured`, what `lattice_ml.measure` returns."""
    critical = near_critical(case)
    factor = CRITICAL_FACTOR if critical and case["kind"] == "monte_carlo" else 1.0
    allowed = {"phi2": 0.02, "phi4": 0.02, "m2": 0.05 if critical else 0.02}
    for observable, (reference, error) in reference_values(case).items():
        ours = measured[observable]
        z = (ours.value - reference) / math.hypot(ours.error, factor * error)
        precise = ours.error <= allowed.get(observable, math.inf) * abs(ours.value)
        good = abs(z) < MAX_Z and precise
        yield Row(name, observable, ours.value, ours.error, reference, factor * error, z, good)


def run(case: dict[str, Any], n_chains: int, n_thermalise: int, n_configs: int) -> dict[str, Any]:
    """Generate the ensemble, histories only, and measure it."""
    from lattice_ml.jobs.config import parse
    from lattice_ml.jobs.generate import generate

    counts = {"n-chains": n_chains, "n-thermalise": n_thermalise, "n-configs": n_configs}
    words = [word for key, n in counts.items() for word in (f"--chain.{key}", str(n))]
    job = parse([*arguments(case), *words, "--output.save-configs", "False"])
    with tempfile.TemporaryDirectory() as directory:
        return lattice_ml.measure(generate(job, directory))


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where a value or an error is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args(words)
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported

    jax.config.update("jax_enable_x64", True)
    largest, *counts = SIZES[options.size]
    print("| case | observable | ours | reference | z |\n|---|---|---|---|---|")
    rows: list[Row] = []
    for name, case in load().items():
        if math.prod(shape(case)) > largest:
            continue
        begin = time.perf_counter()
        found = list(compare(name, case, run(case, *counts)))
        print(*found, sep="\n", flush=True)
        print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        rows += found
    if options.json:
        Path(options.json).write_text(json.dumps([row._asdict() for row in rows], indent=1))
    bad = [row for row in rows if not row.good]
    worst = max(abs(row.z) for row in rows)
    print(f"\n{len(rows)} values, {len(bad)} not good, largest |z| = {worst:.1f}")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
