r"""MALA: a Langevin step made exact by Metropolis (P. J. Rossky et al., J. Chem. Phys. 69, 4628).

The Euler step phi' = phi + eps K(phi) + sqrt(2 eps) eta is a proposal with density
q(phi'|phi) ~ exp(-|phi' - phi - eps K(phi)|^2 / (4 eps)), accepted with probability
min(1, exp(S(phi) - S(phi')) q(phi|phi') / q(phi'|phi)).  It equals one leapfrog step of HMC of size
sqrt(2 eps) with momentum eta: then phi' is the same, and the ratio is exp(-dH).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields.layout import Layout
from lattice_ml.fields.randomness import Keys
from lattice_ml.samplers import settings
from lattice_ml.samplers.hmc import HMC, Draws, Info
from lattice_ml.samplers.sampler import FieldState, Sampler
from lattice_ml.samplers.settings import Auto, SignFlip
from lattice_ml.samplers.tuning import Lengths

__all__ = ["MALA"]


@pytree
class MALA(Sampler):
    """Metropolis-adjusted Langevin algorithm for `action`: exact at every step size.

    Args:
        action: a pytree with `__call__(phi)`; see `actions`.
        step_size: eps, in units of the Langevin time; "auto" follows from the target acceptance.
        target_acceptance: of the warm-up, in (0, 1); 0.574 is best in many dimensions (Roberts and
            Rosenthal, J. R. Stat. Soc. B 60 (1998) 255).
        sign_flip: "auto" is on exactly where the action declares `z2`.
    """

    action: Action
    step_size: float | Auto = "auto"
    target_acceptance: float = 0.574
    sign_flip: SignFlip = static(default="auto")
    splits: ClassVar[bool] = True
    tunes: ClassVar[tuple[str, ...]] = ("step_size",)

    def draw(self, keys: Keys, trajectory: jax.Array) -> Draws:
        return self._hmc().draw(keys, trajectory)

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: Draws, state: FieldState
    ) -> tuple[FieldState, Info]:
        """One proposal for a group of chains."""
        return self._hmc().update(layout, keys, trajectory, draws, state)

    def _hmc(self) -> HMC:
        hmc = HMC(self.action, n_steps=1, jitter=0.0, sign_flip=self.sign_flip)
        return hmc.retuned(step_size=jnp.sqrt(2 * jnp.asarray(settings.number(self.step_size))))

    @property
    def forces(self) -> int:
        return 2

    def lengths(self) -> Lengths:
        """One step of HMC, of the size that belongs to what the user gave."""
        step = settings.given(self.step_size)
        return Lengths(None, 1, None if step is None else (2 * step) ** 0.5, self.target_acceptance)

    def built(self, length: float, n_steps: int, step_size: float, **learned: float) -> Self:
        """This sampler with a step of HMC of this size."""
        return replace(self, step_size=step_size**2 / 2)

    def diagnose(self, means: Mapping[str, float]) -> str | None:
        return settings.divergence(means, "steps", f"step_size = {self.step_size:.4g}")

    def remedy(self) -> str:
        return settings.smaller_steps(self.step_size, self.target_acceptance)
