"""The first two moments of data: all that the likelihood of a Gaussian model depends on."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.fields.lattice import group_means
from lattice_ml.fields.modes import Modes
from lattice_ml.models.model import host

__all__ = ["LARGEST", "Moments", "measure_moments"]

LARGEST = 4096  # sites: the second moment has the square of it


@pytree
class Moments:
    """First two moments of data; as measured, in arrays of the host.

    Args:
        mean: <phi>, `(N_v,)`.
        second: <phi phi^T>, not centred, `(N_v, N_v)`.
        n: number of fields, for weighted ones Kish's effective number.
    """

    mean: jax.Array
    second: jax.Array
    n: jax.Array

    def about(self, centre: jax.Array) -> "Moments":
        """The moments of phi - centre."""
        cross = jnp.outer(self.mean, centre)
        second = self.second - cross - cross.T + jnp.outer(centre, centre)
        return Moments(self.mean - centre, second, self.n)

    def symmetrised(self, shape: tuple[int, ...]) -> "Moments":
        """Averaged over all symmetries of a periodic lattice, and over phi -> -phi."""
        modes = Modes(shape)
        columns = np.asarray(self.second, np.float64).reshape(-1, *shape)
        rotated = np.asarray(modes.forward(jnp.asarray(columns))).reshape(modes.volume, -1)
        rotated = np.asarray(modes.forward(jnp.asarray(rotated.T.reshape(-1, *shape))))
        variances = np.diagonal(rotated.reshape(modes.volume, -1))
        orbits = modes.orbits.ravel()
        c = group_means(variances, orbits)[orbits]
        alone = np.eye(len(c)).reshape(len(c), *modes.p_hat_squared.shape)  # every mode
        basis = np.asarray(modes.inverse(jnp.asarray(alone))).reshape(len(c), -1)
        return Moments(host(np.zeros_like(self.mean)), host((basis.T * c) @ basis), self.n)


def measure_moments(blocks: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> Moments:
    """Measure moments in float64, block by block.

    Args:
        blocks: fields `(n, *L)` and their weights `(n,)`, or None for equal weights.

    Raises:
        ValueError: no fields, too many sites, or numbers that are not finite.
    """
    mean = second = np.zeros(())
    total = squares = 0.0
    for fields, weights in blocks:
        phi = fields.reshape(len(fields), -1).astype(np.float64)
        if phi.shape[1] > LARGEST:
            raise ValueError(
                f"the second moment of fields is measured on at most {LARGEST} sites, got "
                f"{phi.shape[1]}"
            )
        share = np.ones(len(phi)) if weights is None else weights
        mean = mean + share @ phi
        second = second + (phi.T * share) @ phi
        total += share.sum()
        squares += np.sum(share**2)
    if not total:
        raise ValueError("there are no fields to measure moments of")
    if not np.isfinite(second).all():
        raise ValueError("a configuration is not finite: check the ensemble")
    return Moments(*map(host, (mean / total, second / total, np.asarray(total**2 / squares))))
