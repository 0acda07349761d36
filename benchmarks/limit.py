"""How close does the HMC kernel come to C++ that is written for one core, and how far are others?

Full HMC in float32: momentum refresh, 10 leapfrog steps, energy difference and accept step of
every trajectory.  `limit/phi4.cpp` is built on the spot, in a temporary folder, and the peers are
those of `peers.py` that are installed (`pip install -c constraints.txt -e '.[bench]'` for all).
All run in turn, round by round, pinned to one core; rates are per CPU second and the table shows
medians and quartiles of the ratios of a round: this program over the C++, and over each peer.  The
last column has the CPU seconds of our first call, nearly all of them XLA's.

Exit 1 where a ratio is below its floor (`FLOORS`, `PEER_FLOORS`) or compiling our kernel takes
longer than `COMPILE_SECONDS`, except at toy size.  Without a compiler there is no limit to see.

    python benchmarks/limit.py [--size toy|small|full] [--repeats N] [--json FILE]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import peers

from lattice_ml.actions import Phi4
from lattice_ml.benches.kernel import LENGTH, N_STEPS, advancer, calibrate
from lattice_ml.fields.lattice import Lattice
from lattice_ml.runtime.devices import CPU_FLAGS

SOURCE = Path(__file__).parent / "limit" / "phi4.cpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffast-math")


class Row(NamedTuple):
    extent: int
    ndim: int
    n_chains: int
    dtype: str = "float32"


SIZES = {
    "toy": [Row(8, 2, 64)],
    "small": [Row(32, 2, 64), Row(128, 2, 16)],
    "full": [
        *(Row(extent, 2, 64) for extent in (8, 16, 32, 64, 128)),
        Row(128, 2, 16),
        *(Row(extent, 2, 1) for extent in (32, 128, 512)),
        *(Row(16, 3, 64), Row(32, 3, 8)),
        *(Row(8, 4, 64), Row(16, 4, 8)),
        Row(32, 2, 64, "float64"),
    ],
}
FLOORS = {  # of the ratio to the C++
    **{Row(extent, 2, 64): 0.50 for extent in (8, 16, 32)},
    Row(64, 2, 64): 0.38,
    **{Row(128, 2, n_chains): 0.40 for n_chains in (64, 16)},
    Row(32, 2, 1): 0.45,
    Row(16, 3, 64): 0.45,
    Row(32, 3, 8): 0.35,
    **{Row(8, 4, 64): 0.50, Row(16, 4, 8): 0.50},
    Row(32, 2, 64, "float64"): 0.35,
}
PEER_FLOORS = {Row(32, 2, 64): 6.0}  # of the ratio to the fastest library, and elsewhere:
PEER_FLOOR = 3.0
COMPILE_SECONDS = 2.0

Rate = Callable[[], float]  # million site updates per CPU second, measured once


@contextmanager
def limit() -> Iterator[Path | None]:
    """The built program, or None and a word on why not."""
    chosen = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, chosen)), None)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "phi4"
        if compiler is None:
            print(f"no C++ compiler ({', '.join(chosen)}): the limit is left out", flush=True)
            yield None
            return
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(program)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            print(f"{' '.join(command)} failed: the limit is left out\n{made.stderr}", flush=True)
        yield None if made.returncode else program


def run_limit(program: Path, row: Row, seconds: float, thermalise: int = 20) -> dict[str, Any]:
    """What `phi4.cpp` prints."""
    run = (row.dtype, row.ndim, row.extent, row.n_chains, N_STEPS, LENGTH)
    words = (*run, peers.KAPPA, peers.LAM, thermalise, seconds)
    command = [str(program), *map(str, words)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def timed(advance: Callable[[int], Any], row: Row, seconds: float) -> Rate:
    """Compile, and find how many trajectories take about `seconds`."""
    n = calibrate(advance, seconds)
    updates = n * row.extent**row.ndim * row.n_chains * N_STEPS / 1e6

    def rate() -> float:
        begin = time.process_time()
        advance(n)
        return updates / (time.process_time() - begin)

    return rate


def compare(row: Row, program: Path | None, seconds: float, repeats: int) -> dict[str, Any]:
    """Rates of all in turn, and the ratios of each round."""
    lattice = Lattice((row.extent,) * row.ndim)
    action = Phi4(2 * peers.KAPPA, 1 - 2 * peers.LAM, peers.LAM)
    ours = advancer(action, lattice, row.n_chains, dtype=row.dtype)
    begin = time.process_time()
    ours(1)
    compiling = time.process_time() - begin
    rates = {"ours": timed(ours, row, seconds)}
    if program:
        rates["limit"] = lambda: run_limit(program, row, seconds)["rate"]
    for name in peers.installed():
        if peers.able(name, lattice.shape, row.n_chains):
            peer = peers.PEERS[name](lattice.shape, row.n_chains, row.dtype)
            rates[name] = timed(peer, row, seconds)
    rounds = [{name: rate() for name, rate in rates.items()} for _ in range(repeats)]
    found = {name: [each[name] for each in rounds] for name in rates}
    ratios = {name: np.divide(found["ours"], found[name]) for name in rates if name != "ours"}
    return {
        **row._asdict(),
        "rates": {name: float(np.median(values)) for name, values in found.items()},
        "ratios": {name: np.quantile(r, (0.5, 0.25, 0.75)).tolist() for name, r in ratios.items()},
        "compile_seconds": round(compiling, 3),
    }


def misses(row: Row, found: dict[str, Any]) -> list[str]:
    """What is below its floor."""
    said = []
    medians = {name: ratio[0] for name, ratio in found["ratios"].items()}
    medians.pop("plain", None)  # no library: what JAX itself does without thinking
    limit, floor = medians.pop("limit", np.inf), FLOORS.get(row, 0)
    if limit < floor:
        said.append(f"{limit:.2f} of the limit, floor {floor:.2f}")
    best, floor = min(medians, key=medians.get, default=None), PEER_FLOORS.get(row, PEER_FLOOR)
    if best and medians[best] < floor:
        said.append(f"{medians[best]:.1f} times {best}, floor {floor:g}")
    if found["compile_seconds"] > COMPILE_SECONDS:
        said.append(f"{found['compile_seconds']:.1f} s to compile, at most {COMPILE_SECONDS:g}")
    return [f"{_name(row)}, {row.n_chains} chains: {what}" for what in said]


def pin_to_one_core() -> None:
    """One core for this process and what it starts; to be called before JAX does anything."""
    os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and what is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, help="rounds; 2 at toy size, else 9")
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    toy = options.size == "toy"
    seconds, repeats = 0.02 if toy else 0.3, options.repeats or (2 if toy else 9)
    pin_to_one_core()
    jax.config.update("jax_enable_x64", True)
    rows, missed = [], []
    with limit() as program:
        others = [*(["limit"] if program else []), *peers.installed()]
        heads = ["lattice", "chains", "ours, M/s", *(f"ours / {name}" for name in others)]
        print(f"| {' | '.join([*heads, 'compiling, s'])} |\n{'|---' * (len(heads) + 1)}|")
        for row in SIZES[options.size]:
            found = compare(row, program, seconds, repeats)
            ratios = [_spread(found["ratios"].get(name)) for name in others]
            rate, compiling = found["rates"]["ours"], found["compile_seconds"]
            cells = [_name(row), str(row.n_chains), f"{rate:.0f}", *ratios, f"{compiling:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(found)
            missed += misses(row, found)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    if missed and not toy:
        print("below the floor:", *missed, sep="\n", file=sys.stderr)
    return int(bool(missed) and not toy)


def _spread(ratio: list[float] | None) -> str:
    return "{:.2f} ({:.2f}-{:.2f})".format(*ratio) if ratio else "-"


def _name(row: Row) -> str:
    return f"{row.extent}^{row.ndim}" + (" float64" if row.dtype == "float64" else "")


if __name__ == "__main__":
    raise SystemExit(main())
