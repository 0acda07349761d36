"""Where the tests keep compiled programs: a folder per processor, of bounded size."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import compiled_programs
import jaxlib

PROGRAM = """
import jax, sys
for name, value in {
    "jax_compilation_cache_dir": sys.argv[1],
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}.items():
    jax.config.update(name, value)
print(jax.jit(lambda x: 3 * x)(jax.numpy.float32(5)))
"""


def test_the_folder_is_that_of_the_processor_jaxlib_and_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compiled_programs.folder()
    assert first.is_dir() and first.parent == tmp_path / "lattice_ml" / "tests"
    assert compiled_programs.folder() == first

    def other(change):
        with monkeypatch.context() as patch:
            change(patch)
            return compiled_programs.folder()

    found = {
        first,
        other(lambda patch: patch.setattr(compiled_programs, "processor", lambda: "another")),
        other(lambda patch: patch.setattr(jaxlib, "__version__", "0.0.0")),
        other(lambda patch: patch.setenv("XLA_FLAGS", "--another=1")),
        other(lambda patch: patch.setattr(platform, "machine", lambda: "another")),
    }
    assert len(found) == 5


def test_the_processor_is_known_by_its_instructions():
    found = compiled_programs.processor()
    assert found
    if Path("/proc/cpuinfo").exists():
        assert any(line.startswith(("flags", "Features")) for line in found.splitlines())
        assert "MHz" not in found, "which changes from moment to moment"


def test_without_a_folder_to_write_to_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for above in ("/proc/nowhere", str(tmp_path / "file")):
        monkeypatch.setenv("XDG_CACHE_HOME", above)
        assert compiled_programs.folder() is None


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    (tmp_path / "of another processor").mkdir()
    old = ["old-cache", "of another processor/oldest-cache"]
    for age, name in enumerate(["new-cache", "newer", *old]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    compiled_programs.prune(tmp_path, 300)
    assert {path.name for path in tmp_path.rglob("*-cache")} == {
        *("new-cache", "old-cache", "oldest-cache")
    }
    compiled_programs.prune(tmp_path, 250)
    assert not (tmp_path / "of another processor" / "oldest-cache").exists()
    compiled_programs.prune(tmp_path, 199)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"new-cache", "newer"}, "and no other file"


def test_an_entry_that_is_half_written_is_compiled_instead(tmp_path):
    """As a process finds it that reads while another writes, or after one that was killed."""
    words = [sys.executable, "-W", "ignore:Error reading persistent", "-c", PROGRAM, str(tmp_path)]
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout == "15.0\n"
        entries = list(tmp_path.glob("*-cache"))
        assert entries
        for path in entries:
            path.write_bytes(path.read_bytes()[:-20])
