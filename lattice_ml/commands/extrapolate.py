"""`lattice-ml extrapolate`."""

import dataclasses
from typing import Literal

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.commands.output import EXTRAPOLATION
from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.printable import say
from lattice_ml.runtime.results import check_json, write_json

__all__ = ["extrapolate_command", "lines"]

_ROW = "  {:<24}{:>16}{:>15}{:>11}{:>9}{:>16}  {}"


@dataclasses.dataclass(frozen=True)
class ExtrapolateOptions:
    """Observables at step size zero, from Langevin ensembles at several step sizes.

    Warnings say where the fit is not to be trusted; the exit status is 0 all the same.

    Args:
        ensembles: directories, such as those of `generate --sweep sampler.step_size ...`.
        order: power of the step size; by default that of the scheme's bias.
        json: write the numbers to this file.
        out: write a plot and a page to this directory.
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    order: Literal[1, 2] | None = None
    json: str | None = None
    out: str | None = None
    verify: bool = True


def extrapolate_command(arguments: list[str]) -> int:
    """Print the observables at step size zero and the warnings; JSON and a page on request."""
    options = parse_options(ExtrapolateOptions, arguments, "extrapolate")
    prepare()
    from lattice_ml.jobs.extrapolate import as_table, extrapolate
    from lattice_ml.report import extrapolation
    from lattice_ml.storage.ensemble import open_ensemble

    if options.json:
        check_json(options.json, EXTRAPOLATION)
    if options.out:
        extrapolation.check(options.out)
    ensembles = [open_ensemble(path, verify=options.verify) for path in options.ensembles]
    found = as_table(ensembles, extrapolate(ensembles, order=options.order))
    say(*lines(found))
    if options.json:
        write_json(options.json, found, EXTRAPOLATION)
    if options.out:
        say(f"page: {extrapolation.write(found, options.out)}")
    return 0


def lines(found: Section) -> list[str]:
    """The table of an extrapolation and its warnings, as text."""
    from lattice_ml.report.extrapolation import header, rows, warnings_of

    sampler, order = found["sampler"], found["order"]
    scheme = f" {sampler['scheme']}" if "scheme" in sampler else ""
    steps = ", ".join(f"{step:g}" for step in found["step_sizes"])
    power = "eps" if order == 1 else f"eps^{order}"
    return [
        f"{sampler['kind']}{scheme}: O(eps) = O(0) + slope {power}, eps = {steps}",
        *(_ROW.format(*row).rstrip() for row in [header(order), *rows(found)]),
        *(f"  {mark}: {names}: {sentence}" for mark, names, sentence in warnings_of(found)),
    ]
