r"""Hybrid Monte Carlo with Fourier acceleration: one frequency for all modes of a free field.

Momenta have a mass matrix that is diagonal in momentum space (S. Duane et al., Phys. Lett. B 176
(1986) 143; S. Duane and B. J. Pendleton, Phys. Lett. B 206 (1988) 101),

    H = 1/2 sum_p |pi(p)|^2 / M(p) + S(phi),    M(p) = (p_hat^2 + m^2) / (p_hat_max^2 + m^2),

so that a mode of a free field of mass m has the frequency of the highest momentum whatever p is:
M = 1 there, and the step size is that of plain HMC, while a trajectory takes a quarter of the one
period that there is.  In terms of the velocities v = dphi/dt = pi/M,

    dv/dt = C F,    C = 1/M,    v = C^(1/2) eta at the start,    H = 1/2 v M v + S.

M is a sum over neighbours, so the only transforms are those of C, one pair for every force.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Self

import jax
import numpy as np
from jax.typing import DTypeLike

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import fourier
from lattice_ml.fields.lattice import Lattice, group_means
from lattice_ml.fields.layout import Layout
from lattice_ml.samplers import integrators
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.settings import Auto, number
from lattice_ml.samplers.tuning import Learned, Propagator, Tuner

__all__ = ["FourierHMC", "fitted_mass_squared"]

_GUESS = 1.0  # of m^2, until the first configurations have been seen


@pytree
class FourierHMC(HMC):
    """Hybrid Monte Carlo with Fourier acceleration for `action`.

    Args:
        mass_squared: m^2 of the mass matrix; "auto" is that of a straight line through 1/G(p)
            against p_hat^2 at p > 0, measured in warm-up.
        trajectory_length: "auto" takes `periods` of the slowest mode, in the units of the mass
            matrix 2 pi max_p (G_conn(p) M(p))^(1/2) each.

    All others are those of `HMC`.
    """

    integrator: integrators.Name = static(default="omelyan2")
    target_acceptance: float = 0.9
    mass_squared: float | Auto = "auto"
    splits: ClassVar[bool] = False
    tunes: ClassVar[tuple[str, ...]] = (*HMC.tunes, "mass_squared")

    def _velocities(self, white: jax.Array, layout: Layout) -> jax.Array:
        return fourier.colour(white, number(self.mass_squared), layout)

    def _acceleration(
        self, action: Action, layout: Layout, dtype: DTypeLike
    ) -> Callable[[jax.Array], jax.Array]:
        accelerate = fourier.accelerator(number(self.mass_squared), layout, dtype)
        return lambda phi: accelerate(actions.force(action, phi, layout))

    def _momenta(self, velocities: jax.Array, layout: Layout) -> jax.Array:
        return fourier.slow_down(velocities, number(self.mass_squared), layout)

    def tuner(self, lattice: Lattice, n_thermalise: int) -> Tuner[Self]:
        half = (..., slice(lattice.shape[-1] // 2 + 1))  # the order of rfftn
        p_hat_squared, shell = lattice.p_hat_squared[half], lattice.shells[1][half].ravel()

        def learn(propagator: Propagator) -> Learned:
            mass_squared, learned = self.mass_squared, {}
            if mass_squared == "auto":
                mass_squared = fitted_mass_squared(p_hat_squared, propagator.connected)
                learned = {"mass_squared": mass_squared}
            modes = propagator.connected.copy()
            modes.flat[0] = propagator.zero_mode
            inverse = modes / np.asarray(fourier.kernel(p_hat_squared, mass_squared))
            # All modes are about equally fast, and the largest of many noisy ones is too large.
            return float(group_means(inverse.ravel(), shell).max()), learned

        start = replace(self, mass_squared=_GUESS) if self.mass_squared == "auto" else self
        self.check()
        return Tuner(start.built, self.lengths(), self.action, lattice, n_thermalise, learn)


def fitted_mass_squared(p_hat_squared: np.ndarray, propagator: np.ndarray) -> float:
    """m^2 of the line a (p_hat^2 + m^2) through 1/G(p) at p > 0, with equal relative errors.

    The zero mode is left out: it is not of the line near criticality, and m^2 = 1/G(0) makes
    trajectories unstable.  A single p_hat^2 > 0 needs it all the same.

    Args:
        p_hat_squared, propagator: of equal shapes.

    Returns:
        At least a tenth of the smallest p_hat^2 > 0, at most a hundred times the largest, which is
        hardly any acceleration.
    """
    rest = p_hat_squared > 0
    if len(np.unique(np.round(p_hat_squared[rest], 10))) < 2:
        rest = np.full_like(rest, True)
    x, g = p_hat_squared[rest], propagator[rest]
    (slope, intercept), *_ = np.linalg.lstsq(np.stack([x * g, g], axis=1), np.ones_like(g))
    smallest, largest = 0.1 * p_hat_squared[p_hat_squared > 0].min(), 100 * p_hat_squared.max()
    if slope <= 0:
        return float(largest)
    return float(np.clip(intercept / slope, smallest, largest))
