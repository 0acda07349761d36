r"""Regression on normal equations A c = b with few unknowns: least squares, ridge and lasso.

Equations are arrays `[A | b]`, `(..., n_terms, n_terms + 1)`, A symmetric.  The loss of c is
c A c / 2 - b c; penalties are in the units that make the diagonal of A one.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from lattice_ml.fields.types import Flags, Floats

__all__ = ["lasso", "loss", "solve", "split", "validated"]

_FOLDS = 8
_PENALTIES = np.logspace(0, -5, 51)  # in units of the smallest at which the lasso leaves no term
_MAX_SWEEPS = 100_000
_TOLERANCE = 1e-10  # of the last sweep's change, relative


def split(equations: Floats) -> tuple[Floats, Floats]:
    """Return A and b."""
    return equations[..., :-1], equations[..., -1]


def loss(c: Floats, equations: Floats) -> Floats:
    """Return c A c / 2 - b c, `(...)`."""
    matrix, vector = split(equations)
    return np.asarray(np.sum(c * ((matrix @ c[..., None])[..., 0] / 2 - vector), axis=-1))


def solve(equations: Floats, keep: Flags, ridge: npt.ArrayLike = 0.0) -> Floats:
    """Solve (A + ridge diag A) c = b for the terms that are kept; the others are zero.

    Args:
        equations: [A | b].
        keep: whether each term is, `(..., n_terms)`.
        ridge: `(...)`; all three are broadcast.

    Returns:
        c, `(..., n_terms)`.
    """
    matrix, vector = split(equations)
    one = np.eye(vector.shape[-1])
    larger = matrix * (1 + np.asarray(ridge)[..., None, None] * one)
    both = keep[..., None] & keep[..., None, :]
    kept = np.where(both, larger, one)
    return np.asarray(np.linalg.solve(kept, np.where(keep, vector, 0.0)[..., None])[..., 0])


def lasso(matrix: npt.ArrayLike, vector: npt.ArrayLike, penalty: npt.ArrayLike) -> Floats:
    """Minimise c A c / 2 - b c + penalty sum_j A_jj^(1/2) |c_j| by coordinate descent.

    (J. Friedman, T. Hastie and R. Tibshirani, J. Stat. Softw. 33 (2010) 1.)

    Args:
        matrix: A, symmetric and positive definite, `(..., n_terms, n_terms)`.
        vector: b, `(..., n_terms)`.
        penalty: `(...)`; all three are broadcast.

    Returns:
        c, `(..., n_terms)`, exactly zero where terms are dropped.

    Raises:
        RuntimeError: no convergence, because terms are nearly dependent.
    """
    a, b, step = np.asarray(matrix), np.asarray(vector), np.asarray(penalty)
    scale = np.sqrt(np.diagonal(a, axis1=-2, axis2=-1))
    a, b = a / (scale[..., None] * scale[..., None, :]), b / scale
    c = np.zeros(np.broadcast_shapes(b.shape, (*step.shape, 1)))
    for _ in range(_MAX_SWEEPS):
        before = c.copy()
        for j in range(a.shape[-1]):
            pull = b[..., j] - np.sum(a[..., j, :] * c, axis=-1) + c[..., j]
            c[..., j] = np.sign(pull) * np.maximum(np.abs(pull) - step, 0)
        if np.max(np.abs(c - before)) <= _TOLERANCE * np.max(np.abs(c)):
            return c / scale
    raise RuntimeError(f"no convergence of the lasso in {_MAX_SWEEPS} sweeps: leave out a term")


def validated(parts: Floats, method: Literal["ridge", "lasso"]) -> float:
    """Choose the penalty by cross-validation, in folds of consecutive parts.

    For ridge it is that of the least loss.  For the lasso it is the largest whose selection, solved
    anew without the penalty, is no worse than the best by more than one standard error of the
    difference between the two: shrinking neither costs a selection nor pays for one.

    Args:
        parts: equations of independent parts of the data, `(n, n_terms, n_terms + 1)`.
        method: ridge or lasso.
    """
    folds = np.array_split(parts, _FOLDS)
    held = np.array([fold.mean(axis=0) for fold in folds])[:, None]
    others = (np.concatenate(folds[:i] + folds[i + 1 :]) for i in range(_FOLDS))
    rest = np.array([fold.mean(axis=0) for fold in others])[:, None]
    if method == "ridge":
        every = np.ones(parts.shape[1], bool)
        losses = loss(solve(rest, every, _PENALTIES), held)  # (folds, penalties)
        return float(_PENALTIES[np.argmin(losses.mean(axis=0))])
    matrix, vector = split(parts.mean(axis=0))
    penalties = _PENALTIES * np.max(np.abs(vector) / np.sqrt(np.diag(matrix)))
    losses = loss(solve(rest, lasso(*split(rest), penalties) != 0), held)
    excess = losses - losses[:, [np.argmin(losses.mean(axis=0))]]
    error = np.std(excess, axis=0, ddof=1) / np.sqrt(_FOLDS)
    return float(penalties[np.argmax(excess.mean(axis=0) <= error)])
