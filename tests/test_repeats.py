"""Which configurations may come back: with clusters, with replica exchange, in an import."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from checked_runs import one, phi4

import lattice_ml
from lattice_ml import HMC, Cycle, Lattice, SwendsenWang, Wolff
from lattice_ml.chains.run import Chains

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module", params=[Wolff, SwendsenWang])
def clusters(request):
    """Half of the trajectories are rejected, and the lattice has few clusters."""
    action = phi4(0.2)
    hmc = HMC(action, step_size=0.8, n_steps=4)
    cycle = Cycle((hmc, request.param(action)))
    counts = {"n_chains": 32, "n_configs": 200, "n_thermalise": 100}
    return lattice_ml.run(jax.random.key(1), cycle, Lattice((4, 2)), **counts)


def test_clusters_may_flip_back_while_trajectories_are_rejected(clusters):
    fields = clusters.cfgs.reshape(200, 32, 8)
    signed = fields * np.sign(fields[..., :1])  # one of phi and -phi
    came_back = np.all(signed[2:] == signed[:-2], axis=2) & np.any(signed[2:] != signed[1:-1], 2)
    assert came_back.sum() > 10
    found = one(clusters, "repeats")
    assert found.verdict == "pass" and "0 come back" in found.value
    histories = {"magnetisation": clusters.series("magnetisation")}
    assert one(replace(clusters, histories=histories), "repeats").verdict == "pass"


@pytest.mark.parametrize("there", [(50, 3), (50, 4)], ids=["later", "in another chain"])
def test_what_comes_back_with_other_signs_is_found(clusters, there):
    fields = clusters.cfgs.reshape(200, 32, 4, 2).copy()
    fields[150, 3] = fields[there] * np.float32([1, -1])
    assert one(replace(clusters, cfgs=fields.reshape(-1, 4, 2)), "repeats").verdict == "fail"


def test_clusters_do_not_hide_configurations_that_were_doubled(clusters):
    fields = clusters.cfgs.reshape(200, 32, 4, 2).copy()
    fields[1::2] = fields[::2] * np.float32([1, -1])
    assert one(replace(clusters, cfgs=fields.reshape(-1, 4, 2)), "repeats").verdict == "fail"


def test_an_import_with_a_few_returns_in_a_chain_is_undecided():
    """They are right for replica exchange, if they are fewer than what stays where it is."""
    cfgs = np.random.default_rng(1).standard_normal((100, 4, 2, 2))
    cfgs[1::2] = cfgs[::2]

    def judged():
        histories = {"magnetisation": cfgs.mean(axis=(2, 3)).T}
        chains = Chains(phi4(0.2), (2, 2), 1, cfgs.reshape(-1, 2, 2), histories, {})
        return one(chains, "repeats")

    assert judged().verdict == "pass"
    cfgs[50, 1] = cfgs[10, 1]
    assert judged().verdict == "undecided"
    assert judged().meaning.startswith("1 configurations come back later in their own chain")
    cfgs[70, 2] = cfgs[10, 1]
    assert judged().verdict == "fail", "in another chain"
    cfgs[70, 2] = cfgs[71, 2]
    cfgs[40:, 1] = cfgs[:60, 1]
    assert judged().verdict == "fail", "too many"
