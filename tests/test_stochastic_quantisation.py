"""Stochastic quantisation beside reverse diffusion: its figures and its benchmark."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lattice_ml import Phi4
from lattice_ml.analysis.dynamics.fokker_planck import (
    equilibrium,
    evolve,
    measured_action,
    site_potential,
)
from lattice_ml.analysis.dynamics.relaxation import Curve, Equilibrium, relaxation_of_frames

pytestmark = pytest.mark.unoptimised

pytest.importorskip("matplotlib")


def test_figures_draw_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    figures = importlib.import_module("relaxation_figures")
    rng, t = np.random.default_rng(7), np.array([9.0, 1.0, 0.1, 0.0])
    fields = rng.normal(size=(4, 20, 4, 4))
    courses = {name: relaxation_of_frames(fields, [0, 0.5, 2.0, 8.0]) for name in ("cold", "hot")}
    falling = relaxation_of_frames(fields * np.sqrt(1 + t).reshape(-1, 1, 1, 1), t)
    level = Curve(np.array(0.1), np.array(0.01))
    g = np.linspace(2.0, 0.5, len(falling.p_hat_squared))
    target = Equilibrium(16, level, level, Curve(g, g / 10))
    figure = figures.langevin_beside_diffusion(courses, falling, target)
    grid = np.reshape(figure.axes, (3, 2))
    for row, name in enumerate(("m2", "binder")):
        points = [line.get_ydata() for line in grid[row, 0].lines]
        assert any(np.array_equal(y, getattr(courses["hot"], name).value) for y in points)
        points = [line.get_ydata() for line in grid[row, 1].lines]
        assert any(np.array_equal(y, getattr(falling, name).value) for y in points)
        assert grid[row, 0].get_ylim() == grid[row, 1].get_ylim()
    assert grid[2, 1].get_xlim()[0] > grid[2, 1].get_xlim()[1], "noise falls to the right"
    assert len(grid[2, 1].texts) == 3

    potential = site_potential(Phi4(h=0.0, a=-0.5, b=0.4 / 24))
    edges = np.linspace(-6, 6, 25)
    seen = [measured_action(2 * fields, edges)] * 2
    density = evolve(potential, [0.5, 2.0], width=1.0)
    figure = figures.effective_actions(density, seen, edges, equilibrium(potential))
    line = figure.axes[1].lines[1]
    centre = np.flatnonzero(np.isclose(line.get_xdata(), 0.25))
    expected = -np.log(density.probabilities([0.0, 0.5])[1] / 0.5)
    assert_allclose(line.get_ydata()[centre], expected)

    curve = {"cold": Curve(np.ones(2), np.zeros(2))}
    exact = {"cold": np.zeros(3)}
    figure = figures.free_field([0, 1, 2], {"heun": curve}, {"heun": exact}, exact)
    assert figure.axes[0].get_title(loc="center") == "heun"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield importlib.import_module("stochastic_quantisation")


@pytest.mark.slow
def test_the_benchmark_finds_everything_as_it_must_be(benchmark, tmp_path):
    kept = tmp_path / "numbers.json"
    arguments = ["--out", str(tmp_path), "--size", "toy", "--json", str(kept)]
    assert benchmark.main(arguments) == 0
    found = json.loads(kept.read_text())
    assert len(found["largest_z"]) == 11 and max(found["largest_z"].values()) < 4.5
    assert found["field"]["langevin"]["cold"]["m2"]["value"][0] > 2
    assert (tmp_path / "field.png").exists()
    assert (tmp_path / "index.html").read_text().count("<figure>") == 3


@pytest.mark.parametrize(("z", "status"), [(4.4, 0), (4.6, 1), (np.nan, 1)])
def test_a_deviation_fails_and_so_does_what_is_not_a_number(
    benchmark, monkeypatch, tmp_path, z, status
):
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(1, 1))
    largest = {"something": benchmark.worst([1.0, -z])}
    for name in ("field", "well", "free"):
        part = benchmark.Part({}, benchmark.Table(name, ("a",), []), figure, largest)
        monkeypatch.setattr(benchmark, name, lambda *size, part=part: part)
    assert benchmark.main(["--out", str(tmp_path), "--size", "toy"]) == status
