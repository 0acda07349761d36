"""`lattice-ml bench`."""

import dataclasses
import itertools
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.commands.output import RECORDS
from lattice_ml.runtime.devices import CPU_FLAGS, allowed_cpus, prepare
from lattice_ml.runtime.printable import say
from lattice_ml.runtime.results import check_json, check_page, read_json, write_json

if TYPE_CHECKING:
    from lattice_ml.benches.plans import Plan
    from lattice_ml.benches.record import Record

__all__ = ["bench_command"]


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """Run benchmarks on one core or one accelerator; without a name, list those that there are.

    Args:
        names: of benchmarks, or paths of TOML files like those in configs/bench.
        size: toy takes seconds, small minutes.
        json: write the numbers, the machine and the versions to this file.
        out: write a page and the plots to this directory.
        against: a file that --json wrote, to compare with.
        seed: of all random numbers.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    size: Literal["toy", "small", "full"] = "small"
    json: str | None = None
    out: str | None = None
    against: str | None = None
    seed: int = 1


def bench_command(arguments: list[str]) -> int:
    """Run the named benchmarks and print their tables."""
    options = parse_options(BenchOptions, arguments, "bench")
    from lattice_ml.benches import plans

    if not options.names:
        found = plans.available()
        width = max(map(len, found), default=0)
        say(*(f"{name:<{width}}  {title}" for name, title in found.items()))
        return 0
    earlier = _earlier(options.against) if options.against else None
    _use_one_core()
    prepare()
    from lattice_ml.jobs.sections import check_values

    check_values({"seed": options.seed})
    all_plans = [plans.load(name, options.size) for name in options.names]
    if len({_figure_name(plan.name) for plan in all_plans}) < len(all_plans):
        raise ValueError(f"bench needs different benchmarks, got {' '.join(options.names)}")
    if options.json:
        check_json(options.json, RECORDS)
    if options.out:
        from lattice_ml.report.page import style

        for plan in all_plans:
            page = Path(options.out) / f"{plan.name}.html"
            there = page.parent.glob(f"{_figure_name(plan.name)}*.[ps][nv]g")
            check_page(page, "bench", {image.stem for image in there})
        with style():  # without matplotlib it ends here, not after hours
            pass
    found_records: dict[str, Record] = {}
    figures: set[str] = set()
    for plan in all_plans:
        found_records[plan.name] = _run(plan, options, earlier, figures)
        if options.json:  # after each: they take long
            write_json(options.json, found_records, RECORDS)
    return 0


def _run(
    plan: "Plan", options: BenchOptions, earlier: "dict[str, Record] | None", drawn_before: set[str]
) -> "Record":
    """Run one, print what it found, and write its page."""
    from lattice_ml.benches import record
    from lattice_ml.report.page import write_page

    begin = time.perf_counter()
    result = plan.module.run(plan.settings, options.seed)
    found = record.record(plan, options.seed, result, time.perf_counter() - begin)
    tables = [record.table(result, plan.title)]
    facts = record.facts(found)
    say("", f"{plan.name}: {plan.title}", *map(": ".join, facts))
    say("", *record.markdown(tables[0]).split("\n"), "", *result.notes)
    if earlier is not None and plan.name not in earlier:
        say(f"{options.against} has no {plan.name}: nothing to compare with")
    elif earlier is not None:
        ratios, differences = record.compare(found, earlier[plan.name], result.columns)
        say("", ratios.caption, *record.markdown(ratios).split("\n"), *differences)
        tables.append(ratios)
    if options.out:
        page = Path(options.out) / f"{plan.name}.html"
        own = _figure_name(plan.name)
        figures = [
            (_unused(name.replace(plan.benchmark, own), drawn_before), *rest)
            for name, *rest in plan.module.draw(result)  # named by the module: plans may share it
        ]
        write_page(
            page, verb="bench", title=plan.title, summary=facts, tables=tables, figures=figures
        )
        say(f"page: {page}")
    return found


def _figure_name(plan: str) -> str:
    """What the figures of a plan are called after: letters, digits and underscores."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", plan)
    return name if name[0].isalpha() else f"plan_{name}"


def _unused(name: str, used: set[str]) -> str:
    """The name, or with a number that makes it another one; entered among those used."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    found = next(n for n in itertools.chain([name], numbered) if n not in used)
    used.add(found)
    return found


def _earlier(file: str) -> "dict[str, Record]":
    """The records of an earlier run."""
    found: object = read_json(file)
    if not (isinstance(found, dict) and RECORDS(found)):
        raise ValueError(f"{file} was not written by `lattice-ml bench --json`")
    return found


def _use_one_core() -> None:
    """One core with one device: times of several depend on what else the machine does.

    Has no effect where the user's XLA_FLAGS set a device count, or once JAX runs.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_force_host_platform_device_count" in flags or "jax" in sys.modules:
        return
    os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {flags}".strip()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(allowed_cpus())})
