"""Reading ensembles back, as arrays and histories, whole or in part."""

import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from storage_runs import N_CHAINS, SHAPE, block, config, flip_a_byte, generate, shard

from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError, open_run

N_CONFIGS = 6
FIELDS = np.concatenate([block(first)[1] for first in (0, 2, 4)])  # (n_configs, n_chains, *shape)
SAMPLES = FIELDS.reshape(-1, *SHAPE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """An ensemble in three shards, to be read or copied but not changed."""
    path = tmp_path_factory.mktemp("ensemble") / "run"
    generate(path, config(chain={"thin": 5}), parent="abc")
    return path


@pytest.fixture
def copy(directory, tmp_path):
    return Path(shutil.copytree(directory, tmp_path / "copy"))


def test_an_ensemble_knows_where_it_comes_from(directory):
    ensemble = open_ensemble(str(directory))
    assert ensemble.config["action"]["kappa"] == 0.27
    assert (ensemble.shape, ensemble.n_chains, ensemble.n_configs) == (SHAPE, N_CHAINS, N_CONFIGS)
    assert (ensemble.thin, ensemble.parent) == (5, "abc")
    assert ensemble.history == ("acceptance", "action")


def test_a_series_is_chain_by_configuration_in_float64(directory):
    series = open_ensemble(directory).series("action")
    assert np.array_equal(series, FIELDS.sum((2, 3)).T)
    assert series.dtype == np.float64 and series.flags.c_contiguous


def test_an_unknown_history_is_answered_with_the_known_ones(directory):
    with pytest.raises(StorageError, match="no history 'energy'; it has acceptance, action"):
        open_ensemble(directory).series("energy")


KEYS = {
    "int": 5,
    "numpy int": np.int64(7),
    "last": -1,
    "slice": slice(3, 9),
    "strided": slice(1, None, 3),
    "backwards": slice(None, None, -2),
    "empty": slice(4, 4),
    "beyond": slice(10, 99),
    "list": [7, 0, 7, -1],
    "uneven": [0, 1, 3],
    "no list": np.array([], dtype=int),
    "two axes of indices": np.array([[0, 11], [4, 4]]),
    "mask": np.arange(12) % 5 == 0,
    "everything": ...,
    "site": (3, 1, 2),
    "row of some": (slice(2, 8), 1),
    "column of all": (..., 2),
    "site of indexed": ([9, 2], slice(None), 0),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_indexing_reads_what_numpy_would(directory, key):
    got = open_ensemble(directory).cfgs[key]
    assert got.dtype == SAMPLES.dtype and got.shape == SAMPLES[key].shape
    assert np.array_equal(got, SAMPLES[key])


def test_configurations_are_array_like(directory):
    cfgs = open_ensemble(directory).cfgs
    assert (cfgs.shape, cfgs.ndim, len(cfgs)) == (SAMPLES.shape, 3, 12)
    assert cfgs.dtype == np.float32
    assert np.array_equal(np.asarray(cfgs), SAMPLES)
    assert np.asarray(cfgs, dtype=np.float64).dtype == np.float64
    assert np.mean(cfgs) == np.mean(SAMPLES)
    assert np.array_equal(list(cfgs), SAMPLES)
    with pytest.raises(ValueError, match="reading them makes a copy"):
        np.asarray(cfgs, copy=False)


def test_indexing_opens_only_the_shards_it_needs(copy):
    ensemble = open_ensemble(copy)
    assert ensemble.cfgs.shape == SAMPLES.shape
    shard(copy, 0).unlink()
    assert np.array_equal(ensemble.cfgs[4:], SAMPLES[4:])


@pytest.mark.parametrize("key", [12, -13, [0, 12]])
def test_an_index_out_of_range_is_refused(directory, key):
    with pytest.raises(IndexError, match="out of bounds"):
        open_ensemble(directory).cfgs[key]


def test_a_second_index_array_is_refused(directory):
    with pytest.raises(IndexError, match="only the first index may be an array"):
        open_ensemble(directory).cfgs[[0, 1], [2, 3]]


@pytest.mark.parametrize(("n", "starts"), [(0, range(12)), (5, [0, 5, 10]), (100, [0])])
def test_blocks_cover_everything_within_the_bytes(directory, n, starts):
    blocks = list(open_ensemble(directory).blocks(max_bytes=n * SAMPLES[0].nbytes))
    assert [start for start, _ in blocks] == list(starts)
    assert np.array_equal(np.concatenate([fields for _, fields in blocks]), SAMPLES)


def test_blocks_hold_one_block_in_memory(tmp_path):
    shape, asked = (
        (64, 64),
        config(lattice={"shape": (64, 64)}, chain={"n_chains": 1, "n_configs": 400}),
    )
    with open_run(tmp_path, asked, provenance={}) as run:
        for first in (0, 200):
            fields = np.zeros((200, 1, *shape), np.float32)
            run.append(np.arange(first, first + 200), fields, {}, {})
    ensemble, max_bytes = open_ensemble(tmp_path), 2**19
    tracemalloc.start()
    total = sum(len(fields) for _, fields in ensemble.blocks(max_bytes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 400
    assert peak < 4 * max_bytes < len(ensemble.cfgs) * 64 * 64 * 4 / 3


def test_weights_are_chain_by_configuration(tmp_path):
    log_prob = np.arange(4.0).reshape(2, 2)
    with open_run(tmp_path, config(), provenance={}) as run:
        run.append(*block(0), log_prob=log_prob, log_weight=-log_prob)
    ensemble = open_ensemble(tmp_path)
    assert np.array_equal(ensemble.log_prob, log_prob.T)
    assert np.array_equal(ensemble.log_weight, -log_prob.T)


def test_an_ensemble_without_weights_or_configurations_says_so(directory, tmp_path):
    assert open_ensemble(directory).log_prob is None
    assert open_ensemble(directory).log_weight is None
    trajectory, _, history, state = block(0)
    with open_run(tmp_path, config(), provenance={}) as run:
        run.append(trajectory, None, history, state)
    with pytest.raises(StorageError, match="kept no configurations"):
        _ = open_ensemble(tmp_path).cfgs
    assert open_ensemble(tmp_path).series("acceptance").shape == (N_CHAINS, 2)


def test_a_run_that_is_being_written_reads_up_to_its_last_shard(tmp_path):
    with open_run(tmp_path, config(), provenance={}) as run:
        with pytest.raises(StorageError, match="has no configurations yet"):
            open_ensemble(tmp_path)
        run.append(*block(0))
        run.finish()
        run.append(*block(2))  # ensemble.h5 is now stale
        (tmp_path / "shards" / "c00000004-n0000.h5.tmp").write_text("half")
        ensemble = open_ensemble(tmp_path)
        run.append(*block(4))
        assert ensemble.n_configs == 4
        assert np.array_equal(ensemble.cfgs, SAMPLES[:8])


def test_an_ensemble_reads_after_a_move(copy, tmp_path):
    moved = copy.rename(tmp_path / "moved")
    assert np.array_equal(open_ensemble(moved).cfgs[:], SAMPLES)


def test_missing_and_truncated_shards_are_named_at_once(copy):
    os.truncate(shard(copy, 2), 99)
    with pytest.raises(StorageError, match=r"c00000002-n0000\.h5 is altered: it has 99 bytes"):
        open_ensemble(copy)
    shard(copy, 2).unlink()
    with pytest.raises(StorageError, match=r"c00000002-n0000\.h5 is missing"):
        open_ensemble(copy)


def test_verify_finds_one_altered_byte(copy):
    open_ensemble(copy).verify()
    flip_a_byte(shard(copy, 4))
    with pytest.raises(StorageError, match=r"c00000004-n0000\.h5 is altered: its sha256"):
        open_ensemble(copy).verify()


def test_a_path_without_an_ensemble_is_refused(copy, tmp_path):
    with pytest.raises(StorageError, match=r"no manifest\.json, no such directory"):
        open_ensemble(tmp_path / "nothing")
    with pytest.raises(StorageError, match=r"no manifest\.json, it is a file"):
        open_ensemble(copy / "ensemble.h5")
    with pytest.raises(StorageError, match=r"no manifest\.json, found c0.*, c0.*, c0"):
        open_ensemble(copy / "shards")
