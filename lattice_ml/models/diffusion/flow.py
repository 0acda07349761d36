r"""The probability flow of a denoiser: samples with their exact density.

In the whitened modes u = x / sqrt(C + t) a Gaussian theory stands still, and the flow is

    du/dt = 1/2 C (C + t)^{-3/2} F,        d log q_u / dt = -1/2 Tr[C / (C + t) dF/dx]

(the probability flow of arXiv:2011.13456 eq. 13, noise of variance t, with the Schwinger-Dyson
form of the score).  It runs from t_max, where u is normal up to the zero mode's mixture, to 0, in
the variable tau = log(1 + t/t0), t0 = C_min / 4; then log q(phi) = log q_u - 1/2 sum_p log C.

The density is that of the continuous flow: the integrator's error enters log q, and neither the
effective sample size nor the tail of the weights shows it.  `step_error` does, by step doubling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from lattice_ml.fields.layout import widest
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.theory import Theory

__all__ = ["SCHEMES", "Flow"]

State = tuple[jax.Array, jax.Array]  # whitened modes, and the change of their log density
Slope = Callable[[jax.Array, jax.Array], State]

# Explicit Runge-Kutta: nodes and weights. Each stage starts from the slope before it, and none
# lies at the end of the step, so that the flow is never evaluated at t = 0.
SCHEMES = {
    "heun": ((0.0, 2 / 3), (1 / 4, 3 / 4)),  # second order, Ralston's choice
    "rk3": ((0.0, 1 / 2, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),  # third order, Ralston's choice
}
_FLOOR = 1e-4  # in units of C_min: `log_prob` begins at t = 0, where some networks are 0/0
_T0 = 0.25  # in units of C_min: the variance below which steps are even in t


@dataclass(frozen=True)
class Flow:
    """How the flow is integrated; static under jit.

    Args:
        n_steps: from t_max to 0; may be traced where nothing differentiates the flow.
        scheme: a name in `SCHEMES`; the error falls with the second or third power of n_steps.
        n_probes: 0 for the exact trace; else Hutchinson's estimate from so many probes per sample,
            drawn once and kept along the flow. Weights made of it are approximate.

    Raises:
        ValueError: there is no such scheme, or n_steps < 1.
    """

    n_steps: int | jax.Array = 8
    scheme: str = "rk3"
    n_probes: int = 0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if isinstance(self.n_steps, int) and self.n_steps < 1:
            raise ValueError(f"a flow needs n_steps >= 1, got {self.n_steps}")

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the network per sample."""
        return int(self.n_steps) * len(SCHEMES[self.scheme][0])

    def sample(
        self, network: Denoiser, theory: Theory, key: jax.Array, n: int
    ) -> tuple[jax.Array, jax.Array]:
        """Draw `n` samples: modes `(n, *modes)`, and their log density `(n,)`."""
        start, probes = jax.random.split(key)
        return self.transport(network, theory, *draw_prior(theory, start, n), key=probes)

    def transport(
        self,
        network: Denoiser,
        theory: Theory,
        u: jax.Array,
        log_q: jax.Array,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Carry whitened modes and their log density from t_max to samples.

        `key` draws the probes, where there are any.
        """
        slope, end = self._flow(network, theory, u, key)
        u, change = self._integrate(slope, u, end, -end / self.n_steps)
        return u * jnp.sqrt(theory.propagator), log_q + change - _half_log_det(theory)

    def log_prob(
        self, network: Denoiser, theory: Theory, x: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Log density of given fields in modes `(n, *modes)`: `(n,)`."""
        slope, end = self._flow(network, theory, x, key)
        u, change = self._integrate(
            slope, x / jnp.sqrt(theory.propagator), jnp.zeros_like(end), end / self.n_steps
        )
        return prior_log_prob(theory, u) - change - _half_log_det(theory)

    def _flow(
        self, network: Denoiser, theory: Theory, x: jax.Array, key: jax.Array | None
    ) -> tuple[Slope, jax.Array]:
        """d(u, log q)/d tau, and tau at t_max."""
        c, t0 = theory.propagator, _T0 * theory.c_min
        probes = None
        if self.n_probes:
            if key is None:
                raise ValueError(f"a flow with n_probes = {self.n_probes} needs a key")
            probes = jax.random.rademacher(key, (self.n_probes, *x.shape), x.dtype)

        def slope(u: jax.Array, tau: jax.Array) -> State:
            t = jnp.maximum(t0 * jnp.expm1(tau), _FLOOR * theory.c_min)
            root = jnp.sqrt(c + t)
            x = root * u
            if probes is None:
                force, trace = network.force_and_trace(theory, x, t[None])
            else:
                force, trace = network.estimated_trace(theory, x, t[None], probes)
            rate = 0.5 * (t + t0)  # 1/2 dt/dtau
            return rate * c / root**3 * force, -rate * trace.astype(widest(u.dtype))

        return slope, jnp.log1p(theory.t_max / t0)

    def _integrate(
        self, slope: Slope, u: jax.Array, start: jax.Array, step_size: jax.Array
    ) -> State:
        """Whitened modes at the end, and the change of their log density on the way."""
        nodes, weights = (jnp.asarray(row, u.dtype) for row in SCHEMES[self.scheme])
        slope = jax.checkpoint(slope)  # fine-tuning differentiates through all steps

        def step(i: jax.Array, state: State) -> State:
            def stage(
                carry: tuple[State, jax.Array], inputs: State
            ) -> tuple[tuple[State, jax.Array], None]:
                (u, change), rate = carry
                node, weight = inputs
                rate, growth = slope(
                    state[0] + node * step_size * rate, start + (i + node) * step_size
                )
                u = u + weight * step_size * rate
                return ((u, change + weight * step_size * growth), rate), None

            carry, _ = lax.scan(stage, (state, jnp.zeros_like(state[0])), (nodes, weights))
            return carry[0]

        begin = (u, jnp.zeros(len(u), widest(u.dtype)))
        return lax.fori_loop(0, self.n_steps, step, begin)


def draw_prior(theory: Theory, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Draw whitened modes at t_max, `(n, *modes)`, and their log density, `(n,)`."""
    u = theory.draw(key, jnp.broadcast_to(theory.t_max, (n,))) / jnp.sqrt(
        theory.propagator + theory.t_max
    )
    return u, prior_log_prob(theory, u)


def prior_log_prob(theory: Theory, u: jax.Array) -> jax.Array:
    """Log density of whitened modes at t_max: `(n,)`."""
    variance = theory.propagator + theory.t_max
    log_prob = theory.log_prob(jnp.sqrt(variance) * u, jnp.broadcast_to(theory.t_max, (len(u),)))
    return log_prob + 0.5 * jnp.sum(jnp.log(variance.astype(widest(u.dtype))))


def _half_log_det(theory: Theory) -> jax.Array:
    """1/2 sum_p log C: what the whitening does to a density."""
    return 0.5 * jnp.sum(jnp.log(theory.propagator.astype(widest(theory.dtype))))
