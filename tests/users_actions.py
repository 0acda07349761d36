"""An action as a user writes it: a total and nothing else."""

from typing import Any

import jax.numpy as jnp

from lattice_ml._pytree import pytree


@pytree
class SineGordon:
    """S = sum_x [1/2 (d phi)^2 + 1/2 m^2 phi^2 + strength (1 - cos(beta phi - phase))]."""

    beta: Any = 1.0
    mass_squared: Any = 0.0
    strength: Any = 1.0
    phase: Any = 0.0

    def __call__(self, phi):
        gradients = sum((jnp.roll(phi, -1, mu) - phi) ** 2 for mu in range(phi.ndim))
        well = self.strength * (1 - jnp.cos(self.beta * phi - self.phase))
        return jnp.sum(gradients / 2 + self.mass_squared / 2 * phi**2 + well)
