"""`lattice-ml measure` and `lattice-ml check`."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from lattice_ml.commands.environment import configure_jax
from lattice_ml.commands.output import write_text

__all__ = ["check_command", "measure_command"]


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """Observables with errors of one or more ensembles.

    Args:
        ensembles: directories.
        json: write the numbers to this file.
        out: write plots and a page to this directory.
        weights: use the ensemble's weights where it has some (--no-weights to ignore them).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    out: str | None = None
    weights: bool = True


def measure_command(arguments: list[str]) -> int:
    """Print the observables of ensembles; JSON and a page on request."""
    options = tyro.cli(MeasureOptions, args=arguments, prog="lattice-ml measure")
    if not options.ensembles:
        raise ValueError("measure needs at least one ensemble directory, got none")
    configure_jax()
    from lattice_ml.analysis import measurement, page
    from lattice_ml.ensemble import open_ensemble

    found = {}
    for path, ensemble in {path: open_ensemble(path) for path in options.ensembles}.items():
        found[path] = measurement.measure(ensemble, weights=options.weights)
        _print_estimates(path, found[path])
        if options.out:
            folder = Path(options.out)
            folder = folder / Path(path).name if len(options.ensembles) > 1 else folder
            print(f"page: {page.write(ensemble, found[path], folder, weights=options.weights)}")
    if options.json:
        table = {
            path: {name: e and _entry(name, e) for name, e in values.items()}
            for path, values in found.items()
        }
        _write_json(options.json, table)
    return 0


def _entry(name: str, estimate: Any) -> dict[str, Any]:
    """One estimate as JSON values; `doubt` says why weights leave too little to rely on it."""
    keys = ("value", "error", "tau_int", "tau_int_error")
    entry = {key: getattr(estimate, key) for key in keys}
    if name == "ess":
        entry["pareto_k"] = estimate.pareto_k
    return entry | ({"doubt": estimate.doubt} if estimate.doubt else {})


def _print_estimates(path: str, estimates: Mapping[str, Any]) -> None:
    from lattice_ml.analysis.measurement import describe_weights, explain

    print(path)
    print(f"  {'observable':<26}{'value':>18}{'tau_int':>14}")
    for name, estimate in estimates.items():
        if estimate is None:
            print(f"  {name:<26}{'-':>18}")
            continue
        tau = f"{estimate.tau_int:.2f} +- {estimate.tau_int_error:.2f}"
        marks = "".join(f"  {mark}" for mark in estimate.marks)
        print(f"  {name:<26}{estimate!s:>18}{tau:>18}{marks}")
    if worth := describe_weights(estimates):
        print(f"  with weights: {worth}")
    for mark, sentence in explain(estimates).items():
        print(f"  {mark}: {sentence}")


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Test ensembles against their own action and chains; exit 1 where a test fails.

    Args:
        ensembles: directories.
        json: write the certificates to this file.
        weights: use the ensemble's weights where it has some (--no-weights to ignore them).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    weights: bool = True


def check_command(arguments: list[str]) -> int:
    """Print the certificates of ensembles; 1 where one fails."""
    options = tyro.cli(CheckOptions, args=arguments, prog="lattice-ml check")
    if not options.ensembles:
        raise ValueError("check needs at least one ensemble directory, got none")
    configure_jax()
    from lattice_ml.analysis.certificates import check
    from lattice_ml.ensemble import open_ensemble

    found = {}
    for path, ensemble in {path: open_ensemble(path) for path in options.ensembles}.items():
        ensemble.verify()
        found[path] = check(ensemble, weights=options.weights)
        failed = [certificate.name for certificate in found[path] if certificate.verdict == "fail"]
        print(f"{path}: {'FAILED ' + ', '.join(failed) if failed else 'passed'}")
        print("".join(f"  {certificate}\n" for certificate in found[path]), end="")
    if options.json:
        table = {path: [dataclasses.asdict(c) for c in found[path]] for path in found}
        _write_json(options.json, table)
    return int(any(c.verdict == "fail" for certificates in found.values() for c in certificates))


def _write_json(path: str, table: Any) -> None:
    """JSON has no NaN or infinity: they become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(clean(table), indent=1, allow_nan=False) + "\n")
