"""What draws samples of a model, batch by batch: one interface for all models.

The numbers of a batch depend on the key and the number of the batch alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lattice_ml.actions import Action
from lattice_ml.models.diffusion.drawing import Drawing, Drawn, draw, step_error
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.diffusion.theory import Theory
from lattice_ml.models.rbm import GaussianRBM

__all__ = ["DiffusionDrawer", "Drawer", "RBMDrawer"]

_ROOM_SITES = 1 << 22  # of an RBM's fields in one compiled call
_BATCH_SITES = 1 << 16
_SMALL_NETWORK = 1 << 15  # weights: a U-Net of six times as many is seven times as slow per site
_PRODUCTS = 1 << 8  # numbers of a matrix product that take as long as a site of a network


class Drawer(Protocol):
    """What draws samples.

    Attributes:
        shape: of one sample.
        batch_size: samples drawn together.
        most: batches drawn together, at most.
        work: of a batch, about, in sites at which a small network is evaluated; 10^7 are a second
            of a core.
        density: whether samples come with log_prob.
        weighted: whether they come with log_prob or log_weight, so that they can be made exact.
        settings: how they are drawn, for the config of an ensemble.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def work(self) -> float: ...
    @property
    def density(self) -> bool: ...
    @property
    def weighted(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...

    def draw(self, first: int, count: int) -> Drawn:
        """Draw `count` batches from number `first` on, on the host."""

    def log_prob(self, fields: np.ndarray) -> np.ndarray:
        """Log density of given fields `(n, *shape)`, where there is one: `(n,)` in float64."""


@dataclass(frozen=True)
class DiffusionDrawer:
    """Draws from a diffusion model; see `drawing`."""

    SETTINGS = ("method", "n_steps", "scheme", "schedule", "batch_size", "n_probes")

    network: Any
    theory: Theory
    drawing: Drawing
    key: jax.Array

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
    def weighted(self) -> bool:
        return self.drawing.weighted

    @property
    def settings(self) -> Mapping[str, Any]:
        return {name: getattr(self.drawing, name) for name in self.SETTINGS}

    def draw(self, first: int, count: int) -> Drawn:
        return draw(self.network, self.theory, self.drawing, self.key, first, count)

    def log_prob(self, fields: np.ndarray) -> np.ndarray:
        size = self.batch_size
        padded = np.concatenate([fields, np.repeat(fields[-1:], -len(fields) % size, axis=0)])
        batches = padded.reshape(-1, size, *self.shape)
        graph, state = nnx.split(self.network)
        found = _log_prob(state, self.theory, batches, graph=graph, flow=self.drawing.flow)
        return np.asarray(found, np.float64).ravel()[: len(fields)]

    def step_error(self, action: Action, key: jax.Array, n_samples: int) -> np.ndarray:
        """Change of log w of about `n_samples` when the steps are doubled: `(n,)`."""
        count = -(-n_samples // self.batch_size)
        return step_error(self.network, self.theory, action, self.drawing, key, count)


@partial(jax.jit, static_argnames=("graph", "flow"))
def _log_prob(
    state: Any, theory: Theory, batches: jax.Array, *, graph: Any, flow: Flow
) -> jax.Array:
    network = nnx.merge(graph, state)
    return lax.map(lambda x: flow.log_prob(network, theory, theory.modes.forward(x)), batches)


@dataclass(frozen=True)
class RBMDrawer:
    """Draws from a Gaussian RBM.

    Args:
        rbm: the model.
        shape: of a sample, with as many sites as the RBM has visible fields.
        key: of all batches.
        method: "direct" for independent samples, "gibbs" for the ends of chains.
        n_steps: of such a chain, which begins with a hidden field drawn around its mean.
        batch_size: samples drawn together.
        dtype: of the samples.
    """

    rbm: GaussianRBM
    shape: tuple[int, ...]
    key: jax.Array
    method: str = "direct"
    n_steps: int = 100
    batch_size: int = 1024
    dtype: str = "float32"

    SETTINGS = ("method", "n_steps", "batch_size")
    density = weighted = True

    @classmethod
    def choose(
        cls,
        rbm: GaussianRBM,
        shape: tuple[int, ...],
        key: jax.Array,
        *,
        batch_size: int | str = "auto",
        **settings: Any,
    ) -> "RBMDrawer":
        """Fill in what is "auto"."""
        fitting = max(1, _BATCH_SITES // rbm.n_visible)
        size = fitting if isinstance(batch_size, str) else batch_size
        return cls(rbm, shape, key, batch_size=size, **settings)

    @property
    def most(self) -> int:
        return max(1, _ROOM_SITES // (self.batch_size * self.rbm.n_visible))

    @property
    def work(self) -> float:
        fields = self.batch_size * (2 * self.n_steps if self.method == "gibbs" else 2)
        return (fields + self.rbm.n_hidden) * self.rbm.w.size / _PRODUCTS

    @property
    def settings(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in self.SETTINGS}

    def draw(self, first: int, count: int) -> Drawn:
        parts = []
        for number in range(first, first + count):
            key = jax.random.fold_in(self.key, number)
            fields = _sample(self.rbm, key, self.batch_size, self.method, self.n_steps)
            parts.append(np.asarray(fields, self.dtype).reshape(-1, *self.shape))
        drawn = np.concatenate(parts)
        return Drawn(drawn, self.log_prob(drawn), None)

    def log_prob(self, fields: np.ndarray) -> np.ndarray:
        flat = jnp.asarray(fields.reshape(len(fields), -1), self.rbm.w.dtype)
        return np.asarray(_density(self.rbm, flat), np.float64)


@partial(jax.jit, static_argnames=("n", "method"))
def _sample(
    rbm: GaussianRBM, key: jax.Array, n: int, method: str, n_steps: int | jax.Array
) -> jax.Array:
    if method == "direct":
        return rbm.sample(key, n)
    hidden, visible, steps = jax.random.split(key, 3)
    noise = jax.random.normal(hidden, (n, rbm.n_hidden), rbm.w.dtype)
    start = rbm.visible_given(visible, rbm.eta + rbm.sigma * noise)
    return rbm.gibbs(steps, start, n_steps)


_density = jax.jit(lambda rbm, fields: rbm.log_prob(fields))
