"""Limits of memory: what is said before a library would abort, and after it was refused."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lattice_ml import cli
from lattice_ml.jobs import generate
from lattice_ml.runtime import memory

CONFIG = """
[lattice]
shape = [4, 4]
[action]
kappa = 0.2
lam = 0.1
"""


@pytest.fixture
def job(tmp_path):
    """The words of a run whose output would go to tmp_path/run."""
    (tmp_path / "job.toml").write_text(CONFIG)
    return ["generate", str(tmp_path / "job.toml"), "--out", str(tmp_path / "run")]


def limited(megabytes, *words):
    """A process of its own with so much address space; JAX, which may run here, must not fork."""
    limit = f'ulimit -v {megabytes * 10**6 // 1024}; exec "$@"'
    command = ["bash", "-c", limit, "bash", sys.executable, "-m", "lattice_ml", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def memory_group(root, limit):
    """A system whose control group of version 2 has a limit."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/a/b\n")
    (root / "proc/self/statm").write_text("3000 2000 1 1 0 1000 0\n")
    folder = root / "sys/fs/cgroup/a"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    return root


# What is known before.


def test_too_little_to_start_is_one_sentence_before_anything_is_imported():
    done = limited(300, "info", "nothing")
    assert done.returncode == 3
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert "lattice-ml info: JAX and its compiler need about" in said
    assert "of address space on" in said
    assert "(ulimit -v) is 300 MB; raise that limit" in said


def test_a_small_run_fits_one_gigabyte_of_address_space_or_says_what_it_needs(job):
    done = limited(1000, *job, "--chain.n-chains", "2", "--chain.n-configs", "3")
    assert done.returncode == 0 or (
        done.returncode == 3 and "of address space on" in done.stderr  # many cores
    )
    assert "Traceback" not in done.stderr


def test_a_limit_of_the_control_group_is_seen(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax")
    root = memory_group(tmp_path, 10**8)
    with pytest.raises(memory.OutOfMemory, match=r"of memory on .*control group is 100 MB; raise"):
        memory.prepare(root)
    used = 2000 * resource.getpagesize()
    assert memory.room(root)[1:3] == (10**8, 10**8 - used)
    assert memory.most(root) == 10**8
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("max\n")
    memory.prepare(root)
    assert memory.room(root).name == "this machine's memory"


def test_more_than_there_is_says_how_much_and_what_helps():
    memory.require(1e6, "a million", "fewer")
    with pytest.raises(memory.OutOfMemory, match=r"all need about 1e\+06 TB of memory, MORE THAN"):
        memory.require(1e18, "all", "fewer take less")


@pytest.mark.parametrize(("n", "words"), [(12, "12 bytes"), (3.84e9, "3.84 GB"), (5e5, "500 kB")])
def test_bytes_are_said_as_a_person_does(n, words):
    assert memory.in_words(n) == words


def test_a_job_of_more_memory_than_there_is_is_refused_at_once(job, capsys, monkeypatch):
    monkeypatch.setattr(memory, "room", lambda root: memory.Room("memory", 10**9, 10**9, "this"))
    assert cli.main([*job, "--chain.n-chains", "60000000"]) == 3
    said = capsys.readouterr().err
    assert "60,000,000 chains of 4 x 4 need about" in said
    assert "MORE THAN the 1 GB there (this: 1 GB); fewer chains" in said
    assert not Path(job[-1]).exists()


# What is known afterwards.


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 3.81 GiB for an array"), "Unable to allocate 3.81 GiB"),
        (MemoryError(), "an array was refused"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes."), "allocating 7 by"),
        (OSError(12, os.strerror(12)), "Cannot allocate memory"),
        (OSError("Can't read data (memory allocation failed for raw data)"), "memory allocation"),
        (RuntimeError("can't start new thread"), "thread"),
    ],
)
def test_a_refused_allocation_says_what_was_needed_and_what_helps(
    job, capsys, monkeypatch, error, said
):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(generate, "generate", refuse)
    assert cli.main(job) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lattice-ml generate: out of memory (")
    assert said in line
    assert "fewer chains, a smaller lattice or --output.dtype float32 take less; what was" in line


ABORTING = """
import ctypes, sys
from lattice_ml import cli, commands
commands.run = lambda verb, rest: ctypes.CDLL(None).abort()
sys.argv[1:] = ["measure", "nothing"]
sys.exit(cli.main())
"""


def test_a_library_that_aborts_leaves_a_sentence_and_a_status_too():
    done = subprocess.run([sys.executable, "-c", ABORTING], capture_output=True, text=True)
    assert done.returncode == 3
    assert "lattice-ml measure: a library ended the process, most likely because" in done.stderr
    assert "the same command goes on from there" in done.stderr


FULL = """
import io, resource, sys
import numpy as np
from lattice_ml.storage import files
rows = {"chain": np.zeros(1, int), "cfgs": np.zeros((1, 10**8), np.float32)}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, resource.RLIM_INFINITY))
try:
    files.shard_image(rows, {})
except MemoryError:
    sys.exit(7)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="not Linux")
def test_a_shard_that_does_not_fit_is_pythons_error_and_not_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")
