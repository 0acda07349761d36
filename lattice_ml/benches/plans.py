"""Plans of benchmarks: a TOML file and a size make the settings of one benchmark.

benchmark = "kernel"       the module that runs it
title = "..."              one line, for the list and the page
key = value                of the module's `Settings`
[toy] [small] [full]       keys that this size changes
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lattice_ml.runtime.arguments import (
    Fields,
    as_arguments,
    check_keys,
    read_toml,
    type_arguments,
    unknown,
)
from lattice_ml.runtime.values import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["SIZES", "Plan", "available", "load"]

SIZES = ("toy", "small", "full")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run: a benchmark, its size, and its settings."""

    name: str  # of the TOML, without its ending
    title: str  # its one line
    benchmark: str  # name of the module
    size: str  # "toy", "small" or "full"
    settings: "DataclassInstance"  # an instance of the module's `Settings`

    @property
    def module(self) -> ModuleType:
        """Where `run` and `draw` are."""
        return _module(self.benchmark)


def available() -> dict[str, str]:
    """Name and title of every plan that comes with the package."""
    return {file.stem: str(read_toml(file, "the benchmark").get("title", "")) for file in _plans()}


def load(name: str, size: str) -> Plan:
    """Read a plan.

    Args:
        name: one of `available()`, or the path of a TOML file.
        size: one of `SIZES`.

    Raises:
        ConfigError: there is no such plan, benchmark or key, or a value of the wrong type.
    """
    file = Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml"
    if not name.endswith(".toml") and not file.is_file():
        raise ConfigError(unknown("benchmark", name, available()))
    table = read_toml(file, "the benchmark")
    benchmark = str(table.pop("benchmark", ""))
    ours = {str(read_toml(plan, "the benchmark")["benchmark"]) for plan in _plans()}
    if benchmark not in ours:
        raise ConfigError(unknown(f"benchmark in {file}", benchmark or "none", sorted(ours)))
    title = str(table.pop("title", ""))
    kind = _module(benchmark).Settings
    sizes = {size: table.pop(size, {}) for size in SIZES}
    for part in (table, *sizes.values()):
        if not isinstance(part, Mapping):
            raise ConfigError(f"toy, small and full must be tables in {file}, got {part!r}")
        check_keys(_fields(kind), as_arguments(part), f"in {file}")
    typed = type_arguments(_fields(kind), as_arguments(table | sizes[size]))
    try:
        settings = kind(**vars(typed))
    except ValueError as error:
        raise ConfigError(f"{file}, size {size}: {error}") from error
    return Plan(file.stem, title, benchmark, size, settings)


def _module(benchmark: str) -> ModuleType:
    return importlib.import_module(f"lattice_ml.benches.{benchmark}")


def _plans() -> list[Path]:
    """Those that come with the package; what they run is known to it."""
    return sorted(_folder().glob("*.toml"))


def _folder() -> Path:
    """Where the plans are: beside this file in a wheel, in `configs` of a source tree."""
    inside = Path(__file__).with_name("configs")
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs" / "bench"


def _fields(kind: "type[DataclassInstance]") -> Fields:
    """The schema of a `Settings`."""
    fields = dataclasses.fields(kind)
    return [(f.name, f.type, dataclasses.field(default=f.default)) for f in fields]
