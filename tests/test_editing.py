"""An edit that is meant is accepted on request, after the checks of everything that is read."""

import os

import h5py
import pytest
from storage_runs import config, contents, generate
from test_manifests import edit

from lattice_ml import cli
from lattice_ml.storage import files, locks
from lattice_ml.storage.editing import accept_edit
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.files import StorageError


@pytest.fixture
def run(tmp_path):
    """A run whose action exists, without the coupling that the tests of storage have besides."""
    asked = config()
    del asked["action"]["g"]
    generate(tmp_path / "run", asked)
    return tmp_path / "run"


def put_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nothing_is_written_where_all_seals_fit(run):
    before = contents(run)
    assert accept_edit(run) == []
    assert contents(run) == before


def test_an_edit_that_is_meant_is_sealed_with_the_index_and_the_cost(run, capsys):
    put_in(run / "manifest.json", '"kappa": 0.27', '"kappa": 0.25')
    put_in(run / "cost.json", '"seconds": ', '"seconds": 1')
    assert cli.main(["measure", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"accept it with `lattice-ml info {run} --accept-edit`" in said
    assert cli.main(["info", str(run), "--accept-edit"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sealed anew     manifest.json, cost.json, ensemble.h5\n")
    assert "kappa = 0.25" in said
    assert open_ensemble(run).config["action"]["kappa"] == 0.25
    assert files.read_seconds(run) >= 10
    with h5py.File(run / "ensemble.h5") as file:
        assert file.attrs["kappa"] == 0.25
    assert accept_edit(run) == []


def test_an_ensemble_of_an_earlier_version_is_said_to_be_unsealed_and_sealed(run, capsys):
    edit(run, lambda manifest: None, seal=False)
    assert cli.main(["info", str(run)]) == 0
    assert "seal            none: manifest.json is of an earlier" in capsys.readouterr().out
    assert cli.main(["info", str(run), "--accept-edit"]) == 0
    assert cli.main(["info", str(run)]) == 0
    assert "earlier version" not in capsys.readouterr().out.partition("parent")[2]
    assert open_ensemble(run).manifest["format_version"] == files.FORMAT_VERSION


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"n_chains": 2,\n   "n_configs"', '"n_chains": 4,\n   "n_configs"', "in 4 chains"),
        ('"kappa": 0.27', '"kappa": NaN', "NaN is not a finite number"),
        ('"dtype": "float32"', '"dtype": "float64"', "cfgs is float32"),
        ('"n_chains": 2,\n   "n_configs"', '"n_chain": 2,\n   "n_configs"', "n_chains is missing"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_nothing_is_written(run, old, new, message):
    put_in(run / "manifest.json", old, new)
    before = contents(run)
    with pytest.raises(StorageError, match=message):
        accept_edit(run)
    assert contents(run) == before


def test_a_shard_that_is_altered_stays_refused(run):
    shard = run / "shards" / "c00000002-n0000.h5"
    put_in(run / "manifest.json", '"kappa": 0.27', '"kappa": 0.25')
    os.truncate(shard, 100)
    with pytest.raises(StorageError, match="altered: it has 100 bytes"):
        accept_edit(run)


def test_nobody_accepts_while_a_process_writes_or_where_nothing_is(run, tmp_path):
    lock = locks.take_lock(run)
    with pytest.raises(StorageError, match="is being written by process"):
        accept_edit(run)
    locks.release_lock(lock)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=r"holds no ensemble: no manifest\.json, found nothing"):
        accept_edit(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
