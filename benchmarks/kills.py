"""Does any verb that writes, killed anywhere and run again, leave the files of a run left alone?

Every job below is run once undisturbed.  Then it is begun anew and stopped by SIGKILL, SIGTERM or
SIGINT: half of the times at a random moment after its output appeared, half of the times just
before a random file of its output is opened for writing, renamed or removed.  The same command is
given until it succeeds, and the sha256 of all files is compared but of `cost.json`, which has the
seconds.  The exit status is 1 where one differs or a command fails.

    python benchmarks/kills.py [--size toy|small|full] [--jobs WORD ...] [--keep FOLDER]
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SIZES = {"toy": 1, "small": 3, "full": 12}  # kills per job
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRIES = 4  # of the same command; the first that is left alone has to succeed

CONFIG = """
[lattice]
shape = [4, 4]
[action]
kappa = 0.2
lam = 0.1
[chain]
n_chains = 4
n_thermalise = 100
n_configs = 200
"""
TRAINING = "--training.checkpoint-every 0 --training.n-steps 40 --training.batch-size 16"
NETWORK = "--model.n-channels 1 --model.n-hidden 4 --model.n-outputs 1"

INPUTS = {  # made once, in this order
    "data": "generate job.toml --out {}",
    "langevin": "generate job.toml --sampler.kind Langevin --sampler.step-size 0.05 --out {}",
    "finer": "generate job.toml --sampler.kind Langevin --sampler.step-size 0.02 --out {}",
    "diffusion": f"train seed.toml --model.denoiser zero {TRAINING} --data data --out {{}}",
    "rbm": f"train seed.toml --model.kind GaussianRBM {TRAINING} --data data --out {{}}",
    "data.npy": "export data --out {}",
}
SAMPLE = "sample diffusion --n-samples 10000 --sampling.batch-size 64 --sampling.n-steps 100"
JOBS = {  # {} is the output; the first word is the verb
    "generate": "generate job.toml --chain.n-configs 9000 --out {}",
    "generate, no configurations": "generate job.toml --chain.n-configs 9000 "
    "--output.save-configs False --out {}",
    "sample, none": f"{SAMPLE} --out {{}}",
    "sample, reweight": f"{SAMPLE} --correct reweight --out {{}}",
    "sample, metropolis": f"{SAMPLE} --correct metropolis --out {{}}",
    "sample, hmc": f"{SAMPLE} --correct hmc --out {{}}",
    "sample, film": f"{SAMPLE} --sampling.method sde --sampling.snapshots 4 --out {{}}",
    "sample, RBM": "sample rbm --n-samples 200000 --correct metropolis --out {}",
    "train": f"train seed.toml {NETWORK} {TRAINING} --data data --out {{}}",
    "train, RBM": f"train seed.toml --model.kind GaussianRBM {TRAINING} --data data --out {{}}",
    "import": "import data.npy --n-chains 4 --action.kappa 0.2 --action.lam 0.1 --out {}",
    "convert": "convert data --action.convention standard --out {}",
    "export, h5": "export data --out {}/all.h5",
    "export, npz": "export data --out {}/all.npz",
    "export, json.gz": "export data --out {}/all.json.gz",
    "measure": "measure data --json {}/found.json --out {}/page",
    "check": "check data --json {}/found.json",
    "compare": "compare exact data --out {}/page",
    "extrapolate": "extrapolate langevin finer --json {}/found.json --out {}/page",
    "spectrum": "spectrum rbm --out {}",
}

# Runs the command line, and stops itself before the N-th change of a name below a folder.
CHILD = """
import os, sys
folder, at, signum = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
seen = 0

def hook(event, arguments):
    global seen
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
    elif event not in ("os.rename", "os.remove", "os.mkdir", "os.link"):
        return
    if folder in str(arguments[0]):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signum)

