"""`lattice-ml generate --dry-run`: what runs would take, as lines or as JSON.

Imported once JAX is set up.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from lattice_ml.commands.output import FORECASTS
from lattice_ml.jobs.forecast import Forecast, forecasts
from lattice_ml.jobs.job import Job
from lattice_ml.runtime.memory import in_words
from lattice_ml.runtime.printable import say, shape_label
from lattice_ml.runtime.results import check_json, write_json

__all__ = ["dry_run"]

_SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def dry_run(
    jobs: Sequence[tuple[Job, Path]],
    time_limit: float | None,
    file: str | None,
    split: int,
    leads: bool,
) -> None:
    """Print what the jobs would take, and write it to a file, {directory: its `Forecast`}.

    The time limit is that of a call of `generate`; one process `leads` and speaks for all.
    """
    if file is not None:
        check_json(file, FORECASTS)
    found = []
    for (job, _), forecast in zip(jobs, forecasts(jobs, split), strict=True):
        found.append(forecast)
        if leads:
            say(*_lines(job, forecast))
    if not leads:
        return
    if len(found) > 1:
        say(_sum(found))
    if time_limit is not None:
        say(f"with --time-limit: {_calls(found, time_limit)}")
    say("nothing was run into these directories")
    if file is not None:
        table = {forecast.directory: dataclasses.asdict(forecast) for forecast in found}
        write_json(file, table, FORECASTS)


def _lines(job: Job, forecast: Forecast) -> list[str]:
    """One job."""
    devices = forecast.devices
    mesh = " x ".join(f"{n} {axis}" for axis, n in devices.mesh.items())
    processes = f"{devices.n_processes} process" + "es" * (devices.n_processes > 1)
    size = f"{job.chain.n_chains:,} chains x {forecast.n_configs:,} configurations"
    left = f", {forecast.n_done:,} of them are there" * (forecast.n_done > 0)
    rows = {
        "run": f"{size} of {shape_label(job.lattice.shape)}{left}",
        "sampler": _sampler(forecast),
        "devices": f"{devices.n_devices} x {devices.kind} in {processes}, mesh {mesh}",
        "layout": _layout(forecast),
        "memory": _memory(forecast),
        "disk": _disk(job, forecast),
        "time": _time(job, forecast),
    }
    return [forecast.directory, *(f"  {name:<8} {text}" for name, text in rows.items())]


def _sampler(forecast: Forecast) -> str:
    settings = ", ".join(f"{name} {value:.4g}" for name, value in forecast.tuned.items())
    if not forecast.calibrated:
        return f"{forecast.sampler} {settings}".strip()
    least, most, _ = forecast.forces
    whose = "that of an earlier job" if forecast.shared else "the calibration"
    whose += f", of {forecast.part} in place of all" if forecast.part else ""
    return (
        f"{forecast.sampler} {settings}: from a warm-up of {forecast.calibrated} trajectories "
        f"({whose}), in which the forces per trajectory went from {least:,} to {most:,}"
    )


def _layout(forecast: Forecast) -> str:
    devices = forecast.devices
    idle = f", {devices.idle:,} places idle" if devices.idle else ""
    return (
        f"{devices.groups:,} x {devices.group:,} chains per device ({devices.layout}){idle}; "
        f"blocks of {forecast.block_configs:,} configurations per chain"
    )


def _memory(forecast: Forecast) -> str:
    memory = forecast.memory
    names = ("state", "blocks", "temporaries")
    parts = ", ".join(f"{name} {in_words(vars(memory)[name])}" for name in names)
    device = f"{in_words(memory.device)} per device ({parts})"
    text = f"{device}{_of(memory.device, memory.device_limit)}; process {in_words(memory.process)}"
    text += " with its devices" * (forecast.devices.platform == "cpu")
    return text + _of(memory.process, memory.process_limit)


def _disk(job: Job, forecast: Forecast) -> str:
    disk = forecast.disk
    what = "" if job.output.save_configs else " (histories only)"
    left = f", {in_words(disk.to_write)} still to write" if forecast.n_done else ""
    return (
        f"{in_words(disk.total)} in {disk.n_shards:,} shards of at most {in_words(disk.shard)}"
        f"{left}; {disk.per_config:,.0f} bytes per configuration{what}"
        + _of(disk.to_write, disk.free, "free")
    )


def _time(job: Job, forecast: Forecast) -> str:
    seconds = forecast.seconds
    warm_up = f"warm-up of {job.chain.n_thermalise:,} trajectories {_span(seconds.warm_up)}, "
    text = (
        f"{_span(seconds.total)}: start and compilation {_span(seconds.setup)}, "
        f"{warm_up if seconds.warm_up else ''}production {_span(seconds.production)}"
    )
    if seconds.high > seconds.low:
        text += f"; {_span(seconds.low)} to {_span(seconds.high)} with the forces above"
    return text


def _sum(found: Sequence[Forecast]) -> str:
    seconds = [forecast.seconds for forecast in found]
    total, low, high = map(sum, zip(*((s.total, s.low, s.high) for s in seconds), strict=True))
    spread = f" ({_span(low)} to {_span(high)})" if high > low else ""
    disk, write = (sum(f.disk.total for f in found), sum(f.disk.to_write for f in found))
    return (
        f"all {len(found)}: {in_words(disk)} on disk{_of(write, found[0].disk.free, 'free')}, "
        f"{_span(total)}{spread}, at most {in_words(max(f.memory.process for f in found))} of "
        f"memory"
    )


def _calls(found: Sequence[Forecast], limit: float) -> str:
    """How often the command would have to be given; each time it starts and compiles anew."""
    setup = max(f.seconds.setup for f in found)
    work = sum(f.seconds.warm_up + f.seconds.production for f in found)
    longest = max(f.seconds.warm_up for f in found)
    if limit <= setup:
        return f"a call would not get beyond its start of {_span(setup)}"
    n = max(1, math.ceil(work / (limit - setup)))
    note = f"; no limit cuts a warm-up, {_span(longest)}" if longest > limit - setup else ""
    return f"{n} call{'s' * (n > 1)} of the same command{note}"


def _of(needed: float, there: float | None, what: str = "there") -> str:
    if there is None:
        return ""
    return f", MORE THAN the {in_words(there)} {what}" if needed > there else ""


def _span(seconds: float) -> str:
    size, unit = next(((s, u) for s, u in _SPANS if s <= seconds), (1.0, "s"))
    return f"{seconds / size:.3g} {unit}"
