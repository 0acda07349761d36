r"""Kramers dynamics: Langevin dynamics with inertia, as a splitting or with an accept step.

    dphi = pi dt,    dpi = (K - gamma pi) dt + sqrt(2 gamma) dW

has the stationary distribution exp(-S - 1/2 sum pi^2) (A. M. Horowitz, Phys. Lett. B 268 (1991)
247: generalised HMC).  A step of size delta refreshes a part of the momentum exactly,
pi <- c pi + sqrt(1 - c^2) eta with c = exp(-gamma delta), and makes one leapfrog step.  With
`accept` that step is accepted with probability min(1, exp(-dH)), pi changes sign on rejection, and
the distribution is exact.  Without, a free mode S = w q^2/2 has the stationary variance
(1/w) / (1 - delta^2 w/4), for every gamma: a bias of order delta^2, stable for delta^2 w < 4.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import lax

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import Layout, widest
from lattice_ml.fields.randomness import Keys
from lattice_ml.samplers import integrators, settings
from lattice_ml.samplers.hmc import Info, energy_change
from lattice_ml.samplers.sampler import Sampler
from lattice_ml.samplers.settings import Auto, SignFlip
from lattice_ml.samplers.tuning import Lengths

__all__ = ["Kramers", "State"]


class State(NamedTuple):
    """What the next update needs: fields and momenta of a group of chains."""

    phi: jax.Array
    pi: jax.Array


class UnadjustedInfo(NamedTuple):
    """What one update without accept step reports per chain: means, and a maximum, over steps."""

    dh: jax.Array
    max_abs_dh: jax.Array
    divergent: jax.Array  # |dH| > 1000


@pytree
class Kramers(Sampler):
    """Underdamped Langevin dynamics for `action`, exact with `accept`.

    Args:
        action: a pytree with `__call__(phi)`; see `actions`.
        step_size: delta, in units of the molecular-dynamics time; "auto" follows from the target
            acceptance, and is possible with `accept` only.
        friction: gamma, in inverse units of that time.  About the frequency of the slowest mode is
            best; much larger is Langevin dynamics with step delta^2/2.
        trajectory_length: time of one update, in round(trajectory_length / step_size) steps, at
            least one.
        accept: accept or reject every step; without, the step size has a bias of order 2.
        target_acceptance: of the warm-up, in (0, 1).  High, because a rejection turns pi around.
        sign_flip: of phi and pi together; "auto" is on exactly where the action declares `z2`.
    """

    action: Action
    step_size: float | Auto = "auto"
    friction: float = 1.0
    trajectory_length: float = 1.0
    accept: bool = static(default=True)
    target_acceptance: float = 0.95
    sign_flip: SignFlip = static(default="auto")
    splits: ClassVar[bool] = True
    state_type: ClassVar[type[State]] = State
    tunes: ClassVar[tuple[str, ...]] = ("step_size",)

    def start(self, phi: jax.Array) -> State:
        return State(phi, 0 * phi)

    def draw(self, keys: Keys, trajectory: jax.Array) -> jax.Array:
        return settings.draw_signs(self.sign_flip, self.action, keys, trajectory)

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: jax.Array, state: State
    ) -> tuple[State, Info | UnadjustedInfo]:
        """One update of a group of chains: `trajectory_length` of time."""
        dtype = state.phi.dtype
        sign = layout.spread(draws.astype(dtype))
        n_steps = self._n_steps()
        delta = jnp.asarray(settings.number(self.step_size), dtype)
        keep = jnp.exp(-self.friction * delta)

        def step(j: jax.Array, carry: tuple[State, Info]) -> tuple[State, Info]:
            (phi, pi), record = carry
            step = randomness.step_keys(keys, trajectory, j)
            eta = layout.normals(step, jnp.uint32(0)).astype(dtype)
            first = (trajectory == 0) & (j == 0)  # there are no momenta yet
            c = jnp.where(first, 0, keep).astype(dtype)
            pi = c * pi + jnp.sqrt(1 - c * c) * eta
            new_phi, new_pi = integrators.integrate(
                lambda x: actions.force(self.action, x, layout), phi, pi, delta, 1
            )
            dh = energy_change(self.action, (new_phi, new_pi), (phi, pi), layout)
            if self.accept:
                threshold = -jnp.log(randomness.uniforms(step, jnp.uint32(0), 1)[0])
                accepted = layout.spread(lax.optimization_barrier(dh < threshold))
                new_phi = jnp.where(accepted, new_phi, phi)
                new_pi = jnp.where(accepted, new_pi, -pi)
            info = Info.of(dh)
            mean = Info(*(x + y / n_steps for x, y in zip(record, info, strict=True)))
            most = jnp.maximum(record.max_abs_dh, info.max_abs_dh)
            return State(new_phi, new_pi), mean._replace(max_abs_dh=most)

        start = State(sign * state.phi, sign * state.pi)
        zero = jnp.zeros(layout.group, widest(dtype))
        state, info = lax.fori_loop(0, n_steps, step, (start, Info(*[zero] * len(Info._fields))))
        if self.accept:
            return state, info
        return state, UnadjustedInfo(info.dh, info.max_abs_dh, info.divergent)

    @property
    def forces(self) -> int:
        return 2 * int(self._n_steps())

    def _n_steps(self) -> jax.Array:
        return settings.whole_steps(self.trajectory_length, settings.number(self.step_size))

    @property
    def order(self) -> int | None:
        return None if self.accept else 2

    def check(self) -> None:
        super().check()
        if not self.accept and self.step_size == "auto":
            raise ValueError(
                "sampler.step_size must be a number where sampler.accept is false, because it sets "
                "the bias; got auto"
            )

    def lengths(self) -> Lengths | None:
        """One step of an "auto" size."""
        auto = self.step_size == "auto"
        return Lengths(None, 1, None, self.target_acceptance) if auto else None

    def built(self, length: float, n_steps: int, step_size: float, **learned: float) -> Self:
        return replace(self, step_size=step_size)

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        return settings.divergence(means, "steps", f"step_size = {self.step_size:.4g}")

    def remedy(self) -> str:
        if self.accept:
            return settings.smaller_steps(self.step_size, self.target_acceptance)
        return f"make sampler.step_size smaller than {self.step_size:.4g}"
