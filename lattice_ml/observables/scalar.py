r"""Observables: primaries of one configuration, and quantities derived from their means.

To add one, write it here: a function of `Fields` entered in `PRIMARIES` is measured on the fly and
stored in every ensemble; a function of means entered in `DERIVED` is reported by `measure` with
an error from the Gamma method.  Conventions: M = (1/V) sum phi, G(p) = <|phi(p)|^2>/V.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from lattice_ml import actions
from lattice_ml.actions import Action, as_action
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, choose_layout
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics.series import as_numbers

__all__ = [
    *("DERIVED", "PRIMARIES", "Derived", "Fields", "known_primaries", "measure_configurations"),
    *("primaries", "real", "require_powers"),
]

_ROOM_SITES = 1 << 20  # of the configurations that one call measures


@dataclass(frozen=True)
class Fields:
    """A group of configurations and what observables ask of it."""

    phi: jax.Array
    action: Action
    layout: Layout

    def mean(self, *factors: jax.Array) -> jax.Array:
        """Average over sites of a product of fields, `(group,)`."""
        return self.layout.site_sum(*factors) / self.layout.volume

    @cached_property
    def phi2(self) -> jax.Array:
        return self.mean(self.phi, self.phi)

    @cached_property
    def phi4(self) -> jax.Array:
        return self.mean(self.phi, self.phi, self.phi, self.phi)

    @cached_property
    def link_sum(self) -> jax.Array:
        return self.mean(self.phi, self.layout.hop(self.phi)) / 2

    @cached_property
    def longest(self) -> dict[int, jax.Array]:
        """Sums of phi over the slices along each of the longest axes: axis to `(L, group)`."""
        axes = Lattice(self.layout.shape).longest_axes
        return {axis: self.layout.slice_sums(self.phi, axis) for axis in axes}


def action(fields: Fields) -> jax.Array:
    """S."""
    density = fields.action.of_means(fields.phi2, fields.phi4, fields.link_sum)
    if density is None:
        return actions.total(fields.action, fields.phi, fields.layout)
    return fields.layout.volume * density


def magnetisation(fields: Fields) -> jax.Array:
    """(1/V) sum_x phi_x."""
    slices = next(iter(fields.longest.values()))
    return jnp.sum(slices, axis=0) / fields.layout.volume


def two_point_min(fields: Fields) -> jax.Array:
    """|phi(p_min)|^2 / V averaged over the longest axes."""
    angle = 2 * np.pi * np.arange(max(fields.layout.shape)) / max(fields.layout.shape)
    waves = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]))[..., None]
    modes = (jnp.sum(waves * slices, axis=1) for slices in fields.longest.values())
    squares = [jnp.sum(mode**2, axis=0) for mode in modes]
    return sum(squares[1:], squares[0]) / (len(squares) * fields.layout.volume)


def schwinger_dyson(fields: Fields) -> jax.Array:
    """(1/V) sum_x phi_x dS/dphi_x; its mean is exactly 1 for every action."""
    # n times a term of the n-th power
    terms = fields.action.of_means(2 * fields.phi2, 4 * fields.phi4, 2 * fields.link_sum)
    if terms is not None:
        return terms
    return -fields.mean(fields.phi, actions.force(fields.action, fields.phi, fields.layout))


PRIMARIES: dict[str, Callable[[Fields], jax.Array]] = {
    "action": action,
    "magnetisation": magnetisation,
    "phi2": lambda fields: fields.phi2,
    "phi4": lambda fields: fields.phi4,
    "link_sum": lambda fields: fields.link_sum,
    "two_point_min": two_point_min,
    "schwinger_dyson": schwinger_dyson,
}


def known_primaries(action: Action | None) -> tuple[str, ...]:
    """Names of the primaries that can be measured; without an action some cannot."""
    unknown = ("action", "schwinger_dyson") if action is None else ()
    return tuple(name for name in PRIMARIES if name not in unknown)


def primaries(action: Action | None, phi: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """All primaries of a group of configurations: name to `(group,)`."""
    fields = Fields(phi, as_action(action), layout)
    return {name: PRIMARIES[name](fields) for name in known_primaries(action)}


@dataclass(frozen=True)
class Derived:
    """A number computed from means: `function(lattice, *means)` of quantities per configuration.

    Attributes:
        of: maps the stored series (by name) to the arrays whose means are taken.
        function: of the lattice and those means; the mean itself by default.
    """

    of: tuple[Callable[[Mapping[str, np.ndarray]], np.ndarray], ...]
    function: Callable[..., jax.Array] = lambda lattice, mean: mean


def _stored(name: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda series: series[name]


def _moment(power: int) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda series: series["magnetisation"] ** power


def _absolute(series: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.abs(series["magnetisation"])


def _second_moment_length(lattice: Lattice, chi: jax.Array, two_point: jax.Array) -> jax.Array:
    """sqrt(chi / G(p_min) - 1) / (2 sin(pi / L)); nan where chi < G(p_min)."""
    return jnp.sqrt(chi / two_point - 1) / (2 * np.sin(np.pi / max(lattice.shape)))


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


@ordinary()
def measure_configurations(action: Action | None, cfgs: np.ndarray) -> dict[str, np.ndarray]:
    """Primaries of configurations `(n, *L)`, each `(n,)` in float64; one program for every n.

    Raises:
        ValueError: the action is of another dimension, or configurations are masked.
        TypeError: the configurations are not of real numbers.
    """
    cfgs = real("cfgs", cfgs)
    actions.check_dimension(as_action(action), cfgs.ndim - 1)
    # On every device as on a CPU: large lattices one by one, where a GPU's layout would fill a few
    # of them up to 64, and sums in the same order whatever measures.
    layout = choose_layout(cfgs.shape[1:], 64, 1, "cpu")
    room = min(64, max(1, _ROOM_SITES // (layout.group * layout.volume)))
    step = room * layout.group
    parts = [
        _measure(action, cfgs[start : start + step], layout, room)
        for start in range(0, max(1, len(cfgs)), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def real(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Fields in float32 or float64 of this machine; whole numbers and other floats become that.

    Raises:
        TypeError, ValueError: as `as_numbers`, which names them.
    """
    fields = as_numbers(name, values)
    dtype = fields.dtype.newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.float64))
    return fields.astype(dtype, copy=False)


