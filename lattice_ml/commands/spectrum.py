"""`lattice-ml spectrum`."""

import dataclasses
from collections.abc import Mapping, Sequence

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.json import Json, Section
from lattice_ml.runtime.printable import say, shape_label

__all__ = ["lines", "spectrum_command"]

_ROWS = 24  # of the table on the terminal


@dataclasses.dataclass(frozen=True)
class SpectrumOptions:
    """What an ensemble shows or a model has learned, momentum by momentum.

    Args:
        source: directory of a model or an ensemble.
        out: directory for spectrum.json, plots and a page.
        fields: an ensemble at whose configurations a diffusion model or a flow is probed; its own
            samples by default.
        n_fields: how many of them.
        noise: variances under a diffusion model's score, in units of its smallest propagator; 0.03,
            0.1, 0.3 and 1 by default.
        weights: use an ensemble's weights where it has some (--no-weights to ignore them).
        seed: of samples, noise and probes.
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    source: tyro.conf.Positional[str]
    out: str
    fields: str | None = None
    n_fields: int | None = None
    noise: tuple[float, ...] | None = None
    weights: bool = True
    seed: int = 0
    verify: bool = True


def spectrum_command(arguments: list[str]) -> int:
    """Write the spectrum of a model or an ensemble and print its table."""
    options = parse_options(SpectrumOptions, arguments, "spectrum")
    prepare(all_cores=True)
    from lattice_ml.jobs.sections import check_values
    from lattice_ml.jobs.spectrum import spectrum

    check_values({"seed": options.seed})
    given = vars(options).copy()
    found = spectrum(given.pop("source"), given.pop("out"), **given)
    say(*lines(found), f"page: {options.out}/index.html")
    return 0


def lines(found: Section) -> list[str]:
    """The table of a spectrum, and the numbers that go with it, as text."""
    shape = shape_label(found["shape"])
    text = [f"{found['source']}: {found['what']}, {shape}"]
    if shells := found["shells"]:
        text += _table(shells)
    else:
        learned = zip(found["eigenvalues"], found["regulated"], strict=True)
        ratio = [None if None in pair else pair[0] / pair[1] for pair in learned]
        rank = list(range(1, len(ratio) + 1))
        keys = {"learned": "eigenvalues", "error": "errors", "exact": "exact"}
        text += _table({"rank": rank, **{k: found[v] for k, v in keys.items()}, "ratio": ratio})
    words = {
        "deviation": "largest deviation of the learned modes",
        "median_deviation": "median deviation",
        "asymmetry": "antisymmetric part of J (the score's curl)",
        "off_diagonal": "part of J between momenta",
    }
    text += [f"  {said}: {found[key]:.3g}" for key, said in words.items() if found.get(key)]
    text += _read("score over fields", found.get("couplings", {}))
    text += _read("curvature over fields", found.get("curvature_couplings", {}))
    if zero := found.get("zero_field"):
        far = ", out of distribution" if zero["out_of_distribution"] else ""
        text += _read(f"curvature at zero field{far}", zero["couplings"])
    if (fit := found.get("renormalised")) and fit["n_fitted"]:
        text += _read(f"lowest {fit['n_fitted']} shells above zero", fit)
    return text + ([f"  warning: {found['doubt']}"] if found.get("doubt") else [])


def _table(columns: Mapping[str, Sequence[Json]]) -> list[str]:
    """Columns as lines; some of the rows where there are many."""
    rows = list(zip(*columns.values(), strict=True))
    step = -(-len(rows) // _ROWS)
    table = ["  " + "".join(f"{name.replace('_', ' '):>15}" for name in columns)]
    table += ["  " + "".join(f"{_word(cell):>15}" for cell in row) for row in rows[::step]]
    return table + ([f"  (every {step} of {len(rows)} rows)"] if step > 1 else [])


def _read(where: str, table: Section) -> list[str]:
    """Couplings that were read off, one per line."""
    return [
        f"  {where}: {name.replace('_', ' ')} = {_word(entry['value'])} +- {_word(entry['error'])}"
        + (f" (true {_word(entry['true'])})" if "true" in entry else "")
        for name, entry in table.items()
        if isinstance(entry, Mapping)
    ]


def _word(value: Json) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
