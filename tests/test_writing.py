"""Files are written whole, and through nothing that somebody else has prepared."""

import fcntl
import os
import re
import stat
from pathlib import Path

import pytest
import storage_runs

from lattice_ml.runtime import writing
from lattice_ml.runtime.writing import StorageError, replacing, sweep, write_once
from lattice_ml.storage import locks, model_run
from lattice_ml.storage.run import open_run

NUMBER = "0123456789abcdef"


@pytest.fixture
def victim(tmp_path):
    """A file of somebody else."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def test_a_temporary_file_has_a_new_name_each_time_and_the_usual_permissions(tmp_path):
    seen = []
    for _ in range(2):
        with replacing(tmp_path / "file") as temporary:
            assert re.fullmatch(r"file\.[0-9a-f]{16}\.tmp", temporary.name)
            assert temporary.parent == tmp_path
            temporary.write_bytes(b"new")
            seen.append(temporary.name)
    assert seen[0] != seen[1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "mine") as temporary:
            temporary.write_bytes(b"")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o640


def test_a_prepared_temporary_name_is_never_opened(tmp_path, victim, monkeypatch):
    monkeypatch.setattr(writing.secrets, "token_hex", lambda n: NUMBER)
    (tmp_path / f"file.{NUMBER}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "file"):
        pass
    assert victim.read_text() == "precious"
    assert (tmp_path / f"file.{NUMBER}.tmp").is_symlink(), "it is not ours to remove"


def test_an_exchanged_temporary_file_is_not_renamed(tmp_path, victim):
    with pytest.raises(StorageError, match="exchanged"), replacing(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.symlink_to(victim)
    assert not (tmp_path / "file").exists() and victim.read_text() == "precious"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path, victim):
    (tmp_path / "file").symlink_to(victim)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


def test_a_file_is_not_locked_once_it_has_its_name(tmp_path, monkeypatch):
    """HDF5 would not open it."""
    seen = []

    def look(descriptor, real=os.fsync):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            with (tmp_path / "file").open() as other:
                seen.append(fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
    assert seen == [None]


def test_long_names_have_temporary_ones(tmp_path):
    path = tmp_path / ("n" * 255)
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_an_error_names_the_file_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError) as found, replacing(tmp_path / "none" / "file"):
        pass
    assert found.value.filename == str(tmp_path / "none" / "file")
    with pytest.raises(KeyError), replacing(tmp_path / "file"):
        raise KeyError
    assert not list(tmp_path.iterdir())


# What is left behind.


def test_only_plain_files_are_taken_for_what_a_dead_process_left(tmp_path, victim):
    (tmp_path / f"a.{NUMBER}.tmp").write_text("half")
    (tmp_path / "a.tmp").write_text("half")
    (tmp_path / f"b.{NUMBER}.tmp").symlink_to(victim)
    (tmp_path / f"c.{NUMBER}.tmp").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    names = [path.name for path in writing.left_behind(tmp_path)]
    assert names == [f"a.{NUMBER}.tmp", "a.tmp"]
    assert writing.left_behind(tmp_path, "b", "c", "notes") == []


def test_a_sweep_leaves_the_living_alone(tmp_path):
    strays = [tmp_path / f"file.{digit * 16}.tmp" for digit in "ab"]
    for stray in strays:
        stray.write_text("half")
    with strays[1].open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        sweep(tmp_path / "file")
        assert list(tmp_path.iterdir()) == strays[1:]
    with replacing(tmp_path / "file") as temporary:
        sweep(tmp_path / "file")
        assert list(tmp_path.iterdir()) == [temporary], "its own writer is alive"


def test_shards_behind_a_link_are_neither_written_nor_removed(run_copy, tmp_path):
    """Else those of another run would be taken for what a lost process left."""
    (run_copy / "shards").rename(tmp_path / "elsewhere")
    (run_copy / "shards").symlink_to(tmp_path / "elsewhere")
    storage_runs.refused(run_copy, "shards is a link")


def test_links_for_strays_of_a_run_stay(run_copy, victim):
    link = run_copy / "shards" / f"c00000006-n0000.h5.{NUMBER}.tmp"
    link.symlink_to(victim)
    open_run(run_copy, storage_runs.config(), provenance={}).__exit__(None, None, None)
    assert link.is_symlink() and victim.read_text() == "precious"


# Written once.


def test_what_is_written_once_may_be_there_already(tmp_path, victim):
    path = tmp_path / "file"
    for _ in range(2):
        write_once(path, lambda temporary: temporary.write_bytes(b"same"))
    assert path.read_bytes() == b"same"
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        write_once(path, lambda temporary: temporary.write_bytes(b"else"))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        write_once(tmp_path / "link", lambda temporary: temporary.write_bytes(b"same"))
    assert path.read_bytes() == b"same"
    assert {p.name for p in tmp_path.iterdir()} == {"file", "link", "victim"}


# Files that change in place.


def link(path, victim):
    path.symlink_to(victim)


def second_name(path, victim):
    os.link(victim, path)


def pipe(path, victim):
    os.mkfifo(path)


@pytest.mark.parametrize("prepare", [link, second_name, pipe])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path, victim, prepare):
    directory = tmp_path / "run"
    directory.mkdir()
    victim.write_text("process 1 on here\n")
    prepare(directory / "lock", victim)
    with pytest.raises(StorageError, match="lock is a link, has a second name"):
        open_run(directory, storage_runs.config(), provenance={})
    assert victim.read_text() == "process 1 on here\n"
    assert os.path.lexists(directory / "lock")


def test_a_link_to_nothing_makes_no_file(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "nothing")
    with pytest.raises(StorageError, match="is a link"):
        locks.take_lock(tmp_path)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("content", [b"my notes\n", b"process 1 on here\nmore", b"\xff\x00"])
def test_a_file_called_lock_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(StorageError, match="it is something else"):
        locks.take_lock(tmp_path)
    assert (tmp_path / "lock").read_bytes() == content


@pytest.mark.parametrize("content", ["", "process 123456789 on some-host.org\n"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    lock = locks.take_lock(tmp_path)
    assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    locks.release_lock(lock)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prepare", [link, second_name, pipe])
def test_metrics_are_appended_to_no_other_file(tmp_path, victim, prepare):
    prepare(tmp_path / "metrics.jsonl", victim)
    with pytest.raises(StorageError, match="is a link, has a second name or is no plain file"):
        writing.open_in_place(tmp_path / "metrics.jsonl", "a")
    assert victim.read_text() == "precious"


def test_checkpoints_behind_a_link_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="checkpoints is a link"):
        model_run.open_model_run(
            tmp_path / "model", {"seed": 1}, [], measure=list, provenance={}, parent=""
        )
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_module_opens_a_file_for_writing_by_itself():
    """All go through `writing`; what is written to is a name that it gave."""
    opening = re.compile(r"""\.write_(text|bytes)\(|\bopen\([^)]*["'][wax]b?\+?["']|np\.save\(""")
    ours = re.compile(r"temporary\.(open|write_text|write_bytes)\(|open_in_place\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(writing.__file__).parents[1].rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if opening.search(line) and not ours.search(line)
    ]
    assert sorted(found) == [
        'exchange.py: with archive.open(f"{name}.npy", "w", force_zip64=True) as file:',
        'exchange.py: with path.open("wb") as file:',  # the temporary one of `write_once`
        'mnist.py: np.save(folder / "coarse.npy", blocks.mean(axis=(2, 4)))',  # a folder of its own
        'results.py: with open(descriptor, "wb") as file:',
        "sample.py: np.save(file, film.frames[:, :n_samples])",
    ]
