"""`lattice-ml compare`."""

import dataclasses

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.printable import say

__all__ = ["compare_command"]

_EXACT = "exact"


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Judge whether candidates sample the distribution of a reference.

    Exit 0 if all do, 1 if one does not, 4 if none is rejected but weights leave too little of one
    to tell.

    Args:
        ensembles: directories, the reference first; `exact` stands for the exact solution of the
            first candidate's action. With --reference-values all are candidates.
        reference_values: a JSON file of known values, as `measure --json` writes it.
        out: write report.html, report.json and the figures to this directory.
        weights: use the ensembles' weights where they have some (--no-weights to ignore them).
        classifier: let a small network try to tell configurations apart (--no-classifier to save
            its training).
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    reference_values: str | None = None
    out: str | None = None
    weights: bool = True
    classifier: bool = True
    verify: bool = True


def compare_command(arguments: list[str]) -> int:
    """Print the comparison of each candidate; 1 where one is rejected, 4 where undecided."""
    options = parse_options(CompareOptions, arguments, "compare")
    paths = list(options.ensembles)
    if len(paths) < 2 - bool(options.reference_values):
        raise ValueError(
            "compare needs a reference (an ensemble, or exact) and at least one candidate, or "
            f"--reference-values and a candidate, got {paths or 'nothing'}"
        )
    prepare()
    from lattice_ml.comparison import compare, exact_reference, read_values
    from lattice_ml.comparison.references import Known, check_comparable
    from lattice_ml.comparison.sides import Side
    from lattice_ml.report import comparison as page
    from lattice_ml.storage.ensemble import EnsembleOnDisk, open_ensemble

    if options.out:
        page.check(options.out)
    exact = not options.reference_values and paths[0] == _EXACT
    ensembles = [open_ensemble(path, verify=options.verify) for path in paths[exact:]]
    if len({ensemble.directory.resolve() for ensemble in ensembles}) < len(ensembles):
        raise ValueError(f"compare needs different ensembles, got {' '.join(paths)}")
    for ensemble in ensembles:
        check_comparable(ensembles[0], ensemble)
    reference: EnsembleOnDisk | Known | Side
    if options.reference_values:
        reference, candidates = read_values(options.reference_values), ensembles
    elif exact:
        reference, candidates = exact_reference(ensembles[0]), ensembles
    else:
        reference, *candidates = ensembles
    found = []
    for candidate in candidates:
        comparison = compare(
            reference, candidate, weights=options.weights, classifier=options.classifier
        )
        reference = comparison.reference  # read once
        say(*str(comparison).split("\n"))
        found.append(comparison)
    if options.out:
        say(f"page: {page.write(found, options.out)}")
    if any(comparison.rejected_by for comparison in found):
        return 1
    return 0 if all(comparison.accepted for comparison in found) else 4
