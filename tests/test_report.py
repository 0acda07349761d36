"""Figures show the numbers they were given; the page is complete in itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from lattice_ml.report import figures
from lattice_ml.report.page import INK, Table, style, write_page

P_HAT_SQUARED = 4 * np.sin(np.pi * np.arange(9) / 16) ** 2


def chains(n_chains: int = 4, n_configs: int = 60) -> np.ndarray:
    return np.random.default_rng(3).normal(0.3, 1.0, (n_chains, n_configs))


def fields(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(shape)


def free_propagator(mass_squared: float = 0.1) -> Figure:
    g = 1 / (P_HAT_SQUARED + mass_squared)
    return figures.propagator(P_HAT_SQUARED, g, 0.1 * g, free=g)


def exponential_autocorrelation(thin: int = 1) -> Figure:
    rho = 0.5 ** np.arange(30)
    return figures.autocorrelation(
        rho, np.full(30, 0.01), 5, thin * 1.5, thin * 0.1, name="$M$", thin=thin
    )


DRAWN: dict[str, Callable[[], Figure]] = {
    "history": lambda: figures.history(chains(), name="$M$"),
    "long_history": lambda: figures.history(chains(2, 3000), name="$M$"),
    "single_short_chain": lambda: figures.history(chains(1, 2), name="$M$"),
    "constant_history": lambda: figures.history(np.ones((2, 5)), name="$M$"),
    "histogram": lambda: figures.histogram(chains(), name="$M$"),
    "histogram_of_one_chain": lambda: figures.histogram(chains(1), name="$M$"),
    "propagator": free_propagator,
    "propagator_without_zero_mode": lambda: figures.propagator([1, 2], [0.5, 0.3], [0.1, 0.4]),
    "autocorrelation": exponential_autocorrelation,
    "window_zero": lambda: figures.autocorrelation([1, 0], [0, 0.1], 0, 0.5, 0.0, name="$M$"),
    "configurations_1d": lambda: figures.configurations(fields(3, 8)),
    "configurations_2d": lambda: figures.configurations(fields(5, 8, 8)),
    "configurations_4d": lambda: figures.configurations(fields(2, 2, 4, 6, 3)),
    "configurations_large": lambda: figures.configurations(fields(1, 130, 130)),
    "field_zero": lambda: figures.configurations(np.zeros((1, 4, 4))),
}


def page(folder: Path, drawn: tuple[str, ...] = tuple(DRAWN)) -> Path:
    path = folder / "report.html"
    write_page(
        path,
        title="kappa < 0.3 & lam",
        summary=[("volume <V>", 1024), ("z & error", np.float64(1.23456789))],
        tables=[
            Table("<b>", ["name", "value"], [["<M>", "0.5(1)"], ["a & b", -0.25], ["xi", None]])
        ],
        figures=[(name, DRAWN[name](), f"<i>{name}</i> & more") for name in drawn],
    )
    return path


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page(tmp_path_factory.mktemp("page"))


def parse(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8"))


# -- figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_has_a_title_and_labelled_axes(name: str) -> None:
    figure = DRAWN[name]()
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert any(titles) or figure.get_suptitle()
    assert any(axis.get_xlabel() for axis in figure.axes)
    assert any(axis.get_ylabel() for axis in figure.axes)


def test_history_shows_chains_and_their_running_mean() -> None:
    series = chains(4, 60)
    *strips, bottom = figures.history(series, name="$M$", n_shown=3).axes
    assert_allclose([strip.lines[0].get_ydata() for strip in strips], series[:3])
    t, mean = bottom.lines[1].get_data()
    assert t[-1] == 59
    assert_allclose(mean[9], series[:, :10].mean())
    assert_allclose(mean[-1], series.mean())
    outline = bottom.collections[0].get_paths()[0].vertices
    at_the_end = outline[outline[:, 0] == 59, 1]
    error = series.mean(axis=1).std(ddof=1) / 2
    assert_allclose([at_the_end.min(), at_the_end.max()], series.mean() + error * np.array([-1, 1]))


def test_running_mean_of_a_long_history_is_exact_where_it_is_drawn() -> None:
    series = chains(2, 3000)
    t, mean = figures.history(series, name="$M$").axes[-1].lines[1].get_data()
    assert len(t) == 500
    exact = [series[:, : int(i) + 1].mean() for i in t[::50]]
    assert_allclose(mean[::50], exact)


def test_histogram_counts_weights() -> None:
    series, log_weights = np.array([[0.25, 0.75, 0.75, 0.75]]), np.log([[9.0, 1.0, 1.0, 1.0]])
    figure = figures.histogram(series, name="M", bins=[0, 0.5, 1], log_weights=log_weights)
    values = figure.axes[0].patches[0].get_data().values
    np.testing.assert_allclose(values, [1.5, 0.5])


def test_histogram_is_a_density_with_errors_between_chains() -> None:
    series = np.array([[0.1, 0.1, 0.1, 0.7], [0.1, 0.7, 0.7, 0.7]])
    axis = figures.histogram(series, name="$M$", bins=[0.0, 0.5, 1.0]).axes[0]
    density, edges, _ = axis.patches[0].get_data()
    assert_allclose(density, [1.0, 1.0])
    assert_allclose((density * np.diff(edges)).sum(), 1.0)
    segments = np.array(axis.collections[0].get_segments())
    # Densities 1.5 and 0.5: standard deviation 1/sqrt(2), error of the mean 1/2.
    assert_allclose(segments[:, :, 1], [[0.5, 1.5], [0.5, 1.5]])


def test_inverse_propagator_of_a_free_field_is_a_straight_line() -> None:
    zero_mode, inverse, logarithmic = free_propagator(mass_squared=0.1).axes
    assert_allclose(zero_mode.lines[0].get_data(), [[0.0], [10.0]])
    assert_allclose(logarithmic.lines[0].get_xdata(), P_HAT_SQUARED[1:])
    for mode, points in zip((slice(0, 1), slice(1, None)), inverse.containers, strict=True):
        x, y = points.lines[0].get_data()
        assert_allclose(x, P_HAT_SQUARED[mode])
        assert_allclose(y, x + 0.1)
        low, high = np.array(points.lines[2][0].get_segments())[:, :, 1].T
        assert_allclose((high - low) / 2, 0.1 * y)  # the relative error of 1/G is that of G
    (free,) = [line for line in inverse.lines if line.get_label() == "free field"]
    assert_allclose(free.get_ydata(), free.get_xdata() + 0.1)


@pytest.mark.parametrize("thin", [1, 10])
def test_running_tau_int_is_in_updates(thin: int) -> None:
    top, bottom = exponential_autocorrelation(thin).axes
    lags, running = bottom.lines[0].get_data()
    assert_allclose(lags[:3], [0, thin, 2 * thin])
    assert_allclose(running[:3], thin * np.array([0.5, 1.0, 1.25]))
    assert all(axis.lines[-1].get_xdata()[0] == 5 * thin for axis in (top, bottom))


def test_configurations_share_a_scale_symmetric_about_zero() -> None:
    cfgs = np.abs(fields(9, 6, 6))
    images = [axis.images[0] for axis in figures.configurations(cfgs).axes if axis.images]
    scale = np.abs(cfgs[:8]).max()
    assert len(images) == 8
    assert all(image.get_clim() == (-scale, scale) for image in images)
    assert_allclose(images[7].get_array(), cfgs[7])


def test_of_four_dimensions_the_last_two_are_shown_with_the_longer_side_lying() -> None:
    cfgs = fields(2, 2, 3, 6, 4)
    axis = figures.configurations(cfgs).axes[1]
    assert_allclose(axis.images[0].get_array(), cfgs[1, 0, 0].T)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("$x_2$", "")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.history([1.0, 2.0], name="M"), r"\(n_chains, n_configs\).* \(2,\)"),
        (lambda: figures.history(np.ones((2, 0)), name="M"), r"not empty, got shape \(2, 0\)"),
        (lambda: figures.history([[1.0, np.nan]], name="M"), "finite numbers, got 1 that are not"),
        (lambda: figures.history([[1.0]], name="M", n_shown=0), "one chain, got n_shown=0"),
        (lambda: figures.histogram(np.ones(3), name="M"), r"histogram of M.*got shape \(3,\)"),
        (lambda: figures.propagator([0, 1], [1], [1]), r"one length.*'value': \(1,\)"),
        (lambda: figures.propagator([0, 1], [1, 0], [1, 1]), r"G\(p\) > 0.* least G\(p\) of 0"),
        (lambda: figures.propagator([0], [1], [1]), "not all zero.*from 0 to 0"),
        (lambda: figures.propagator([0, 1], [1, 1], [1, np.inf]), "propagator: error needs finite"),
        (
            lambda: figures.autocorrelation([1, 0], [0, 0], 2, 1.0, 0.1, name="M"),
            "a window from 0 to 1, got 2",
        ),
        (lambda: figures.configurations(np.ones(4)), r"1 to 4 lattice dimensions.* \(4,\)"),
    ],
)
def test_unusable_data_are_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_drawing_leaves_the_settings_of_the_user_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    page(tmp_path, ("histogram",))
    assert dict(matplotlib.rcParams) == before


def test_settings_of_the_user_do_not_reach_a_page(tmp_path: Path) -> None:
    expected = page(tmp_path / "a", ("histogram",)).read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True}):
        assert page(tmp_path / "b", ("histogram",)).read_bytes() == expected


def test_matplotlib_is_imported_late_and_pyplot_never() -> None:
    program = """
