r"""Embedded cluster updates of fields with the symmetry phi -> -phi: signs of whole regions change.

With the |phi_x| held fixed, exp(-S) of S = -h sum phi_x phi_{x+mu} + (even in every phi_x) is an
Ising model of the signs with couplings h |phi_x phi_{x+mu}| (R. C. Brower and P. Tamayo, Phys. Rev.
Lett. 62 (1989) 1087).  Each link is a bond with probability 1 - exp(-2 h phi_x phi_{x+mu}), never
where that is negative.  Then

* `Wolff` changes the sign of the cluster that bonds connect with a random site (U. Wolff, Phys.
  Rev. Lett. 62 (1989) 361); detailed balance holds whatever the distribution of that site.
* `SwendsenWang` changes the sign of every cluster with probability 1/2 (R. H. Swendsen and
  J.-S. Wang, Phys. Rev. Lett. 58 (1987) 86).

Both leave exp(-S) invariant and every |phi_x| as it is: they are no samplers by themselves but
parts of a `Cycle` with one that moves |phi|.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml._pytree import pytree
from lattice_ml.actions import Quartic, quartic
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.randomness import Keys
from lattice_ml.samplers.components import Grid, flood, smallest_labels
from lattice_ml.samplers.sampler import FieldState, Sampler

__all__ = ["SwendsenWang", "Wolff"]


class WolffInfo(NamedTuple):
    """What one update reports per chain."""

    cluster_size: jax.Array  # share of the sites that a flip moved


class SwendsenWangInfo(NamedTuple):
    """What one update reports per chain."""

    clusters: jax.Array  # their number, divided by that of the sites


@pytree
class _Clusters(Sampler):
    """What the cluster updates share: everything but the update itself.

    Args:
        action: of nearest neighbours, symmetric under phi -> -phi: `Phi4` or `FreeField`.
        n_updates: one after another, at least one; what is reported is their mean.
    """

    action: Quartic
    n_updates: int = 1

    info: ClassVar[type[WolffInfo] | type[SwendsenWangInfo]]
    crosses: ClassVar[bool] = True  # from well to well

    @abstractmethod
    def flip(self, layout: Layout, keys: Keys, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One cluster update of a group of chains: new fields, and what is reported per chain."""

    def draw(self, keys: Keys, trajectory: jax.Array) -> tuple[()]:
        return ()  # all random numbers are those of single updates

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: tuple[()], state: FieldState
    ) -> tuple[FieldState, WolffInfo | SwendsenWangInfo]:
        """`n_updates` of a group of chains."""

        def one(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            phi, total = carry
            phi, number = self.flip(layout, randomness.step_keys(keys, trajectory, j), phi)
            return phi, total + number

        start = (state.phi, jnp.zeros(layout.group, widest(jnp.float32)))
        phi, total = lax.fori_loop(0, self.n_updates, one, start)
        return FieldState(phi), self.info(total / self.n_updates)

    @property
    def forces(self) -> int:
        """Force evaluations that take about as long."""
        return 8 * int(self.n_updates)

    @property
    def incomplete(self) -> str:
        kind = type(self).__name__
        return (
            f"{kind} leaves every |phi| as it is and does not sample by itself: use it in a cycle, "
            f"sampler.kind = HMC+{kind}"
        )

    def check(self) -> None:
        kind = type(self).__name__
        if self.n_updates < 1 or self.n_updates != int(self.n_updates):
            raise ValueError(
                f"sampler.n_updates of {kind} must be a whole number of at least 1, got "
                f"{self.n_updates}"
            )
        if not (isinstance(self.action, Quartic) and self.action.z2):
            raise ValueError(
                f"{kind} needs a nearest-neighbour action with the symmetry phi -> -phi, Phi4 or "
                f"FreeField; got {type(self.action).__name__}"
            )

    def _bonds(self, grid: Grid, x: jax.Array, uniforms: Iterable[jax.Array]) -> list[jax.Array]:
        """Per axis, whether the link from a site to its next one is a bond, `grid.shape`."""
        return [
            u.reshape(grid.shape) > self._agreement(x, grid.shift(x, 1, axis))
            for axis, u in enumerate(uniforms)
        ]

    def _agreement(self, x: jax.Array, neighbour: jax.Array) -> jax.Array:
        """Probability that the link between two sites is no bond; 1 and more: never one."""
        h = jnp.asarray(quartic(self.action, "clusters are").couplings()[0], x.dtype)
        return jnp.exp(-2 * h * x * neighbour)


@pytree
class Wolff(_Clusters):
    """The sign of one cluster changes; small on average only where nothing is correlated."""

    info: ClassVar[type[WolffInfo]] = WolffInfo

    def flip(self, layout: Layout, keys: Keys, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Flip one cluster in every chain of a group: new fields, and its share of the sites."""
        grid = Grid(layout)
        x = phi.reshape(grid.shape)
        ndim = len(layout.shape)
        uniforms = randomness.site_uniforms(keys, jnp.uint32(0), layout.volume, ndim)
        bonds = [grid.pack(bond) for bond in self._bonds(grid, x, uniforms)]
        seed = grid.seed(randomness.uniforms(keys, jnp.uint32(0), ndim))
        cluster = grid.unpack(flood(grid, seed, bonds))
        sites = layout.site_sum(cluster.reshape(layout.field_shape).astype(phi.dtype))
        return jnp.where(cluster, -x, x).reshape(phi.shape), sites / layout.volume


@pytree
class SwendsenWang(_Clusters):
    """The sign of every cluster changes with probability 1/2."""

    info: ClassVar[type[SwendsenWangInfo]] = SwendsenWangInfo

    def flip(self, layout: Layout, keys: Keys, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Flip half of the clusters: new fields, and the number of clusters per site."""
        grid, shape = Grid(layout), (*layout.shape, layout.group)
        x = phi.reshape(grid.shape)
        ndim = len(layout.shape)
        *uniforms, coins = randomness.site_uniforms(keys, jnp.uint32(0), layout.volume, ndim + 1)
        bonds = [bond.reshape(shape) for bond in self._bonds(grid, x, uniforms)]
        dtype = np.int16 if 2 * layout.volume < 2**15 else np.int32
        site = np.arange(layout.volume, dtype=dtype).reshape(*layout.shape, 1)
        # A label carries the coin of the site that it names.
        label = smallest_labels(layout, 2 * site + (coins.reshape(shape) < 0.5), bonds)
        roots = layout.site_sum((label // 2 == site).reshape(phi.shape).astype(phi.dtype))
        flips = (label % 2 == 1).reshape(phi.shape)
        return jnp.where(flips, -phi, phi), roots / layout.volume
