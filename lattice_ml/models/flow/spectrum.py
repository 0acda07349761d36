r"""The kernel of a flow: the curvature of its density, and the couplings in it.

The density q of a flow is known, so J = -d^2 log q / dphi^2 is the second derivative of the action
that it has learned, without noise.  Over fields <J> should be the averaged Hessian of the action,

    <S''> = 2a - 2dh + h p_hat^2 + 12 b <phi^2>,

whose slope in p_hat^2 is h and whose dependence on each field's mean of phi^2 gives b.  The score
d log q / dphi tells the couplings as well, by partial integration and without second derivatives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.analysis import spectrum as spectral
from lattice_ml.analysis.probes import kernel_by_probes, projection
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.flow.drawer import FlowDrawer, batch_of
from lattice_ml.models.flow.multiscale import Tables, Weights, invert
from lattice_ml.models.flow.tables import make_tables
from lattice_ml.models.model import Model, Probing
from lattice_ml.models.probing import chosen_fields, named_couplings
from lattice_ml.runtime.json import JsonTable
from lattice_ml.statistics import doubt_of

__all__ = ["of_flow"]

_N_FIELDS = 128


def of_flow(model: Model, probing: Probing) -> JsonTable:
    """The curvature of a flow's density, for the last theory of its last stage.

    Raises:
        ValueError: the fields live on another lattice, or noise, which a flow has none of.
    """
    source, stage = probing.fields, model.stages[-1]
    if probing.noise:
        raise ValueError("the density of a flow is known without noise: leave --noise out")
    theory, lattice = stage.theories[-1], Lattice(stage.shape)
    tables = make_tables(theory).astype(jnp.result_type(float))
    weights: Weights = model.network.at(tables)
    n = probing.n_fields or _N_FIELDS
    if source is None:
        size = batch_of(lattice.shape)
        drawer = FlowDrawer(weights, tables, jax.random.key(probing.seed), size)
        phi = drawer.draw(0, -(-n // size)).fields[:n]
    else:
        phi = chosen_fields(source, lattice, n)
    n = len(phi)
    score = _score(weights, tables)
    probed = kernel_by_probes(score, phi, seed=probing.seed, is_gradient=True)
    learned, error = probed.mean()
    squares = np.mean(phi.reshape(n, -1) ** 2, axis=1)
    shift = 12 * float(theory.b) * squares
    exact = spectral.bare_form(theory.h, theory.a, lattice) + shift.mean()
    # what the fields share with their target cancels in the ratio
    ratio_error = np.std(probed.values - shift[:, None], axis=0, ddof=1) / np.sqrt(n) / exact
    curvature = spectral.couplings(lattice, learned, probed.values, squares)
    scores = np.asarray(jax.jit(score)(jnp.asarray(phi)))
    section = stage.actions[-1]
    return {
        "kind": "Flow",
        "what": "mean curvature <J> of the learned density",
        "shape": list(lattice.shape),
        "action": dict(section),
        **spectral.per_shell(lattice, learned, error, exact, ratio_error=ratio_error),
        "history": [],
        "median_deviation": float(np.median(np.abs(learned / exact - 1))),
        "off_diagonal": probed.off_diagonal,
        "couplings": named_couplings(projection(scores, phi, phi), section, lattice.ndim),
        "curvature_couplings": named_couplings(curvature, section, lattice.ndim),
        "n_fields": n,
        "fields": "the model's own samples" if source is None else source.label,
        "doubt": None if source is None else doubt_of(source.log_weight),
    }


def _score(weights: Weights, tables: Tables) -> Callable[[jax.Array], jax.Array]:
    """d log q / dphi of fields `(n, *L)`."""

    def log_prob(phi: jax.Array) -> jax.Array:
        return jnp.sum(invert(weights, tables, jnp.moveaxis(phi, 0, -1))[1])

    return jax.grad(log_prob)
