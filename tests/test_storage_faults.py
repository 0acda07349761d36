"""A run on disk, when the process dies or the disk fails: committed configurations stay."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from storage_runs import (
    config,
    contents,
    flip_a_byte,
    generate,
    refused,
    shard,
)

from lattice_ml.storage import files
from lattice_ml.storage.run import StorageError, open_run

CHILD = """
import sys
sys.path.insert(0, {tests!r})
import storage_runs
storage_runs.generate({directory!r}, storage_runs.config(chain={{"n_configs": 120}}))
"""


def test_sigkill_in_the_middle_loses_nothing(tmp_path):
    asked = config(chain={"n_configs": 120})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = CHILD.format(tests=str(Path(__file__).parent), directory=str(killed))
    for n_shards in (5, 20):
        process = subprocess.Popen([sys.executable, "-c", code])
        while len(list(killed.glob("shards/*.h5"))) < n_shards and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    generate(killed, asked)
    generate(whole, asked)
    assert contents(killed) == contents(whole)


def test_stray_temporary_files_are_deleted(run_copy):
    number = "0123456789abcdef"
    strays = [run_copy / f"manifest.json.{number}.tmp", run_copy / "manifest.json.tmp"]
    strays.append(run_copy / "shards" / f"c00000006-n0000.h5.{number}.tmp")
    for stray in strays:
        stray.write_text("half")
    open_run(run_copy, config(), provenance={}).__exit__(None, None, None)
    assert not any(stray.exists() for stray in strays)


def test_a_shard_without_an_entry_belongs_to_the_run(run_copy):
    manifest = files.read_manifest(run_copy)
    files.write_manifest(run_copy, manifest | {"shards": manifest["shards"][:1]})
    with open_run(run_copy, config(), provenance={"version": "1"}) as run:
        assert run.n_done == 6
    assert files.read_manifest(run_copy) == manifest


def test_a_read_only_directory_is_the_systems_error(tmp_path, monkeypatch):
    def denied(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        open_run(tmp_path, config(), provenance={})


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_missing_shard_is_named(run_copy, n_shards):
    for first in (4, 2, 0)[3 - n_shards :]:
        shard(run_copy, first).unlink()
    refused(run_copy, r"c00000000-n0000\.h5 is missing")


def test_a_truncated_shard_is_named(run_copy):
    os.truncate(shard(run_copy, 2), 1000)
    refused(run_copy, r"c00000002-n0000\.h5 is altered: it has 1000 bytes, not \d+")


def test_an_altered_shard_is_named(run_copy):
    flip_a_byte(shard(run_copy, 2))
    refused(run_copy, r"c00000002-n0000\.h5 is altered: its sha256")


def test_a_gap_before_a_shard_without_an_entry_is_refused(run_copy):
    manifest = files.read_manifest(run_copy)
    files.write_manifest(run_copy, manifest | {"shards": manifest["shards"][:1]})
    shard(run_copy, 2).unlink()
    refused(run_copy, r"c00000004-n0000\.h5 begins at configuration 4, but .* end at 2")


def test_a_copy_of_a_shard_under_the_next_name_is_refused(run_copy):
    shutil.copy(shard(run_copy, 4), run_copy / "shards" / "c00000006-n0000.h5")
    with pytest.raises(StorageError, match=r"begins with trajectory .* it is of another place"):
        generate(run_copy, config(chain={"n_configs": 12}))


def test_a_damaged_shard_without_an_entry_is_refused(run_copy):
    manifest = files.read_manifest(run_copy)
    files.write_manifest(run_copy, manifest | {"shards": manifest["shards"][:2]})
    with h5py.File(shard(run_copy, 4)) as file:
        offset = file["cfgs"].id.get_chunk_info(0).byte_offset
    flip_a_byte(shard(run_copy, 4), offset)
    refused(run_copy, r"c00000004-n0000\.h5 is damaged .*delete it to compute it anew")


def test_a_manifest_that_is_not_one_is_refused(run_copy):
    (run_copy / "manifest.json").write_text("{")
    refused(run_copy, r"manifest\.json is altered: it is not JSON")
    (run_copy / "manifest.json").write_text('{"format_version": 99}')
    refused(run_copy, "has format version 99, this reads 1 to 2")
