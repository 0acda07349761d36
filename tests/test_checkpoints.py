"""States of a training: sealed, dropped where they are not complete, refused where altered."""

import json
import shutil

import numpy as np
import pytest
from storage_runs import contents, flip_a_byte
from trained_models import make_ensemble
from trained_rbms import FREE, train

from lattice_ml import cli
from lattice_ml.jobs.open_model import open_model
from lattice_ml.storage import checkpoints, files, seals
from lattice_ml.storage import model as model_files
from lattice_ml.storage.checkpoints import Checkpoints
from lattice_ml.storage.editing import accept_edit
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised

STATE = {"0": np.arange(3.0), "1": np.ones(1)}


def opened(folder, earlier=False):
    return Checkpoints(folder, earlier=earlier)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states") / "checkpoints"
    states = opened(folder)
    for step in (2, 4):
        states.save(step, STATE | {"1": np.full(1, float(step))}, {"spent": step})
    states.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def parts(folder, step):
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


def test_the_last_state_comes_back(folder):
    states = opened(folder)
    found = states.restore(STATE)
    assert states.step == 4 and states.notes() == {"spent": 4}
    assert np.array_equal(found["0"], STATE["0"]) and found["1"] == 4
    states.close()


def test_every_altered_file_of_the_last_state_is_refused_with_the_remedy(folder):
    """Each once, in the middle; those of the state before are not read."""
    states = opened(folder)
    for path in parts(folder, 4):
        whole = path.read_bytes()
        flip_a_byte(path, len(whole) // 2)
        with pytest.raises(StorageError, match=r"4 is damaged \(.*\); delete it to go on from the"):
            states.notes(), states.restore(STATE)
        path.write_bytes(whole)
    for path in parts(folder, 2):
        flip_a_byte(path)
    assert states.restore(STATE)["1"] == 4
    states.close()


@pytest.mark.parametrize("name", ["state/d/stray", "state/_METADATA", "notes/metadata"])
def test_a_file_too_many_or_too_few_is_refused(folder, name):
    path = folder / "4" / name
    path.unlink() if path.exists() else path.write_bytes(b"")
    states = opened(folder)
    with pytest.raises(StorageError, match=f"4/{name} is not in its seal, or not there"):
        states.notes(), states.restore(STATE)
    states.close()


def test_a_state_in_the_place_of_another_is_refused(folder):
    shutil.rmtree(folder / "4")
    shutil.copytree(folder / "2", folder / "4")
    states = opened(folder)
    with pytest.raises(StorageError, match=r"4/seal\.json is of step 2"):
        states.notes()
    states.close()


def test_a_state_whose_process_died_before_its_seal_is_dropped(folder):
    (folder / "4" / "seal.json").rename(folder / "4" / "seal.json.tmp")
    states = opened(folder)
    assert states.step == 2 and states.restore(STATE)["1"] == 2
    assert not (folder / "4").exists()
    states.save(4, STATE, {})
    assert states.step == 4
    states.close()


def test_states_of_an_earlier_version_are_taken_over_and_sealed(folder):
    for step in (2, 4):
        (folder / str(step) / "seal.json").unlink()
    states = opened(folder, earlier=True)
    assert states.step == 4 and states.restore(STATE)["1"] == 4
    states.close()
    flip_a_byte(parts(folder, 4)[0])
    states = opened(folder)
    with pytest.raises(StorageError, match="4 is damaged"):
        states.notes(), states.restore(STATE)
    states.close()


# ---------------------------------------------------------------- of a training, from end to end


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e", (6,), couplings=FREE)


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A training that ended after some blocks, each of them with a checkpoint."""
    return stop(tmp_path_factory.mktemp("stopped") / "m", data, 3)


@pytest.fixture(scope="module")
def finished(stopped, data, tmp_path_factory):
    out = shutil.copytree(stopped, tmp_path_factory.mktemp("finished") / "m")
    return go_on(out, data)


@pytest.fixture
def begun(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "m")


def go_on(out, data, **options):
    train(
        out, data, training_n_steps=5, training_snapshots=2, training_checkpoint_every=0, **options
    )
    return out


def stop(out, data, blocks):
    done = []

    def note(progress):
        done.append(progress)
        if len(done) == blocks:
            raise Stop

    with pytest.raises(Stop):
        go_on(out, data, on_progress=note)
    return out


def lasting(directory):
    """What does not depend on when the training was interrupted, nor on the clock."""
    kept = ("checkpoints", "report.json")
    return {k: v for k, v in contents(directory).items() if not k.startswith(kept)}


@pytest.mark.parametrize("n_sealed", [1, 0])
def test_a_training_killed_before_a_seal_ends_with_the_same_bytes(begun, data, finished, n_sealed):
    steps = sorted(int(path.name) for path in (begun / "checkpoints").iterdir())
    for step in steps[n_sealed:]:
        (begun / "checkpoints" / str(step) / "seal.json").unlink()
    assert lasting(go_on(begun, data)) == lasting(finished)


def old(directory):
    """Turn what a directory holds into what version 1 wrote."""
    manifest = model_files.read_manifest(directory)
    if "weights.npz" not in manifest["files"]:
        manifest["files"] = {}
    manifest["files"].pop("history.npz", None)
    del manifest["seal"]
    (directory / "model.json").write_text(json.dumps(manifest | {"format_version": 1}, indent=1))
    for seal in directory.rglob("seal.json"):
        seal.unlink()
    if (directory / "report.json").exists():
        report = model_files.read_report(directory)
        for entry in report["theories"]:
            entry.pop("log_likelihood_of_noise", None)  # is of later versions
        (directory / "report.json").write_text(json.dumps(report, indent=1))


def test_a_training_that_an_earlier_version_began_goes_on_to_the_same_bytes(begun, data, finished):
    old(begun)
    assert lasting(go_on(begun, data)) == lasting(finished)
    assert open_model(begun).manifest["format_version"] == files.FORMAT_VERSION


def test_its_states_are_sealed_with_the_rest_where_that_is_asked_for(begun, data, finished):
    old(begun)
    step = max(int(path.name) for path in (begun / "checkpoints").iterdir())
    assert accept_edit(begun) == ["model.json"]
    assert (begun / "checkpoints" / str(step) / "seal.json").exists()
    assert lasting(go_on(begun, data)) == lasting(finished)


def test_a_model_of_an_earlier_version_is_read_and_said_to_be_unsealed(finished, tmp_path, capsys):
    directory = shutil.copytree(finished, tmp_path / "m")
    old(directory)
    model = open_model(directory)
    assert model.hash == open_model(finished).hash, "samples of it know it by that"
    (now,), (then,) = (open_model(m).report["theories"] for m in (finished, directory))
    assert now == then | {"log_likelihood_of_noise": now["log_likelihood_of_noise"]}
    assert model.history
    assert cli.main(["info", str(directory)]) == 0
    assert "none: model.json is of an earlier version" in capsys.readouterr().out
    assert cli.main(["info", str(directory), "--accept-edit"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sealed anew     model.json, report.json\n")
    assert "earlier version" not in said


@pytest.mark.parametrize("name", ["metrics.jsonl", "theories.npz", "model.json"])
def test_what_a_training_goes_on_from_is_checked(begun, data, name):
    flip_a_byte(begun / name, 40)
    before = contents(begun)
    with pytest.raises(StorageError, match=f"{name} is altered"):
        go_on(begun, data)
    assert contents(begun) == before


def test_the_history_and_the_report_of_a_model_are_under_its_seals(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "m")
    flip_a_byte(directory / "history.npz", 100)
    with pytest.raises(StorageError, match=r"history\.npz is altered: its sha256 is not"):
        open_model(directory)
    shutil.copy(finished / "history.npz", directory)
    path = directory / "report.json"
    whole = path.read_text()
    path.write_text(whole.replace('"verdict": "passed"', '"verdict": "passee"'))
    with pytest.raises(StorageError, match=r"report\.json is altered: its seal does not fit"):
        _ = open_model(directory).report
    report = seals.parse(path, finite=False)
    del report["theories"][0]["log_likelihood_of_noise"]  # is of later versions
    del report["theories"][0]["log_z"], report["seal"]
    path.write_text(json.dumps(report))
    with pytest.raises(StorageError, match=r"theories\[0\]\.log_z is missing"):
        _ = open_model(directory).report
    path.unlink()
    with pytest.raises(StorageError, match=r"report\.json is missing; copy it back"):
        _ = open_model(directory).report


EDITS = {
    "files": ({"../x.npz": "0" * 64}, "is an unknown key"),
    "stages": ([], "stages must be a list"),
    "parent": (None, "parent must be a text, got None"),
    "provenance": ("me", "provenance must be a list"),
    "kind": ("molel", "kind must be one of model, got molel"),
}


@pytest.mark.parametrize("key", EDITS)
def test_a_model_json_that_cannot_be_is_refused_with_the_key(begun, key):
    value, message = EDITS[key]
    manifest = model_files.read_manifest(begun) | {key: value}
    files.write_manifest(begun, manifest, "model.json")
    with pytest.raises(StorageError, match=rf"model\.json is altered: .*{message}"):
        open_model(begun)


def test_theories_of_another_lattice_are_refused(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "m")
    manifest = model_files.read_manifest(directory)
    manifest["stages"][0]["shape"] = [2**31, 2**31]
    files.write_manifest(directory, manifest, "model.json")
    with pytest.raises(
        StorageError, match=r"theories\.npz holds no theory as model\.json lists it"
    ):
        open_model(directory)


def test_links_in_the_place_of_weights_are_refused(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "m")
    (directory / "weights.npz").unlink()
    (directory / "weights.npz").symlink_to(finished / "weights.npz")
    with pytest.raises(StorageError, match=r"weights\.npz is a link, which may lead anywhere"):
        open_model(directory)


def test_a_network_of_absurd_size_is_refused_before_it_is_built(finished, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "m")
    manifest = model_files.read_manifest(directory)
    manifest["config"]["model"]["n_hidden"] = 10**9
    files.write_manifest(directory, manifest, "model.json")
    with pytest.raises(StorageError, match=r"config\.model\.n_hidden must be a whole number from"):
        open_model(directory)


def test_the_seal_is_the_last_file_of_a_state(tmp_path, monkeypatch):
    """A process that dies over it leaves a state that is dropped."""
    states = opened(tmp_path / "checkpoints")
    monkeypatch.setattr(checkpoints.intact, "sha256", lambda path: pytest.fail("it died here"))
    with pytest.raises(pytest.fail.Exception):
        states.save(2, STATE, {})
    states.close()
    monkeypatch.undo()
    states = opened(tmp_path / "checkpoints")
    assert states.step == 0
    states.close()
