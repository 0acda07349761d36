r"""What an action is: S of one configuration, weight exp(-S), and what else may be known of it.

A subclass of `Action`, made a pytree by `@pytree`, gives one of

* `__call__(phi)`: the total action of one configuration `(*L)`; that is enough for every sampler,
  by automatic differentiation, configuration by configuration;
* `density(phi, hop)`: a local density that sums to S; energies are then accurate in float32
  (differences per site before the sum), and one derivative serves all chains.

All other members have defaults that are right for any action.  `force`, `total` and `difference`
evaluate an action for a group of chains, however these lie in memory.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.fields.lattice import as_field, hop
from lattice_ml.fields.layout import Layout, widest

__all__ = [*("Action", "Hop", "as_action", "check_dimension", "difference"), *("force", "total")]

Hop = Callable[[jax.Array], jax.Array]  # the sum of the nearest neighbours of every site


class Action:
    """The base of all actions; see the module for what a subclass must give.

    Attributes:
        ndim: dimension of the lattices that it is made for; None: of any.
        reach: how many sites away from its own the force looks, 0 if that is not known; a lattice
            that is split over devices exchanges rows once for many steps where it is.
        z2: whether S(-phi) = S(phi).
    """

    ndim: int | None = None
    reach: int = 0
    z2: bool = False

    @property
    def barrier(self) -> float:
        """Height of S between two wells of a single site; 0 where there is one."""
        return 0.0

    @property
    def has_density(self) -> bool:
        """Whether it is known site by site."""
        return type(self).density is not Action.density

    def __call__(self, phi: jax.Array) -> jax.Array:
        """S of one configuration `(*L)`, the sum of its density, in float64 where x64 is on."""
        phi = as_field(jnp.asarray(phi))
        check_dimension(self, phi.ndim)
        return jnp.sum(self.density(jnp.asarray(phi, widest(phi.dtype)), hop))

    def density(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """Action per site, each link shared by its two ends: an array like `phi`.

        Args:
            phi: fields of one configuration or of a group of chains: pointwise apart from `hop`.
            hop: gives the sum of the nearest neighbours, an array like its argument.
        """
        raise NotImplementedError(
            f"an action has __call__(phi) or density(phi, hop); {type(self).__name__} has neither"
        )

    def force(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """-dS/dphi, an array like `phi`, by differentiation; by hand it is about twice as fast.

        Args:
            phi, hop: as for `density`; without a density `phi` is one configuration `(*L)`.
        """
        if self.has_density:
            return -jax.grad(lambda x: jnp.sum(self.density(x, hop)))(phi)
        return -jax.grad(lambda x: jnp.sum(self(x)))(phi)

    def of_means(self, phi2: jax.Array, phi4: jax.Array, link_sum: jax.Array) -> jax.Array | None:
        """S/V from means over the sites, links counted once; None where it is not linear in them.

        They are measured anyway, and what is linear in them need not be summed again.
        """
        return None

    def hot(self, normals: np.ndarray) -> np.ndarray:
        """The fields of a hot start from as many standard normals, site by site."""
        return normals * self.site_width()

    def site_width(self) -> float:
        """Root mean square of a hot start."""
        return 1.0

    def minimum(self, ndim: int) -> float:
        """The uniform field phi >= 0 of a cold start in `ndim` dimensions."""
        return 0.0

    def check(self, ndim: int) -> None:
        """Refuse what cannot be sampled in `ndim` dimensions.

        Raises:
            ValueError: here, that it is made for another dimension.
        """
        check_dimension(self, ndim)

    @classmethod
    def from_config(cls, values: Mapping[str, float], ndim: int) -> Self:
        """The action that the keys of an `[action]` section, its fields, describe.

        Raises:
            ValueError: it cannot be sampled in `ndim` dimensions.
        """
        own = {"ndim": ndim} if "ndim" in inspect.signature(cls).parameters else {}
        built = cls(**values, **own)
        built.check(ndim)
        return built


_MAY_HAVE = {name for name in vars(Action) if name[0] != "_"} - {"has_density", "from_config"}


def as_action(given: object) -> Action:
    """Anything that can be called with a configuration as an `Action`: what it has, else defaults.

    Actions of users need not derive from `Action`; this is the only place that looks at what an
    object happens to have.  Its members are looked up when they are used, because a barrier cannot
    be known of couplings that are traced.
    """
    if isinstance(given, Action):
        return given
    own: dict[str, object] = {
        name: property(partial(_member, name, given)) for name in _MAY_HAVE & set(dir(given))
    }
    if callable(given):
        own["__call__"] = staticmethod(given)
    adapted: Action = type(type(given).__name__, (Action,), own)()
    return adapted


def _member(name: str, given: object, adapted: Action) -> object:
    return getattr(given, name)


def check_dimension(action: Action, ndim: int) -> None:
    """Refuse an action that was made for lattices of another dimension.

    Raises:
        ValueError: naming both.
    """
    if action.ndim not in (None, ndim):
        raise ValueError(
            f"a {type(action).__name__} with ndim = {action.ndim} cannot live in {ndim} "
            f"dimensions: its couplings mean another theory there"
        )


def force(action: Action, phi: jax.Array, layout: Layout) -> jax.Array:
    """-dS/dphi of a group of chains, an array like `phi`: by hand, or by differentiation."""
    action = as_action(action)
    if action.has_density or type(action).force is not Action.force:
        return action.force(phi, layout.hop)
    return layout.map_chains(action.force, phi)


def total(action: Action, phi: jax.Array, layout: Layout) -> jax.Array:
    """S of every chain of a group, `(group,)`, summed accurately."""
    action = as_action(action)
    if action.has_density:
        return layout.site_sum(action.density(phi, layout.hop))
    phi = as_field(phi)
    wide = phi.astype(widest(phi.dtype))
    return layout.map_chains(lambda x: jnp.sum(action(x)), wide)


def difference(action: Action, new: jax.Array, old: jax.Array, layout: Layout) -> jax.Array:
    """Action per site `new` minus `old`, a field to be summed; see `layout.site_sum`.

    Without a density the total is put on the first site of each chain: float64 where x64 is on,
    and without it only as accurate as the difference of two float32 sums.
    """
    action = as_action(action)
    if action.has_density:
        return action.density(new, layout.hop) - action.density(old, layout.hop)
    change = total(action, new, layout) - total(action, old, layout)
    sites = jnp.zeros((layout.volume, layout.group), change.dtype).at[0].set(change)
    return sites.reshape(layout.field_shape)
