r"""The kernel of a score function of fields, momentum by momentum, by probing it with plane waves.

A distribution p(phi) ~ exp(-S) has the score s = -dS/dphi, and J = -ds/dphi is the curvature of
its action: the kernel, if S is quadratic.  Averaged over a translation-invariant ensemble, J is
diagonal in plane waves: one number per momentum, the same on a shell of equal p_hat^2 up to what
breaks rotations.

`kernel_by_probes` finds it for any function, by derivatives along plane waves and without forming
J.  With e = (2/V)^(1/2) cos(p x + alpha), p drawn from the shell and alpha from the circle, afresh
for each field, <e|J|e> has the shell's mean as its expectation, whatever the symmetries of the
score.  The same probes give J e and J^T e, and so the squared Frobenius norms

    |J|^2 = sum_p |J e_p|^2,    |(J - J^T)/2|^2,    |(J + J^T)/2|^2 - sum_p <e_p|J|e_p>^2:

a score that is no gradient has an antisymmetric part, the curl of what was learned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from lattice_ml.analysis.terms import gradients
from lattice_ml.fields.lattice import Lattice, group_means
from lattice_ml.statistics import jackknife_error

__all__ = [
    *("ProbedKernel", "kernel_by_probes", "plane_waves"),
    *("projection", "regression", "without_noise"),
]

Score = Callable[..., jax.Array]


@dataclass(frozen=True)
class ProbedKernel:
    """What probes saw of J = -ds/dphi, field by field; index it to select fields."""

    lattice: Lattice
    values: np.ndarray  # `(n, n_shells)` mean of <e|J|e> over the probes of a shell
    symmetric: np.ndarray  # `(n, n_shells)` mean of |(J + J^T) e / 2|^2
    antisymmetric: np.ndarray  # `(n, n_shells)` mean of |(J - J^T) e / 2|^2

    def __getitem__(self, fields: slice) -> "ProbedKernel":
        parts = (self.values, self.symmetric, self.antisymmetric)
        return ProbedKernel(self.lattice, *(part[fields] for part in parts))

    def mean(self) -> tuple[np.ndarray, np.ndarray]:
        """<J> of every shell and its error from the spread over fields: `(n_shells,)` each.

        The error is NaN for one field; fields are taken to be independent.
        """
        n, mean = len(self.values), self.values.mean(axis=0)
        spread = np.std(self.values, axis=0, ddof=1) if n > 1 else np.full_like(mean, np.nan)
        return mean, spread / np.sqrt(n)

    @property
    def asymmetry(self) -> float:
        """|(J - J^T)/2| / |J| in the Frobenius norm: 0 if the score is a gradient."""
        anti = self._norm_squared(self.antisymmetric)
        return float(np.sqrt(anti / ((anti + self._norm_squared(self.symmetric)) or 1.0)))

    @property
    def off_diagonal(self) -> float:
        """Share of the symmetric part's Frobenius norm that leads from a probe to other fields.

        With random probes the values' own scatter within a shell counts as diagonal.
        """
        whole = self._norm_squared(self.symmetric) or 1.0
        return float(np.sqrt(max(0.0, 1 - self._norm_squared(self.values**2) / whole)))

    def _norm_squared(self, squares: np.ndarray) -> float:
        return np.sum(self.lattice.shell_sizes * squares.mean(axis=0))


def kernel_by_probes(
    score: Score,
    fields: ArrayLike,
    *arguments: ArrayLike,
    n_probes: int | None = 1,
    seed: int = 0,
    batch_size: int = 64,
    is_gradient: bool = False,
) -> ProbedKernel:
    """Probe J = -ds/dphi of a score function at given fields by plane waves.

    Args:
        score: from fields `(n, *L)`, and the arguments, to scores `(n, *L)`, in JAX operations;
            each field's score may depend on that field alone.
        fields: `(n, *L)`; their dtype is that of the computation.
        arguments: more arrays `(n, ...)` that the score takes, such as noise levels.
        n_probes: random waves per field and shell; None for all V waves, the shells' exact means.
        seed: of the random waves.
        batch_size: fields that are probed together.
        is_gradient: the score is one by construction: J = J^T is not looked at, and costs nothing.

    Returns:
        Values per field and shell, at a cost of three evaluations of the score for each, or two of
        a gradient.

    Raises:
        ValueError: shapes that do not fit, no probe, or a derivative that is not finite.
    """
    x = jnp.asarray(fields)
    lattice, n = Lattice(x.shape[1:]), len(x)
    if n < 1 or batch_size < 1 or (n_probes is not None and n_probes < 1):
        raise ValueError(
            f"probes need at least one field, probe and field per batch, got {n} fields, "
            f"{n_probes=} and {batch_size=}"
        )
    found = jax.eval_shape(score, x, *arguments).shape
    if found != x.shape:
        raise ValueError(f"the score of fields {x.shape} must have their shape, got {found}")
    waves, phases, shells = _probes(lattice, n, n_probes, seed)
    probe = jax.jit(lambda *batch: _probe(score, lattice, *batch, is_gradient=is_gradient))
    parts = []
    for first in range(0, n, batch_size):
        # the last batch is filled up with its last field: one compiled program for all
        rows = np.minimum(np.arange(first, first + batch_size), n - 1)
        batch = [jnp.asarray(a)[rows] for a in (x, *arguments)]
        squares = np.asarray(probe(waves[:, rows], phases[:, rows], *batch), np.float64)
        parts.append(squares[..., : n - first])
    probed = np.concatenate(parts, axis=-1)  # (3, probes, n)
    if not np.all(np.isfinite(probed)):
        raise ValueError("the derivative of the score is not finite at some of the fields")
    values, symmetric, antisymmetric = group_means(probed.swapaxes(1, 2), shells)
    return ProbedKernel(lattice, values, symmetric, antisymmetric)


def regression(scores: ArrayLike, fields: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Regress -s on phi per shell, <-s phi*>/<|phi|^2>: values and errors, `(n_shells,)` each.

    For an exact score it is 1/G(p), because <-s phi*> = V.

    Args:
        scores: s of the fields, `(n, *L)`.
        fields: independent ones, `(n, *L)`.
    """
    phi = np.asarray(fields, np.float64)
    lattice = Lattice(phi.shape[1:])
    axes = tuple(range(1, phi.ndim))
    modes, forces = (np.fft.fftn(a, axes=axes) for a in (phi, -np.asarray(scores, np.float64)))
    above = lattice.shell_means((forces * modes.conj()).real)
    below = lattice.shell_means(np.abs(modes) ** 2)
    value: np.ndarray = above.mean(axis=0) / below.mean(axis=0)
    spread = np.std(above - value * below, axis=0, ddof=1)
    return value, spread / below.mean(axis=0) / np.sqrt(len(phi))


