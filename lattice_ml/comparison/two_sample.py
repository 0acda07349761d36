"""The classifier two-sample test: can a network tell candidate from reference?

A `CNN` learns to on one half of the stretches of both ensembles and is judged on the other half,
which it has not seen: were both of one distribution, its scores would be distributed alike, however
well or badly it was trained, and the area under its ROC curve 1/2 but for chance (D. Lopez-Paz and
M. Oquab, arXiv:1610.06545).  The error knows that configurations of a stretch are correlated.

Where M -> -M is a symmetry the network is even, so that chains that stay in one well do not count;
the signs are judged elsewhere.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import as_action
from lattice_ml.comparison.classifiers import fit_cnn, log_odds
from lattice_ml.comparison.sides import Fields, Side
from lattice_ml.statistics.roc import Area, Curve, Scores, auc, roc_curve

__all__ = ["ToldApart", "tell_apart"]

FEWEST = 16  # stretches of an ensemble; half of them judge
_SEED = 1


class ToldApart(NamedTuple):
    """How well a network tells the candidate's configurations from the reference's.

    Attributes:
        area: under the ROC curve, the candidate being the positive class; nan where not judged.
        curve: both rates; None where not judged.
    """

    area: Area
    curve: Curve | None


def tell_apart(reference: Side, candidate: Side) -> ToldApart | None:
    """Train on one half, judge on the other; None where no configurations were kept.

    Not judged are ensembles of fewer than 16 stretches.  The p-value is never below the share
    1 / binomial(n + m, n) that one arrangement of the n and m judging stretches has by chance.
    """
    if reference.fields is None or candidate.fields is None:
        return None
    if min(reference.n_stretches, candidate.n_stretches) < FEWEST:
        return ToldApart(Area(math.nan, math.nan, math.nan), None)
    training, judging = zip(_halves(reference), _halves(candidate), strict=True)
    network = fit_cnn(
        jax.random.key(_SEED),
        np.concatenate([fields.phi for fields in training]),
        np.repeat([0, 1], [len(fields.phi) for fields in training]),
        np.concatenate([_weights(fields) for fields in training]),
        even=as_action(reference.ensemble.action).z2,
    )
    negative, positive = (
        Scores(log_odds(network, fields.phi), fields.stretch, fields.weights) for fields in judging
    )
    found = auc(positive, negative)
    n, m = (len(np.unique(fields.stretch)) for fields in judging)
    p_value = max(found.p_value, 1 / math.comb(n + m, n))
    return ToldApart(found._replace(p_value=p_value), roc_curve(positive, negative))


def _halves(side: Side) -> tuple[Fields, Fields]:
    """Its configurations in two halves of the stretches, by chance."""
    chosen = np.random.default_rng(_SEED).permutation(side.n_stretches) < side.n_stretches // 2
    assert side.fields is not None
    return side.fields.of(~chosen), side.fields.of(chosen)


def _weights(fields: Fields) -> np.ndarray:
    return np.ones(len(fields.phi)) if fields.weights is None else fields.weights
