r"""The phi^4 Markov random field of arXiv:2102.09449: phi^4 theory as a model to be trained.

A scalar field with couplings that differ from site to site and from link to link,

    S = sum_x [ -sum_mu h_{x,mu} phi_x phi_{x+mu} + a_x phi_x^2 + b_x phi_x^4 + r_x phi_x ],

is a product of potentials of the links, and so (Hammersley and Clifford) a site depends on nothing
but its neighbours: phi^4 theory is a Markov random field, a model whose couplings can be learned.

S is linear in the couplings, hence p = exp(-S)/Z is an exponential family: `markov_fit.py` trains
it.  From the learned to a target action leads reweighting, log w = -(S_target - S).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from lattice_ml import actions, statistics
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action, Phi4
from lattice_ml.actions.action import Hop
from lattice_ml.fields.lattice import hop
from lattice_ml.fields.layout import single
from lattice_ml.fields.types import Flags, Floats
from lattice_ml.statistics.series import as_numbers

__all__ = ["COUPLINGS", "MarkovField", "kl_divergence", "log_weights"]

Couplings = Floats | jax.Array

COUPLINGS = ("h", "a", "b", "r")


@pytree
class MarkovField(Action):
    """S = sum_x [-sum_mu h_{x,mu} phi_x phi_{x+mu} + a_x phi_x^2 + b_x phi_x^4 + r_x phi_x].

    An action like any other: `HMC(MarkovField(...))` samples it.  `h[mu]` at x belongs to the link
    from x to x + mu; an extent of 2 has two links between the same pair.

    Args:
        h: `(ndim, *L)`.
        a: `(*L)`.
        b: `(*L)`, not negative.
        r: `(*L)`, the local external field.
        z2: whether S(-phi) = S(phi), that is r = 0; the sampler then flips signs.  Static.
    """

    h: Couplings
    a: Couplings
    b: Couplings
    r: Couplings
    z2: bool = static(default=False)

    @classmethod
    def homogeneous(
        cls, h: float, a: float, b: float, shape: Sequence[int], r: float = 0.0
    ) -> "MarkovField":
        """Equal couplings everywhere: `Phi4(h, a, b)` on `shape`, and r."""
        sites = tuple(shape)
        links = np.full((len(sites), *sites), float(h))
        local = {name: np.full(sites, float(c)) for name, c in (("a", a), ("b", b), ("r", r))}
        return cls(h=links, **local, z2=bool(r == 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the lattice."""
        return tuple(np.shape(self.a))

    @property
    def parts(self) -> dict[str, Couplings]:
        """The couplings by name, in the order of `COUPLINGS`."""
        return {"h": self.h, "a": self.a, "b": self.b, "r": self.r}

    def density(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """Action per site, each link shared by its two ends: an array like `phi`.

        The links differ, so the sum of neighbours `hop` is of no use; in every layout of a group
        of chains the sites come first and the chains last in memory.
        """
        x, h, a, b, r = self._lay(phi)
        site = x * (r + x * (a + b * x * x))
        return (site - 0.5 * x * _neighbours(h, x)).reshape(phi.shape)

    def force(self, phi: jax.Array, hop: Hop = hop) -> jax.Array:
        """-dS/dphi = J - 2 a phi - 4 b phi^3 - r, an array like `phi`.

        J = sum_mu [h_{x,mu} phi_{x+mu} + h_{x-mu,mu} phi_{x-mu}] is the pull of the neighbours.
        """
        x, h, a, b, r = self._lay(phi)
        return (_neighbours(h, x) - x * (2 * a + 4 * b * x * x) - r).reshape(phi.shape)

    def link_log_potentials(self, phi: jax.Array) -> jax.Array:
        """Logarithms of the potentials of the links of one configuration `(*L)`: `(ndim, *L)`.

        log psi_{x,mu} = h_{x,mu} phi_x phi_{x+mu} - [u_x(phi_x) + u_{x+mu}(phi_{x+mu})] / (2 ndim)
        with u(phi) = a phi^2 + b phi^4 + r phi: a site shares its term among its 2 ndim links.  The
        product of all psi is exp(-S), as the theorem of Hammersley and Clifford has it
        (arXiv:2102.09449).  Links are the maximal cliques, but along an extent of 3, where three
        links make one.
        """
        x = jnp.asarray(phi)
        u = x * (self.r + x * (self.a + self.b * x * x))
        ends = jnp.stack([_shift(x, mu, 1) for mu in range(x.ndim)])
        shares = jnp.stack([u + _shift(u, mu, 1) for mu in range(x.ndim)]) / (2 * x.ndim)
        return jnp.asarray(self.h) * x * ends - shares

    def conditional_log_prob(
        self, phi: jax.Array, x: tuple[int, ...], values: npt.ArrayLike
    ) -> jax.Array:
        """Log p(phi_x = value | all other sites), up to a constant: an array like `values`.

        It is J phi_x - a_x phi_x^2 - b_x phi_x^4 - r_x phi_x, J = sum of h times the neighbour over
        the 2 ndim links of x: the local Markov property.

        Args:
            phi: one configuration, `(*L)`.
            x: the site.
            values: of phi_x, any shape.
        """
        v = jnp.asarray(values)
        field = _neighbours(jnp.asarray(self.h)[..., None], jnp.asarray(phi)[..., None])[x][0]
        a, b, r = (jnp.asarray(c)[x] for c in (self.a, self.b, self.r))
        return v * (field - r - v * (a + b * v * v))

    def hot(self, normals: np.ndarray) -> np.ndarray:
        """A hot start: draws from the weight of a single site with the mean a and b."""
        return Phi4(0.0, float(np.mean(self.a)), float(np.mean(self.b))).hot(normals)

    def check(self, ndim: int) -> None:
        """Refuse couplings for which exp(-S) cannot be normalised, or may not be.

        Raises:
            ValueError: shapes do not fit, a coupling is not finite, b < 0, b = 0 without
                a > 1/2 sum |h| over the site's links, or z2 = True with r.
        """
        parts = {name: np.asarray(value) for name, value in self.parts.items()}
        shapes = {name: part.shape for name, part in parts.items()}
        sites = dict.fromkeys("abr", self.shape)
        if len(self.shape) != ndim or shapes != {"h": (ndim, *self.shape), **sites}:
            raise ValueError(
                f"a MarkovField in {ndim} dimensions needs h of shape ({ndim}, *L) and a, b and r "
                f"of shape (*L), got {shapes}"
            )
        for name, part in parts.items():
            if not np.isfinite(part).all():
                x = _first(~np.isfinite(part))
                raise ValueError(f"couplings must be finite, got {name}{list(x)} = {part[x]}")
        h, a, b, r = parts.values()
        if (b < 0).any():
            x = _first(b < 0)
            raise ValueError(
                f"the action is not bounded below: b must be >= 0, got b{list(x)} = {b[x]:.6g}"
            )
        pull = 0.5 * sum(abs(h[mu]) + np.roll(abs(h[mu]), 1, mu) for mu in range(ndim))
        if (loose := (b == 0) & (a <= pull)).any():
            x = _first(loose)
            raise ValueError(
                f"the action may not be normalisable: where b = 0, a must be greater than half the "
                f"sum of |h| over the links of the site, {pull[x]:.6g}, got a{list(x)} = {a[x]:.6g}"
            )
        if self.z2 and r.any():
            x = _first(r != 0)
            raise ValueError(f"z2 = True needs r = 0 everywhere, got r{list(x)} = {r[x]:.6g}")

    @staticmethod
    def statistics(cfgs: npt.ArrayLike) -> dict[str, Floats]:
        """Return dS/dtheta of configurations `(n, *L)`, for every coupling theta by name.

        -phi_x phi_{x+mu} for h, `(n, ndim, *L)`; phi^2, phi^4 and phi for a, b and r, `(n, *L)`.
        """
        x = np.asarray(cfgs, np.float64)
        links = np.stack([-x * np.roll(x, -1, axis) for axis in range(1, x.ndim)], axis=1)
        return {"h": links, "a": x**2, "b": x**4, "r": x}

    def _lay(self, phi: jax.Array) -> tuple[jax.Array, ...]:
        """A group's fields as `(*L, group)` and couplings that broadcast against them."""
        parts = (jnp.asarray(value, phi.dtype)[..., None] for value in self.parts.values())
        return phi.reshape(*self.shape, -1), *parts


def _neighbours(h: jax.Array, x: jax.Array) -> jax.Array:
    """J = sum_mu [h_{x,mu} phi_{x+mu} + h_{x-mu,mu} phi_{x-mu}] of fields `(*L, group)`."""
    pairs = [h[mu] * _shift(x, mu, 1) + _shift(h[mu] * x, mu, -1) for mu in range(len(h))]
    return sum(pairs[1:], pairs[0])


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """x at the site `by` further along `axis`; constant-index takes as in `lattice.hop`."""
    sites = np.arange(x.shape[axis])
    return jnp.take(x, (sites + by) % len(sites), axis=axis, mode="clip")


def _first(bad: Flags) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


# ----------------------------------------------------------------- from the learned to a target


def log_weights(field: Action, target: Action, cfgs: npt.ArrayLike) -> Floats:
    """Return log w = -(S_target - S_field) of configurations of `field`, `(n,)`.

    Weighted averages are those of `target` (arXiv:2102.09449, reweighting): `reweight`
    judges the weights, and its log Z is log(Z_target / Z_field).

    Args:
        field: the action that the configurations were drawn with.
        target: any action on the same lattice, a pytree.
        cfgs: `(n, *L)`.
    """
    fields = as_numbers("cfgs", cfgs)
    old, new = (np.asarray(_totals(action, fields), np.float64) for action in (field, target))
    return old - new


def kl_divergence(log_w: npt.ArrayLike) -> float:
    """Estimate KL(p || target) = log <w> - <log w> from independent draws of p; never negative.

    Too small where the weights have a long tail: see `statistics.pareto_k`.
    """
    logs = as_numbers("log_w", log_w).astype(np.float64)
    return statistics.log_mean(logs).value - float(np.mean(logs))


@jax.jit
def _totals(action: Action, cfgs: jax.Array) -> jax.Array:
    layout = single(cfgs.shape[1:], len(cfgs))
    return actions.total(action, jnp.moveaxis(cfgs, 0, -1), layout)
