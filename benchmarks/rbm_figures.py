"""Does the Gaussian RBM of arXiv:2309.15002 learn spectra as it should, on lattices and on MNIST?

One command draws the figures of the talk "ML in fundamental physics" (G. Aarts) that are about
RBMs, and judges them by closed forms:

    lattice   a free chain with mu^2 and with N_h as regulator, training against the exact gradient
              flow, the dispersion on square lattices        (exact moments: infinitely many data)
    phi4      RBMs of interacting ensembles: what a Gaussian captures        (HMC ensembles)
    mnist     two-point spectrum, filters, generated and reconstructed images   (5,000 images)

    python benchmarks/rbm_figures.py --out DIR [--size toy|full] [--parts NAME ...]

DIR gets index.html, a PNG of every figure, and all numbers in rbm.json.  Parts run beside each
other, one per core; `full` takes under four minutes on two.  The exit status is 1 if a bound is
missed: spectra within 1 % of their closed form (MNIST 5 %), KL within 1e-6 and trained mu^2 within
1e-4.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

PARTS = {"mnist": "rbm_mnist", "lattice": "rbm_lattice", "phi4": "rbm_phi4"}  # the longest first
ORDER = ("lattice", "phi4", "mnist")  # on the page


def start() -> None:
    """Set up JAX as the command line does."""
    from lattice_ml.runtime.devices import prepare

    prepare()


def measure(name: str, size: str, folder: str) -> tuple[Any, float]:
    """One part, and the seconds it took."""
    begin = time.perf_counter()
    part = importlib.import_module(PARTS[name]).run(size, Path(folder) / name)
    return part, time.perf_counter() - begin


def results(names: Sequence[str], size: str, folder: str) -> Iterator[tuple[Any, float]]:
    """`measure` of every part, as many at once as there are cores."""
    workers = min(len(names), len(os.sched_getaffinity(0)))
    if workers == 1 or size == "toy":
        yield from (measure(name, size, folder) for name in names)
        return
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ |= threads | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}  # a core for each
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=start) as pool:
        n = len(names)
        yield from pool.map(measure, names, [size] * n, [folder] * n)


def show(table: Any) -> str:
    """A table in Markdown."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    cells = [["" if cell is None else str(cell) for cell in line] for line in lines]
    body = "\n".join("| " + " | ".join(line) + " |" for line in cells)
    return f"\n{table.caption}\n\n{body}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its tables; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of the page")
    parser.add_argument("--size", choices=["toy", "full"], default="full")
    parser.add_argument("--parts", nargs="+", choices=ORDER, default=ORDER)
    options = parser.parse_args(arguments)
    from rbm_parts import Part, Table

    from lattice_ml.report.page import write_page

    begin, found, seconds = time.perf_counter(), {}, {}
    names = [name for name in PARTS if name in options.parts]
    with tempfile.TemporaryDirectory() as folder:
        for name, result in zip(names, results(names, options.size, folder), strict=True):
            found[name], seconds[name] = result
            print(f"{name}: {seconds[name]:.0f} s", flush=True)
    whole = Part()
    for name in ORDER:
        if name in found:
            whole.add(found[name])
    verdicts = [
        (c.name, f"{c.value:.2g}", f"{c.bound:g}", "pass" if c.passed else "FAIL")
        for c in whole.checks
    ]
    out = Path(options.out)
    write_page(
        out / "index.html",
        title="Gaussian restricted Boltzmann machines: lattices and MNIST",
        summary=[
            ("reference", "arXiv:2309.15002"),
            ("command", f"python benchmarks/rbm_figures.py --size {options.size}"),
            ("seconds", f"{time.perf_counter() - begin:.0f}"),
        ],
        tables=[Table("Checks", ("what", "found", "allowed", "verdict"), verdicts), *whole.tables],
        figures=whole.figures,
    )
    total = time.perf_counter() - begin
    checks = [check._asdict() | {"passed": check.passed} for check in whole.checks]
    record = {"size": options.size, "seconds": seconds | {"total": total}, "checks": checks}
    (out / "rbm.json").write_text(json.dumps(record | whole.numbers, indent=1) + "\n")
    print(*map(show, whole.tables), "", *whole.checks, sep="\n")
    print(f"{total:.0f} s; the page is {out / 'index.html'}")
    return int(not all(check.passed for check in whole.checks))


if __name__ == "__main__":
    start()
    raise SystemExit(main())
