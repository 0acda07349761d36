"""What a benchmark found: rows of numbers with errors, the machine, and an earlier record beside.

A record is JSON: title, size, seed, settings, machine, versions, seconds, and rows, in which a
number with an error is `{"value": v, "error": e}` and what does not exist is null.
"""

import dataclasses
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattice_ml.benches.plans import Plan
from lattice_ml.report.page import Table
from lattice_ml.runtime import session
from lattice_ml.runtime.json import JsonTable, Section, plain_table

__all__ = [
    *("Column", "Number", "Record", "Result", "Row", "compare"),
    *("facts", "markdown", "record", "table"),
]

Record = JsonTable
Row = Section  # a `Number`, number, word or list by the name of a column, or of none


class Number(NamedTuple):
    """A measured number; prints as `1.234 ± 0.021`."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        if not self.error or not math.isfinite(self.error):
            return f"{self.value:.4g}"
        digits = 1 - math.floor(math.log10(self.error))
        if digits > 6:
            return f"{self.value:.4g} ± {self.error:.1g}"
        value, error = round(self.value, digits), round(self.error, digits)
        return f"{value:.{max(0, digits)}f} ± {error:.{max(0, digits)}f}"

    def scaled(self, factor: float) -> "Number":
        """The number in other units."""
        return Number(self.value * factor, None if self.error is None else self.error * factor)

    def over(self, other: "Number") -> "Number":
        """The ratio of two independent numbers, with what is known of its error."""
        ratio = self.value / other.value
        parts = [n.error / n.value for n in (self, other) if n.error is not None]
        return Number(ratio, abs(ratio) * math.hypot(*parts) if parts else None)

    @classmethod
    def median(cls, values: Sequence[float]) -> "Number":
        """The median of repeats; its error is that of normal scatter, None for one value."""
        n = len(values)
        error = 1.253 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
        return cls(float(np.median(values)), error)


class Column(NamedTuple):
    """A column of the table."""

    name: str  # of the entry of a row
    head: str  # of the table
    role: str = ""  # "key" says which row it is, "ratio" is compared with an earlier record


@dataclasses.dataclass(frozen=True)
class Result:
    """Rows of a benchmark; an entry without a column is in the JSON alone."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def record(plan: Plan, seed: int, result: Result, seconds: float) -> Record:
    """Everything about a run, as JSON values."""
    made_by = session.provenance("bench")
    versions = dict(made_by["versions"]) | {"python": made_by["python"], "git": made_by["git"]}
    return {
        "benchmark": plan.benchmark,
        "title": plan.title,
        "size": plan.size,
        "seed": seed,
        "settings": plain_table(dataclasses.asdict(plan.settings)),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "cores_used": len(os.sched_getaffinity(0)) if _AFFINITY else os.cpu_count(),
            "platform": made_by["platform"],
            "device": made_by["device"],
            "n_devices": made_by["n_devices"],
        },
        "versions": versions,
        "seconds": round(seconds, 1),
        "rows": [plain_table(row) for row in result.rows],
        "notes": list(result.notes),
    }


def table(result: Result, title: str) -> Table:
    """The table of a result."""
    return Table(
        title,
        [column.head for column in result.columns],
        [[_cell(row.get(column.name)) for column in result.columns] for row in result.rows],
    )


def markdown(table: Table) -> str:
    """A table as text."""
    cells = [list(map(str, line)) for line in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [["-" * width for width in widths]]
    lines = (zip(line, widths, strict=True) for line in (cells[:1] + rule + cells[1:]))
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in line) + " |" for line in lines)


def compare(new: Record, old: Record, columns: Sequence[Column]) -> tuple[Table, list[str]]:
    """Ratios of a record to an earlier one of the same benchmark, and what differs between them.

    Returns:
        A table with the ratios of every row that both have, and one sentence per difference.
    """
    keys = [column for column in columns if column.role == "key"]
    ratios = [column for column in columns if column.role == "ratio"]
    before = {tuple(row.get(key.name) for key in keys): row for row in old["rows"]}
    rows, new_names = [], []
    for row in new["rows"]:
        name = tuple(row.get(key.name) for key in keys)
        new_names.append(name)
        if name in before:
            parts = [(_number(row, c.name), _number(before[name], c.name)) for c in ratios]
            found = [a.over(b) if a and b and b.value else None for a, b in parts]
            rows.append([*map(_cell, name), *map(_cell, found)])
    sentences = [
        f"{what} is {_flat(new, what)}, was {_flat(old, what)}"
        for what in _DIFFERENCES
        if _flat(new, what) != _flat(old, what)
    ]
    for which, names, others in (("new", new_names, before), ("missing", before, new_names)):
        only = [" ".join(map(str, name)) for name in names if name not in others]
        if only:
            sentences.append(f"{which}: {', '.join(only)}")
    head = [column.head for column in (*keys, *ratios)]
    return Table("Ratios to the earlier record", head, rows), sentences


def facts(found: Record) -> list[tuple[str, str]]:
    """Machine, versions and cost of a run, as (what, words)."""
    cores = "{cpu}, {cores_used} of {cores} cores, {n_devices} x {device}, {platform}"
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    run = "size {size}, seed {seed}, {seconds:.0f} s".format_map(found)
    return [("machine", cores.format_map(found["machine"])), ("versions", versions), ("run", run)]


_AFFINITY = hasattr(os, "sched_getaffinity")  # not on all systems
_DIFFERENCES = (
    *("size", "seed", "settings", "machine.cpu", "machine.cores", "machine.cores_used"),
    *("machine.platform", "machine.device", "machine.n_devices", "versions.python"),
    *("versions.jax", "versions.jaxlib", "versions.numpy", "versions.lattice-ml", "versions.git"),
)


def _flat(record: Record, name: str) -> object:
    section, _, key = name.partition(".")
    found = record.get(section)
    return found.get(key) if key and isinstance(found, Mapping) else found


def _number(row: Row, name: str) -> Number | None:
    found = row.get(name)
    if isinstance(found, Mapping):
        return Number(found["value"], found["error"])
    return Number(float(found)) if isinstance(found, int | float) else None


def _cell(value: object) -> str:
    if value is None:
        return "\u2013"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    """Model of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
