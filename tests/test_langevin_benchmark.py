"""The benchmark of Langevin dynamics at toy size: 16^2 phi^4 at zero step beside the reference."""

import json
import math
import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "langevin.py"


@pytest.fixture
def benchmark(monkeypatch):
    """Its names, without a word to JAX about the cores: the tests have decided."""
    names = runpy.run_path(str(BENCHMARK))
    monkeypatch.setitem(names["main"].__globals__, "use_all_cores", lambda: None)
    return names


@pytest.mark.slow
def test_extrapolated_values_agree_with_the_reference(benchmark, tmp_path, capsys):
    words = ["--size", "toy", "--out", str(tmp_path), "--json", str(tmp_path / "rows.json")]
    assert benchmark["main"](words) == 0
    table = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["kappa"], row["observable"]) for row in table["limits"]} == {
        (kappa, name) for kappa in (0.264, 0.27) for name in ("phi2", "phi4", "m2", "binder")
    }
    for row in table["limits"]:
        error = math.hypot(row["error"], row["reference_error"])
        assert abs(row["value"] - row["reference"]) < 4.5 * error, row
        if row["observable"] in ("phi2", "phi4"):
            assert row["error"] < 0.01 * row["value"], row
    slope, error = table["slopes"]["euler"]
    assert abs(slope - 1) < 0.1 + 3 * error
    assert (tmp_path / "langevin_bias.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.rstrip().endswith("all good")


def test_what_misses_is_told(benchmark, monkeypatch, capsys, tmp_path):
    """A biased value, an imprecise one at full size, and a wrong slope are failures."""
    row = benchmark["Row"]("leimkuhler_matthews", 0.27, "phi2", 1.0, 0.01, 1.0, 2.0, 0.01, ())
    point = benchmark["Bias"]("euler", 0.1, 0.2, 0.01, 0.1)
    found = ([point], {"euler": (2.0, 0.1)}, [row])
    monkeypatch.setitem(benchmark["main"].__globals__, "tables", lambda *arguments: found)
    assert benchmark["main"](["--size", "full"]) == 1
    said = capsys.readouterr().out
    assert "euler at 0.1: z = +10.0" in said and "slope of euler: 2.00" in said
    assert "leimkuhler_matthews phi2 at 0.27: z = -70.7" in said and "error 0.01" in said
