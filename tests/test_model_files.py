"""A model on disk: what is committed cannot be lost, and nothing altered is read."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import storage_runs
from flax import nnx
from theories import free_theory

from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.diffusion.kind import DiffusionModel
from lattice_ml.models.diffusion.networks import initial_network
from lattice_ml.models.model import Stage
from lattice_ml.storage import files
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import read_manifest
from lattice_ml.storage.model_run import open_model_run

pytestmark = pytest.mark.unoptimised

ACTION = {"kind": "FreeField", "mass_squared": 0.5}
MODEL = {
    "kind": "Diffusion",
    "denoiser": "shallow",
    "target": "action",
    "pairs": 2,
    "symmetric": True,
    "n_channels": 1,
    "n_hidden": 3,
    "n_outputs": 1,
    "conditional": False,
}
CONFIG = {
    "seed": 1,
    "model": MODEL,
    "training": {"n_steps": (3,), "checkpoint_every": 30.0},
    "sampling": {"n_steps": "auto"},
}
REPORT = {"verdict": "passed", "theories": [], "n_weights": 3, "training_seconds": 0.5}
STAGES = [
    Stage((4, 4), (ACTION,), (free_theory((4, 4)),)),
    Stage((6, 4), (ACTION, ACTION), (free_theory((6, 4)), free_theory((6, 4), 0.7))),
]
THEORIES = [[DiffusionModel.arrays(t) for t in stage.theories] for stage in STAGES]
ENTRIES = [{"shape": stage.shape, "actions": stage.actions} for stage in STAGES]


@nnx.jit
def force(network, theory, x, t):
    return network.force(theory, x, t)


def begin(directory, config=CONFIG, parent="data", measure=lambda: THEORIES, made_by="one"):
    return open_model_run(
        directory,
        config,
        ENTRIES,
        measure=measure,
        provenance={"version": made_by},
        parent=parent,
    )


@pytest.fixture(scope="module")
def network():
    return initial_network(MODEL, 2, 3)


@pytest.fixture(scope="module")
def finished(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "m"
    with begin(directory) as run:
        run.finish(DiffusionModel.weights(network), REPORT)
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


# Round trips.


def test_a_finished_model_is_read_back_as_it_was(finished, network):
    model = open_model(finished)
    theory = STAGES[0].theories[0]
    x, t = np.ones((2, 4, 4)), np.array([0.3])
    read, written = (force(one, theory, x, t) for one in (model.network, network))
    assert np.array_equal(read, written)
    assert [stage.shape for stage in model.stages] == [(4, 4), (6, 4)]
    for read, stage in zip(model.stages, STAGES, strict=True):
        assert [t.modes for t in read.theories] == [t.modes for t in stage.theories]
        numbers = [jax.tree.leaves(s.theories) for s in (read, stage)]
        assert all(map(np.array_equal, *numbers))
    assert model.report == REPORT
    assert model.config["model"] == MODEL
    assert model.manifest["stages"][1]["actions"] == [ACTION, ACTION]


def test_the_hash_follows_weights_and_theories_but_not_the_place(finished, copy, network, tmp_path):
    assert open_model(copy).hash == open_model(finished).hash
    other = DiffusionModel.weights(initial_network(MODEL, 2, 4))
    with begin(tmp_path / "other") as run:
        run.finish(other, REPORT)
    assert open_model(tmp_path / "other").hash != open_model(finished).hash


def test_the_report_of_another_model_is_not_read(copy, tmp_path):
    with begin(tmp_path / "other") as run:
        run.finish(DiffusionModel.weights(initial_network(MODEL, 2, 4)), REPORT)
    shutil.copy(tmp_path / "other" / "report.json", copy)
    with pytest.raises(StorageError, match=r"report\.json is of another model"):
        _ = open_model(copy).report


def test_equal_models_are_equal_byte_for_byte(finished, network, tmp_path):
    with begin(tmp_path) as run:
        run.finish(DiffusionModel.weights(network), REPORT)
    assert storage_runs.contents(tmp_path) == storage_runs.contents(finished)


def test_weights_begin_from_the_seed():
    first, same, other = (initial_network(MODEL, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.first[...], same.first[...])
    assert not np.array_equal(first.first[...], other.first[...])


def test_what_sample_takes_by_default_is_the_last_stage(finished):
    assert open_model(finished).defaults == {
        "lattice": {"shape": [6, 4]},
        "action": ACTION,
        "sampling": {"n_steps": "auto"},
    }


# States, metrics and who made them.

STATE = {"weights": jnp.arange(3.0), "step": jnp.asarray(2, jnp.int32)}


def test_the_last_state_comes_back_with_its_notes(tmp_path):
    with begin(tmp_path) as run:
        assert (run.step, run.notes()) == (0, {})
        for step in (2, 4, 6):
            run.commit(step, STATE | {"step": jnp.asarray(step)}, [{"step": step}], {"spent": step})
    with begin(tmp_path, measure=pytest.fail) as run:
        assert run.step == 6
        assert run.notes()["spent"] == 6
        state = run.restore(STATE)
        assert int(state["step"]) == 6
        assert np.array_equal(state["weights"], STATE["weights"])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"]


def test_metrics_after_the_last_state_are_forgotten(tmp_path):
    with begin(tmp_path) as run:
        run.commit(2, STATE, [{"step": 1}, {"step": 2}], {})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n{"st')
    begin(tmp_path).__exit__(None, None, None)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [{"step": 1}, {"step": 2}]


def test_who_made_which_steps_is_kept_unless_none(tmp_path):
    for step, who in ((0, "nobody"), (2, "one"), (4, "one"), (6, "two")):
        with begin(tmp_path, made_by=who) as run:
            if step:
                run.commit(step, STATE, [], {})
    made = [(e["first_step"], e["made_by"]["version"]) for e in run.manifest["provenance"]]
    assert made == [(0, "one"), (4, "two")]


def test_a_damaged_state_is_named_with_the_remedy(tmp_path):
    with begin(tmp_path) as run:
        for step in (2, 4):
            run.commit(step, STATE, [], {})
    for path in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with begin(tmp_path) as run, pytest.raises(StorageError, match=r"4 is damaged .*delete it to"):
        run.restore(STATE)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    with begin(tmp_path) as run:
        assert (run.step, run.restore(STATE)["step"]) == (2, 2)


# What is refused.


def test_an_unfinished_model_is_refused(tmp_path):
    begin(tmp_path).__exit__(None, None, None)
    with pytest.raises(StorageError, match="not finished: run the same `train` command again"):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["weights.npz", "theories.npz"])
def test_a_missing_or_altered_file_is_refused(copy, name):
    storage_runs.flip_a_byte(copy / name, 200)
    with pytest.raises(StorageError, match=rf"{name} is altered: its sha256 is not"):
        open_model(copy)
    (copy / name).unlink()
    with pytest.raises(StorageError, match=rf"{name} is missing; copy it back"):
        open_model(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is altered: it is not JSON as we write it"),
        ("[1]", "is altered: it holds no table"),
        ('{"format_version": 99}', "has format version 99, this reads 1 to 2"),
    ],
)
def test_a_manifest_of_something_else_is_refused(copy, content, message):
    (copy / "model.json").write_text(content)
    with pytest.raises(StorageError, match=message):
        open_model(copy)


def test_a_directory_without_a_model_is_refused(tmp_path, finished_run):
    with pytest.raises(StorageError, match=r"holds no model: no model\.json, found nothing"):
        open_model(tmp_path)
    with pytest.raises(StorageError, match=r"holds no model: no model\.json, found .*manifest"):
        open_model(finished_run)


def test_weights_of_another_network_are_refused(copy):
    manifest = read_manifest(copy)
    manifest["config"]["model"]["n_hidden"] = 4
    files.write_manifest(copy, manifest, "model.json")
    with pytest.raises(StorageError, match=r"weights\.npz holds weights .*its config has"):
        open_model(copy)


def test_output_of_something_else_is_never_overwritten(run_copy, tmp_path):
    before = storage_runs.contents(run_copy)
    with pytest.raises(StorageError, match="neither empty nor a model"):
        begin(run_copy)
    assert storage_runs.contents(run_copy) == before
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file; asked for a new or empty directory"):
        begin(tmp_path / "file")


OTHERS = [
    ({"config": CONFIG | {"seed": 2}}, r"seed: the model in .* is trained with 1, asked 2; set"),
    ({"config": CONFIG | {"model": MODEL | {"n_hidden": 4}}}, r"model\.n_hidden: .* 3, asked 4"),
    ({"parent": "other data"}, r"is trained on other data; choose another directory"),
]


@pytest.mark.parametrize(("changes", "message"), OTHERS)
def test_other_parameters_or_data_are_refused(tmp_path, changes, message):
    begin(tmp_path).__exit__(None, None, None)
    with pytest.raises(StorageError, match=message):
        begin(tmp_path, **changes)
    begin(tmp_path).__exit__(None, None, None)


def test_what_leaves_the_weights_alone_may_change(tmp_path):
    begin(tmp_path).__exit__(None, None, None)
    sections = {"sampling": {"n_steps": 4}, "training": {"n_steps": (3,), "checkpoint_every": 1.0}}
    with begin(tmp_path, config=CONFIG | sections) as run:
        assert run.manifest["config"]["sampling"] == {"n_steps": 4}


def test_two_processes_do_not_train_one_model(tmp_path):
    with begin(tmp_path), pytest.raises(StorageError, match="is being written by process"):
        begin(tmp_path)
    assert not (tmp_path / "lock").exists()
