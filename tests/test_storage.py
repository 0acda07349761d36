"""A run on disk: what is committed stays and what does not belong to it is refused."""

import errno
import json
import os
import time

import h5py
import numpy as np
import pytest
from rows import each
from storage_runs import (
    BLOCK,
    N_CHAINS,
    SHAPE,
    block,
    config,
    contents,
    generate,
    refused,
    shard,
)

from lattice_ml.storage import files
from lattice_ml.storage.run import open_run


def test_a_shard_holds_its_rows_configuration_major_and_the_state_after_them(finished_run):
    _, cfgs, history, state = block(2)
    with h5py.File(shard(finished_run, 2)) as file:
        assert np.array_equal(file["cfgs"][()].reshape(BLOCK, N_CHAINS, *SHAPE), cfgs)
        assert file["cfgs"].dtype == np.float32
        assert file["chain"][()].tolist() == [0, 1, 0, 1]
        assert file["trajectory"][()].tolist() == [3, 3, 4, 4]
        assert np.array_equal(file["history/action"], history["action"].ravel())
        assert file["history/action"].dtype == np.float64
        assert np.array_equal(file["state/phi"], state["phi"])
        assert file["state/key"][()] == 4
        assert file["cfgs"].fletcher32 and file["cfgs"].compression is None


def test_log_prob_and_log_weight_are_kept_where_given(tmp_path):
    with open_run(tmp_path, config(), provenance={}) as run:
        ones = np.ones((BLOCK, N_CHAINS))
        run.append(*block(0), log_prob=2 * ones, log_weight=3 * ones)
    with h5py.File(shard(tmp_path, 0)) as file:
        assert file["log_prob"][()].tolist() == [2.0] * 4
        assert file["log_weight"][()].tolist() == [3.0] * 4


def test_without_configurations_the_state_still_resumes(tmp_path):
    trajectory, _, history, state = block(0)
    with open_run(tmp_path, config(), provenance={}) as run:
        run.append(trajectory, None, history, state)
        run.finish()
    with h5py.File(tmp_path / "ensemble.h5") as file:
        assert sorted(file) == ["chain", "history", "trajectory"]
    with open_run(tmp_path, config(), provenance={}) as run:
        assert np.array_equal(run.state()["phi"], state["phi"])


@each(
    ("shape", "chunks"),
    [
        ((10**6,), (2**17,)),
        ((1000, 32, 32), (128, 32, 32)),
        ((3, 32, 32), (3, 32, 32)),
        ((3, 600, 64, 64), (1, 32, 64, 64)),
        ((2, 2**18), (1, 2**17)),
    ],
)
def test_chunks_are_about_one_mebibyte_of_whole_rows_where_they_fit(tmp_path, shape, chunks):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert files.create_dataset(file, "x", shape, np.float64).chunks == chunks


def test_the_manifest_keeps_config_provenance_tuning_and_hashes(finished_run):
    manifest = json.loads((finished_run / "manifest.json").read_text())
    assert manifest["format_version"] == 2
    assert manifest["config"] == config(lattice={"shape": list(SHAPE)})
    assert manifest["provenance"] == [{"first_config": 0, "made_by": {"version": "1"}}]
    assert manifest["tuned"] == {"step_size": 0.1}
    assert [s["first_config"] for s in manifest["shards"]] == [0, 2, 4]
    files.check_shards(finished_run, manifest["shards"], hashes=True)


def test_tuned_parameters_are_on_disk_before_the_first_shard(tmp_path):
    with open_run(tmp_path, config(), provenance={}) as run:
        run.record(step_size=0.25)
        run.record(n_steps=8)
    with open_run(tmp_path, config(), provenance={}) as run:
        assert run.tuned == {"step_size": 0.25, "n_steps": 8}
        assert run.n_done == 0 and run.state() is None


def test_provenance_says_who_made_what(tmp_path):
    asked = config(chain={"n_configs": 8})
    for version, n_shards in [("1", 2), ("2", 0), ("1", 1), ("3", 1)]:
        with open_run(tmp_path, asked, provenance={"version": version}) as run:
            for _ in range(n_shards):
                run.append(*block(run.n_done))
    made = files.read_manifest(tmp_path)["provenance"]
    assert [(m["first_config"], m["made_by"]["version"]) for m in made] == [(0, "1"), (6, "3")]


def test_equal_runs_are_equal_bytes_at_any_time(finished_run, tmp_path):
    written = max(p.stat().st_mtime for p in finished_run.rglob("*"))
    time.sleep(max(0, written + 1.1 - time.time()))  # HDF5 would store seconds
    generate(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished_run)
    assert "lock" not in contents(finished_run)


def test_a_longer_run_keeps_the_earlier_shards_untouched(run_copy):
    before = {path: path.stat().st_mtime_ns for path in (run_copy / "shards").iterdir()}
    generate(run_copy, config(chain={"n_configs": 10}))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with h5py.File(run_copy / "ensemble.h5") as file:
        assert file.attrs["n_configs"] == 10
        assert np.array_equal(file["cfgs"][-4:], block(8)[1].reshape(4, *SHAPE))


def test_opening_a_complete_run_writes_nothing(run_copy):
    before = (run_copy / "manifest.json").stat().st_mtime_ns
    with open_run(run_copy, config(), provenance={"version": "1"}) as run:
        assert run.n_done == 6
    assert (run_copy / "manifest.json").stat().st_mtime_ns == before