sys.addaudithook(hook)
from lattice_ml.cli import main
status = main()
print(f"changes {seen}", file=sys.stderr)
sys.exit(status)
"""


@dataclass
class Job:
    """A command and what it leaves undisturbed."""

    name: str
    words: str
    folder: Path

    def __post_init__(self) -> None:
        self.out = self.folder / self.name.replace(", ", "_").replace(" ", "_")

    def start(self, at: int = 0, signum: int = 0) -> subprocess.Popen[str]:
        """Begin, or go on; stop at a change of a name where that is asked for."""
        words = self.words.replace("{}", self.out.name).split()
        if "{}/" in self.words:  # files, whose folder is there already
            self.out.mkdir(exist_ok=True)
        child = [sys.executable, "-c", CHILD, self.out.name, str(at), str(signum)]
        return subprocess.Popen(
            [*child, *words],
            cwd=self.folder,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache")},
        )

    def alone(self) -> tuple[dict[str, str], float, int]:
        """Files of an undisturbed run, the seconds that they took, and how many changes."""
        self.finish()  # once before, so that programs are compiled
        self.clean()
        process = self.start()
        self.wait_for_output(process)
        begin = time.monotonic()
        errors = process.communicate()[1]
        seconds = time.monotonic() - begin
        if process.returncode:
            raise SystemExit(f"{self.name}: status {process.returncode}\n{errors}")
        return self.files(), seconds, int(errors.split()[-1])

    def wait_for_output(self, process: subprocess.Popen[str]) -> None:
        """Wait until something is below the output, or the process has ended."""
        while process.poll() is None and not any(self.out.glob("*")):
            time.sleep(0.002)

    def clean(self) -> None:
        """Forget the output."""
        shutil.rmtree(self.out, ignore_errors=True)

    def files(self) -> dict[str, str]:
        """sha256 by path of all files but those that say how long it took."""
        paths = (p for p in self.out.rglob("*") if p.is_file() and p.name != "cost.json")
        return {
            str(p.relative_to(self.out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
        }

    def finish(self) -> str:
        """Give the command until it succeeds; what it said last where it never does."""
        for _ in range(TRIES):
            process = self.start()
            errors = process.communicate()[1]
            if process.returncode == 0:
                return ""
        said = [line for line in errors.splitlines() if not line.startswith("changes ")]
        return f"status {process.returncode}: {said[-1] if said else 'nothing said'}"


def kill(job: Job, random_: random.Random, seconds: float, changes: int) -> tuple[str, int]:
    """Stop a job somewhere; how, and its exit status."""
    job.clean()
    signum = random_.choice(SIGNALS)
    if random_.random() < 0.5:
        at = random_.randint(1, max(1, changes))
        process = job.start(at, signum)
        how = f"{signum.name} at change {at} of {changes}"
    else:
        process, delay = job.start(), random_.uniform(0, 1.1 * seconds)
        job.wait_for_output(process)
        time.sleep(delay)
        process.send_signal(signum)
        how = f"{signum.name} after {delay:.2f} s of {seconds:.2f}"
    process.communicate()
    return how, process.returncode


def campaign(job: Job, n: int, random_: random.Random) -> tuple[int, list[str]]:
    """Kills that ended the job early, and what was then different."""
    wanted, seconds, changes = job.alone()
    early, wrong = 0, []
    for _ in range(n):
        how, status = kill(job, random_, seconds, changes)
        early += status != 0
        failed = job.finish()
        found = job.files()
        names = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if failed or names:
            wrong.append(f"{job.name}, {how}: {failed or 'other files: ' + ', '.join(names)}")
            print(wrong[-1], file=sys.stderr, flush=True)
    return early, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; 1 where a file differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--jobs", nargs="*", default=None, help="those whose names have a word")
    parser.add_argument("--keep", help="a folder to work in, which stays")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    folder = Path(options.keep or tempfile.mkdtemp()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.toml").write_text(CONFIG, encoding="utf-8")
    (folder / "seed.toml").write_text("seed = 1\n", encoding="utf-8")
    for name, words in INPUTS.items():
        if not (folder / name).exists() and (failed := Job(name, words, folder).finish()):
            raise SystemExit(f"{name}: {failed}")
    wrong, n = [], SIZES[options.size]
    print("| job | kills | ended early | equal files |\n|---|---|---|---|")
    for name, words in JOBS.items():
        if options.jobs is None or any(word in name for word in options.jobs):
            job, seeded = Job(name, words, folder), random.Random(f"{options.seed} {name}")
            early, other = campaign(job, n, seeded)
            print(f"| {name} | {n} | {early} | {n - len(other)} |", flush=True)
            wrong += other
    if not options.keep:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
