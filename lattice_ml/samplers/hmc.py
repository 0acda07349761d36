r"""Hybrid Monte Carlo (Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216).

One update draws momenta pi ~ N(0, 1), integrates the Hamiltonian 1/2 sum pi^2 + S(phi) for about
`trajectory_length`, and accepts with probability min(1, exp(-dH)).  The step size of every
trajectory and chain is multiplied by 1 + jitter u, u uniform in (-1, 1): with a fixed length some
mode of a free field returns to its start and HMC is not ergodic.  Where the action is symmetric
under phi -> -phi a global sign flip, always accepted, follows with probability 1/2.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout
from lattice_ml.fields.randomness import Keys
from lattice_ml.samplers import integrators, settings
from lattice_ml.samplers.sampler import FieldState, Sampler
from lattice_ml.samplers.settings import Auto, SignFlip
from lattice_ml.samplers.tuning import Lengths

__all__ = ["HMC", "Draws", "Info", "Trajectories", "energy_change"]


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
class Trajectories(Sampler):
    """What HMC and replica exchange share: the settings of trajectories, and one trajectory."""

    action: Action
    trajectory_length: float | Auto = "auto"
    n_steps: int | Auto = "auto"
    step_size: float | Auto = "auto"
    integrator: integrators.Name = static(default="leapfrog")
    jitter: float = 0.2
    target_acceptance: float = 0.8
    sign_flip: SignFlip = static(default="auto")
    periods: float = 0.25
    splits: ClassVar[bool] = True
    tunes: ClassVar[tuple[str, ...]] = ("trajectory_length", "n_steps", "step_size")

    def _draw(self, keys: Keys, trajectory: jax.Array) -> Draws:
        u = randomness.uniforms(keys, trajectory, 3)
        return Draws(
            1 + self.jitter * (2 * u[0] - 1),
            -jnp.log(u[1]),
            settings.signs(self.sign_flip, self.action, u[2]),
        )

    def _move(
        self,
        action: Action,
        layout: Layout,
        keys: Keys,
        trajectory: jax.Array,
        draws: Draws,
        phi: jax.Array,
    ) -> tuple[jax.Array, Info]:
        """One trajectory with any action: new fields, and what is reported."""
        spread, step_size = layout.spread, settings.number(self.step_size)
        pi = self._velocities(layout.normals(keys, trajectory).astype(phi.dtype), layout)
        new_phi, new_pi = integrators.integrate(
            self._acceleration(action, layout, phi.dtype),
            phi,
            pi,
            spread((step_size * draws.stretch).astype(phi.dtype)),
            settings.number(self.n_steps),
            integrators.SCHEMES[self.integrator],
            partial(layout.repeat, reach=actions.as_action(action).reach),
        )
        dh = energy_change(action, (new_phi, new_pi), (phi, pi), layout, self._momenta)
        accept = dh < draws.threshold
        phi = jnp.where(spread(accept), new_phi, phi) * spread(draws.sign.astype(phi.dtype))
        return phi, Info.of(dh)

    def _velocities(self, white: jax.Array, layout: Layout) -> jax.Array:
        """dphi/dt at the start of a trajectory, from white noise."""
        return white

    def _acceleration(
        self, action: Action, layout: Layout, dtype: DTypeLike
    ) -> Callable[[jax.Array], jax.Array]:
        """d^2 phi/dt^2 as a function of phi."""
        return lambda phi: actions.force(action, phi, layout)

    def _momenta(self, velocities: jax.Array, layout: Layout) -> jax.Array:
        """What the kinetic energy multiplies the velocities with; here they are the same."""
        return velocities

    @property
    def forces(self) -> int:
        stages = len(integrators.SCHEMES[self.integrator].drifts)
        return int(settings.number(self.n_steps)) * stages + 1

    def check(self) -> None:
        if self.integrator not in integrators.SCHEMES:
            allowed = ", ".join(integrators.SCHEMES)
            raise ValueError(
                f"sampler.integrator must be one of {allowed}, got {self.integrator!r}"
            )
        super().check()

    def lengths(self) -> Lengths:
        step_size = settings.given(self.step_size)
        length, n_steps = settings.given(self.trajectory_length), settings.given(self.n_steps)
        return Lengths(length, n_steps, step_size, self.target_acceptance, self.periods)

    def built(self, length: float, n_steps: int, step_size: float, **learned: float) -> Self:
        numbers = {"trajectory_length": length, "n_steps": n_steps, "step_size": step_size}
        return self.retuned(**numbers, **learned)

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        found = f"step_size = {self.step_size:.4g}, n_steps = {self.n_steps}"
        return settings.divergence(means, "trajectories", found)

    def remedy(self) -> str:
        lengths = self.lengths()
        if lengths.step_size is None and not lengths.tunes_step:
            return f"make sampler.n_steps larger than {self.n_steps}, or leave it to auto"
        return settings.smaller_steps(self.step_size, self.target_acceptance)


@pytree
class HMC(Trajectories):
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

    def draw(self, keys: Keys, trajectory: jax.Array) -> Draws:
        return self._draw(keys, trajectory)

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: Draws, state: FieldState
    ) -> tuple[FieldState, Info]:
        """One trajectory of a group of chains."""
        phi, info = self._move(self.action, layout, keys, trajectory, draws, state.phi)
        return FieldState(phi), info


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
