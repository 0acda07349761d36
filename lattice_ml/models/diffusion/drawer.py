"""Draws samples of a diffusion model: batches as `drawing` says, spread over the devices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lattice_ml.actions import Action
from lattice_ml.fields.types import Floats
from lattice_ml.models.diffusion import networks
from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.drawer import Drawer, Drawn, Film
from lattice_ml.models.spread import spread
from lattice_ml.models.theory import Theory
from lattice_ml.observables import measure_configurations

__all__ = ["DiffusionDrawer"]

_ROOM_SITES = 1 << 20  # fields in one compiled call
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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.theory.modes.shape

    @property
    def batch_size(self) -> int:
        return self.drawing.batch_size

    @property
    def most(self) -> int:
        return max(1, _ROOM_SITES // (self.batch_size * self.theory.modes.volume))

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
        if self.density or self.drawing.method == "path":
            return ""
        if self.drawing.method != "ode":
            return f"samples of the method {self.drawing.method} have no density"
        kind = next(name for name, kind in networks.KINDS.items() if kind is type(self.network))
        return f"a {kind} network has no affordable density on {self.theory.modes.volume} sites"

    @property
    def no_program(self) -> str:
        if not self.density:
            return f"under the method {self.drawing.method} a field has none"
        return (
            f"of a diffusion model it costs {self.drawing.n_steps} steps of a flow, like a sample"
        )

    @property
    def settings(self) -> Mapping[str, int | str]:
        return {name: value for name, value in vars(self.drawing).items() if name != "density"}

    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        """Spread over all devices."""
        drawing, n_steps = self.drawing, self.drawing.n_steps
        if drawing.density:  # any numbers of steps of a flow share a program
            drawing = replace(drawing, n_steps=0)
        graph, state = nnx.split(self.network)
        given = state, self.theory, jnp.asarray(n_steps)
        return spread(_Batch(graph, drawing), given, self.key, first, count, self.most)

    def log_prob(self, fields: np.ndarray) -> Floats:
        size = self.batch_size
        padded = np.concatenate([fields, np.repeat(fields[-1:], -len(fields) % size, axis=0)])
        batches = padded.reshape(-1, size, *self.shape)
        graph, state = nnx.split(self.network)
        found = _log_prob(state, self.theory, batches, graph=graph, flow=self.drawing.flow)
        return np.asarray(found, np.float64).ravel()[: len(fields)]

    def step_error(self, action: Action, key: jax.Array, n_samples: int) -> Floats | None:
        """Both runs start from the same draws, so the change is that of the integrator alone."""
        if not self.density:
            return None
        logs = []
        for n_steps in (self.drawing.n_steps, 2 * self.drawing.n_steps):
            drawer = replace(self, drawing=replace(self.drawing, n_steps=n_steps), key=key)
            drawn = drawer.draw(0, -(-n_samples // self.batch_size))
            logs.append(drawn.log_weights(measure_configurations(action, drawn.fields)["action"]))
        return logs[1] - logs[0]

    def film(self) -> Film | None:
        if not self.n_frames:
            return None
        drawing, theory, n_frames = self.drawing, self.theory, self.n_frames
        graph, state = nnx.split(self.network)

        @jax.jit
        def film(state: Weights, key: jax.Array) -> jax.Array:
            first = jax.random.fold_in(key, 0)
            return drawing.film(nnx.merge(graph, state), theory, first, n_frames)

        frames = np.asarray(film(state, self.key))
        return Film(frames, drawing.noise_variances(theory, n_frames))


@dataclass(frozen=True)
class _Batch:
    """Draws a batch; static under jit."""

    graph: nnx.GraphDef[Denoiser]
    drawing: Drawing

    def __call__(
        self, given: tuple[Weights, Theory, jax.Array], key: jax.Array
    ) -> Drawn[jax.Array]:
        state, theory, n_steps = given
        return self.drawing.batch(nnx.merge(self.graph, state), theory, key, n_steps)


@partial(jax.jit, static_argnames=("graph", "flow"))
def _log_prob(
    state: Weights, theory: Theory, batches: jax.Array, *, graph: nnx.GraphDef[Denoiser], flow: Flow
) -> jax.Array:
    network = nnx.merge(graph, state)
    return lax.map(lambda x: flow.log_prob(network, theory, theory.modes.forward(x)), batches)
