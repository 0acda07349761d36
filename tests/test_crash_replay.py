"""A crash between any two operations of a run on its disk: what is left opens and goes on.

Every prefix of the recorded operations is laid out anew, with all that was not synchronised in
every state that POSIX allows.
"""

import re

import h5py
import numpy as np
import pytest
from disk_operations import disks, lay_out, record

from lattice_ml.jobs import config
from lattice_ml.jobs import generate as generation
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError

JOB = {
    "lattice.shape": [8, 8],
    "action.kappa": 0.27,
    "action.lam": 0.022,
    "chain.n_chains": 3,
    "chain.n_thermalise": 20,
}
FIRST, LAST = 3, 5  # configurations per chain: a run, and the same lengthened


def generate(out, n_configs, on_progress=lambda event: None):
    """A shard per configuration."""
    words = [
        word
        for key, value in {**JOB, "chain.n_configs": n_configs}.items()
        for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
    ]
    job = config.parse(words)
    return generation.generate(job, out, block_configs=1, on_progress=on_progress)


def contents(root):
    """All bytes below a folder, by path; None for a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def but_the_clock(disk):
    return {path: data for path, data in disk.items() if not path.endswith("cost.json")}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder, the ensemble in it, and [operation, configurations said to be kept by then]."""
    root, steps, kept = tmp_path_factory.mktemp("recorded"), [], 0
    with pytest.MonkeyPatch.context() as patch:
        log = record(patch, root)

        def note(event):
            nonlocal kept
            steps.extend((operation, kept) for operation in log[len(steps) :])
            kept = event.done if event.phase == "production" else 0

        for n_configs in (FIRST, LAST):
            ensemble = generate(root / "runs" / "run", n_configs, note)
            steps.extend((operation, kept) for operation in log[len(steps) :])
    return root, ensemble, steps


@pytest.fixture(scope="module")
def crashes(recorded):
    """Every disk that a crash may leave, with what was said to be kept by then; each once."""
    _, _, steps = recorded
    found, log = {}, []
    for operation, kept in steps:
        log.append(operation)
        for disk in disks(log):
            key = tuple(sorted(disk.items()))
            found[key] = max(kept, found.get(key, 0))
    return [(dict(key), kept) for key, kept in found.items()]


def test_the_record_is_complete(recorded):
    root, _, steps = recorded
    *_, last = disks([operation for operation, _ in steps])
    assert last == contents(root), "all is synchronised in the end"
    assert len({operation[0] for operation, _ in steps}) == 4, "mkdir, write, sync, rename"


def test_what_a_crash_leaves_opens_with_all_that_was_kept_and_right(recorded, crashes, tmp_path):
    _, whole, _ = recorded
    assert len(crashes) > 80
    cfgs, action = whole.cfgs[:], whole.series("action")
    for number, (disk, kept) in enumerate(crashes):
        lay_out(disk, tmp_path / str(number))
        directory = tmp_path / str(number) / "runs" / "run"
        try:
            ensemble = open_ensemble(directory)
        except StorageError as error:
            assert not kept, f"{kept} configurations were kept; {sorted(disk)}"
            assert re.search("holds no ensemble|no configurations yet", str(error))
            continue
        ensemble.verify()
        assert ensemble.n_configs >= kept
        assert np.array_equal(ensemble.cfgs[:], cfgs[: len(ensemble.cfgs)])
        assert np.array_equal(ensemble.series("action"), action[:, : ensemble.n_configs])
        if (directory / "ensemble.h5").exists():
            with h5py.File(directory / "ensemble.h5") as file:
                assert np.array_equal(file["cfgs"], cfgs[: len(file["cfgs"])])


def test_what_a_crash_leaves_goes_on_to_the_same_bytes(recorded, crashes, tmp_path):
    root, _, _ = recorded
    wanted = but_the_clock(contents(root))
    for number, (disk, _) in enumerate(crashes[:: len(crashes) // 20]):
        lay_out(disk, tmp_path / str(number))
        generate(tmp_path / str(number) / "runs" / "run", LAST)
        assert but_the_clock(contents(tmp_path / str(number))) == wanted, sorted(disk)
