"""Regression on normal equations has its closed forms and meets its optimality conditions."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from lattice_ml.analysis import normal_equations
from lattice_ml.analysis.normal_equations import lasso, loss, solve, split, validated


def equations(n_terms=6, n=16):
    """[A | b] of n parts of random data: `(n, n_terms, n_terms + 1)`."""
    random = np.random.default_rng(1)
    x = random.standard_normal((n, 40, n_terms)) * np.linspace(0.5, 2, n_terms)
    y = x[..., 0] + random.standard_normal((n, 40))
    return np.concatenate([x.swapaxes(1, 2) @ x, np.einsum("nij,ni->nj", x, y)[..., None]], 2) / 40


def test_least_squares_of_the_terms_that_are_kept():
    parts = equations()
    keep = np.array([True, False, True, True, False, False])
    matrix, vector = split(parts)
    exact = np.linalg.solve(matrix[:, keep][..., keep], vector[:, keep, None])[..., 0]
    found = solve(parts, keep)
    np.testing.assert_allclose(found[:, keep], exact, rtol=1e-10)
    assert not found[:, ~keep].any()
    np.testing.assert_allclose(loss(found, parts), -np.sum(vector * found, axis=1) / 2, rtol=1e-10)


def test_lasso_meets_its_optimality_conditions():
    matrix, vector = split(equations())
    scale = np.sqrt(np.diagonal(matrix, axis1=1, axis2=2))
    largest = np.max(np.abs(vector) / scale, axis=1)
    for share in (0.9, 0.3, 0.03):
        c = lasso(matrix, vector, share * largest)
        slope = (vector - np.einsum("njk,nk->nj", matrix, c)) / scale / largest[:, None]
        assert 0 < np.count_nonzero(c) < c.size
        np.testing.assert_allclose(slope[c != 0], share * np.sign(c[c != 0]), rtol=1e-7)
        assert np.all(np.abs(slope[c == 0]) <= share * (1 + 1e-7))
    assert not lasso(matrix, vector, largest).any()
    np.testing.assert_allclose(
        lasso(matrix, vector, 0.0), np.linalg.solve(matrix, vector[..., None])[..., 0], rtol=1e-6
    )


def test_lasso_is_that_of_sklearn():
    random = np.random.default_rng(1)
    x, y = random.standard_normal((40, 6)), random.standard_normal(40)
    x *= math.sqrt(40) / np.linalg.norm(x, axis=0)  # the diagonal of A is one
    theirs = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y)
    ours = lasso(x.T @ x / 40, x.T @ y / 40, 0.1)
    assert 0 < np.count_nonzero(ours) < 6
    np.testing.assert_allclose(ours, theirs.coef_, rtol=1e-8, atol=1e-10)


def test_the_penalty_is_that_of_the_least_loss_of_data_left_out():
    parts = equations(4)
    penalty = validated(parts, "ridge")
    folds = np.arange(16).reshape(8, 2)
    grid = normal_equations._PENALTIES
    losses = np.zeros_like(grid)
    for fold in folds:
        matrix, vector = split(np.delete(parts, fold, axis=0).mean(axis=0))
        held, right = split(parts[fold].mean(axis=0))
        for i, ridge in enumerate(grid):
            c = np.linalg.solve(matrix + ridge * np.diag(np.diag(matrix)), vector)
            losses[i] += c @ held @ c / 2 - right @ c
    assert penalty == grid[np.argmin(losses)]


def test_a_lasso_of_dependent_terms_says_that_it_does_not_converge(monkeypatch):
    monkeypatch.setattr(normal_equations, "_MAX_SWEEPS", 100)
    with pytest.raises(RuntimeError, match="no convergence of the lasso in 100 sweeps"):
        lasso([[1.0, 0.9999], [0.9999, 1.0]], [1.0, 0.0], 1e-6)