def projection(
    scores: ArrayLike, noised: ArrayLike, fields: ArrayLike
) -> dict[str, tuple[float, float]]:
    """Project a score onto the quartic action's force: h, a, b and bare_mass_squared with errors.

    The score of x = phi + noise is -E[dS/dphi | x], at any noise.  With the fields
    O = (-sum of neighbours, 2 phi, 4 phi^3), dS/dphi = (h, a, b) . O, any functions T of x obey

        <T_j(x) . (-s(x))> = sum_k <T_j(x) . O_k(phi)> (h, a, b)_k;

    here T = O of x.  No noise has to be undone, and no derivative is taken.

    Args:
        scores: s of the noised fields, `(n, *L)`.
        noised: x, `(n, *L)`.
        fields: phi, independent ones, `(n, *L)`.

    Returns:
        Each with its statistical error, by the jackknife over fields.
    """
    x, phi, force = (np.asarray(f, np.float64) for f in (noised, fields, -np.asarray(scores)))
    n, ndim = len(phi), phi.ndim - 1
    tests, terms = (gradients(("link", "square", "quartic"), f) for f in (x, phi))  # (n, 3, V)
    matrix = np.einsum("njx,nkx->njk", tests, terms)
    vector = np.einsum("njx,nx->nj", tests, force.reshape(n, -1))
    found = np.linalg.solve(matrix.mean(axis=0), vector.mean(axis=0))
    left = np.linalg.solve(matrix.sum(axis=0) - matrix, (vector.sum(axis=0) - vector)[..., None])
    both = [np.c_[g, 2 * g[:, 1] - 2 * ndim * g[:, 0]] for g in (found[None], left[..., 0])]
    error = jackknife_error(both[1])
    names = ("h", "a", "b", "bare_mass_squared")
    return {k: (float(v), float(e)) for k, v, e in zip(names, both[0][0], error, strict=True)}


