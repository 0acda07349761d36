"""Does anything that reads an ensemble hold it whole, for a moment?

Blocks are of 4 MiB, one ensemble is of 16 MiB and another of 112, and the kernel says what was
resident at the worst moment. The work is done once before, for what is compiled and kept. The
lattice is large, so that what is kept of every configuration is nothing beside it.
"""

import ctypes
import gc
import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from lattice_ml import (
    HMC,
    FreeField,
    Lattice,
    check,
    compare,
    convert_ensemble,
    export_array,
    import_array,
    measure,
    open_ensemble,
    run,
    two_point,
)
from lattice_ml.actions import Phi4
from lattice_ml.comparison import sides
from lattice_ml.jobs.training_data import open_data
from lattice_ml.models.measured import measure_theory
from lattice_ml.observables import measure_configurations
from lattice_ml.storage import files
from lattice_ml.storage.ensemble import EnsembleOnDisk
from lattice_ml.storage.run import open_run

MIB = 2**20
SHAPE, PER_SHARD, BLOCK = (128, 128), 64, 4 * MIB  # a shard is one block
SMALL, LARGE = 4, 28  # shards
WHOLE = LARGE * BLOCK / MIB
PEAK = Path("/proc/self/clear_refs")

pytestmark = pytest.mark.skipif(not PEAK.exists(), reason="the kernel does not tell the peak")


def peak(work, ensemble):
    """How much more memory than before was resident at the worst moment, in MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not be there to be filled again
    PEAK.write_text("5")  # forget the peak so far
    before = status("VmRSS")
    work(ensemble)
    return status("VmHWM") - before


def status(name):
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Ensembles whose shards are one file, linked: much to read, little to write."""
    return [repeated(tmp_path_factory.mktemp("runs"), n) for n in (SMALL, SMALL, LARGE)]


def repeated(directory, n_shards):
    phi = np.random.default_rng(0).normal(size=(PER_SHARD // 2, 2, *SHAPE)).astype(np.float32)
    config = {
        "lattice": {"shape": SHAPE},
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.1, "lam": 0.022},
        "chain": {"n_chains": 2, "n_configs": n_shards * len(phi)},
        "output": {"dtype": "float32", "save_configs": True},
    }
    with open_run(directory / "run", config, provenance={}) as run:
        run.append(np.arange(len(phi)), phi, {}, {})
        run.finish()
    manifest = files.read_manifest(directory / "run")
    (shard,) = manifest["shards"]
    folder = directory / "run" / "shards"
    firsts = range(0, n_shards * len(phi), len(phi))
    manifest["shards"] = [
        shard | {"file": f"c{first:08d}-n0000.h5", "first_config": first} for first in firsts
    ]
    for entry in manifest["shards"][1:]:
        os.link(folder / shard["file"], folder / entry["file"])
    files.write_manifest(directory / "run", manifest)
    return open_ensemble(directory / "run")


def train(ensemble):
    (data,) = open_data([ensemble], 0.1)
    for source in data.sources:
        measure_theory(source.ensemble.action, source.training(), pairs=8)
    pools = data.pools(1, 2 * BLOCK, batch_size=16)
    assert [pools[i].shape for i in range(5)] == [(1, pools.n_fields, *SHAPE)] * 5
    data.held_out(16)


def travel(ensemble):
    """Out and in again, and into another convention."""
    folder = ensemble.directory.parent
    for name in ("fields.npy", "all.npz", "all.h5"):
        export_array(ensemble, folder / name)
    section = {"action": ensemble.config["action"]}
    import_array(folder / "all.h5", folder / "imported", config=section, n_chains=2)
    convert_ensemble(ensemble, folder / "converted", "standard")


WORK = {
    "measure": measure,
    "check": check,
    "compare": lambda ensemble: compare(ensemble, ensemble, classifier=False),
    "spectrum": two_point,
    "train": train,
    "travel": travel,
}


def test_a_whole_ensemble_would_be_seen(ensembles):
    assert peak(lambda ensemble: ensemble.cfgs[:].sum(), ensembles[-1]) > 0.8 * WHOLE


@pytest.mark.parametrize("name", WORK)
def test_memory_does_not_grow_with_the_ensemble(ensembles, name, monkeypatch):
    monkeypatch.setattr(EnsembleOnDisk.blocks, "__defaults__", (BLOCK,))
    monkeypatch.setattr(sides, "_FIELD_BYTES", BLOCK)
    for module in ("models.data", "jobs.exchange"):
        monkeypatch.setattr(f"lattice_ml.{module}.BLOCK_BYTES", BLOCK)
    _, small, large = (peak(WORK[name], ensemble) for ensemble in ensembles)
    print(f"{name}: {small:.0f} and {large:.0f} MiB")
    assert large - small < 0.5 * WHOLE


def test_few_configurations_of_a_large_lattice_are_not_filled_up_to_many():
    """To the 64 that are measured together where a lattice is small."""
    fields = np.random.default_rng(1).normal(size=(2, 1024, 1024)).astype(np.float32)
    action = Phi4(0.2, 0.956, 0.022)
    work = partial(measure_configurations, action)
    peak(work, fields)  # what is compiled
    assert peak(work, fields) < 64 * fields[0].nbytes / MIB / 2


def test_a_comparison_keeps_fewer_fields_of_large_lattices(monkeypatch):
    free = FreeField(mass_squared=0.5, ndim=2)
    chains = run(jax.random.key(1), HMC(free), Lattice((4, 4)), n_chains=4, n_configs=12)
    every = sides.gather_side(chains).fields.phi
    assert len(every) == 48
    monkeypatch.setattr(sides, "_FIELD_BYTES", 20 * 16 * 4)
    some = sides.gather_side(chains).fields.phi
    assert len(some) == 20 and np.array_equal(some[-1], every[-1])
    monkeypatch.setattr(sides, "_FIELD_BYTES", 0)
    assert len(sides.gather_side(chains).fields.phi) == 16