import sys
from lattice_ml.report import figures, page
assert "matplotlib" not in sys.modules, "imported early"
figures.history([[1.0, 2.0]], name="M")
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert "jax" not in sys.modules, "jax was imported"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"`plot` extra, pip install 'lattice-ml\[plot\]'"):
        figures.history(chains(), name="$M$")


# -- the page --------------------------------------------------------------------------------


def test_page_refers_to_nothing_outside_itself(full_page: Path) -> None:
    text = full_page.read_text(encoding="utf-8")
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|\bsrc=", text)
    for target in re.findall(r'href="([^"]{0,30})', text):
        assert target.startswith(("#", "data:image/png;base64,"))


def test_page_is_well_formed_and_every_id_is_unique_and_found(full_page: Path) -> None:
    ids = [element.get("id") for element in parse(full_page).iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    text = full_page.read_text(encoding="utf-8")
    references = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    references |= set(re.findall(r'aria-labelledby="([^"]+)"', text))
    assert len(references) > 100
    assert references <= set(ids)


def test_all_text_is_escaped_and_shown(tmp_path: Path) -> None:
    root = parse(page(tmp_path, ("histogram",)))
    shown = {element.text for element in root.iter() if element.text and element.text.strip()}
    assert shown >= {"kappa < 0.3 & lam", "volume <V>", "1024", "z & error", "1.23457"}
    assert shown >= {"<b>", "<M>", "0.5(1)", "a & b", "-0.25", "<i>histogram</i> & more"}
    assert not list(root.iter("b"))
    assert not list(root.iter("i"))


def test_columns_of_numbers_are_set_right(tmp_path: Path) -> None:
    cells = [(cell.text, cell.get("class")) for cell in parse(page(tmp_path, ())).iter("td")]
    assert cells[::2] == [("<M>", None), ("a & b", None), ("xi", None)]
    assert cells[1::2] == [("0.5(1)", "number"), ("-0.25", "number"), ("\u2013", "number")]


def test_table_without_rows_keeps_its_header(tmp_path: Path) -> None:
    write_page(tmp_path / "t.html", title="t", tables=[Table("empty", ["a", "b"], [])])
    assert [cell.text for cell in parse(tmp_path / "t.html").iter("th")] == ["a", "b"]


def test_figures_take_the_text_colour_of_the_page(tmp_path: Path) -> None:
    text = page(tmp_path, ("propagator",)).read_text(encoding="utf-8")
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert INK not in svg
    assert svg.count("currentColor") > 20
    assert "prefers-color-scheme: dark" in text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    drawn = ("propagator", "configurations_2d")
    first, second = page(tmp_path / "a", drawn), page(tmp_path / "b", drawn)
    for name in ["report.html", *(f"{name}.png" for name in drawn)]:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_figures_can_be_written_twice(tmp_path: Path) -> None:
    figure = DRAWN["history"]()
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for path in pages:
        write_page(path, title="t", figures=[("history", figure, "")])
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_folder_holds_the_page_and_every_figure_as_png_and_svg(tmp_path: Path) -> None:
    page(tmp_path / "new" / "folder", ("histogram", "propagator"))
    found = {file.name: file for file in (tmp_path / "new" / "folder").iterdir()}
    drawn = {f"{name}.{kind}" for name in ("histogram", "propagator") for kind in ("png", "svg")}
    assert set(found) == {"report.html", *drawn}
    assert found["histogram.png"].read_bytes().startswith(b"\x89PNG")
    assert ET.fromstring(found["histogram.svg"].read_text()).tag.endswith("svg")


def test_page_of_large_fields_and_long_chains_stays_small(tmp_path: Path) -> None:
    drawn = [
        ("fields", figures.configurations(fields(8, 256, 256)), ""),
        ("history", figures.history(chains(8, 5000), name="$M$"), ""),
    ]
    path = tmp_path / "report.html"
    write_page(path, title="large", figures=drawn)
    assert path.stat().st_size < 1_000_000


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = page(tmp_path, ())
    before = path.read_bytes()

    def full(old: Path, new: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_page(path, title="new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_style_can_be_held_around_figures_of_ones_own(tmp_path: Path) -> None:
    with style():
        figure = Figure()
        figure.subplots().plot([0, 1])
    write_page(tmp_path / "own.html", title="own", figures=[("own", figure, "")])
    assert "currentColor" in (tmp_path / "own.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": [Table("t", ["a"], [[1, 2]])]}, r"table 't': a row has 2 cells \(1, 2\)"),
        ({"figures": [("../x", Figure(), "")]}, r"'../x' must be usable as a file name"),
        ({"figures": [("x", Figure(), "")] * 2}, "must be distinct, got 'x' 2 times"),
    ],
)
def test_unusable_content_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, list[Table]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_page(tmp_path / "report.html", title="t", **arguments)
    assert not list(tmp_path.iterdir())
