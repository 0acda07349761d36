"""Shards are what was written before a number of them is used, in every verb and once."""

import os

import h5py
import numpy as np
import pytest
from storage_runs import config, flip_a_byte, shard

import lattice_ml.jobs.spectrum
import lattice_ml.jobs.train
from lattice_ml import cli
from lattice_ml.storage import intact
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.run import open_run


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose sha256 is taken, in their order."""
    real, names = intact.sha256, []

    def sha256(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(intact, "sha256", sha256)
    return names


def aged(path):
    """As if it had been written a minute ago; returns the path."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 60 * 10**9))
    return path


def test_opening_hashes_nothing_and_reading_each_shard_once(run_copy, hashed, monkeypatch):
    monkeypatch.setattr(intact, "_RACY", -1.0)  # as if all had been written long ago
    ensemble = open_ensemble(run_copy)
    assert hashed == []
    names = [shard(run_copy, first).name for first in (0, 2, 4)]
    assert ensemble.history and hashed == names[:1], "the names come from the first"
    for _ in range(2):
        ensemble.cfgs[:]
        ensemble.series("action")
        ensemble.verify()
        open_ensemble(run_copy).series("acceptance")
    assert hashed == names
    aged(shard(run_copy, 2))
    ensemble.series("action")
    assert hashed == [*names, names[1]], "another time: it may have changed"


def test_a_file_that_changed_just_now_is_hashed_again(run_copy, hashed):
    """Its next change may leave the same time."""
    os.utime(shard(run_copy, 0))
    for _ in range(2):
        open_ensemble(run_copy).cfgs[0]
    assert hashed.count(shard(run_copy, 0).name) >= 2


@pytest.mark.parametrize("what", ["cfgs", "series", "blocks", "columns", "column"])
def test_whatever_is_read_first_finds_a_flipped_byte(run_copy, what):
    flip_a_byte(shard(run_copy, 0))
    ensemble = open_ensemble(run_copy)
    read = {
        "cfgs": lambda: ensemble.cfgs[0],
        "series": lambda: ensemble.series("action"),
        "blocks": lambda: next(ensemble.blocks()),
        "columns": lambda: ensemble.history,
        "column": lambda: ensemble.column("chain"),
    }[what]
    with pytest.raises(StorageError, match=r"c00000000-n0000\.h5 is altered: its sha256 is not"):
        read()


def test_without_verification_other_shards_and_what_hdf5_finds_are_still_checked(run_copy):
    with h5py.File(shard(run_copy, 2)) as file:
        chunk = file["history/action"].id.get_chunk_info(0).byte_offset
    flip_a_byte(shard(run_copy, 2), chunk)
    ensemble = open_ensemble(run_copy, verify=False)
    assert ensemble.cfgs[0].shape == (4, 3)
    with pytest.raises(StorageError, match=r"c00000002-n0000\.h5 is altered: HDF5 cannot read it"):
        ensemble.series("action")


def test_whatever_hdf5_makes_of_a_flipped_bit_names_the_file(run_copy):
    """Without verification flips in the metadata may be read, or be anything to HDF5."""
    path, rng = shard(run_copy, 0), np.random.default_rng(2)
    whole, outcomes = path.read_bytes(), set()
    for position in rng.integers(6000, size=60):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            ensemble = open_ensemble(run_copy, verify=False)
            ensemble.cfgs[:], ensemble.series("action"), ensemble.column("trajectory")
            outcomes.add("read")
        except StorageError as error:
            assert path.name in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


READERS = {
    "measure": ["RUN"],
    "check": ["RUN"],
    "compare": ["exact", "RUN"],
    "extrapolate": ["RUN", "RUN"],
    "export": ["RUN", "--out", "x.npy"],
    "convert": ["RUN", "--action.convention", "beta", "--out", "new"],
    "spectrum": ["RUN", "--out", "page"],
    "info": ["RUN"],
    "train": ["job.toml", "--model.kind", "GaussianRBM", "--data", "RUN", "--out", "model"],
}


@pytest.mark.parametrize("verb", READERS)
def test_every_verb_verifies_unless_told_not_to(verb, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").touch()
    asked = []

    def opened(path, *, verify=True):
        asked.append(verify)
        raise StorageError("enough is seen")

    for module in (lattice_ml.storage.ensemble, lattice_ml.jobs.spectrum, lattice_ml.jobs.train):
        monkeypatch.setattr(module, "open_ensemble", opened)
    for words in ([], ["--no-verify"]):
        assert cli.main([verb, *READERS[verb], *words]) == 2
        assert capsys.readouterr().err.endswith("enough is seen\n")
    assert asked == [True, False]


def test_a_flip_that_hdf5_does_not_see_changes_no_number_that_is_printed(run_copy, capsys):
    """The state after the last row is what nobody measures; its bits are under the seal too."""
    with h5py.File(shard(run_copy, 4)) as file:
        offset = file["state/key"].id.get_offset()
    flip_a_byte(shard(run_copy, 4), offset)
    with pytest.raises(StorageError, match="its sha256 is not"):
        open_run(run_copy, config(), provenance={})
    out = run_copy.with_suffix(".npy")
    words = ["export", str(run_copy), "--out", str(out)]
    assert cli.main(words) == 2
    assert "c00000004-n0000.h5 is altered: its sha256 is not" in capsys.readouterr().err
    assert not out.exists()
    assert (
        cli.main(
            ["export", str(run_copy), "--no-verify", "--out", str(run_copy.with_suffix(".npy"))]
        )
        == 0
    )