def without_noise(j: ArrayLike, error: ArrayLike, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Undo noise of variance t: 1/(1/J - t) = J/(1 - t J), and its error.

    Exact for a Gaussian.  Otherwise <J> misses t Var(S''), to first order in t.
    """
    left = 1 - t * np.asarray(j)
    return np.asarray(j) / left, np.asarray(error) / left**2


def plane_waves(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """All real plane waves, orthonormal rows `(V, V)`, and the shell of each, `(V,)`."""
    waves, phases, norms = _waves(lattice)
    x = np.indices(lattice.shape).reshape(lattice.ndim, -1)
    turns = (waves / np.array(lattice.shape)) @ x
    rows = norms[:, None] * np.cos(2 * np.pi * turns + phases[:, None])
    return rows, lattice.shells[1].ravel()


def _probe(
    score: Score,
    lattice: Lattice,
    waves: jax.Array,
    phases: jax.Array,
    *batch: jax.Array,
    is_gradient: bool,
) -> jax.Array:
    """<e|J|e> and squared norms of the two parts of J e: `(3, probes, n)`."""
    x, *arguments = batch
    _, forward = jax.linearize(lambda x: -score(x, *arguments), x)
    backward = None if is_gradient else jax.linear_transpose(forward, x)
    extents = np.array(lattice.shape)
    sites = np.indices(lattice.shape).reshape(lattice.ndim, -1)
    volume = lattice.volume

    def one(probe: tuple[jax.Array, jax.Array]) -> jax.Array:
        wave, phase = probe  # (n, ndim), (n,)
        turns = jnp.zeros((len(wave), volume), x.dtype)
        for mu, extent in enumerate(extents):  # whole numbers: exact in any dtype
            turns += (wave[:, mu, None] * sites[mu] % extent).astype(x.dtype) / extent
        e = jnp.cos(2 * jnp.pi * turns + phase[:, None].astype(x.dtype))
        e = e / jnp.sqrt(jnp.sum(e * e, axis=1, keepdims=True))
        right = forward(e.reshape(x.shape)).reshape(e.shape)
        left = right if backward is None else backward(e.reshape(x.shape))[0].reshape(e.shape)
        even, odd = (right + left) / 2, (right - left) / 2
        return jnp.stack([jnp.sum(a * b, axis=1) for a, b in ((e, even), (even, even), (odd, odd))])

    return jnp.swapaxes(lax.map(one, (waves, phases)), 0, 1)


def _probes(
    lattice: Lattice, n: int, n_probes: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wave numbers `(probes, n, ndim)`, phases `(probes, n)`, shell of each probe `(probes,)`."""
    waves, phases, _ = _waves(lattice)
    shell = lattice.shells[1].ravel()
    if n_probes is None:
        every = np.broadcast_to(waves[:, None], (len(waves), n, lattice.ndim))
        return every, np.broadcast_to(phases[:, None], (len(waves), n)), shell
    random = np.random.default_rng(seed)
    shells = np.repeat(np.arange(len(lattice.shells[0])), n_probes)
    choice = np.stack([random.choice(np.flatnonzero(shell == s), n) for s in shells])
    moving = np.any(2 * waves % np.array(lattice.shape), axis=1)[choice]  # p and -p differ
    return waves[choice], moving * random.uniform(0, 2 * np.pi, choice.shape), shells


def _waves(lattice: Lattice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wave numbers of all momenta `(V, ndim)`, phases that make real waves, and their norms.

    Of a pair +-p one is the cosine and the other the sine.
    """
    extents = np.array(lattice.shape)
    waves = np.indices(lattice.shape).reshape(lattice.ndim, -1).T
    mirrored = -waves % extents
    own, other = (np.ravel_multi_index(tuple(k.T), lattice.shape) for k in (waves, mirrored))
    norms = np.sqrt(np.where(own == other, 1, 2) / lattice.volume)
    return waves, np.where(own > other, -np.pi / 2, 0.0), norms
