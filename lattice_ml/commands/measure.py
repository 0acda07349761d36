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

_STATUS = {"pass": 0, "fail": 1, "undecided": 4}
_HEADLINES = {"pass": "passed", "fail": "FAILED ", "undecided": "undecided: "}
_MEANINGS = {
    "pass": "nothing fails, and nothing is left open",
    "fail": "a correct ensemble fails once in a thousand times",
    "undecided": "what is undecided could not be seen: run longer (the same command with more "
    "chain.n_configs), with more chains, or with updates that move what is slow (sampler.kind = "
    "HMC+Wolff or ReplicaExchange)",
}


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
        keys = ("value", "error", "tau_int", "tau_int_error")
        table = {
            path: {name: e and {key: getattr(e, key) for key in keys} for name, e in values.items()}
            for path, values in found.items()
        }
        _write_json(options.json, table)
    return 0


def _print_estimates(path: str, estimates: Mapping[str, Any]) -> None:
    print(path)
    print(f"  {'observable':<26}{'value':>18}{'tau_int':>14}")
    for name, estimate in estimates.items():
        if estimate is None:
            print(f"  {name:<26}{'-':>18}")
            continue
        tau = f"{estimate.tau_int:.2f} +- {estimate.tau_int_error:.2f}"
        print(f"  {name:<26}{estimate!s:>18}{tau:>18}{'  short' if estimate.short else ''}")
    short = [name for name, e in estimates.items() if e is not None and e.short]
    if short:
        print(
            "  short: the chains have fewer than 50 tau_int of these configurations; "
            "their errors are themselves uncertain"
        )


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Test ensembles against their own action and chains, without a reference.

    Exit 0 where all pass, 1 where a test fails, 4 where none fails and one is undecided: what it
    looks for could not be seen.

    Args:
        ensembles: directories.
        json: write the certificates to this file, what they say together last.
        weights: use the ensemble's weights where it has some (--no-weights to ignore them).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    weights: bool = True


def check_command(arguments: list[str]) -> int:
    """Print the certificates of ensembles; 1 where one fails, 4 where one is undecided."""
    options = tyro.cli(CheckOptions, args=arguments, prog="lattice-ml check")
    if not options.ensembles:
        raise ValueError("check needs at least one ensemble directory, got none")
    configure_jax()
    from lattice_ml.analysis.certificates import Certificate, check, verdict
    from lattice_ml.ensemble import open_ensemble

    found = {}
    for path, ensemble in {path: open_ensemble(path) for path in options.ensembles}.items():
        ensemble.verify()
        tests = check(ensemble, weights=options.weights)
        say = verdict(tests)
        named = ", ".join(test.name for test in tests if test.verdict == say != "pass")
        print(f"{path}: {_HEADLINES[say]}{named}")
        print("".join(f"  {certificate}\n" for certificate in tests), end="")
        if say == "undecided":
            print(f"  {_MEANINGS[say]}")
        found[path] = [*tests, Certificate("verdict", say, named, math.nan, _MEANINGS[say])]
    if options.json:
        table = {path: [dataclasses.asdict(c) for c in found[path]] for path in found}
        _write_json(options.json, table)
    return _STATUS[verdict(certificates[-1] for certificates in found.values())]


def _write_json(path: str, table: Any) -> None:
    """JSON has no NaN or infinity: they become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(clean(table), indent=1, allow_nan=False) + "\n")
