"""`benchmarks/limit.py` at toy size, and that the others in it simulate the same theory."""

import json
import math
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice_ml import HMC, Lattice, run
from lattice_ml.actions import Phi4

pytestmark = pytest.mark.unoptimised

FOLDER = Path(__file__).parents[1] / "benchmarks"
SETTINGS = {"trajectory_length": 1.0, "n_steps": 10, "step_size": 0.1, "jitter": 0.0}


@pytest.fixture(scope="module")
def limit():
    """The benchmark, which leaves the cores of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import limit

        patch.setattr(limit, "pin_to_one_core", lambda: None)
        yield limit
        for name in ("limit", "peers"):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def program(limit):
    """The C++, built."""
    with limit.limit() as program:
        if program is None:
            pytest.skip("no C++ compiler")
        yield program


def mean(per_chain):
    """(mean, error) of chains."""
    return np.mean(per_chain), np.std(per_chain, ddof=1) / math.sqrt(len(per_chain))


def agree(found, expected):
    return abs(found[0] - expected[0]) < 4.5 * math.hypot(found[1], expected[1])


@pytest.fixture(scope="module")
def ours(limit):
    """Our own chains on L^d, by (L, d)."""

    @cache
    def chains(extent, ndim):
        peers = limit.peers
        hmc = HMC(Phi4(2 * peers.KAPPA, 1 - 2 * peers.LAM, peers.LAM), **SETTINGS)
        lengths = {"n_chains": 64, "n_configs": 300, "n_thermalise": 50}
        return run(jax.random.key(5), hmc, Lattice((extent,) * ndim), **lengths)

    return chains


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("extent", "ndim"),
    [
        (8, 2),
        pytest.param(4, 3, marks=pytest.mark.slow),
        pytest.param(4, 4, marks=pytest.mark.slow),
    ],
)
def test_the_limit_simulates_the_same_theory(limit, program, ours, extent, ndim, dtype):
    found = limit.run_limit(program, limit.Row(extent, ndim, 64, dtype), 0.1, thermalise=100)
    for name in ("phi2", "acceptance"):
        expected = mean(ours(extent, ndim).series(name).mean(axis=0))
        assert agree(found[name], expected), (name, found[name], expected)
        assert found[name][1] < 0.05 * found[name][0]
    assert agree(found["exp_minus_dh"], (1.0, 0.0)) and found["rate"] > 0


@pytest.mark.parametrize("name", ["plain", "numpy", "blackjax", "numpyro"])
def test_the_peers_simulate_the_same_theory(limit, ours, name):
    if name not in limit.peers.installed():
        pytest.skip(f"{name} is not installed")
    advance = limit.peers.PEERS[name]((8, 8), 64, "float32")
    advance(50)
    found = mean(np.mean([advance(1) ** 2 for _ in range(300)], axis=0))
    expected = mean((ours(8, 2).series("magnetisation") ** 2).mean(axis=0))
    assert agree(found, expected), (found, expected)


def test_the_table_has_a_row_per_lattice_and_a_column_per_program(
    limit, program, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(limit, "limit", lambda: nullcontext(program))
    assert limit.main(["--size", "toy", "--json", str(tmp_path / "rows.json")]) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert {"limit", "plain", "numpy"} <= set(row["ratios"])
    assert (row["extent"], row["n_chains"], row["dtype"]) == (8, 64, "float32")
    for median, low, high in row["ratios"].values():
        assert 0 < low <= median <= high
    heads, _, line = capsys.readouterr().out.splitlines()
    assert "ours / limit" in heads and line.startswith("| 8^2 | 64 | ")


@pytest.mark.parametrize("compiler", ["nowhere/c++", "false"])
def test_without_a_compiler_that_works_the_limit_is_left_out(limit, monkeypatch, capsys, compiler):
    monkeypatch.setenv("CXX", compiler)
    with limit.limit() as program:
        assert program is None
    said = "failed" if compiler == "false" else "no C++ compiler (nowhere/c++)"
    assert said in (out := capsys.readouterr().out) and "the limit is left out" in out
    monkeypatch.setattr(limit.peers, "installed", lambda: ["plain"])
    assert limit.main(["--size", "toy"]) == 0
    assert "ours / limit" not in capsys.readouterr().out


def test_what_is_below_its_floor_is_told(limit, monkeypatch, capsys):
    row = limit.Row(32, 2, 64)
    good = {"ratios": {"limit": [0.6], "plain": [7.0], "numpy": [9.0]}, "compile_seconds": 1.0}
    assert limit.misses(row, good) == []
    bad = {"ratios": {"limit": [0.4], "plain": [7.0], "numpy": [5.5]}, "compile_seconds": 9.0}
    assert limit.misses(row, bad) == [
        "32^2, 64 chains: 0.40 of the limit, floor 0.50",
        "32^2, 64 chains: 5.5 times numpy, floor 6",
        "32^2, 64 chains: 9.0 s to compile, at most 2",
    ]
    other = {"ratios": {"plain": [2.0], "blackjax": [2.9]}, "compile_seconds": 1.0}
    assert limit.misses(limit.Row(512, 2, 1), other) == [
        "512^2, 1 chains: 2.9 times blackjax, floor 3"
    ]
    monkeypatch.setattr(limit, "misses", lambda row, found: ["slow"])
    found = {"ratios": {"plain": [7.0, 6.5, 7.5]}, "rates": {"ours": 1.0}, "compile_seconds": 1.0}
    monkeypatch.setattr(limit, "compare", lambda *arguments: found)
    monkeypatch.setattr(limit, "limit", lambda: nullcontext(None))
    assert limit.main(["--size", "small", "--repeats", "2"]) == 1
    assert capsys.readouterr().err.splitlines() == ["below the floor:", "slow", "slow"]
