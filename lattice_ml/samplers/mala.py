r"""MALA: a Langevin step made exact by Metropolis (P. J. Rossky et al., J. Chem. Phys. 69, 4628).

The Euler step phi' = phi + eps K(phi) + sqrt(2 eps) eta is a proposal with density
q(phi'|phi) ~ exp(-|phi' - phi - eps K(phi)|^2 / (4 eps)), accepted with probability
min(1, exp(S(phi) - S(phi')) q(phi|phi') / q(phi'|phi)).  It equals one leapfrog step of HMC of size
sqrt(2 eps) with momentum eta: then phi' is the same, and the ratio is exp(-dH).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import randomness
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout
from lattice_ml.samplers.hmc import HMC, Draws, Info, State
from lattice_ml.samplers.settings import (
    check_fraction,
    check_positive,
    check_sign_flip,
    divergence,
    smaller_steps,
)
from lattice_ml.samplers.tuning import Lengths, Tuner

__all__ = ["MALA"]


@pytree
class MALA:
    """Metropolis-adjusted Langevin algorithm for `action`: exact at every step size.

    Args:
        action: a pytree with `__call__(phi)`; see `actions`.
        step_size: eps, in units of the Langevin time; "auto" follows from the target acceptance.
        target_acceptance: of the warm-up, in (0, 1); 0.574 is best in many dimensions (Roberts and
            Rosenthal, J. R. Stat. Soc. B 60 (1998) 255).
        sign_flip: "auto" is on exactly where the action declares `z2`.
    """

    action: Action
    step_size: float | Literal["auto"] = "auto"
    target_acceptance: float = 0.574
    sign_flip: bool | Literal["auto"] = static(default="auto")
    splits: ClassVar[bool] = True

    def start(self, phi: jax.Array) -> State:
        return State(phi)

    def draw(self, keys: randomness.Keys, trajectory: jax.Array) -> Draws:
        """Per-chain draws of the given updates: arrays `(*trajectory.shape, group)`."""
        return self._hmc().draw(keys, trajectory)

    def step(
        self,
        layout: Layout,
        keys: randomness.Keys,
        trajectory: jax.Array,
        draws: Draws,
        state: State,
    ) -> tuple[State, Info]:
        """One proposal for a group of chains."""
        return self._hmc().step(layout, keys, trajectory, draws, state)

    def _hmc(self) -> HMC:
        step: Any = jnp.sqrt(2 * jnp.asarray(self.step_size))
        return HMC(self.action, n_steps=1, step_size=step, jitter=0.0, sign_flip=self.sign_flip)

    @property
    def forces(self) -> int:
        """Force evaluations per update."""
        return 2

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            ValueError: naming the setting, its value and what is allowed.
        """
        check_positive(self, "step_size", auto=True)
        check_fraction(self, "target_acceptance")
        check_sign_flip(self)

    def tuner(self, lattice: Lattice, n_thermalise: int) -> Tuner:
        """What adapts an "auto" step size in the warm-up."""
        self.check()
        step = None if self.step_size == "auto" else (2 * self.step_size) ** 0.5
        lengths = Lengths(trajectory_length=None, n_steps=1, step_size=step)

        def build(length: float, n_steps: int, step_size: float) -> MALA:
            return replace(self, step_size=step_size**2 / 2)

        return Tuner(self, lengths, lattice, n_thermalise, build)

    def tuned(self) -> dict[str, Any]:
        """The settings that the warm-up fixed."""
        return {"step_size": self.step_size}

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        """Say what is wrong, from the averages of all histories so far."""
        return divergence(means, "steps", f"step_size = {self.step_size:.4g}")

    def remedy(self) -> str:
        """What a user can do when `diagnose` finds something."""
        return smaller_steps(self)
