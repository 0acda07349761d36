"""Multiscale flows as a kind: weights that know no volume, beside a `Theory` of every lattice."""

import re
from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.actions import Action
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.data import Data
from lattice_ml.models.drawer import Drawer, check_drawing
from lattice_ml.models.flow import phases, report
from lattice_ml.models.flow.conditioned import Flow
from lattice_ml.models.flow.drawer import FlowDrawer, batch_of, check_whole
from lattice_ml.models.flow.sections import FlowSamplingSection
from lattice_ml.models.flow.spectrum import of_flow
from lattice_ml.models.flow.tables import check_shape, coarsest, make_tables
from lattice_ml.models.flow.weights import initial_weights
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.model import Arrays, Model, Probing, Stage, host
from lattice_ml.models.theory import Theory
from lattice_ml.models.training import Task, check_weights
from lattice_ml.models.transfer import theory_at
from lattice_ml.runtime.json import JsonTable, Section

__all__ = ["MODEL", "FlowModel"]


class FlowModel(Model):
    """A multiscale flow, and the theories that it is told of: new couplings and lattices too."""

    network: Flow
    stages: tuple[Stage[Theory], ...]

    kind: ClassVar[str] = "Flow"
    free_keys: ClassVar[tuple[str, ...]] = ("degree",)
    shared: ClassVar[bool] = True
    check = staticmethod(phases.check)
    plan = staticmethod(phases.plan)
    worth = staticmethod(report.report)

    def drawer(
        self,
        shape: tuple[int, ...],
        action: Action | None,
        sampling: FlowSamplingSection,
        key: jax.Array,
        dtype: str = "float32",
    ) -> Drawer:
        """One pass from noise to fields; on a larger lattice coarse levels are those below them."""
        check_drawing(sampling, FlowSamplingSection, key, dtype)
        shape = Lattice(shape).shape
        check_shape(shape)
        tables = make_tables(theory_at(self.theories, action, shape)).astype(dtype)
        weights = self.network.at(tables)
        levels, n_levels = weights.levels, coarsest(shape)[1]
        if n_levels > len(levels) == 1 < len(shape):
            raise ValueError(
                f"this flow was trained on {list(self.stages[-1].shape)}, which has one level, and "
                f"lattice.shape = {list(shape)} has {n_levels}: train it on a larger lattice"
            )
        levels = (*levels, *levels[-1:] * (n_levels - len(levels)))[:n_levels]
        weights = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, dtype), replace(weights, levels=levels)
        )
        size = batch_of(shape) if sampling.batch_size == "auto" else sampling.batch_size
        check_whole("sampling.batch_size", size, 1)
        return FlowDrawer(weights, tables, key, size)

    def spectrum(self, probing: Probing) -> JsonTable:
        return of_flow(self, probing)

    @staticmethod
    def measure(task: Task, data: Data) -> tuple[Theory, ...]:
        return tuple(measure_theory(s.ensemble.action, s.training()) for s in data.sources)

    @staticmethod
    def theory(shape: tuple[int, ...], arrays: Arrays) -> Theory:
        return Theory.of(shape, arrays)

    @staticmethod
    def arrays(theory: Theory) -> Arrays:
        return theory.numbers

    @staticmethod
    def build(section: Section, ndim: int, weights: Arrays) -> Flow:
        numbers = [re.match(r"weights\.levels\.(\d+)\.", name) for name in weights]
        n_levels = 1 + max((int(found[1]) for found in numbers if found), default=0)
        powers, couplings = host(weights["powers"]), (weights["centre"], weights["span"])
        initial = initial_weights(np.random.default_rng(0), ndim, n_levels, phases.sizes(section))
        flow = Flow(initial, powers, *map(host, couplings)).like(initial)
        own = FlowModel.weights(flow)
        check_weights(weights, own)
        leaves = [host(weights[name]) for name in own]
        built: Flow = jax.tree.unflatten(jax.tree.structure(flow), leaves)
        return built

    @staticmethod
    def weights(network: Flow) -> Arrays:
        """All weights, by their path."""
        leaves = jax.tree_util.tree_leaves_with_path(network)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
            for path, leaf in leaves
        }


MODEL = FlowModel
