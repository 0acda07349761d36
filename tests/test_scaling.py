"""benchmarks/scaling.py: do runs on one core and on two processes agree, and what is said?"""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_processes_compute_what_one_does(scaling, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    job = {"extent": 4, "ndim": 2, "n_chains": 2, "block": 2, "n_blocks": 1, "split": 1}
    core = {min(scaling.os.sched_getaffinity(0))}
    alone, shared = (scaling.run(job, [core] * n, tmp_path) for n in (1, 2))
    assert alone["energies"] == shared["energies"]
    assert alone["cpu"] > 0 and 0 < alone["busy"] < 1.5


def test_the_table_has_ratios_and_a_dependence_is_an_error(scaling, monkeypatch, capsys):
    rates = {"wall": 1e6, "cpu": 1e6, "busy": 1.0}

    def run(job, cores, folder):
        faster = len(set().union(*cores))
        return rates | {"wall": 1e6 * faster, "energies": job["n_chains"] + broken * len(cores)}

    monkeypatch.setattr(scaling, "run", run)
    monkeypatch.setattr(scaling.os, "sched_getaffinity", lambda pid: {3, 5})
    broken = 0
    assert scaling.main(["--size", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "strong, devices" in lines[1]
    assert "strong, split" in lines[7] and "wall 2.00" in lines[7]
    assert "2.0 M/s   busy 1.00   wall 2.00 2.00 2.00   CPU 1.00 1.00 1.00" in lines[1]
    broken = 1
    assert scaling.main(["--size", "toy"]) == 1
    assert "the energies depend on devices or processes" in capsys.readouterr().out