def require_powers(fields: np.ndarray, phi4: np.ndarray, first: int) -> None:
    """Refuse configurations whose fourth power is not finite.

    Args:
        fields: `(n, *L)`.
        phi4: as measured of them, `(n,)`.
        first: the number of the first one.

    Raises:
        ValueError: naming the first of them.
    """
    if not len(bad := np.flatnonzero(~np.isfinite(phi4))):
        return
    largest = float(np.abs(fields[bad[0]]).max())
    why = (
        f"|phi| up to {largest:.3g}, whose fourth power overflows {fields.dtype}"
        if np.isfinite(largest)
        else "a number that is not finite"
    )
    raise ValueError(f"sample {first + int(bad[0])} has {why}")


def _measure(
    action: Action | None, cfgs: np.ndarray, layout: Layout, room: int
) -> dict[str, np.ndarray]:
    """Primaries of as many configurations as `room` groups hold, or fewer."""
    n, full = len(cfgs), room * layout.group
    if n < full:
        cfgs = np.concatenate([cfgs, np.zeros((full - n, *layout.shape), cfgs.dtype)])
    values = _measure_groups(action, layout.pack(cfgs), -(-n // layout.group), layout=layout)
    return {name: np.asarray(v, np.float64).reshape(-1)[:n] for name, v in values.items()}


@partial(jax.jit, static_argnames="layout")
def _measure_groups(
    action: Action | None, groups: jax.Array, n: jax.Array, *, layout: Layout
) -> dict[str, jax.Array]:
    """Primaries of the first `n` groups; what is returned of the others means nothing."""

    def measure(i: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        found = primaries(action, groups[i], layout)
        return {name: values[name].at[i].set(found[name]) for name in found}

    one = jax.eval_shape(lambda phi: primaries(action, phi, layout), groups[0])
    empty = {name: jnp.zeros((len(groups), *x.shape), x.dtype) for name, x in one.items()}
    return lax.fori_loop(0, n, measure, empty)
