"""Does the memory of `measure` and `check` stay the same however large the ensemble?"""

import os
import subprocess
import sys

import numpy as np
import pytest

from lattice_ml import run
from lattice_ml.comparison import sides
from lattice_ml.storage import open_run

LATTICE = (2048, 2048)  # 16 MiB per configuration: 64 of them together would be 1 GiB
MIB = 2**20
PEAKS = """
import sys
from lattice_ml import cli

for verb in ("measure", "check"):
    cli.main([verb, sys.argv[1]])
    with open("/proc/self/status") as status:
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    print("peak", int(peak) // 1024)
"""


def ensemble(directory, n_configs):
    """One chain of Gaussian fields of a large lattice, a configuration per shard."""
    config = {
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.1, "lam": 0.022},
        "lattice": {"shape": LATTICE},
        "chain": {"n_chains": 1, "n_configs": n_configs},
        "output": {"dtype": "float32"},
    }
    random = np.random.default_rng(n_configs)
    with open_run(directory, config, provenance={}) as run:
        for i in range(n_configs):
            fields = random.standard_normal((1, 1, *LATTICE), dtype=np.float32)
            run.append([i], fields, {}, {})
        run.finish()
    return directory


def peaks(directory):
    """Largest resident memory in MiB after `measure` and after `check`, in a process of its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", PEAKS, str(directory)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return [int(x.split()[1]) for x in done.stdout.splitlines() if x.startswith("peak")]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs the peak of a process")
def test_memory_does_not_grow_with_the_ensemble(tmp_path):
    small, large = (peaks(ensemble(tmp_path / str(n), n)) for n in (5, 15))
    grown = [after - before for before, after in zip(small, large, strict=True)]
    assert len(small) == 2 and small[0] > 64, "or nothing was measured"
    assert max(grown) < 80, f"160 MiB more on disk took {grown} MiB more memory"
    assert max(large) < 1000, f"peaks of {large} MiB"


def test_a_comparison_keeps_fewer_fields_of_large_lattices(free_chains, monkeypatch):
    side = sides.gather_side(free_chains)
    assert len(side.fields.phi) == 48
    monkeypatch.setattr(sides, "_FIELD_BYTES", 20 * 16 * 4)
    fields = sides.gather_side(free_chains).fields
    assert len(fields.phi) == 20 and np.array_equal(fields.phi[-1], side.fields.phi[-1])
    monkeypatch.setattr(sides, "_FIELD_BYTES", 0)
    assert len(sides.gather_side(free_chains).fields.phi) == 16


@pytest.fixture(scope="module")
def free_chains():
    import jax

    from lattice_ml import HMC, FreeField, Lattice

    free = FreeField(mass_squared=0.5, ndim=2)
    return run(jax.random.key(1), HMC(free), Lattice((4, 4)), n_chains=4, n_configs=12)
