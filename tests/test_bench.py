"""`lattice-ml bench`: the plans that it reads, and records and what they are compared with."""

import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rows import each

from lattice_ml import cli
from lattice_ml.benches import (
    plans,
    record,
)
from lattice_ml.benches.record import Column, Number, Result
from lattice_ml.commands import bench as command
from lattice_ml.runtime.arguments import ConfigError

PLANS = sorted(Path(__file__).parents[1].joinpath("configs", "bench").glob("*.toml"))


def bench(capsys, *words):
    """Exit status, output and errors of a command."""
    capsys.readouterr()
    status = cli.main(["bench", *map(str, words)])
    return status, *capsys.readouterr()


def refused(capsys, *words):
    status, out, err = bench(capsys, *words)
    assert (status, out) == (2, "") and err.startswith("lattice-ml bench: "), err
    return err


def written(folder, text, name="own.toml"):
    path = folder / name
    path.write_text(text)
    return path


KERNEL = (
    'benchmark = "kernel"\ntitle = "own"\nextents = [4]\ndimensions = [2]\nn_chains = [16]\n'
    "seconds = 0.01\nrepeats = 3\n"
)


# Plans


def test_every_plan_can_be_read_in_every_size_and_is_listed(capsys):
    status, out, _ = bench(capsys)
    assert status == 0
    for path in PLANS:
        sizes = [plans.load(path.stem, size).settings for size in plans.SIZES]
        assert sizes[0] != sizes[1] != sizes[2]
        assert f"{path.stem} " in out and plans.load(str(path), "toy").title in out


def test_a_size_overrides_what_all_sizes_share(tmp_path):
    path = written(tmp_path, KERNEL + "[toy]\nrepeats = 2\n")
    assert plans.load(str(path), "toy").settings.repeats == 2
    assert plans.load(str(path), "full").settings.repeats == 3


