"""Diffusion models as a kind: denoisers beside a `Theory` of every lattice and coupling."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

from lattice_ml.actions import Action
from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion import networks
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.measured import measure_theory
from lattice_ml.models.diffusion.sections import SamplingSection
from lattice_ml.models.diffusion.spectrum import NOISE, of_diffusion
from lattice_ml.models.diffusion.theory import Theory
from lattice_ml.models.drawer import Drawer
from lattice_ml.models.model import Arrays, Model, Probing, Stage, Table
from lattice_ml.models.training import Data, Phase, Task, Trial, WeightsError

__all__ = ["MODEL", "DiffusionModel", "initial_network"]


class DiffusionModel(Model):
    """A denoiser, and the theories that it is told of: new couplings and lattices as well."""

    network: Denoiser
    stages: tuple[Stage[Theory], ...]

    kind: ClassVar[str] = "Diffusion"
    free_keys: ClassVar[tuple[str, ...]] = ("target", "pairs", "symmetric")

    def drawer(
        self,
        shape: tuple[int, ...],
        action: Action | None,
        sampling: SamplingSection,
        key: jax.Array,
        dtype: str = "float32",
    ) -> Drawer:
        """By the probability flow or a reverse diffusion; see `drawing`."""
        chosen = shape, action, sampling, key, dtype
        return DiffusionDrawer.choose(self.network, self.theories, *chosen)

    def spectrum(self, probing: Probing) -> Table:
        """The curvature of the learned score, for the last theory of the last stage."""
        return of_diffusion(
            self,
            probing.fields,
            n_fields=probing.n_fields,
            noise=probing.noise or NOISE,
            seed=probing.seed,
        )

    @classmethod
    def theory(cls, shape: tuple[int, ...], arrays: Arrays) -> Theory:
        modes = Modes(shape)
        lattice = tuple(shape[axis] for axis in modes.order)
        found = arrays["propagator"].shape if "propagator" in arrays else ()
        if found != lattice:
            raise TypeError(f"of {lattice}, but of {found}")
        return Theory(**arrays, modes=modes)

    @classmethod
    def arrays(cls, theory: Theory) -> Arrays:
        return {name: value for name, value in vars(theory).items() if name != "modes"}

    @classmethod
    def build(cls, section: Mapping[str, Any], ndim: int, weights: Arrays) -> Denoiser:
        network = initial_network(section, ndim, 0)
        found, wanted = (
            {n: a.shape for n, a in w.items()} for w in (weights, cls.weights(network))
        )
        if found != wanted:
            raise WeightsError(f"holds weights {found}, the network of its config has {wanted}")
        for name, variable in _variables(network):
            variable[...] = weights[name]
        return network

    @classmethod
    def weights(cls, network: Denoiser) -> Arrays:
        """All variables of the network, by their path."""
        return {path: np.asarray(variable[...]) for path, variable in _variables(network)}

    @classmethod
    def check(cls, task: Task) -> None:
        raise NotImplementedError

    @classmethod
    def measure(cls, task: Task, data: Data) -> tuple[Theory, ...]:
        settings = {key: task.model[key] for key in ("pairs", "symmetric")}
        return tuple(measure_theory(s.action, s.training(), **settings) for s in data.sources)

    @classmethod
    def plan(cls, task: Task) -> Sequence[Phase[Any]]:
        raise NotImplementedError

    @classmethod
    def trials(cls, task: Task, network: Denoiser) -> Sequence[Trial]:
        raise NotImplementedError

    @classmethod
    def about(cls, task: Task, network: Denoiser, phases: Sequence[Phase[Any]]) -> Table:
        raise NotImplementedError


MODEL = DiffusionModel


def initial_network(section: Mapping[str, Any], ndim: int, seed: int) -> Denoiser:
    """The network of a `[model]` section, with initial weights drawn from `seed`."""
    kind = networks.KINDS[section["denoiser"]]
    taken = inspect.signature(kind.__init__).parameters
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in {**section, "ndim": ndim}.items()
        if key in taken
    }
    return kind(**settings, rngs=nnx.Rngs(seed))


def _variables(network: Denoiser) -> list[tuple[str, Any]]:
    flat = nnx.to_flat_state(nnx.state(network))
    return [(".".join(map(str, path)), variable) for path, variable in flat]
