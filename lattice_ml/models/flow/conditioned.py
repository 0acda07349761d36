r"""A flow of several theories: its weights are polynomials in the couplings.

In the flow's units a theory has kappa = h / 2 and lam = b.  Those that vary among the theories of a
training are scaled to +-1, and every weight is a sum of monomials in them; one theory has one term.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml._pytree import pytree
from lattice_ml.models.flow.multiscale import Tables, Weights
from lattice_ml.models.model import host

__all__ = ["Flow", "conditioned"]


@pytree
class Flow:
    """What a training finds.

    Args:
        weights: every leaf with an axis of terms in front.
        powers: of (kappa, lam) in each term, `(terms, 2)`.
        centre, span: of (kappa, lam) among the theories of the training, `(2,)`.
    """

    weights: Weights
    powers: jax.Array
    centre: jax.Array
    span: jax.Array

    def like(self, weights: Weights) -> "Flow":
        """A flow with these weights at all couplings."""
        terms = len(self.powers)

        def constant(leaf: np.ndarray) -> np.ndarray:
            whole = np.zeros((terms, *np.shape(leaf)), np.float32)
            whole[0] = leaf
            return whole

        return replace(self, weights=jax.tree.map(constant, weights))

    def terms(self, tables: Tables) -> jax.Array:
        """The monomials at the couplings of a theory, `(terms,)`."""
        couplings = (jnp.stack([tables.h / 2, tables.b]) - self.centre) / self.span
        return jnp.prod(couplings**self.powers, axis=-1)

    def at(self, tables: Tables) -> Weights:
        """The weights at the couplings of a theory."""
        terms = self.terms(tables)
        found: Weights = jax.tree.map(
            lambda leaf: jnp.tensordot(terms.astype(leaf.dtype), leaf, 1), self.weights
        )
        return found


def conditioned(weights: Weights, theories: Sequence[Tables], degree: int) -> Flow:
    """A flow that is the same at all couplings of a training.

    Args:
        weights: of one theory.
        theories: of the training.
        degree: of the polynomials, at most; 0 where all couplings are equal.
    """
    couplings = np.array([[float(t.h) / 2, float(t.b)] for t in theories])
    low, high = couplings.min(axis=0), couplings.max(axis=0)
    varies = high - low > 1e-9
    highest = [min(degree, len(np.unique(column.round(9))) - 1) for column in couplings.T]
    powers = [
        (i, j) for i in range(highest[0] + 1) for j in range(highest[1] + 1) if i + j <= degree
    ]
    powers.sort(key=sum)
    flow = Flow(
        weights=weights,
        powers=host(np.array(powers, np.float64)),
        centre=host(np.where(varies, (low + high) / 2, couplings[0])),
        span=host(np.where(varies, (high - low) / 2, 1.0)),
    )
    return flow.like(weights)