@each(
    ("sections", "match"),
    [
        ({"action": {"kappa": 0.28}}, r"action\.kappa: .* with 0\.27, asked 0\.28"),
        ({"action": {"g": 1.0}}, r"action\.g: .* with None, asked 1\.0"),
        ({"lattice": {"shape": [3, 4]}}, r"lattice\.shape: .* \[4, 3\], asked \[3, 4\]"),
        ({"output": {"dtype": "float64"}}, r"output\.dtype: .* 'float32', asked 'float64'"),
        ({"chain": {"n_configs": 4}}, r"chain\.n_configs: .* has 6, asked 4; it may only grow"),
    ],
)
def test_a_changed_config_is_refused_with_the_key_named(run_copy, sections, match):
    refused(run_copy, match, config(**sections))


def test_another_parent_is_refused(run_copy):
    refused(run_copy, "parent: .* with None, asked 'abc'", parent="abc")


def test_a_free_key_may_change_and_its_neighbours_may_not(run_copy):
    free = ["output.save_configs"]
    refused(run_copy, r"output\.dtype", config(output={"dtype": "float64"}), free=free)
    changed = config(output={"save_configs": False})
    open_run(run_copy, changed, provenance={}, free=free).__exit__(None, None, None)
    assert files.read_manifest(run_copy)["config"]["output"]["save_configs"] is False
    open_run(run_copy, config(), provenance={}, free=["output"]).__exit__(None, None, None)
    refused(run_copy, r"output\.save_configs", changed, free=["output.save", "out"])


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    refused(tmp_path, r"neither empty nor a run: found thesis\.tex, no manifest\.json")
    refused(tmp_path / "thesis.tex", "is a file")


def test_a_live_lock_is_refused_naming_the_process(tmp_path):
    with open_run(tmp_path, config(), provenance={}):
        refused(tmp_path, f"is being written by process {os.getpid()} on ")
    generate(tmp_path)


def test_a_stale_lock_is_taken_over_and_removed(tmp_path):
    (tmp_path / "lock").write_text("process 1 on elsewhere\n")
    with open_run(tmp_path, config(), provenance={}):
        assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match="do not start this run twice"):
        open_run(tmp_path, config(), provenance={}).__exit__(None, None, None)


def test_the_index_reads_as_one_file_after_the_directory_has_moved(run_copy, tmp_path):
    moved = run_copy.rename(tmp_path / "moved")
    cfgs = np.concatenate([block(first)[1] for first in (0, 2, 4)])
    with h5py.File(moved / "ensemble.h5") as file:
        assert np.array_equal(file["cfgs"], cfgs.reshape(-1, *SHAPE))
        assert file["chain"][()].tolist() == [0, 1] * 6
        assert file["trajectory"][::2].tolist() == [1, 2, 3, 4, 5, 6]
        assert np.array_equal(file["history/action"], cfgs.sum((2, 3)).ravel())
        attributes = dict(file.attrs)
    assert attributes.pop("shape").tolist() == list(SHAPE)
    assert attributes == {
        "kind": "Phi4",
        "convention": "kappa",
        "kappa": 0.27,
        "lam": 0.022,
        "dtype": "float32",
        "n_chains": N_CHAINS,
        "n_configs": 6,
        "format_version": 2,
    }


def test_a_missing_shard_reads_as_nan_in_the_index(run_copy):
    shard(run_copy, 2).unlink()
    with h5py.File(run_copy / "ensemble.h5") as file:
        lost = [False] * 4 + [True] * 4 + [False] * 4
        assert np.isnan(file["cfgs"]).all((1, 2)).tolist() == lost
        assert np.isnan(file["history/action"]).tolist() == lost
        assert (file["chain"][()] == -1).tolist() == lost


@each(
    ("change", "match"),
    [
        ({"trajectory": []}, r"trajectory \(n,\) with n >= 1, got trajectory.shape=\(0,\)"),
        ({"cfgs": np.zeros((2, 2, 3, 4), np.float32)}, r"cfgs: got .* \(2, 2, 3, 4\), .*4, 3\)"),
        ({"cfgs": np.zeros((2, 2, 4, 3))}, "cfgs: got float64 .* ask for float32"),
        ({"cfgs": None}, "got .* every shard of a run holds the same names"),
        ({"history": {"action": np.zeros(2)}}, r"history/action: got .* \(2,\), .* \(2, 2\)"),
        ({"history": {"action": np.zeros((2, 2))}}, "the shards before hold .*acceptance"),
    ],
)
def test_arrays_that_do_not_fit_the_run_are_refused(run_copy, change, match):
    given = dict(zip(("trajectory", "cfgs", "history", "state"), block(6), strict=True)) | change
    asked = config(chain={"n_configs": 8})
    with (
        open_run(run_copy, asked, provenance={}) as run,
        pytest.raises(ValueError, match=match),
    ):
        run.append(**given)
    assert not shard(run_copy, 6).exists()


def test_a_config_that_json_cannot_hold_is_refused(tmp_path):
    asked = config(action={"kappa": float("nan")})
    with pytest.raises(TypeError, match=r"config: got .*; allowed are finite numbers"):
        open_run(tmp_path / "run", asked, provenance={})
    with pytest.raises(ValueError, match=r"the config needs output\.dtype, got \['action"):
        incomplete = {key: value for key, value in config().items() if key != "output"}
        open_run(tmp_path / "run", incomplete, provenance={})
    assert not (tmp_path / "run").exists()


def test_the_time_that_a_run_took_adds_up_over_its_interruptions(tmp_path):
    for first in (0, BLOCK):
        with open_run(tmp_path, config(), provenance={}) as run:
            time.sleep(0.05)
            run.append(*block(first))
        seconds = files.read_seconds(tmp_path)
        assert 0.05 * (first // BLOCK + 1) <= seconds < 60
    (tmp_path / "cost.json").write_text('{"seconds": 12.5}')
    assert files.read_seconds(tmp_path) == 12.5, "of an earlier version, without a seal"
    (tmp_path / "cost.json").unlink()
    assert files.read_seconds(tmp_path) is None
