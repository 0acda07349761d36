r"""The Gaussian scalar-field restricted Boltzmann machine of arXiv:2309.15002.

Visible fields phi and hidden fields h have the joint weight exp(-S) with

    S(phi, h) = sum_i 1/2 mu_i^2 phi_i^2 + sum_a (h_a - eta_a)^2 / (2 sigma^2)
                - sum_ia phi_i w_ia h_a,

so both conditionals are products of independent Gaussians, and so is the marginal of phi,

    p(phi) ~ exp(-1/2 phi K phi + J phi),    K = mu^2 - sigma^2 w w^T,    J = w eta.

Every learned eigenvalue of K lies below mu^2, and N_h hidden fields lower at most N_h of them: mu^2
and N_h are ultraviolet regulators.  The integral exists where the *margin*

    A = 1 - sigma^2 w^T mu^-2 w        (N_h, N_h)

is positive definite; then log det K = sum log mu_i^2 + log det A and K^-1 w = mu^-2 w A^-1, so that
nothing here forms an N_v x N_v matrix but `kernel`, `covariance` and `eigenvalues`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.linalg import cho_solve, solve_triangular

from lattice_ml._pytree import pytree

__all__ = ["GaussianRBM", "gaussian_kl", "matmul"]

_LOG_2PI = float(np.log(2 * np.pi))


@pytree
class GaussianRBM:
    """Weights and couplings; a pytree, all of whose fields are traced.

    Args:
        w: `(N_v, N_h)`.
        mu_squared: mass of the visible fields, a scalar or one per site `(N_v,)`.
        sigma: width of the hidden fields, a scalar.
        eta: their means without visible fields, `(N_h,)`.
        centre: a fixed field that is subtracted from every phi first, `(N_v,)`; 0 in the paper.
    """

    w: jax.Array
    mu_squared: jax.Array
    sigma: jax.Array
    eta: jax.Array
    centre: jax.Array

    @classmethod
    def of(
        cls,
        w: npt.ArrayLike,
        mu_squared: npt.ArrayLike,
        sigma: npt.ArrayLike = 1.0,
        eta: npt.ArrayLike | None = None,
        centre: npt.ArrayLike | None = None,
    ) -> "GaussianRBM":
        """Build one from its weights, without hidden means and centre where they are not given.

        Raises:
            ValueError: shapes that do not fit, or a weight exp(-S) that cannot be normalised.
        """
        w = jnp.asarray(w)
        eta = jnp.zeros(w.shape[1], w.dtype) if eta is None else jnp.asarray(eta, w.dtype)
        centre = jnp.zeros(w.shape[0], w.dtype) if centre is None else jnp.asarray(centre, w.dtype)
        made = cls(w, jnp.asarray(mu_squared, w.dtype), jnp.asarray(sigma, w.dtype), eta, centre)
        made.check()
        return made

    def check(self) -> None:
        """Refuse what defines no distribution.

        Raises:
            ValueError: shapes that do not fit, mu^2 <= 0, sigma <= 0, or a margin A that is not
                positive definite.
        """
        n_v, n_h = self.w.shape
        shapes = {name: np.shape(vars(self)[name]) for name in ("mu_squared", "eta", "centre")}
        if shapes["mu_squared"] not in ((), (n_v,)) or (shapes["eta"], shapes["centre"]) != (
            (n_h,),
            (n_v,),
        ):
            raise ValueError(
                f"with w of shape {(n_v, n_h)}, mu_squared must be a number or {(n_v,)}, eta "
                f"{(n_h,)} and centre {(n_v,)}; got {shapes}"
            )
        least, sigma = float(jnp.min(self.mu_squared)), float(self.sigma)
        if not (least > 0 and sigma > 0):
            raise ValueError(
                f"the RBM's mu_squared and sigma must be positive, got {least:.6g} and {sigma:.6g}"
            )
        least = float(jnp.min(jnp.linalg.eigvalsh(self.margin())))
        if not least > 0:
            raise ValueError(
                f"exp(-S) cannot be normalised: the largest singular value of sigma w / mu must be "
                f"below 1, got {np.sqrt(1 - least):.9g}; make w smaller or mu_squared larger"
            )

    @property
    def n_visible(self) -> int:
        return int(self.w.shape[0])

    @property
    def n_hidden(self) -> int:
        return int(self.w.shape[1])

    @property
    def mass(self) -> jax.Array:
        """mu^2 of every site, `(N_v,)`."""
        return jnp.broadcast_to(self.mu_squared, self.w.shape[:1])

    @property
    def whitened(self) -> jax.Array:
        """sigma w / mu, whose singular values must be below 1: `(N_v, N_h)`."""
        return self.sigma * self.w / jnp.sqrt(self.mass)[:, None]

    def margin(self) -> jax.Array:
        """A = 1 - sigma^2 w^T mu^-2 w, `(N_h, N_h)`; positive definite."""
        whitened = self.whitened
        return jnp.eye(self.n_hidden, dtype=self.w.dtype) - matmul(whitened.T, whitened)

    # --------------------------------------------------------- the marginal of the visible fields

    def kernel(self) -> jax.Array:
        """K = mu^2 - sigma^2 w w^T, `(N_v, N_v)`."""
        return jnp.diag(self.mass) - self.sigma**2 * matmul(self.w, self.w.T)

    def apply_kernel(self, phi: jax.Array) -> jax.Array:
        """K phi for columns or a vector, `(N_v, ...)`, without forming K."""
        projected = matmul(self.w, matmul(self.w.T, phi))
        return (self.mass * phi.T).T - self.sigma**2 * projected

    def eigenvalues(self) -> jax.Array:
        """Eigenvalues of K in increasing order, `(N_v,)`."""
        if np.ndim(self.mu_squared) == 0 and self.n_hidden < self.n_visible:
            learned = self.mu_squared * jnp.linalg.eigvalsh(self.margin())
            rest = jnp.full(self.n_visible - self.n_hidden, self.mu_squared, self.w.dtype)
            return jnp.concatenate([learned, rest])
        return jnp.linalg.eigvalsh(self.kernel())

    def covariance(self) -> jax.Array:
        """K^-1 = mu^-2 + sigma^2 mu^-2 w A^-1 w^T mu^-2, `(N_v, N_v)`."""
        scaled = self.w / self.mass[:, None]
        inner = cho_solve((self._cholesky(), True), scaled.T)
        return jnp.diag(1 / self.mass) + self.sigma**2 * matmul(scaled, inner)

    def mean(self) -> jax.Array:
        """<phi> = centre + K^-1 w eta, `(N_v,)`."""
        return self.centre + matmul(self.w, self.hidden_mean()) / self.mass

    def hidden_mean(self) -> jax.Array:
        """<h> = A^-1 eta, `(N_h,)`."""
        return cho_solve((self._cholesky(), True), self.eta)

    def joint_action(self, phi: jax.Array, h: jax.Array) -> jax.Array:
        """S(phi, h) of fields `(n, N_v)` and `(n, N_h)`: `(n,)`."""
        x = phi - self.centre
        visible = 0.5 * jnp.sum(self.mass * x * x, -1)
        hidden = jnp.sum((h - self.eta) ** 2, -1) / (2 * self.sigma**2)
        return visible + hidden - jnp.sum(matmul(x, self.w) * h, -1)

    def log_z(self) -> jax.Array:
        """log of the integral of exp(-S(phi, h)) over all visible and hidden fields."""
        lower = self._cholesky()
        log_det = jnp.sum(jnp.log(self.mass)) + 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))
        gain = jnp.sum(solve_triangular(lower, self.eta, lower=True) ** 2) - jnp.sum(self.eta**2)
        volume = self.n_visible + self.n_hidden
        return 0.5 * (volume * _LOG_2PI - log_det + gain / self.sigma**2) + self.n_hidden * jnp.log(
            self.sigma
        )

    def log_prob(self, phi: jax.Array) -> jax.Array:
        """log p(phi) of fields `(n, N_v)`: `(n,)`."""
        x = phi - self.centre
        projected = matmul(x, self.w)
        exponent = -0.5 * (
            jnp.sum(self.mass * x * x, -1) - self.sigma**2 * jnp.sum(projected**2, -1)
        )
        hidden = 0.5 * self.n_hidden * _LOG_2PI + self.n_hidden * jnp.log(self.sigma)
        return exponent + matmul(projected, self.eta) + hidden - self.log_z()

    # ------------------------------------------------------------------------------------ drawing

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """Draw independent fields `(n, N_v)`: hidden ones from their marginal, then phi given h."""
        hidden, visible = jax.random.split(key)
        noise = jax.random.normal(hidden, (self.n_hidden, n), self.w.dtype)
        spread = solve_triangular(self._cholesky(), noise, lower=True, trans="T").T
        return self.visible_given(visible, self.hidden_mean() + self.sigma * spread)

    def hidden_means(self, phi: jax.Array) -> jax.Array:
        """E[h | phi] = eta + sigma^2 w^T phi of fields `(n, N_v)`: `(n, N_h)`."""
        return self.eta + self.sigma**2 * matmul(phi - self.centre, self.w)

    def visible_means(self, h: jax.Array) -> jax.Array:
        """E[phi | h] = centre + w h / mu^2 of hidden fields `(n, N_h)`: `(n, N_v)`."""
        return self.centre + matmul(h, self.w.T) / self.mass

    def hidden_given(self, key: jax.Array, phi: jax.Array) -> jax.Array:
        """Draw h given phi `(n, N_v)`, of variance sigma^2: `(n, N_h)`."""
        means = self.hidden_means(phi)
        return means + self.sigma * jax.random.normal(key, means.shape, means.dtype)

    def visible_given(self, key: jax.Array, h: jax.Array) -> jax.Array:
        """Draw phi given h `(n, N_h)`, of variance 1/mu^2: `(n, N_v)`."""
        means = self.visible_means(h)
        return means + jax.random.normal(key, means.shape, means.dtype) / jnp.sqrt(self.mass)

    def gibbs(self, key: jax.Array, phi: jax.Array, n_steps: int | jax.Array) -> jax.Array:
        """Take `n_steps` of block Gibbs sampling, h given phi and then phi given h: `(n, N_v)`.

        A mode of K with eigenvalue k forgets where it was as (1 - k/mu^2)^n_steps.
        """

        def step(i: jax.Array, phi: jax.Array) -> jax.Array:
            hidden, visible = jax.random.split(jax.random.fold_in(key, i))
            return self.visible_given(visible, self.hidden_given(hidden, phi))

        return jax.lax.fori_loop(0, n_steps, step, phi)

    def _cholesky(self) -> jax.Array:
        """Lower triangular L with A = L L^T; NaN where A is not positive definite."""
        return jnp.linalg.cholesky(self.margin())


def gaussian_kl(
    rbm: GaussianRBM, covariance: jax.Array, mean: jax.Array | float = 0.0
) -> jax.Array:
    """KL(N(mean, covariance) || p) in closed form.

    Args:
        rbm: p.
        covariance: `(N_v, N_v)`, positive definite.
        mean: `(N_v,)`, or 0.
    """
    shift = mean - rbm.mean()
    trace = jnp.sum(rbm.kernel() * covariance) + jnp.dot(shift, rbm.apply_kernel(shift))
    log_det = jnp.sum(jnp.log(rbm.mass)) + jnp.linalg.slogdet(rbm.margin())[1]
    return 0.5 * (trace - rbm.n_visible - log_det - jnp.linalg.slogdet(covariance)[1])


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Matrix product in the full precision of its dtype, on accelerators too."""
    return jnp.matmul(x, y, precision="highest")
