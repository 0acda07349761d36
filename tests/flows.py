"""Flows in memory that nobody trained, for the tests of what is done with them."""

import jax
import numpy as np
from theories import two_well_fields

from lattice_ml import action
from lattice_ml.actions.conventions import section
from lattice_ml.models.flow.conditioned import conditioned
from lattice_ml.models.flow.kind import FlowModel
from lattice_ml.models.flow.sections import FlowModelSection
from lattice_ml.models.flow.tables import coarsest, make_tables
from lattice_ml.models.flow.weights import initial_weights
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.model import Stage

SMALL = FlowModelSection(
    hidden=(4,), couplings=(2,), coupling_hidden=(4,), base_couplings=2, base_hidden=4
)


def bent(weights, size, seed=0):
    """Weights with random changes, so that every map of a flow does something."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + size * random.normal(size=np.shape(leaf)), weights)


def flow_model(shape, phi4, theory=None, size=0.05):
    """A flow of one theory, by default of one that is measured on other fields than its own."""
    if theory is None:
        theory = measure_theory(phi4, [(two_well_fields(shape, magnetisation=0.5), None)])
    tables = make_tables(theory)
    ndim, n_levels = len(shape), coarsest(shape)[1]
    weights = bent(initial_weights(np.random.default_rng(1), ndim, n_levels, SMALL), size)
    return FlowModel(
        directory=None,
        manifest={},
        config={"model": {"kind": "Flow"}, "sampling": {}},
        report={},
        history={},
        seconds=None,
        hash="sha256:" + "0" * 64,
        stages=(Stage(shape, (section(phi4, ndim),), (theory,)),),
        network=conditioned(weights, [tables], 0),
    )


def kappa(value, lam, ndim=2):
    return action("kappa", ndim, kappa=value, lam=lam)
