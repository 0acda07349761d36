"""Symplectic integrators as coefficient data, and the one loop that runs them all.

A scheme is a palindrome of kicks (pi += c step force) and drifts (phi += d step pi) that
begins and ends with a kick.  The last kick of a step and the first of the next act at the same
field, so they are merged: n steps of a scheme with m drifts cost n m + 1 forces.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["SCHEMES", "Integrator", "Name", "integrate", "leapfrog", "omelyan2", "omelyan4"]

FieldAndMomentum = tuple[jax.Array, jax.Array]
Stage = Callable[[jax.Array, FieldAndMomentum], FieldAndMomentum]


class Integrator(NamedTuple):
    """Kick and drift coefficients of one step, in units of the step size, and the global order."""

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]
    order: int


leapfrog = Integrator(kicks=(0.5, 0.5), drifts=(1.0,), order=2)

# Omelyan, Mryglod, Folk, Comput. Phys. Commun. 151 (2003) 272: the minimum-norm scheme, eq. (31).
_LAMBDA2 = 0.1931833275037836
omelyan2 = Integrator(kicks=(_LAMBDA2, 1 - 2 * _LAMBDA2, _LAMBDA2), drifts=(0.5, 0.5), order=2)

# The same paper's fourth-order force-gradient-free scheme with five forces, velocity form 4MN5FV.
_THETA, _RHO = 0.08398315262876693, 0.2539785108410595
_LAMBDA4, _MU = 0.6822365335719091, -0.03230286765269967
omelyan4 = Integrator(
    kicks=(_THETA, _LAMBDA4, 0.5 - _LAMBDA4 - _THETA, 0.5 - _LAMBDA4 - _THETA, _LAMBDA4, _THETA),
    drifts=(_RHO, _MU, 1 - 2 * (_MU + _RHO), _MU, _RHO),
    order=4,
)

Name = Literal["leapfrog", "omelyan2", "omelyan4"]
SCHEMES = {"leapfrog": leapfrog, "omelyan2": omelyan2, "omelyan4": omelyan4}
_loop = partial(lax.fori_loop, 0)


def integrate(
    force: Callable[[jax.Array], jax.Array],
    phi: jax.Array,
    pi: jax.Array,
    step_size: jax.Array | float,
    n_steps: jax.Array | int,
    scheme: Integrator = leapfrog,
    repeat: Callable[[jax.Array | int, Stage, FieldAndMomentum], FieldAndMomentum] = _loop,
) -> tuple[jax.Array, jax.Array]:
    """Integrate dphi/dt = pi, dpi/dt = force(phi) over `n_steps` steps.

    Args:
        force: -dS/dphi, from and to arrays like `phi`.
        phi, pi: field and momentum of equal shape.
        step_size: a number, or an array that broadcasts against `phi` (one per chain).
        n_steps: at least 1; traced, so a new value does not recompile.
        scheme: one of the coefficient sets of this module.
        repeat: `repeat(n, stage, (phi, pi))` does n stages in its own way; a loop by default.

    Returns:
        `(phi, pi)` at the end.  Reversible to rounding; the energy error of a trajectory of
        fixed length is O(step_size^order).
    """
    stages = len(scheme.drifts)
    first = scheme.kicks[0]
    kicks = np.array([2 * first, *scheme.kicks[1:-1]])
    drifts = np.array(scheme.drifts)
    last = n_steps * stages
    step_size = jnp.asarray(step_size, phi.dtype)

    def stage(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        phi, pi = state
        kick = jnp.where((i == 0) | (i == last), first, jnp.asarray(kicks)[i % stages])
        drift = jnp.where(i == last, 0.0, jnp.asarray(drifts)[i % stages])
        pi = pi + kick.astype(phi.dtype) * step_size * force(phi)
        return phi + drift.astype(phi.dtype) * step_size * pi, pi

    return repeat(last + 1, stage, (phi, pi))
