r"""Hybrid Monte Carlo (Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216).

One update draws momenta pi ~ N(0, 1), integrates the Hamiltonian 1/2 sum pi^2 + S(phi) for about
`trajectory_length`, and accepts with probability min(1, exp(-dH)).  The step size of every
trajectory and chain is multiplied by 1 + jitter u, u uniform in (-1, 1): with a fixed length some
mode of a free field returns to its start and HMC is not ergodic.  Where the action is symmetric
under phi -> -phi a global sign flip, always accepted, follows with probability 1/2.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout
from lattice_ml.samplers import integrators
from lattice_ml.samplers.settings import (
    check_fraction,
    check_positive,
    check_sign_flip,
    divergence,
    signs,
    smaller_steps,
)
from lattice_ml.samplers.tuning import Lengths, Tuner

__all__ = ["HMC", "Info", "State", "energy_change"]


class State(NamedTuple):
    """What the next update needs: the fields of a group of chains."""

    phi: jax.Array


class Draws(NamedTuple):
    """Per-chain random numbers of one trajectory, drawn outside the loop over trajectories."""

    stretch: jax.Array  # factor on the step size
    threshold: jax.Array  # accept where dH < threshold = -log u
    sign: jax.Array  # +1 or -1


class Info(NamedTuple):
    """What one trajectory reports per chain; `max_` is maximised over trajectories, else mean."""

    acceptance: jax.Array  # min(1, exp(-dH))
    exp_minus_dh: jax.Array  # its mean is 1 in equilibrium
    dh: jax.Array
    dh_negative: jax.Array  # P(dH < 0) = <acceptance>/2 in equilibrium
    max_abs_dh: jax.Array
    divergent: jax.Array  # |dH| > 1000

    @classmethod
    def of(cls, dh: jax.Array) -> "Info":
        """What an energy change says."""
        weight = jnp.exp(-dh)
        return cls(
            acceptance=jnp.minimum(1, weight),
            exp_minus_dh=weight,
            dh=dh,
            dh_negative=(dh < 0).astype(weight.dtype),
            max_abs_dh=jnp.abs(dh),
            divergent=(jnp.abs(dh) > 1000).astype(weight.dtype),
        )


@pytree
class HMC:
    """Hybrid Monte Carlo for `action`.

    Args:
        action: an `Action`, or any pytree with `__call__(phi)`.
        trajectory_length: in units of the molecular-dynamics time; "auto" takes `periods` of the
            slowest mode, 2 pi max_p G_conn(p)^(1/2) each, measured in warm-up.
        n_steps, step_size: what is given stays, what is "auto" follows from the other and from
            the target acceptance.  Two of the three lengths fix the third.
        integrator: "leapfrog", "omelyan2" or "omelyan4".
        jitter: relative half width of the step size's uniform distribution, in [0, 1).
        target_acceptance: of the warm-up, in (0, 1).
        sign_flip: "auto" is on exactly where the action declares `z2`.
        periods: of an "auto" trajectory; a quarter decorrelates the slowest mode, and less does
            where cluster updates move it.
    """

    action: Action
    trajectory_length: float | Literal["auto"] = "auto"
    n_steps: int | Literal["auto"] = "auto"
    step_size: float | Literal["auto"] = "auto"
    integrator: Literal["leapfrog", "omelyan2", "omelyan4"] = static(default="leapfrog")
    jitter: float = 0.2
    target_acceptance: float = 0.8
    sign_flip: bool | Literal["auto"] = static(default="auto")
    periods: float = 0.25
    splits: ClassVar[bool] = True  # needs no more of other sites than `Layout` has

    def start(self, phi: jax.Array) -> State:
        return State(phi)

    def draw(self, keys: randomness.Keys, trajectory: jax.Array) -> Draws:
        """Per-chain draws of the given trajectories: arrays `(*trajectory.shape, group)`."""
        u = randomness.uniforms(keys, trajectory, 3)
        return Draws(1 + self.jitter * (2 * u[0] - 1), -jnp.log(u[1]), signs(self, u[2]))

    def step(
        self,
        layout: Layout,
        keys: randomness.Keys,
        trajectory: jax.Array,
        draws: Draws,
        state: State,
    ) -> tuple[State, Info]:
        """One trajectory of a group of chains."""
        phi, spread = state.phi, layout.spread
        step_size, n_steps = self._numbers()
        pi = self._velocities(layout.normals(keys, trajectory).astype(phi.dtype), layout)
        new_phi, new_pi = integrators.integrate(
            self._acceleration(layout, phi.dtype),
            phi,
            pi,
            spread((step_size * draws.stretch).astype(phi.dtype)),
            n_steps,
            _scheme(self.integrator),
            partial(layout.repeat, reach=actions.as_action(self.action).reach),
        )
        dh = energy_change(self.action, (new_phi, new_pi), (phi, pi), layout, self._momenta)
        accept = dh < draws.threshold
        phi = jnp.where(spread(accept), new_phi, phi) * spread(draws.sign.astype(phi.dtype))
        return State(phi), Info.of(dh)

    def _velocities(self, white: jax.Array, layout: Layout) -> jax.Array:
        """dphi/dt at the start of a trajectory, from white noise."""
        return white

    def _acceleration(self, layout: Layout, dtype: Any) -> Callable[[jax.Array], jax.Array]:
        """d^2 phi/dt^2 as a function of phi."""
        return lambda phi: actions.force(self.action, phi, layout)

    def _momenta(self, velocities: jax.Array, layout: Layout) -> jax.Array:
        """What the kinetic energy multiplies the velocities with; here they are the same."""
        return velocities

    @property
    def forces(self) -> int:
        """Force evaluations per trajectory."""
        return int(self._numbers()[1]) * len(_scheme(self.integrator).drifts) + 1

    def check(self) -> Lengths:
        """Refuse settings that make no sense.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        _scheme(self.integrator)
        check_fraction(self, "jitter", zero=True)
        check_fraction(self, "target_acceptance")
        check_sign_flip(self)
        names = ("trajectory_length", "n_steps", "step_size")
        check_positive(self, *names, auto=True)
        check_positive(self, "periods")
        values = {name: getattr(self, name) for name in names}
        given = {name: None if value == "auto" else value for name, value in values.items()}
        lengths = Lengths(**given)
        lengths.check()
        return lengths

    def _numbers(self) -> tuple[Any, Any]:
        """(step_size, n_steps) of a tuned sampler, traced under jit."""
        return self.step_size, self.n_steps

    def tuner(self, lattice: Lattice, n_thermalise: int) -> Tuner:
        """What adapts the "auto" settings in the warm-up."""
        return Tuner(self, self.check(), lattice, n_thermalise, self._built)

    def _built(self, length: float, n_steps: int, step_size: float, **learned: float) -> Self:
        """This sampler with what the tuner has found so far."""
        numbers: dict[str, Any] = {"n_steps": n_steps, "step_size": step_size, **learned}
        return replace(self, trajectory_length=length, **numbers)

    def tuned(self) -> dict[str, float]:
        """The settings that the warm-up fixed."""
        names = ("trajectory_length", "n_steps", "step_size")
        return {name: getattr(self, name) for name in names}

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        """Say what is wrong, from the averages of all histories so far."""
        settings = f"step_size = {self.step_size:.4g}, n_steps = {self.n_steps}"
        return divergence(means, "trajectories", settings)

    def remedy(self) -> str:
        """What a user can do when `diagnose` finds something."""
        lengths = self.check()
        if lengths.step_size is None and not lengths.tunes_step:
            return f"make sampler.n_steps larger than {self.n_steps}, or leave it to auto"
        return smaller_steps(self)


def energy_change(
    action: Action,
    new: tuple[jax.Array, jax.Array],
    old: tuple[jax.Array, jax.Array],
    layout: Layout,
    momenta: Callable[[jax.Array, Layout], jax.Array] = lambda velocities, layout: velocities,
) -> jax.Array:
    """dH of every chain between two (phi, dphi/dt), `(group,)`; infinite where it is not a number.

    Args:
        action: S.
        new, old: fields and velocities of a group of chains.
        layout: of the group.
        momenta: of velocities, linear and symmetric; the kinetic energy is half of their product.
    """
    (new_phi, new_pi), (phi, pi) = new, old
    kinetic = 0.5 * (new_pi - pi) * momenta(new_pi + pi, layout)
    dh = layout.site_sum(actions.difference(action, new_phi, phi, layout) + kinetic)
    return jnp.where(jnp.isnan(dh), jnp.inf, dh)


def _scheme(name: str) -> integrators.Integrator:
    known = {k: getattr(integrators, k) for k in integrators.__all__}
    schemes = {k: v for k, v in known.items() if isinstance(v, integrators.Integrator)}
    if name not in schemes:
        raise ValueError(f"sampler.integrator must be one of {', '.join(schemes)}, got {name!r}")
    return schemes[name]
