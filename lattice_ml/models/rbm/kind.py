"""Gaussian RBMs as a kind: one distribution on one lattice, its data known by their moments."""

import math
from typing import ClassVar

import jax
import numpy as np

from lattice_ml.actions import Action
from lattice_ml.models.data import Data
from lattice_ml.models.drawer import Drawer, check_drawing
from lattice_ml.models.model import Arrays, Model, Probing, Stage, host
from lattice_ml.models.rbm import phases, report
from lattice_ml.models.rbm.drawer import RBMDrawer
from lattice_ml.models.rbm.gaussian import GaussianRBM
from lattice_ml.models.rbm.moments import Moments, measure_moments
from lattice_ml.models.rbm.sections import RBMSamplingSection
from lattice_ml.models.rbm.spectrum import of_rbm
from lattice_ml.models.training import Task
from lattice_ml.runtime.json import JsonTable, Section

__all__ = ["MODEL", "RBMModel"]


class RBMModel(Model):
    """A Gaussian RBM, and the moments of its data; its history is the spectrum of its kernel."""

    network: GaussianRBM
    stages: tuple[Stage[Moments], ...]

    kind: ClassVar[str] = "GaussianRBM"
    pooled: ClassVar[bool] = True
    free_keys: ClassVar[tuple[str, ...]] = ("train_mu", "train_eta", "initial")
    check = staticmethod(phases.check)
    plan = staticmethod(phases.plan)
    worth = staticmethod(report.report)

    def drawer(
        self,
        shape: tuple[int, ...],
        action: Action | None,
        sampling: RBMSamplingSection,
        key: jax.Array,
        dtype: str = "float32",
    ) -> Drawer:
        """Independent samples, or the ends of Gibbs chains; on its own lattice only."""
        check_drawing(sampling, RBMSamplingSection, key, dtype)
        own = self.stages[-1].shape
        if shape != own:
            raise ValueError(
                f"this RBM has one weight per site of {list(own)} and cannot sample lattice.shape "
                f"= {list(shape)}"
            )
        return RBMDrawer.choose(self.network, shape, key, sampling, dtype)

    def spectrum(self, probing: Probing) -> JsonTable:
        """The eigenvalues of the kernel, in closed form."""
        if probing.fields is not None:
            raise ValueError(
                f"{self.directory} is an RBM, whose kernel is known in closed form: it is not "
                "probed at given fields"
            )
        return of_rbm(self)

    @staticmethod
    def measure(task: Task, data: Data) -> tuple[Moments, ...]:
        """The moments of all fields to train on, averaged over symmetries where that is asked."""
        found = measure_moments(part for source in data.sources for part in source.training())
        return (found.symmetrised(data.shape) if task.training.augment else found,)

    @staticmethod
    def theory(shape: tuple[int, ...], arrays: Arrays) -> Moments:
        volume = (math.prod(shape),)
        if (found := np.shape(arrays.get("mean", 0.0))) != volume:
            raise TypeError(f"of {volume}, but of {found}")
        return Moments(**{name: host(values) for name, values in arrays.items()})

    @staticmethod
    def arrays(theory: Moments) -> Arrays:
        return vars(theory)

    @staticmethod
    def build(section: Section, ndim: int, weights: Arrays) -> GaussianRBM:
        return GaussianRBM(**{name: host(values) for name, values in weights.items()})

    @staticmethod
    def weights(network: GaussianRBM) -> Arrays:
        return {name: np.asarray(value) for name, value in vars(network).items()}


MODEL = RBMModel
