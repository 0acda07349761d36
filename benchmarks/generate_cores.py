"""What do all cores give `lattice-ml generate` over one, process start and files included?

The chains are those of configs/phi4_critical.toml with the lengths that its warm-up finds, and
every configuration is stored.  The same command runs in turn with all usable cores and pinned to
one of them; the compilation cache is warm.  Prints the wall times and the median of the ratios;
exit 1 where two cores give less than 1.6.  The configurations must not depend on the cores.

    python benchmarks/generate_cores.py [--size toy|small|full]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lattice_ml import open_ensemble

SIZES = {"toy": (8, 64, 4, 1), "small": (32, 128, 3000, 3), "full": (32, 128, 6000, 5)}
CONFIG = """
[lattice]
shape = [{extent}, {extent}]
[action]
kappa = 0.2705
lam = 0.022
[sampler]
trajectory_length = 12.0
n_steps = 66
[chain]
n_chains = {n_chains}
n_configs = {n_configs}
n_thermalise = 10
"""


def seconds(config: Path, out: Path, cores: set[int]) -> float:
    """Wall time of one run on the given cores."""
    command = [sys.executable, "-m", "lattice_ml", "generate", str(config), "--out", str(out)]
    begin = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return time.perf_counter() - begin


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ratio of one core's time to that of all cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    extent, n_chains, n_configs, rounds = SIZES[parser.parse_args(arguments).size]
    cores = os.sched_getaffinity(0)
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "config.toml"
        text = CONFIG.format(extent=extent, n_chains=n_chains, n_configs=n_configs)
        config.write_text(text)
        for warm, using in (("warm-all", cores), ("warm-one", {min(cores)})):
            seconds(config, folder / warm, using)
        first, second = (open_ensemble(folder / warm).cfgs[-1] for warm in ("warm-all", "warm-one"))
        if first.tobytes() != second.tobytes():
            raise SystemExit("the configurations depend on the number of cores")
        for turn in range(rounds):
            both = seconds(config, folder / f"all-{turn}", cores)
            one = seconds(config, folder / f"one-{turn}", {min(cores)})
            ratios.append(one / both)
            print(f"{len(cores)} cores {both:.1f} s, one core {one:.1f} s, ratio {one / both:.2f}")
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.2f}")
    return int(len(cores) == 2 and ratio < 1.6)


if __name__ == "__main__":
    raise SystemExit(main())
