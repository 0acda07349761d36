"""`lattice-ml extrapolate`: what it prints, writes and draws."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from extrapolation_runs import STEPS, measure_means, written
from verbs import run

from lattice_ml.analysis.dynamics.extrapolation_fit import fit
from lattice_ml.jobs import extrapolate as extrapolation
from lattice_ml.jobs.extrapolate import as_table, extrapolate
from lattice_ml.report import extrapolation as extrapolation_figures
from lattice_ml.statistics import estimate


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without `measure`."""
    monkeypatch.setattr(extrapolation, "measure", measure_means)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("extrapolation")


@pytest.fixture(scope="module")
def ensembles(folder):
    """Three step sizes, in no order."""
    return [written(folder / f"eps={step}", step) for step in (0.1, 0.05, 0.2)]


@pytest.fixture
def found(ensembles):
    return extrapolate(ensembles)


def test_the_command_prints_a_table_and_writes_json_and_a_page(
    capsys, folder, ensembles, found, tmp_path
):
    paths = [ensemble.directory for ensemble in ensembles]
    file, out = tmp_path / "found.json", tmp_path / "page"
    status, text, err = run(capsys, "extrapolate", *paths, "--json", file, "--out", out)
    assert (status, err) == (0, "")
    head, columns, *lines, page = text.splitlines()
    assert head == "Langevin euler: O(eps) = O(0) + slope eps, eps = 0.05, 0.1, 0.2"
    assert re.split(r"  +", columns.strip()) == extrapolation_figures.header(1)
    phi2 = found["phi2"]
    row = next(line for line in lines if line.startswith("  phi2 "))
    assert row.split()[:2] == ["phi2", str(phi2)] and f"{phi2.chi2:.2f}/1" in row
    assert next(line for line in lines if line.startswith("  acceptance ")).split()[1:] == ["-"] * 5
    table = json.loads(file.read_text())
    assert table == as_table(ensembles, found)
    assert table["step_sizes"] == list(STEPS) and table["order"] == 1
    assert table["ensembles"] == [str(folder / f"eps={step}") for step in STEPS]
    entry = table["observables"]["phi2"]
    for name in ("value", "error", "slope", "slope_error", "covariance", "chi2", "dof", "p_value"):
        assert entry[name] == getattr(phi2, name)
    assert entry["curved"] == phi2.curved._asdict()
    assert [point["value"] for point in entry["points"]] == [p.value for p in phi2.points]
    assert table["observables"]["acceptance"] is None
    assert page == f"page: {out / 'index.html'}"
    assert ET.parse(out / "index.html").getroot().tag == "html"
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "extrapolation.png",
        "extrapolation.svg",
    }


def test_warnings_are_printed_and_the_status_is_0(capsys, tmp_path):
    def means(step):
        return {"phi2": 1 + 20 * step**2}

    few = {"chain": {"n_configs": 24}}
    paths = [
        written(tmp_path / str(step), step, seed=1, means=means(step), **few).directory
        for step in STEPS
    ]
    status, text, err = run(capsys, "extrapolate", *paths, "--out", tmp_path / "page")
    assert (status, err) == (0, "")
    line = next(line for line in text.splitlines() if line.startswith("  phi2 "))
    assert line.endswith("  fit, curved, far, short")
    assert "\n  seed: all: the ensembles at step size 0.05, 0.1, 0.2 share the seed 1" in text
    assert "\n  short: all: the chains at step size 0.05, 0.1, 0.2" in text
    assert "\n  curved: phi2: a term eps^2 moves the value at zero from " in text
    page = (tmp_path / "page" / "index.html").read_text()
    assert "share the seed 1" in page and "a term eps^2 moves" in page
    square = run(capsys, "extrapolate", *paths, "--order", "2")[1].splitlines()
    assert next(line for line in square if line.startswith("  phi2 ")).endswith("  short")
    assert square[1].endswith("with eps^3  doubt")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "two or more step sizes, got 0"),
        (["eps=0.1"], "two or more step sizes, got 1"),
        (["eps=0.1", "absent"], "absent holds no ensemble"),
        (["eps=0.1", "eps=0.1"], "they are one run"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_sentence(
    capsys, monkeypatch, folder, ensembles, words, sentence
):
    monkeypatch.chdir(folder)
    status, text, err = run(capsys, "extrapolate", *words)
    assert (status, text) == (2, "") and sentence in err and err.count("\n") == 1


def test_an_order_that_no_scheme_has_is_refused_on_the_command_line(capsys):
    assert run(capsys, "extrapolate", "a", "b", "--order", "3")[0] == 2


def test_the_help_says_what_the_status_is(capsys):
    status, text, _ = run(capsys, "extrapolate", "--help")
    words = " ".join(text.replace("│", " ").split())
    assert status == 0 and "the exit status is 0 all the same" in words


def test_a_panel_shows_points_line_and_what_is_found_at_zero(ensembles, found):
    table = as_table(ensembles, found)
    figure = extrapolation_figures.panels(table)
    axis = next(a for a in figure.axes if "phi^2" in a.get_title(loc="left"))
    lines = {line.get_label(): line for line in axis.lines}
    measured, at_zero, curved = (
        box
        for box in axis.containers
        if box.get_label() in ("measured", "at zero", "with $\\varepsilon^2$")
    )
    line = found["phi2"]
    expected = np.transpose([STEPS, [point.value for point in line.points]])
    np.testing.assert_allclose(measured.lines[0].get_xydata(), expected)
    np.testing.assert_allclose(at_zero.lines[0].get_xydata(), [[0, line.value]])
    np.testing.assert_allclose(curved.lines[0].get_xydata()[:, 1], [line.curved.value])
    x, y = lines["fit"].get_data()
    np.testing.assert_allclose(y, line.value + line.slope * x)
    band = axis.collections[0].get_paths()[0].vertices
    end = x[-1]
    at_end = (line.error**2 + 2 * end * line.covariance + (end * line.slope_error) ** 2) ** 0.5
    for at, error in ((0, line.error), (end, at_end)):
        np.testing.assert_allclose(np.ptp(band[band[:, 0] == at, 1]), 2 * error)
    assert figure.axes[-1].get_xlabel() == r"$\varepsilon$"


def test_panels_of_order_two_are_against_the_square(ensembles):
    line = fit(STEPS, [estimate(e.series("phi2")) for e in ensembles], 2)
    figure = extrapolation_figures.panels(as_table(ensembles, {"phi2": line, "phi4": None}))
    axis = figure.axes[0]
    assert axis.get_xlabel() == r"$\varepsilon^2$"
    np.testing.assert_allclose(axis.containers[0].lines[0].get_xydata()[:, 0], np.square(STEPS))
    assert [a.axison for a in figure.axes] == [True, False, False]
