"""Draws samples of a Gaussian RBM: independent ones, or the ends of chains of Gibbs steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.models.drawer import Drawer, Drawn
from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm.sections import RBMSamplingSection

__all__ = ["RBMDrawer"]

_DEFAULT = RBMSamplingSection()
_ROOM_SITES = 1 << 22  # fields in one compiled call
_BATCH_SITES = 1 << 16
_PRODUCTS = 1 << 8  # numbers of a matrix product that take as long as a site of a network


@dataclass(frozen=True)
class RBMDrawer(Drawer):
    """Draws from a Gaussian RBM.

    Args:
        rbm: the model.
        lattice: with as many sites as the RBM has visible fields.
        key: of all batches.
        method: "direct" for independent samples, "gibbs" for the ends of chains.
        n_steps: of such a chain, which begins with a hidden field drawn around its mean.
        batch_size: samples drawn together.
        dtype: of the samples.
    """

    rbm: GaussianRBM
    lattice: Lattice
    key: jax.Array
    method: str = "direct"
    n_steps: int = 100
    batch_size: int = 1024
    dtype: str = "float32"

    density = True
    unweighted = ""

    @classmethod
    def choose(
        cls,
        rbm: GaussianRBM,
        shape: tuple[int, ...],
        key: jax.Array,
        sampling: RBMSamplingSection = _DEFAULT,
        dtype: str = "float32",
    ) -> "RBMDrawer":
        """Fill in what a `[sampling]` section leaves to be chosen."""
        size, fitting = sampling.batch_size, max(1, _BATCH_SITES // rbm.n_visible)
        size = fitting if isinstance(size, str) else size
        return cls(rbm, Lattice(shape), key, sampling.method, sampling.n_steps, size, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lattice.shape

    @property
    def most(self) -> int:
        return max(1, _ROOM_SITES // (self.batch_size * self.rbm.n_visible))

    @property
    def work(self) -> float:
        n_steps = self.n_steps if self.method == "gibbs" else 1
        return (2 * n_steps * self.batch_size + self.rbm.n_hidden) * self.rbm.w.size / _PRODUCTS

    @property
    def settings(self) -> Mapping[str, int | str]:
        return {"method": self.method, "n_steps": self.n_steps, "batch_size": self.batch_size}

    def draw(self, first: int, count: int) -> Drawn[np.ndarray]:
        parts = []
        for number in range(first, first + count):
            key = jax.random.fold_in(self.key, number)
            fields = _sample(self.rbm, key, self.batch_size, self.method, self.n_steps)
            parts.append(np.asarray(fields, self.dtype).reshape(-1, *self.shape))
        drawn = np.concatenate(parts)
        return Drawn(drawn, self.log_prob(drawn), None)

    def log_prob(self, fields: np.ndarray) -> Floats:
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
