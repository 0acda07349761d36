"""A disk that is full or read-only, as a user meets it: what is said, what stays, what goes on."""

import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice_ml import cli
from lattice_ml.jobs import generate as generation
from lattice_ml.runtime.writing import TEMPORARY
from lattice_ml.storage import files
from lattice_ml.storage.ensemble import open_ensemble

CONFIG = """
[lattice]
shape = [4, 4]
[action]
kappa = 0.2
lam = 0.1
[chain]
n_chains = 3
n_thermalise = 20
n_configs = 5
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A config in a folder with an ensemble made from it, one configuration per shard."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "job.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        assert cli.main(["generate", str(folder / "job.toml"), "--out", str(folder / "run")]) == 0
    return folder


def small_blocks(patch):
    patch.setenv("JAX_COMPILATION_CACHE_DIR", "that of all tests")
    generate = functools.partial(generation.generate, block_configs=1)
    patch.setattr(generation, "generate", generate)


def failing(patch, name, nth, code):
    """The n-th write to a file of that name stops half-way, as a system's does: without a name."""
    seen = []
    for method in ("write_bytes", "write_text"):
        real = getattr(Path, method)

        def write(path, data, *args, real=real, **options):
            if re.fullmatch(re.escape(name) + r"\.[0-9a-f]{16}\.tmp", path.name):
                seen.append(path)
                if len(seen) == nth:
                    real(path, data[: len(data) // 2], *args, **options)
                    raise OSError(code, os.strerror(code))
            return real(path, data, *args, **options)

        patch.setattr(Path, method, write)


def contents(directory):
    paths = (p for p in Path(directory).rglob("*") if p.is_file() and p.name != files.COST)
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("name", "nth", "code", "kept", "on_disk"),
    [
        ("config.toml", 1, errno.ENOSPC, 0, 0),
        ("c00000000-n0000.h5", 1, errno.ENOSPC, 0, 0),
        ("c00000003-n0000.h5", 1, errno.ENOSPC, 3, 3),
        ("c00000003-n0000.h5", 1, errno.EROFS, 3, 3),
        ("manifest.json", 5, errno.EDQUOT, 2, 3),  # of the third shard, after two of the start
        ("cost.json", 2, errno.ENOSPC, 2, 2),
        ("ensemble.h5", 1, errno.EIO, 5, 5),
    ],
)
def test_generate_says_what_is_safe_and_goes_on(
    job, tmp_path, capsys, monkeypatch, name, nth, code, kept, on_disk
):
    small_blocks(monkeypatch)
    words = ["generate", str(job / "job.toml"), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        failing(patch, name, nth, code)
        capsys.readouterr()
        assert cli.main(words) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lattice-ml generate: ")
    assert f"{name}: {os.strerror(code)}: {kept} of 5 configurations per chain are safe in" in said
    full = code in (errno.ENOSPC, errno.EDQUOT)
    assert ("free or find space" if full else "mend that") in said
    assert said.endswith("and the same command goes on from there")
    assert not list(tmp_path.rglob("*" + TEMPORARY))
    shards = contents(tmp_path / "run" / files.SHARDS)
    assert len(shards) == on_disk
    assert shards.items() <= contents(job / "run" / files.SHARDS).items(), "byte for byte"
    if kept:
        opened, whole = open_ensemble(tmp_path / "run"), open_ensemble(job / "run")
        opened.verify()
        assert opened.n_configs == kept
        assert np.array_equal(opened.cfgs[:], whole.cfgs[: 3 * kept])
    assert cli.main(words) == 0
    assert contents(tmp_path / "run") == contents(job / "run")


def test_a_folder_that_cannot_be_made_is_named(job, tmp_path, capsys, monkeypatch):
    def denied(path, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert cli.main(["generate", str(job / "job.toml"), "--out", str(tmp_path / "run")]) == 3
    assert f"{tmp_path / 'run'}: Read-only file system" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("verb", ["measure", "check"])
def test_results_that_cannot_be_written_name_their_file(job, capsys, verb):
    assert cli.main([verb, str(job / "run"), "--json", "/dev/full"]) == 3
    said = capsys.readouterr().err
    assert f"lattice-ml {verb}: /dev/full: No space left on device" in said


REAL = """
import json, subprocess, sys
from pathlib import Path
from lattice_ml import cli
from lattice_ml.storage.ensemble import open_ensemble
config, disk = sys.argv[1:]
def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", disk], check=True)
mount("-o", "size=4M")
words = ["generate", config, "--out", disk + "/run", "--output.save-configs", "False",
         "--chain.n-configs", "15000"]
statuses = [cli.main(words)]
kept = open_ensemble(disk + "/run")
kept.verify()
mount("-o", "remount,size=64M,ro")
statuses.append(cli.main(words))
mount("-o", "remount,rw")
statuses.append(cli.main(words))
print(json.dumps([statuses, kept.n_configs, open_ensemble(disk + "/run").n_configs]))
"""


def test_a_real_file_system_that_is_full_then_read_only(job, tmp_path):
    """Where users may mount one: 4 MB, then read-only, then large enough."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        probe = [*alone, "mount", "-t", "tmpfs", "none", str(tmp_path)]
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mounts of one's own here")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    command = [*alone, sys.executable, "-c", REAL, str(job / "job.toml"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    statuses, kept, n_configs = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [3, 3, 0], done.stderr
    assert 0 < kept < n_configs == 15000
    full, read_only = (line for line in done.stderr.splitlines() if "lattice-ml generate:" in line)
    assert "No space left on device" in full and f"{kept} of 15000" in full
    assert "Read-only file system" in read_only