@each(
    ("text", "words"),
    [
        (KERNEL + "extent = [4]\n", "unknown key in .*own.toml: extent; did you mean extents?"),
        (KERNEL + "[full]\nrepeat = 4\n", "unknown key in .*own.toml: repeat; did you mean repeat"),
        (KERNEL + "[huge]\nrepeats = 4\n", "unknown key in .*own.toml: huge.repeats"),
        (KERNEL.replace("0.01", '"long"'), "seconds must be a number, got long"),
        (KERNEL.replace("kernel", "kernels"), "unknown benchmark in .*did you mean kernel"),
        (KERNEL.replace("seconds = 0.01\n", ""), "seconds is required and was not given"),
        (KERNEL.replace("[16]", "[16, 8]"), "one entry per row each, got 1, 1 and 2"),
        (KERNEL.replace("repeats = 3", "repeats = 1"), "repeats must be at least 2"),
        (KERNEL + "toy = 3\n", "toy, small and full must be tables"),
        (KERNEL + "=", "is not valid TOML"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        plans.load(str(written(tmp_path, text)), "toy")


def test_names_and_files_that_do_not_exist_are_refused(capsys, tmp_path):
    assert "unknown benchmark: kernal; did you mean kernel?" in refused(capsys, "kernal")
    assert "cannot read the benchmark" in refused(capsys, tmp_path / "none.toml")
    assert "different benchmarks" in refused(capsys, "kernel", "kernel")
    assert "cannot read" in refused(capsys, "kernel", "--against", tmp_path / "none.json")
    broken = written(tmp_path, "{", "broken.json")
    assert "is not JSON" in refused(capsys, "kernel", "--against", broken)
    other = written(tmp_path, '{"kernel": {"rows": []}}', "other.json")
    assert "was not written by" in refused(capsys, "kernel", "--against", other)


def test_figures_that_cannot_be_drawn_are_refused_before_anything_runs(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(command, "_run", lambda *arguments: pytest.fail("it ran"))
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    assert cli.main(["bench", "kernel", "--size", "toy", "--out", str(tmp_path)]) == 2
    assert "figures need matplotlib" in capsys.readouterr().err


@each(
    ("name", "changes", "words"),
    [
        ("sampler_league", {"rows": ("hmc",)}, "unknown rows: hmc; did you mean hmc_1"),
        ("sampler_league", {"rows": ("hmc_1", "hmc_1")}, "rows must be different names"),
        ("sampler_league", {"extents": ()}, "at least one lattice extent"),
        ("critical_slowing_down", {"extents": (8, 8)}, "at least two different"),
        ("critical_slowing_down", {"samplers": ("rbm",)}, "unknown samplers: rbm"),
        ("critical_slowing_down", {"observables": ("phi3",)}, "unknown observables: phi3"),
        ("free_energy", {"methods": ("flows",)}, "unknown methods: flows; did you mean flow"),
        ("free_energy", {"extents": ()}, "at least one lattice extent"),
        ("free_energy", {"finer_nodes": 4}, "finer_nodes must be more than n_nodes"),
        ("free_energy", {"cuts": (0.3,)}, "cuts must rise between 0 and kappa = 0.2705"),
        ("paper_2309_15002", {"hidden": (11,)}, "hidden must be numbers from 1 to 10"),
        ("paper_2309_15002", {"mnist_hidden": (4,)}, "one number per entry of mnist_hidden"),
        ("paper_2309_17082", {"n_data": 100}, "n_data must be a multiple of 64"),
        ("paper_2309_17082", {"batch_size": 12}, "batch_size must be a multiple of 8"),
        ("paper_2309_17082", {"base": 1.0}, "base must exceed 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, changes, words):
    settings = plans.load(name, "toy").settings
    with pytest.raises(ValueError, match=words):
        type(settings)(**vars(settings) | changes)


# Records


def test_numbers_are_shown_with_two_digits_of_their_error():
    assert str(Number(1.23456, 0.0213)) == "1.235 ± 0.021"
    assert str(Number(23456.7, 1234.0)) == "23500 ± 1200"
    assert str(Number(0.5)) == str(Number(0.5, math.nan)) == "0.5"
    assert str(Number(0.123456789, 1e-9)) == "0.1235 ± 1e-09"


def test_ratios_and_medians_have_the_errors_of_independent_numbers():
    found = Number(6.0, 0.6).over(Number(3.0, 0.3))
    assert found == pytest.approx((2.0, 2 * math.hypot(0.1, 0.1)))
    assert Number(6.0, 0.6).over(Number(3.0)) == pytest.approx((2.0, 0.2))
    assert Number(6.0).over(Number(3.0)) == (2.0, None)
    middle = Number.median([1.0, 2.0, 9.0])
    assert middle.value == 2.0
    assert middle.error == pytest.approx(1.253 * math.sqrt(19 / 3))
    draws = np.random.default_rng(1).normal(size=(4000, 9))
    errors = [Number.median(part).error for part in draws]
    assert np.mean(errors) == pytest.approx(np.std(np.median(draws, axis=1)), rel=0.05)


def entry(**row):
    columns = (Column("who", "who", "key"), Column("rate", "rate", "ratio"), Column("z", "z"))
    return Result(columns, [row])


def as_record(result, **changes):
    plan = plans.load("kernel", "toy")
    return record.record(plan, 1, result, 2.0) | changes


def test_an_earlier_record_is_compared_row_by_row():
    new = as_record(entry(who="a", rate=Number(6.0, 0.6), z=1.0))
    old = as_record(entry(who="a", rate=Number(3.0, 0.3), z=9.0), size="full")
    ratios, sentences = record.compare(new, old, entry().columns)
    assert ratios.header == ["who", "rate"] and ratios.rows == [["a", "2.00 ± 0.28"]]
    assert sentences == ["size is toy, was full"]
    other = as_record(entry(who="b", rate=None))
    ratios, sentences = record.compare(new, other, entry().columns)
    assert ratios.rows == [] and sentences == ["new: a", "missing: b"]
    slower = other["machine"] | {"cpu": "abacus"}
    sentences = record.compare(other, other | {"machine": slower}, entry().columns)[1]
    assert sentences == [f"machine.cpu is {other['machine']['cpu']}, was abacus"]


def test_a_record_is_json_and_says_what_made_it():
    found = as_record(entry(who="a", rate=Number(math.inf, 0.1), z=np.float64(math.nan)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rows"] == [{"who": "a", "rate": {"value": None, "error": 0.1}, "z": None}]
    assert found["machine"]["cpu"] and found["versions"]["jax"] == jax.__version__
    said = dict(record.facts(found))
    assert found["machine"]["cpu"] in said["machine"] and "jaxlib" in said["versions"]
    assert said["run"] == "size toy, seed 1, 2 s"
