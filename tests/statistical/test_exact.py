"""Runs reproduce small lattices whose expectation values are known exactly.

What a case is and how its observables are called comes from `benchmarks/reference_table.py`,
which does the same for the large lattices.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lattice_ml import measure, run, two_point
from lattice_ml.jobs.config import parse

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "reference_table.py"
table = SimpleNamespace(**runpy.run_path(str(BENCHMARK)))
CASES = {name: case for name, case in table.load().items() if case["kind"] == "exact"}
MAX_Z = 4.5


def ensemble(case, seed, *words):
    """A run of the case with everything left to the warm-up."""
    job = parse([*table.arguments(case), *words])
    return run(
        jax.random.key(seed),
        job.sampler,
        job.lattice,
        n_chains=256,
        n_thermalise=100,
        n_configs=200 if job.lattice.volume < 100 else 50,
    )


def correlator_pulls(chains, exact):
    """(G(t) - exact) / error along a chain, t = 0 ... L/2."""
    value, error = (x[: len(exact)] for x in two_point(chains).time_slices())
    return (value - exact) / error


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_every_observable_has_its_exact_value(name, seed):
    case = CASES[name]
    chains = ensemble(case, seed)
    for row in table.compare(name, case, measure(chains)):
        assert abs(row.z) < MAX_Z, row
        if row.observable in ("phi2", "phi4", "m2"):
            assert row.error < 0.02 * row.value, row
    if "G" in case["values"]:
        exact, _ = case["values"]["G"]
        assert np.abs(correlator_pulls(chains, np.array(exact))).max() < MAX_Z


@pytest.mark.parametrize("name", list(CASES)[::4])
def test_fourier_acceleration_changes_nothing(name):
    case = CASES[name]
    found = measure(ensemble(case, 3, "--sampler.kind", "FourierHMC"))
    for row in table.compare(name, case, found):
        assert abs(row.z) < MAX_Z, row
