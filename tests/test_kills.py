"""The campaign of kills: a verb that is stopped and run again, and what is said of other files."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def kills():
    path = Path(__file__).parents[1] / "benchmarks" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    module = sys.modules["kills"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_that_writes_is_killed(kills):
    verbs = {words.split()[0] for words in kills.JOBS.values()}
    assert verbs >= {"generate", "sample", "train", "convert", "import", "export", "spectrum"}
    assert verbs >= {"measure", "check", "compare", "extrapolate"}
    assert all("{}" in words for words in kills.JOBS.values())


@pytest.mark.slow
def test_an_import_stopped_at_a_change_of_its_files_is_the_same_in_the_end(kills, tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(1).normal(size=(40, 4, 4)))
    job = kills.Job("import", kills.JOBS["import"], tmp_path)
    assert job.finish() == ""
    wanted = job.files()
    assert {"manifest.json", "ensemble.h5", "shards/c00000000-n0000.h5"} <= wanted.keys()
    job.clean()
    process = job.start(4, 9)
    process.communicate()
    assert process.returncode == -9
    assert job.files() != wanted
    assert job.finish() == ""
    assert job.files() == wanted


@pytest.mark.parametrize(
    ("failed", "found", "n"), [("", "1", 0), ("", "2", 1), ("status 3", "1", 1)]
)
def test_what_differs_is_told(kills, tmp_path, capsys, failed, found, n):
    class Played(kills.Job):
        def alone(self):
            return {"a": "1", "b": "1"}, 0.0, 1

        def start(self, at=0, signum=0):
            (self.out / "a").parent.mkdir(exist_ok=True)
            return subprocess.Popen(["true"], text=True, stderr=subprocess.PIPE)

        def files(self):
            return {"a": found, "b": "1"}

        def finish(self):
            return failed

    early, wrong = kills.campaign(Played("a job", "verb {}", tmp_path), 1, random.Random(1))
    assert (early, len(wrong)) == (0, n)
    if n:
        assert (failed or "other files: a") in wrong[0]
        assert wrong[0] in capsys.readouterr().err
