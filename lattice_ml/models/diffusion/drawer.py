"""Draws samples of a diffusion model: batches as `drawing` says, spread over the devices.

The random numbers of a batch depend on the key and the number of the batch alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from lattice_ml.actions import Action
from lattice_ml.fields.types import Floats
from lattice_ml.models.diffusion import networks
from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.drawer import Drawer, Drawn, Film
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
    def settings(self) -> Mapping[str, int | str]:
        return {name: value for name, value in vars(self.drawing).items() if name != "density"}

    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        """Spread over all devices."""
        devices, drawing = np.array(jax.devices()), self.drawing
        mesh = Mesh(devices, ("samples",))
        graph, state = nnx.split(self.network)
        room, n_steps = self.most, drawing.n_steps  # room per device: any number share a program
        if drawing.density:  # and so do any numbers of steps of a flow
            drawing = replace(drawing, n_steps=0)
        statics = {"graph": graph, "drawing": drawing, "mesh": mesh}
        parts = []
        for start in range(first, first + count, room * len(devices)):
            left = min(first + count - start, room * len(devices))
            share = -(-left // len(devices))
            numbers = np.zeros((len(devices), room), np.uint32)
            numbers[:, :share] = start + np.arange(len(devices) * share).reshape(-1, share)
            given = self.theory, self.key, numbers.ravel(), share, n_steps
            drawn = _draw(state, *given, **statics)
            parts.append(jax.tree.map(partial(_gather, room=room, share=share, n=left), drawn))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

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


def _gather(x: jax.Array, *, room: int, share: int, n: int) -> np.ndarray:
    """The first `n` batches of all devices: `(n * batch_size, ...)`."""
    by_device = np.asarray(x).reshape(-1, room, *x.shape[1:])
    batches = by_device[:, :share].reshape(-1, *x.shape[1:])[:n]
    return batches.reshape(-1, *x.shape[2:])


@partial(jax.jit, static_argnames=("graph", "drawing", "mesh"))
def _draw(
    state: Weights,
    theory: Theory,
    key: jax.Array,
    numbers: jax.Array,
    n: jax.Array,
    n_steps: jax.Array,
    *,
    graph: nnx.GraphDef[Denoiser],
    drawing: Drawing,
    mesh: Mesh,
) -> Drawn[jax.Array]:
    """The first `n` batches of every device's share of `numbers`, `(batches, batch_size, ...)`."""

    def share(
        state: Weights,
        theory: Theory,
        key: jax.Array,
        numbers: jax.Array,
        n: jax.Array,
        n_steps: jax.Array,
    ) -> Drawn[jax.Array]:
        def batch(number: jax.Array) -> Drawn[jax.Array]:
            own = jax.random.fold_in(key, number)
            return drawing.batch(nnx.merge(graph, state), theory, own, n_steps)

        one = jax.eval_shape(batch, numbers[0])
        room = jax.tree.map(lambda x: jnp.zeros((len(numbers), *x.shape), x.dtype), one)

        def fill(i: jax.Array, drawn: Drawn[jax.Array]) -> Drawn[jax.Array]:
            new = batch(numbers[i])
            return jax.tree.map(lambda whole, part: whole.at[i].set(part), drawn, new)

        return lax.fori_loop(0, n, fill, room)

    spread, whole = PartitionSpec("samples"), PartitionSpec()
    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, whole, whole, spread, whole, whole),
        out_specs=spread,
        check_vma=False,
    )(state, theory, key, numbers, n, n_steps)


@partial(jax.jit, static_argnames=("graph", "flow"))
def _log_prob(
    state: Weights, theory: Theory, batches: jax.Array, *, graph: nnx.GraphDef[Denoiser], flow: Flow
) -> jax.Array:
    network = nnx.merge(graph, state)
    return lax.map(lambda x: flow.log_prob(network, theory, theory.modes.forward(x)), batches)
