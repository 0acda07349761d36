"""Draws samples of a diffusion model; how is said in `drawing`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax import lax

from lattice_ml.actions import Action
from lattice_ml.fields.types import Floats
from lattice_ml.models.diffusion import networks
from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.diffusion.drawing import Drawing, draw, draw_film, step_error
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.diffusion.sections import SamplingSection
from lattice_ml.models.diffusion.theory import Theory
from lattice_ml.models.diffusion.transfer import theory_at
from lattice_ml.models.drawer import Drawer, Drawn, Film

__all__ = ["DiffusionDrawer"]

_SMALL_NETWORK = 1 << 15  # weights: a U-Net of six times as many is seven times as slow per site


@dataclass(frozen=True)
class DiffusionDrawer(Drawer):
    """Draws from a diffusion model.

    Args:
        network, theory: what is drawn from; the theory's dtype is that of the samples.
        drawing: how.
        key: of all batches.
        n_frames: of the film; 0 for none.
    """

    network: Denoiser
    theory: Theory
    drawing: Drawing
    key: jax.Array
    n_frames: int = 0

    @classmethod
    def choose(
        cls,
        network: Denoiser,
        theories: Sequence[Theory],
        shape: tuple[int, ...],
        action: Action | None,
        sampling: SamplingSection,
        key: jax.Array,
        dtype: str = "float32",
    ) -> "DiffusionDrawer":
        """At the lattice and the couplings that are asked for, whatever the theories are of.

        Raises:
            ValueError: no action, or settings that do not fit.
        """
        if action is None:
            raise ValueError("a diffusion model needs an action, got action.kind = none")
        drawing = Drawing.choose(
            network,
            shape,
            sampling.method,
            sampling.n_steps,
            sampling.scheme,
            sampling.batch_size,
            sampling.n_probes,
            sampling.schedule,
        )
        frames = sampling.snapshots
        if frames and not 2 <= frames <= drawing.n_steps + 1:
            raise ValueError(
                f"sampling.snapshots must be 0, or from 2 to {drawing.n_steps + 1} with "
                f"sampling.n_steps = {drawing.n_steps}, got {frames}"
            )
        theory = theory_at(theories, action, shape).astype(dtype)
        return cls(network, theory, drawing, key, frames)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.theory.modes.shape

    @property
    def batch_size(self) -> int:
        return self.drawing.batch_size

    @property
    def most(self) -> int:
        return self.drawing.room(self.theory.modes.volume)

    @property
    def work(self) -> float:
        n_weights = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.network)))
        volume, drawing = self.theory.modes.volume, self.drawing
        derivatives = drawing.n_probes or (1 if self.network.exact_trace else volume)
        sites = drawing.batch_size * volume * drawing.n_evaluations
        return sites * (derivatives if drawing.density else 1) * (1 + n_weights / _SMALL_NETWORK)

    @property
    def density(self) -> bool:
        return self.drawing.density

    @property
    def approximate(self) -> bool:
        return self.density and self.drawing.n_probes > 0

    @property
    def unweighted(self) -> str:
        if self.drawing.weighted:
            return ""
        if self.drawing.method != "ode":
            return f"samples of the method {self.drawing.method} have no density"
        kind = next(name for name, kind in networks.KINDS.items() if kind is type(self.network))
        return f"a {kind} network has no affordable density on {self.theory.modes.volume} sites"

    @property
    def settings(self) -> Mapping[str, int | str]:
        return {name: value for name, value in vars(self.drawing).items() if name != "density"}

    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        return draw(self.network, self.theory, self.drawing, self.key, first, count)

    def log_prob(self, fields: np.ndarray) -> Floats:
        size = self.batch_size
        padded = np.concatenate([fields, np.repeat(fields[-1:], -len(fields) % size, axis=0)])
        batches = padded.reshape(-1, size, *self.shape)
        graph, state = nnx.split(self.network)
        found = _log_prob(state, self.theory, batches, graph=graph, flow=self.drawing.flow)
        return np.asarray(found, np.float64).ravel()[: len(fields)]

    def step_error(self, action: Action, key: jax.Array, n_samples: int) -> Floats | None:
        if not self.density:
            return None
        count = -(-n_samples // self.batch_size)
        return step_error(self.network, self.theory, action, self.drawing, key, count)

    def film(self) -> Film | None:
        if not self.n_frames:
            return None
        return draw_film(self.network, self.theory, self.drawing, self.key, self.n_frames)


@partial(jax.jit, static_argnames=("graph", "flow"))
def _log_prob(
    state: Weights,
    theory: Theory,
    batches: jax.Array,
    *,
    graph: nnx.GraphDef[Denoiser],
    flow: Flow,
) -> jax.Array:
    network = nnx.merge(graph, state)
    return lax.map(lambda x: flow.log_prob(network, theory, theory.modes.forward(x)), batches)
