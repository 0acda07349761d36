"""What do more devices, and more processes, give one run?  Strong and weak scaling on this machine.

HMC at fixed lengths, histories only.  In turn, round by round: one core; two cores as two devices
of one process; two processes of one core each that share the run (`runtime/processes.py`,
loopback). *Strong*: the same chains on all of them; *weak*: twice the chains on two cores.  A
single chain runs on one core, on two whose threads XLA divides its operations among, and in two
slabs of the lattice (`fields/split.py`).  Prints site updates per second and the ratio to one
core, of wall time (2 is perfect where nobody else uses the cores) and of CPU time (1 is perfect:
nothing is wasted), medians and quartiles over the rounds; and how many cores were kept busy, CPU
time over wall time. Compilation and start are left out.  All energies must be the same bits.

    python benchmarks/scaling.py [--size toy|small|full] [--json FILE]
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# (extent, dimensions, chains on one core, configurations per block); blocks, rounds
SMALL = [(32, 2, 64, 200), (128, 2, 2, 200), (512, 2, 1, 50), (1024, 2, 1, 15)]
MORE = [(32, 2, 8, 400), (16, 3, 64, 400), (256, 2, 1, 200), (64, 3, 1, 50), (32, 4, 1, 10)]
SIZES: dict[str, tuple[list[tuple[int, int, int, int]], int, int]] = {
    "toy": ([(4, 2, 2, 3), (8, 2, 1, 3)], 3, 1),
    "small": (SMALL, 4, 3),
    "full": ([*SMALL, *MORE], 4, 7),
}
N_STEPS = 20


def measure(job: dict[str, Any], out: Path) -> None:
    """In a child: run the chains of `job` and write seconds, CPU seconds and energies."""
    from lattice_ml.runtime.devices import use_all_cores

    os.sched_setaffinity(0, job["cores"])
    use_all_cores()
    import jax

    jax.config.update("jax_enable_x64", True)
    from lattice_ml import HMC, Lattice, action
    from lattice_ml.chains.blocks import blocks
    from lattice_ml.chains.settings import ChainSettings
    from lattice_ml.runtime import processes

    processes.join(None, 30.0)
    phi4 = action("kappa", job["ndim"], kappa=0.2, lam=0.02)
    parts = blocks(
        jax.random.key(1),
        HMC(phi4, trajectory_length=1.0, n_steps=N_STEPS),
        Lattice((job["extent"],) * job["ndim"]),
        ChainSettings(job["n_chains"], 0, job["block"] * (job["n_blocks"] + 1)),
        save_configs=False,
        block_configs=job["block"],
        split=job["split"],
    )
    first = next(parts)  # the devices compute the next one already
    begin, cpu = time.perf_counter(), time.process_time()
    last = [first, *parts][-1]
    found = {
        "seconds": time.perf_counter() - begin,
        "cpu": time.process_time() - cpu,
        "energies": last.history["dh"].tobytes().hex(),
    }
    out.write_text(json.dumps(found))


def run(job: dict[str, Any], cores: list[set[int]], folder: Path) -> dict[str, Any]:
    """Rates, busy cores and energies of a run with a process on each of the sets of cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children, files = [], [folder / f"{process}.json" for process in range(len(cores))]
    for process, (mine, file) in enumerate(zip(cores, files, strict=True)):
        place = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": f"{len(cores)}",
            "JAX_PROCESS_ID": f"{process}",
        }
        own = job | {"cores": sorted(mine)}
        command = [sys.executable, __file__, "--child", json.dumps(own), str(file)]
        quiet = subprocess.DEVNULL  # Gloo speaks there
        children.append(subprocess.Popen(command, env=os.environ | place, stdout=quiet))
    if any([child.wait() for child in children]):
        raise SystemExit(f"a process of {job} failed")
    found = [json.loads(file.read_text()) for file in files]
    seconds = max(one["seconds"] for one in found)
    updates = job["extent"] ** job["ndim"] * job["n_chains"] * N_STEPS
    updates *= job["block"] * job["n_blocks"]
    cpu = sum(one["cpu"] for one in found)
    return {
        "wall": updates / seconds,
        "cpu": updates / cpu,
        "busy": cpu / seconds,
        "energies": found[0]["energies"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where the numbers depend on how they were made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        measure(json.loads(options.child[0]), Path(options.child[1]))
        return 0
    cases, n_blocks, rounds = SIZES[options.size]
    cores = sorted(os.sched_getaffinity(0))
    n = 2 if len(cores) > 1 else 1
    one, spread, apart = [{cores[0]}], [set(cores[:n])], [{core} for core in cores[:n]]
    if n == 1:
        print("one core: two processes share it, and ratios say what that costs")
        apart = [{cores[0]}] * 2
    rows, same = [], True
    with tempfile.TemporaryDirectory() as name:
        for extent, ndim, n_chains, block in cases:
            job = {"extent": extent, "ndim": ndim, "block": block, "n_blocks": n_blocks, "split": 1}
            wide = job | {"n_chains": 2 * n_chains}
            job |= {"n_chains": n_chains}
            if n_chains == 1:
                runs = {
                    "one core": (job, one),
                    "strong, XLA": (job, spread),
                    "strong, split": (job | {"split": n}, spread),
                }
            else:
                runs = {
                    "one core": (job, one),
                    "strong, devices": (job, spread),
                    "strong, processes": (job, apart),
                    "weak, devices": (wide, spread),
                    "weak, processes": (wide, apart),
                }
            found: dict[str, list[dict[str, Any]]] = {key: [] for key in runs}
            for _ in range(rounds):
                for key, (asked, where) in runs.items():
                    found[key].append(run(asked, where, Path(name)))
            for start, like in (("one core", "strong"), ("weak", "weak")):
                alike = [key for key in runs if key.startswith((start, like))]
                same &= len({one["energies"] for key in alike for one in found[key]}) <= 1
            rows += [_row(f"{extent}^{ndim}, {n_chains} chains", key, found) for key in runs]
    for row in rows:
        ratios = (f"{low:.2f} {mid:.2f} {high:.2f}" for low, mid, high in (row["wall"], row["cpu"]))
        print(
            f"{row['case']:<20} {row['key']:<18} {row['rate'] / 1e6:8.1f} M/s   busy "
            f"{row['busy']:.2f}   wall {next(ratios)}   CPU {next(ratios)}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not same:
        print("the energies depend on devices or processes")
    return int(not same)


def _row(case: str, key: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def ratio(of: str) -> list[float]:
        """Quartiles."""
        pairs = zip(found[key], found["one core"], strict=True)
        ratios = [mine[of] / base[of] for mine, base in pairs]
        return statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3

    return {
        "case": case,
        "key": key,
        "rate": statistics.median(one["wall"] for one in found[key]),
        "busy": statistics.median(one["busy"] for one in found[key]),
        "wall": ratio("wall"),
        "cpu": ratio("cpu"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
