"""`lattice-ml measure` and `lattice-ml check`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.commands.output import CERTIFICATES, ESTIMATES
from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.printable import say
from lattice_ml.runtime.results import check_json, distinct, write_json

if TYPE_CHECKING:
    from lattice_ml.statistics import Estimate

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
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    out: str | None = None
    weights: bool = True
    verify: bool = True


def measure_command(arguments: list[str]) -> int:
    """Print the observables of ensembles; JSON and a page on request."""
    options = parse_options(MeasureOptions, arguments, "measure")
    if not options.ensembles:
        raise ValueError("measure needs at least one ensemble directory, got none")
    prepare()
    from lattice_ml.analysis import measurement
    from lattice_ml.report import ensemble as page
    from lattice_ml.storage.ensemble import open_ensemble

    if options.json:
        check_json(options.json, ESTIMATES)
    pages = _pages(options.out, options.ensembles) if options.out else {}
    for folder in pages.values():
        page.check(folder)
    found = {}
    opened = {path: open_ensemble(path, verify=options.verify) for path in options.ensembles}
    for path, ensemble in opened.items():
        found[path] = measurement.measure(ensemble, weights=options.weights)
        _print_estimates(path, found[path])
        if path in pages:
            written = page.write(ensemble, found[path], pages[path], weights=options.weights)
            say(f"page: {written}")
    if options.json:
        table = {
            path: {name: e and _entry(name, e) for name, e in values.items()}
            for path, values in found.items()
        }
        write_json(options.json, table, ESTIMATES)
    return 0


def _pages(out: str, ensembles: Sequence[str]) -> dict[str, Path]:
    """The folder for the page of each ensemble: below `out` by its name where there are several."""
    names = distinct(ensembles) if len(ensembles) > 1 else [""]
    return {path: Path(out) / name for path, name in zip(ensembles, names, strict=True)}


def _entry(name: str, estimate: "Estimate") -> dict[str, object]:
    """One estimate as JSON values; `doubt` says why weights leave too little to rely on it."""
    entry = {"value": estimate.value, "error": estimate.error}
    entry |= {"tau_int": estimate.tau_int, "tau_int_error": estimate.tau_int_error}
    entry |= {"pareto_k": estimate.pareto_k} if name == "ess" else {}
    return entry | ({"doubt": estimate.doubt} if estimate.doubt else {})


def _print_estimates(path: str, estimates: "Mapping[str, Estimate | None]") -> None:
    from lattice_ml.analysis.measurement import describe_weights, explain

    say(path)
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
    """Test ensembles against their own action and chains, without a reference.

    Exit 0 where all pass, 1 where a test fails, 4 where none fails and one is undecided: what it
    looks for could not be seen.

    Args:
        ensembles: directories.
        json: write the certificates to this file, what they say together last.
        weights: use the ensemble's weights where it has some (--no-weights to ignore them).
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    weights: bool = True
    verify: bool = True


def check_command(arguments: list[str]) -> int:
    """Print the certificates of ensembles; 1 where one fails, 4 where one is undecided."""
    options = parse_options(CheckOptions, arguments, "check")
    if not options.ensembles:
        raise ValueError("check needs at least one ensemble directory, got none")
    prepare()
    from lattice_ml.analysis.certificates import Certificate, check, verdict
    from lattice_ml.storage.ensemble import open_ensemble

    if options.json:
        check_json(options.json, CERTIFICATES)
    found = {}
    opened = {path: open_ensemble(path, verify=options.verify) for path in options.ensembles}
    for path, ensemble in opened.items():
        tests = check(ensemble, weights=options.weights)
        overall = verdict(tests)
        named = ", ".join(test.name for test in tests if test.verdict == overall != "pass")
        say(f"{path}: {_HEADLINES[overall]}{named}", *(f"  {test}" for test in tests))
        if overall == "undecided":
            say(f"  {_MEANINGS[overall]}")
        found[path] = [*tests, Certificate("verdict", overall, named, math.nan, _MEANINGS[overall])]
    if options.json:
        table = {path: [dataclasses.asdict(c) for c in found[path]] for path in found}
        write_json(options.json, table, CERTIFICATES)
    return _STATUS[verdict(certificates[-1] for certificates in found.values())]
