r"""Observables: primaries of one configuration, and quantities derived from their means.

To add one, write it here: a function of `Fields` entered in `PRIMARIES` is measured on the fly and
stored in every ensemble; a function of means entered in `DERIVED` is reported by `measure` with
an error from the Gamma method.  Conventions: M = (1/V) sum phi, G(p) = <|phi(p)|^2>/V.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml import actions
from lattice_ml.lattice import Lattice
from lattice_ml.layout import Layout, single

__all__ = [
    *("DERIVED", "PRIMARIES", "Derived", "Fields"),
    *("known_primaries", "measure_configurations", "primaries"),
]


@dataclass(frozen=True)
class Fields:
    """A group of configurations and what observables ask of it."""

    phi: jax.Array
    action: Any
    layout: Layout

    def mean(self, per_site: jax.Array) -> jax.Array:
        """Average over sites, `(group,)`."""
        return self.layout.site_sum(per_site) / self.layout.volume

    @cached_property
    def hop(self) -> jax.Array:
        return self.layout.hop(self.phi)

    def mode(self, axis: int) -> jax.Array:
        """|phi(p)|^2 / V at the smallest momentum along `axis`, `(group,)`."""
        extent, sites = self.layout.shape[axis], self.layout.volume
        angle = 2 * np.pi * np.arange(extent) / extent
        shape = [1] * (len(self.layout.shape) + 1)
        shape[axis] = extent
        phi = self.phi.reshape(*self.layout.shape, self.layout.group)
        parts = (
            self.layout.site_sum(phi * wave.astype(phi.dtype).reshape(shape))
            for wave in (np.cos(angle), np.sin(angle))
        )
        cosine, sine = parts
        return (cosine**2 + sine**2) / sites


def two_point_min(fields: Fields) -> jax.Array:
    """|phi(p_min)|^2 / V averaged over the longest axes."""
    axes = Lattice(fields.layout.shape).longest_axes
    return jnp.mean(jnp.stack([fields.mode(axis) for axis in axes]), axis=0)


def schwinger_dyson(fields: Fields) -> jax.Array:
    """(1/V) sum_x phi_x dS/dphi_x; its mean is exactly 1 for every action."""
    force = actions.force(fields.action, fields.phi, fields.layout)
    return fields.mean(-fields.phi * force)


PRIMARIES: dict[str, Callable[[Fields], jax.Array]] = {
    "action": lambda f: actions.total(f.action, f.phi, f.layout),
    "magnetisation": lambda f: f.mean(f.phi),
    "phi2": lambda f: f.mean(f.phi**2),
    "phi4": lambda f: f.mean(f.phi**4),
    "link_sum": lambda f: f.mean(f.phi * f.hop) / 2,
    "two_point_min": two_point_min,
    "schwinger_dyson": schwinger_dyson,
}


_OF_THE_ACTION = ("action", "schwinger_dyson")


def known_primaries(action: Any | None) -> tuple[str, ...]:
    """Names of the primaries that can be measured; without an action some cannot."""
    return tuple(name for name in PRIMARIES if action is not None or name not in _OF_THE_ACTION)


def primaries(action: Any | None, phi: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """All primaries of a group of configurations: name to `(group,)`."""
    fields = Fields(phi, action, layout)
    return {name: PRIMARIES[name](fields) for name in known_primaries(action)}


@dataclass(frozen=True)
class Derived:
    """A number computed from means: `function(lattice, *means)` of quantities per configuration.

    Attributes:
        of: maps the stored series (by name) to the arrays whose means are taken.
        function: of the lattice and those means; the mean itself by default.
    """

    of: tuple[Callable[[Mapping[str, np.ndarray]], np.ndarray], ...]
    function: Callable[..., Any] = lambda lattice, mean: mean


def _stored(name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda series: series[name]


def _moment(power: int) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda series: series["magnetisation"] ** power


def _absolute(series: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.abs(series["magnetisation"])


def _second_moment_length(lattice: Lattice, chi: Any, two_point: Any) -> Any:
    """sqrt(chi / G(p_min) - 1) / (2 sin(pi / L)); nan where chi < G(p_min)."""
    ratio = chi / two_point - 1
    return jnp.sqrt(ratio) / (2 * np.sin(np.pi / max(lattice.shape)))


DERIVED: dict[str, Derived] = {
    "magnetisation": Derived((_stored("magnetisation"),)),
    "abs_magnetisation": Derived((_absolute,)),
    "phi2": Derived((_stored("phi2"),)),
    "phi4": Derived((_stored("phi4"),)),
    "m2": Derived((_moment(2),)),
    "m4": Derived((_moment(4),)),
    "action_density": Derived((_stored("action"),), lambda lattice, s: s / lattice.volume),
    "link_sum": Derived((_stored("link_sum"),)),
    "chi2": Derived((_moment(2),), lambda lattice, m2: lattice.volume * m2),
    "susceptibility": Derived(
        (_moment(2), _absolute), lambda lattice, m2, m: lattice.volume * (m2 - m**2)
    ),
    "binder": Derived((_moment(2), _moment(4)), lambda lattice, m2, m4: 1 - m4 / (3 * m2**2)),
    "correlation_length": Derived(
        (_moment(2), _stored("two_point_min")),
        lambda lattice, m2, g: _second_moment_length(lattice, lattice.volume * m2, g),
    ),
    "correlation_length_conn": Derived(
        (_moment(2), _absolute, _stored("two_point_min")),
        lambda lattice, m2, m, g: _second_moment_length(lattice, lattice.volume * (m2 - m**2), g),
    ),
    "schwinger_dyson": Derived((_stored("schwinger_dyson"),)),
    "acceptance": Derived((_stored("acceptance"),)),
}


def measure_configurations(action: Any | None, cfgs: np.ndarray) -> dict[str, np.ndarray]:
    """Primaries of configurations `(n, *L)`, each `(n,)` in float64; one call per block."""
    lanes = 64
    layout = single(cfgs.shape[1:], lanes)
    padded = np.concatenate([cfgs, np.repeat(cfgs[-1:], -len(cfgs) % lanes, axis=0)])
    values = _measure_groups(action, layout.pack(padded), layout)
    return {name: np.asarray(v, np.float64).reshape(-1)[: len(cfgs)] for name, v in values.items()}


def _measure(action: Any, groups: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    return jax.lax.map(lambda phi: primaries(action, phi, layout), groups)


_measure_groups = jax.jit(_measure, static_argnames="layout")
