"""`lattice-ml generate`."""

import dataclasses
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lattice_ml.commands.company import company, reporter
from lattice_ml.runtime import processes
from lattice_ml.runtime.devices import find_devices, prepare
from lattice_ml.runtime.printable import say, shape_label

if TYPE_CHECKING:
    from lattice_ml.jobs.job import Job
    from lattice_ml.storage.ensemble import EnsembleOnDisk

    Jobs = list[tuple[Job, Path]]

__all__ = ["generate_command"]


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate` beside the config's keys.

    Args:
        out: directory of the ensemble; runs/<name of the config> by default.
        sweep: section.key V1 V2 ...: one ensemble OUT/<key>=<V> per value (16,16 for a shape),
            each with a seed of its own that follows from the seed, the key and the value.
        time_limit: stop after e.g. 90s, 30m, 3h or 1h30m; the same command goes on.
        split: spread each lattice over so many devices, an even divisor of its first extent, where
            one does not hold it.
        distributed: True insists on other processes with which to share the chains, False is this
            one alone; by default they are those that srun or mpirun started.
        heartbeat: a process that does not answer for so long is lost, and ends the others.
        dry_run: print devices, memory, size on disk and time, from some seconds of calibration,
            and write nothing.
        json: a file for what a dry run finds.
    """

    out: str | None = None
    sweep: tuple[str, ...] = ()
    time_limit: str | None = None
    split: int = 1
    distributed: bool | None = None
    heartbeat: str = "30s"
    dry_run: bool = False
    json: str | None = None


def generate_command(arguments: list[str]) -> int:
    """Run the chains of a config, or of every value of a sweep."""
    prepare(all_cores=True, find=False)
    from lattice_ml.chains import failures
    from lattice_ml.commands.dry_run import dry_run
    from lattice_ml.jobs import config, generate
    from lattice_ml.runtime.arguments import seconds

    file, words = config.split_file(arguments, "generate", GenerateOptions)
    parsed = config.parse_sections(words, config.SECTIONS, file=file, options=GenerateOptions)
    options = config.options_of(parsed, GenerateOptions)
    left = None if options.time_limit is None else seconds(options.time_limit)
    team = processes.join(options.distributed, seconds(options.heartbeat, "--heartbeat"))
    find_devices()
    out = Path(options.out or Path("runs") / Path(file).stem)
    if options.sweep:
        jobs = _sweep(words, options.sweep, file, out)
    else:
        jobs = [(config.job_of(parsed), out)]
    if options.json and not options.dry_run:
        raise ValueError("--json FILE of generate is for --dry-run; measure has one for results")
    doubts = dict.fromkeys(failures.doubt(job.sampler) for job, _ in jobs)
    for text in filter(None, doubts if team.leads else ()):
        print(f"lattice-ml generate: {text}", file=sys.stderr)
    warnings.simplefilter("ignore", failures.Doubt)
    if options.dry_run:
        dry_run(jobs, left, options.json, options.split, team.leads)
        return 0
    with company("generate", team, options.heartbeat) as begins:
        for job, directory in jobs:
            begin = time.monotonic()
            begins(directory)
            with reporter(team, str(directory)) as report:
                ensemble = generate.generate(
                    job, directory, time_limit=left, split=options.split, on_progress=report
                )
            if team.leads:
                say(_summary(ensemble))
            if left is not None:  # a sweep shares its time
                left = max(1e-9, left - (time.monotonic() - begin))
    return 0


def _sweep(words: list[str], sweep: Sequence[str], file: str, out: Path) -> "Jobs":
    """The jobs of a sweep; all are checked before the first runs."""
    from lattice_ml.jobs import config

    key, *values = sweep
    if key.partition(".")[0] not in config.SECTIONS:
        raise ValueError(f"--sweep needs a key of the config, got {key}")
    if not values:
        raise ValueError(f"--sweep needs a key and its values, got {key} alone")
    jobs: dict[int, tuple[Job, Path]] = {}
    for value in values:
        given = [*words, f"--{key}", *value.split(",")]
        parsed = config.parse_sections(given, config.SECTIONS, file=file, options=GenerateOptions)
        job = _own_seed(config.job_of(parsed), key)
        directory = out / f"{key}={value}".replace("/", "_")
        if job.seed in jobs:
            raise ValueError(
                f"--sweep needs distinct values, got {jobs[job.seed][1].name} and {directory.name}"
            )
        if directory in (known for _, known in jobs.values()):
            raise ValueError(f"--sweep: two values would both be run into {directory}")
        jobs[job.seed] = (job, directory)
    return list(jobs.values())


def _own_seed(job: "Job", key: str) -> "Job":
    """The job with the seed of its value, so that the ensembles of a sweep are independent.

    With equal seeds chains at neighbouring couplings or step sizes would follow the same noise.
    The seed is the start of sha256([seed, key, value]), 31 bits: it depends neither on how the
    value is written (0.1 and 0.10) nor on the others.
    """
    name = key.replace("-", "_")
    if name == "seed":
        return job
    section, _, field = name.partition(".")
    text = json.dumps([job.seed, name, job.config[section][field]])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
    return dataclasses.replace(job, seed=seed)


def _summary(ensemble: "EnsembleOnDisk") -> str:
    shape = shape_label(ensemble.shape)
    size = f"{ensemble.n_chains} chains x {ensemble.n_configs} configurations of {shape}"
    said = {"acceptance": "acceptance {:.3f}", "exp_minus_dh": "<exp(-dH)> {:.4f}"}
    known = (name for name in said if name in ensemble.history)
    means = ", ".join(said[name].format(ensemble.series(name).mean()) for name in known)
    settings = ", ".join(f"{name} {value:.4g}" for name, value in ensemble.tuned.items())
    parts = (size, means, swaps(ensemble), settings)
    return f"{ensemble.directory}: " + "; ".join(filter(None, parts))


def swaps(ensemble: "EnsembleOnDisk") -> str:
    """What replica exchange did, "" without it: acceptance of neighbouring values, round trips."""
    if "swap_acceptance" not in ensemble.history:
        return ""
    config = ensemble.config
    name = config["sampler"]["coupling"]
    values = [config["action"][name], *config["sampler"]["ladder"]]
    mean, trips = (ensemble.series(s).mean() for s in ("swap_acceptance", "round_trips"))
    pairs = {i: ensemble.series(f"swap_{i}").mean() for i in range(len(values) - 1)}
    worst = min(pairs, key=lambda i: float(pairs[i]))
    return (
        f"swaps {mean:.3f}, least {pairs[worst]:.3f} between {name} = {values[worst]:g} and "
        f"{values[worst + 1]:g}, {trips:.2g} round trips per chain and update"
    )
