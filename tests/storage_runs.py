"""A run whose numbers depend on the configuration alone, for the tests of storage."""

from pathlib import Path

import numpy as np
import pytest

from lattice_ml.storage.run import StorageError, open_run

SHAPE, N_CHAINS, BLOCK = (4, 3), 2, 2


def config(**sections):
    default = {
        "seed": 1,
        "lattice": {"shape": SHAPE},
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.27, "lam": 0.022, "g": None},
        "chain": {"n_chains": N_CHAINS, "n_configs": 6},
        "output": {"dtype": "float32", "save_configs": True},
    }
    return {k: v if k == "seed" else v | sections.get(k, {}) for k, v in default.items()}


def block(first, n=BLOCK):
    """What a sampler would make: numbers that depend on the configuration's number alone."""
    shape = (N_CHAINS, *SHAPE)
    cfgs = np.stack([np.random.default_rng(i).normal(size=shape) for i in range(first, first + n)])
    cfgs = cfgs.astype(np.float32)
    history = {"action": cfgs.sum((2, 3)), "acceptance": np.ones((n, N_CHAINS))}
    state = {"phi": cfgs[-1], "key": np.uint32(first + n)}
    return np.arange(first, first + n) + 1, cfgs, history, state


def generate(directory, asked=None, **options):
    """Begin or continue a run up to its n_configs, as the command line does."""
    asked = asked or config()
    with open_run(directory, asked, provenance={"version": "1"}, **options) as run:
        run.record(step_size=0.1)
        while run.n_done < asked["chain"]["n_configs"]:
            state = run.state()
            assert (state is None) == (run.n_done == 0)
            if state is not None:
                assert state["key"] == run.n_done
            run.append(*block(run.n_done))
        run.finish()


def contents(directory):
    """All bytes but those that say how long it took."""
    paths = [p for p in Path(directory).rglob("*") if p.is_file() and p.name != "cost.json"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def shard(directory, first):
    return directory / "shards" / f"c{first:08d}-n0000.h5"


def refused(directory, match, asked=None, **options):
    before = contents(directory) if Path(directory).is_dir() else None
    with pytest.raises(StorageError, match=match):
        open_run(directory, asked or config(), provenance={}, **options)
    if before is not None:
        assert contents(directory) == before, "a refusal leaves no trace"


def flip_a_byte(path, offset=-1):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
