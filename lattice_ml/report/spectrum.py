"""The page of a spectrum, drawn from what `spectrum.json` holds: null is what is not known.

What there is nothing to draw of is left out, so any kind of model whose table has the common keys
gets a page.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.report import page
from lattice_ml.report import spectrum_figures as draw
from lattice_ml.report.page import Drawn
from lattice_ml.runtime.json import Section

__all__ = ["write"]

_MANY_ROWS = 40  # of the page's table


def write(found: Section, folder: str | os.PathLike[str]) -> Path:
    """Write `index.html` and PNG files of the table of `spectrum.json`; returns the page's path."""
    path, name = Path(folder) / "index.html", Path(found["source"]).resolve().name
    page.write_page(
        path,
        verb="spectrum",
        title=f"Spectrum of {name}",
        summary=_summary(found),
        tables=_tables(found),
        figures=_drawn(found),
    )
    return path


def _drawn(found: Section) -> list[Drawn]:
    """The figures that a table has the numbers for, whatever it is of."""
    own = {"renormalised": _propagator, "singular_values": _machine, "zero_field": _score}
    for key, drawn in own.items():
        if key in found:
            return drawn(found)
    parts = (_array(found[k]) for k in ("p_hat_squared", "eigenvalues", "errors", "exact"))
    figure = draw.kernel(*parts, name=found["what"], target_name="the exact form")
    return [("kernel", figure, found["what"])]


def _propagator(found: Section) -> list[Drawn]:
    x, value, error = (_array(found[k]) for k in ("p_hat_squared", "eigenvalues", "errors"))
    exact, bare, fit = _array(found["exact"]), _array(found["bare"]), found["renormalised"]
    if np.all(np.isfinite(exact)):
        words, target, dotted = "the exact form", exact, None
    elif fit["n_fitted"]:
        target = (fit["mass_squared"]["value"] + x) / fit["z"]["value"]
        words = r"$(m_R^2 + \hat p^2)/Z$"
        dotted = bare if np.all(np.isfinite(bare)) else None
    else:
        return []
    figure = draw.kernel(x, value, error, target, name="$1/G(p)$", target_name=words, bare=dotted)
    caption = "Inverse propagator per shell of momenta; a single pole is a straight line."
    return [("kernel", figure, caption)]


def _machine(found: Section) -> list[Drawn]:
    ceiling = found["mu_squared"] if isinstance(found["mu_squared"], float) else None
    values, errors = _array(found["eigenvalues"]), _array(found["errors"])
    target = _array(found["regulated"] if ceiling is not None else found["exact"])
    caption = (
        "Eigenvalues of the kernel against min(exact, mu^2), of which as many as there are hidden "
        "fields can lie below the regulator mu^2 (dashed)."
    )
    drawn = [("ranks", draw.ranks(values, errors, target, ceiling=ceiling), caption)]
    if shells := found["shells"]:
        wanted = _array(shells["regulated"] if ceiling is not None else shells["exact"])
        x, y, dy = (_array(shells[k]) for k in ("p_hat_squared", "learned", "error"))
        words = "the regulated spectrum"
        figure = draw.kernel(x, y, dy, wanted, name="$K(p)$", target_name=words, ceiling=ceiling)
        drawn.insert(0, ("kernel", figure, "Mean of the kernel on every shell of momenta."))
    if len(found["history"]) > 1:
        steps = [entry["step"] for entry in found["history"]]
        lines = _array([entry["eigenvalues"] for entry in found["history"]])
        caption = "Eigenvalues along the training; the infrared ones are learned first."
        figure = draw.along_training(steps, lines, target, ceiling=ceiling)
        drawn.append(("training", figure, caption))
    values, exact = found["singular_values"], found["singular_values_exact"]
    figure = draw.singular_values(values, None if exact is None else _array(exact))
    drawn.append(("singular_values", figure, "Singular values of the weights w."))
    return drawn


def _score(found: Section) -> list[Drawn]:
    x = _array(found["p_hat_squared"])
    parts = [
        ("kernel", found, r"$\langle J\rangle$", r"$\langle S''\rangle$", False),
        ("zero_field", found["zero_field"], "$J(0)$", "the bare quadratic form", True),
        ("regression", found["regression"], r"regression of $-s$", "$1/C(p)$", False),
    ]
    captions = {
        "kernel": "Mean curvature of the learned score over fields, against the action's.",
        "zero_field": "Curvature at the field that is zero everywhere, which no model has seen"
        + ("; here its wells are apart." if found["zero_field"]["out_of_distribution"] else "."),
        "regression": "Regression of the score on the field: 1/C(p), an input of the model.",
    }
    drawn = []
    for name, part, what, target, difference in parts:
        y, dy, exact = (_array(part[key]) for key in ("eigenvalues", "errors", "exact"))
        figure = draw.kernel(x, y, dy, exact, name=what, target_name=target, difference=difference)
        drawn.append((name, figure, captions[name]))
    levels = [level["over_c_min"] for level in found["noise"]]
    values = _array([level["eigenvalues"] for level in found["noise"]])
    figure = draw.noise_levels(x, levels, values, _array(found["exact"]))
    caption = "The same at several levels of noise, undone as if the theory were Gaussian."
    return [*drawn, ("noise", figure, caption)]


def _summary(found: Section) -> list[tuple[str, str]]:
    couplings = {k: v for k, v in found["action"].items() if k != "kind"}
    action = ", ".join(f"{key} = {value}" for key, value in couplings.items())
    entries = [
        ("what", str(found["what"])),
        ("lattice", " x ".join(map(str, found["shape"]))),
        ("action", f"{found['action']['kind']}{': ' if action else ''}{action}"),
    ]
    keys = ("median_deviation", "deviation", "asymmetry", "off_diagonal", "n_hidden", "n_fields")
    known = [(key.replace("_", " "), found.get(key)) for key in keys]
    return entries + [(name, f"{value:.4g}") for name, value in known if value is not None]


def _tables(found: Section) -> list[page.Table]:
    columns = found["shells"] or {
        key: found[key] for key in ("eigenvalues", "errors", "exact", "regulated")
    }
    rows = list(zip(*columns.values(), strict=True))
    step = -(-len(rows) // _MANY_ROWS)
    words = "Shells of momenta" if found["shells"] else "Eigenvalues"
    words += "" if step == 1 else f", every {step} of {len(rows)}"
    tables = [page.Table(words, [key.replace("_", " ") for key in columns], rows[::step])]
    read = [
        (where, name, entry["value"], entry["error"], entry.get("true"))
        for where, table in (
            ("score over fields", found.get("couplings", {})),
            ("curvature over fields", found.get("curvature_couplings", {})),
            ("curvature at zero field", found.get("zero_field", {}).get("couplings", {})),
            ("line", {k: v for k, v in found.get("renormalised", {}).items() if k != "n_fitted"}),
        )
        for name, entry in table.items()
    ]
    if read:
        header = ["read off", "coupling", "value", "error", "true"]
        tables.insert(0, page.Table("Couplings", header, read))
    return tables


def _array(values: ArrayLike) -> np.ndarray:
    """Numbers, NaN for null."""
    return np.array(values, np.float64)
