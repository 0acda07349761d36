"""Diffusion models as a kind: denoisers beside a `Theory` of every lattice and coupling."""

from typing import ClassVar

import jax
import numpy as np
from flax import nnx

from lattice_ml.actions import Action
from lattice_ml.models.data import Data
from lattice_ml.models.diffusion import phases, report
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.diffusion.networks import initial_network
from lattice_ml.models.diffusion.sections import SamplingSection
from lattice_ml.models.diffusion.spectrum import of_diffusion
from lattice_ml.models.drawer import Drawer, check_drawing
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.model import Arrays, Model, Probing, Stage
from lattice_ml.models.theory import Theory
from lattice_ml.models.training import Task, check_weights
from lattice_ml.models.transfer import theory_at
from lattice_ml.runtime.json import JsonTable, Section

__all__ = ["MODEL", "DiffusionModel"]


class DiffusionModel(Model):
    """A denoiser, and the theories that it is told of: new couplings and lattices as well."""

    network: Denoiser
    stages: tuple[Stage[Theory], ...]

    kind: ClassVar[str] = "Diffusion"
    free_keys: ClassVar[tuple[str, ...]] = ("target", "pairs", "symmetric")
    check = staticmethod(phases.check)
    plan = staticmethod(phases.plan)
    worth = staticmethod(report.report)

    def drawer(
        self,
        shape: tuple[int, ...],
        action: Action | None,
        sampling: SamplingSection,
        key: jax.Array,
        dtype: str = "float32",
    ) -> Drawer:
        """By the probability flow or a reverse diffusion; see `drawing`."""
        check_drawing(sampling, SamplingSection, key, dtype)
        drawing, frames = Drawing.choose(self.network, shape, sampling), sampling.snapshots
        if frames and not 2 <= frames <= drawing.n_steps + 1:
            raise ValueError(
                f"sampling.snapshots must be 0, or from 2 to {drawing.n_steps + 1} with "
                f"sampling.n_steps = {drawing.n_steps}, got {frames}"
            )
        theory = theory_at(self.theories, action, shape).astype(dtype)
        return DiffusionDrawer(self.network, theory, drawing, key, frames)

    def spectrum(self, probing: Probing) -> JsonTable:
        return of_diffusion(self, probing)

    @staticmethod
    def measure(task: Task, data: Data) -> tuple[Theory, ...]:
        settings = {key: task.model[key] for key in ("pairs", "symmetric")}
        return tuple(
            measure_theory(s.ensemble.action, s.training(), **settings) for s in data.sources
        )

    @staticmethod
    def theory(shape: tuple[int, ...], arrays: Arrays) -> Theory:
        return Theory.of(shape, arrays)

    @staticmethod
    def arrays(theory: Theory) -> Arrays:
        return theory.numbers

    @staticmethod
    def build(section: Section, ndim: int, weights: Arrays) -> Denoiser:
        network = initial_network(section, ndim, 0)
        own = DiffusionModel.weights(network)
        check_weights(weights, own)
        for name, variable in _variables(network):
            variable[...] = weights[name]
        return network

    @staticmethod
    def weights(network: Denoiser) -> Arrays:
        """All variables of the network, by their path."""
        return {path: np.asarray(variable[...]) for path, variable in _variables(network)}


MODEL = DiffusionModel


def _variables(network: Denoiser) -> list[tuple[str, nnx.Variable[jax.Array]]]:
    flat = nnx.to_flat_state(nnx.state(network))
    return [(".".join(map(str, path)), variable) for path, variable in flat]
