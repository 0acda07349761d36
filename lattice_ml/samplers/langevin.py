r"""Langevin dynamics: stochastic quantisation in fictitious time (Parisi and Wu, 1981).

The field follows the drift K = -dS/dphi and white noise in small steps,

    phi(tau + eps) = phi(tau) + eps K + sqrt(2 alpha eps) eta,

whose distribution tends to exp(-S/alpha) as eps -> 0.  At finite eps every scheme has a bias that
no statistics removes: of order eps for `euler`, of order eps^2 for the others.  For a mode of a
free action, S = w q^2/2 and x = eps w, the stationary variance is exactly

    euler                 (alpha/w) / (1 - x/2)
    heun                  (alpha/w) (1 - x/2) / (1 - x/2 + x^2/4)
    leimkuhler_matthews   (alpha/w)

(docs/langevin.md derives them); all are unstable for x >= 2.  `heun` takes the mean of the drifts
before and after an Euler step with the same noise (Batrouni et al., Phys. Rev. D 32 (1985) 2736).
`leimkuhler_matthews` costs no more than `euler` and uses (eta_n + eta_{n+1})/2 as noise (B.
Leimkuhler and C. Matthews, arXiv:1203.5428).  MALA removes the bias by an accept step.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from lattice_ml import actions
from lattice_ml._pytree import pytree, static
from lattice_ml.actions import Action
from lattice_ml.fields import fourier
from lattice_ml.fields.layout import Layout
from lattice_ml.fields.randomness import Keys, step_keys
from lattice_ml.fields.types import Scalar
from lattice_ml.samplers import settings
from lattice_ml.samplers.sampler import FieldState, Sampler
from lattice_ml.samplers.settings import SignFlip

__all__ = ["Info", "Langevin"]

# The step, fields, the time that is left to each chain, its steps so far and its largest drift.
_Adaptive = tuple[int, jax.Array, jax.Array, jax.Array, jax.Array]
_SCHEMES = ("euler", "heun", "leimkuhler_matthews")


class Info(NamedTuple):
    """What one update reports per chain."""

    n_steps: jax.Array


class AdaptiveInfo(NamedTuple):
    """What one update with adaptive steps reports per chain; `max_` is maximised over updates."""

    n_steps: jax.Array
    max_drift: jax.Array  # max |C K| over sites and steps


@pytree
class Langevin(Sampler):
    """Langevin dynamics for `action`: biased at finite step size, for extrapolation to zero.

    Args:
        action: a pytree with `__call__(phi)`; see `actions`.
        step_size: eps, in units of the Langevin time; never tuned, because it sets the bias.
        trajectory_length: Langevin time of one update, in round(trajectory_length / step_size)
            steps, at least one.
        scheme: "euler", "heun" or "leimkuhler_matthews".
        temperature: alpha of exp(-S/alpha).
        drift_limit: the drift moves no site by more than this in one step; steps of a chain with a
            larger drift are shortened (G. Aarts et al., arXiv:0912.0617), and their number grows
            until the time of the update is over, so that all fields count for equal times.  Not
            for "leimkuhler_matthews", whose order rests on equal steps.
        fourier_mass_squared: m^2 of the Fourier acceleration kernel; none by default.
        sign_flip: "auto" is on exactly where the action declares `z2`.
    """

    action: Action
    step_size: float = 0.01
    trajectory_length: float = 1.0
    scheme: Literal["euler", "heun", "leimkuhler_matthews"] = static(default="euler")
    temperature: float = 1.0
    drift_limit: float | None = None
    fourier_mass_squared: float | None = None
    sign_flip: SignFlip = static(default="auto")

    @property
    def remembers(self) -> str:
        """The scheme, where an update goes on with noise of the one before."""
        cannot = f"sampler.scheme cannot be {self.scheme}"
        return cannot if self.scheme == "leimkuhler_matthews" else ""

    def draw(self, keys: Keys, trajectory: jax.Array) -> jax.Array:
        return settings.draw_signs(self.sign_flip, self.action, keys, trajectory)

    def update(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, draws: jax.Array, state: FieldState
    ) -> tuple[FieldState, Info | AdaptiveInfo]:
        """One update of a group of chains: `trajectory_length` of Langevin time."""
        sign = layout.spread(draws.astype(state.phi.dtype))
        if self.scheme == "leimkuhler_matthews":
            phi = self._leimkuhler_matthews(layout, keys, trajectory, state.phi, sign)
        elif self.drift_limit is None:
            phi = self._equal_steps(layout, keys, trajectory, state.phi * sign)
        else:
            return self._adaptive_steps(
                layout, keys, trajectory, state.phi * sign, self.drift_limit
            )
        return FieldState(phi), Info(jnp.full(layout.group, self._n_steps(), phi.dtype))

    def _equal_steps(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, phi: jax.Array
    ) -> jax.Array:
        def step(j: jax.Array, phi: jax.Array) -> jax.Array:
            eta = self._noise(layout, step_keys(keys, trajectory, j), phi.dtype)
            return self._move(layout, phi, self._drift(layout, phi), eta, self.step_size)

        return lax.fori_loop(0, self._n_steps(), step, phi)

    def _adaptive_steps(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, phi: jax.Array, limit: float
    ) -> tuple[FieldState, AdaptiveInfo]:
        """Steps of every chain's own size until all have used up their time."""

        def step(carry: _Adaptive) -> _Adaptive:
            j, phi, left, n_steps, largest = carry
            drift = self._drift(layout, phi)
            steepest = layout.site_max(jnp.abs(drift))
            eps = jnp.minimum(self.step_size, limit / steepest)
            # A rest that is rounding, or next to nothing, belongs to the last step.
            eps = jnp.where(left < (1 + 1e-3) * eps, left, eps).astype(phi.dtype)
            eta = self._noise(layout, step_keys(keys, trajectory, j), phi.dtype)
            moved = self._move(layout, phi, drift, eta, layout.spread(eps))
            active = left > 0
            return (
                j + 1,
                jnp.where(layout.spread(active), moved, phi),
                left - eps,
                n_steps + active,
                jnp.where(active, jnp.maximum(largest, steepest), largest),
            )

        def unfinished(carry: _Adaptive) -> jax.Array:
            _, phi, left, _, _ = carry
            finite = jnp.isfinite(layout.site_max(jnp.abs(phi)))
            return layout.any_chain((left > 0) & finite)

        zero = jnp.zeros(layout.group, phi.dtype)
        time = jnp.full_like(zero, self._n_steps() * self.step_size)
        carry = lax.while_loop(unfinished, step, (0, phi, time, zero, zero))
        return FieldState(carry[1]), AdaptiveInfo(n_steps=carry[3], max_drift=carry[4])

    def _leimkuhler_matthews(
        self, layout: Layout, keys: Keys, trajectory: jax.Array, phi: jax.Array, sign: jax.Array
    ) -> jax.Array:
        """Equal steps; the last noise is the first of the next update, and drawn again there."""
        n_steps = self._n_steps()

        def noise(j: jax.Array | int) -> jax.Array:
            j = jnp.asarray(j, jnp.uint32)
            last = (j == n_steps).astype(jnp.uint32)
            step = step_keys(keys, trajectory + last, j * (1 - last))
            return self._noise(layout, step, phi.dtype)

        def step(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            phi, before = carry
            after = noise(j + 1)
            eta = (before + after) / 2
            return self._move(layout, phi, self._drift(layout, phi), eta, self.step_size), after

        return lax.fori_loop(0, n_steps, step, (sign * phi, sign * noise(0)))[0]

    def _move(
        self, layout: Layout, phi: jax.Array, drift: jax.Array, eta: jax.Array, eps: Scalar
    ) -> jax.Array:
        """One step of size `eps`, which broadcasts against fields, with noise `eta`."""
        eps = jnp.asarray(eps, phi.dtype)
        noise = jnp.sqrt(2 * jnp.asarray(self.temperature, phi.dtype) * eps) * eta
        moved = phi + eps * drift + noise
        if self.scheme != "heun":
            return moved
        return phi + eps / 2 * (drift + self._drift(layout, moved)) + noise

    def _drift(self, layout: Layout, phi: jax.Array) -> jax.Array:
        """C K."""
        drift = actions.force(self.action, phi, layout)
        if self.fourier_mass_squared is None:
            return drift
        return fourier.accelerate(drift, self.fourier_mass_squared, layout)

    def _noise(self, layout: Layout, step: Keys, dtype: DTypeLike) -> jax.Array:
        """Noise of covariance C, with the keys of a step."""
        eta = layout.normals(step, jnp.uint32(0)).astype(dtype)
        if self.fourier_mass_squared is None:
            return eta
        return fourier.colour(eta, self.fourier_mass_squared, layout)

    def _n_steps(self) -> jax.Array:
        return settings.whole_steps(self.trajectory_length, self.step_size)

    @property
    def splits(self) -> bool:
        return self.fourier_mass_squared is None

    @property
    def order(self) -> int:
        return 1 if self.scheme == "euler" else 2

    @property
    def forces(self) -> int:
        """Force evaluations per update, with steps of full length."""
        return int(self._n_steps()) * (2 if self.scheme == "heun" else 1)

    def check(self) -> None:
        if self.scheme not in _SCHEMES:
            allowed = ", ".join(_SCHEMES)
            raise ValueError(f"sampler.scheme must be one of {allowed}, got {self.scheme!r}")
        super().check()
        if self.drift_limit is not None and self.scheme == "leimkuhler_matthews":
            raise ValueError(
                "sampler.drift_limit cannot be used with scheme = leimkuhler_matthews, whose order "
                "rests on equal steps: take euler or heun, or a smaller step_size"
            )

    def remedy(self) -> str:
        limit = "" if self.scheme == "leimkuhler_matthews" else ", or set sampler.drift_limit"
        return f"make sampler.step_size smaller than {self.step_size:.4g}{limit}"
