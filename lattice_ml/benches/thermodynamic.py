r"""log Z by thermodynamic integration over the coupling h of neighbours, by chains of HMC.

    d log Z / dh = V <link_sum>,    log Z(h) = log Z(0) + int_0^h dh' V <link_sum>_h',

where log Z(0) is V times that of a single site, exactly; in the kappa convention h is 2 kappa.
The integral is a Gauss-Legendre sum on every piece of [0, h].  Chains start cold at the largest h
and go down from node to node, since order melts, while walls between the wells of a broken phase
would stay.  Each node has a warm-up of its own, so that nodes are independent and

    error^2 = sum_i (g_i error_i)^2,    g_i = V times the weight of node i,

with the Gamma method's error at each.  A node that takes t_i seconds has an error^2 of c_i / t_i,
c_i = t_i (g_i error_i)^2.  Spread over the nodes in the best way, t_i ~ sqrt(c_i), all together
need

    seconds = (sum_i sqrt(c_i))^2 / error^2,

which the run tells whatever its own spread was.  The error of the sum as an integral is no part of
this: more nodes tell.  It falls exponentially with their number, slowly where a transition is on
the way or near its end.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import Phi4, Quartic
from lattice_ml.analysis.exact import exact
from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import timed_chains
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.samplers.hmc import HMC

__all__ = ["Integral", "best_spread", "gauss_legendre", "integrate"]


class Integral(NamedTuple):
    """log Z, and what it costs."""

    log_z: Number  # its error is statistical
    cost: Number  # seconds of chains times error^2, spread over the nodes in the best way
    warm_up: float  # seconds, whatever the error


def integrate(
    key: jax.Array,
    action: Quartic,
    lattice: Lattice,
    *,
    n_nodes: int,
    cuts: Sequence[float] = (),
    n_chains: int,
    n_configs: int,
    n_thermalise: int,
) -> Integral:
    """Integrate from h = 0 to the action's own.

    Args:
        key, lattice: of the chains.
        action: its log Z is wanted.
        n_nodes: on every piece.
        cuts: values of h where one piece ends and the next begins, from 0 to the action's h.
        n_chains: at every node.
        n_configs, n_thermalise: of every chain at every node.

    Raises:
        ValueError: exp(-S) cannot be normalised at h = 0, or too few configurations to time.
    """
    h, a, b = map(float, action.couplings())
    nodes, weights = gauss_legendre([0.0, *cuts, h], n_nodes)
    slopes, parts, warm_up = [], [], 0.0
    fields: str | np.ndarray = "cold"
    for number in reversed(range(len(nodes))):
        node, weight = float(nodes[number]), float(weights[number])
        samples = timed_chains(
            jax.random.fold_in(key, number),
            HMC(Phi4(h=node, a=a, b=b)),
            lattice,
            n_chains=n_chains,
            n_configs=n_configs,
            n_thermalise=n_thermalise,
            start=fields,
        )
        assert samples.fields is not None
        fields, rate = samples.fields, samples.per_second.value
        warm_up += n_thermalise * n_chains / rate
        found, gain = samples.estimate("link_sum"), lattice.volume * weight
        slopes.append(Number(found.value, found.error).scaled(gain))
        spent = math.sqrt(n_configs * n_chains / rate)
        parts.append(Number(found.error, found.error_error).scaled(abs(gain) * spent))
    site = exact(Phi4(h=0.0, a=a, b=b), (2,)).log_z / 2
    value = lattice.volume * site + sum(slope.value for slope in slopes)
    error = math.hypot(*(slope.error or 0.0 for slope in slopes))
    return Integral(Number(value, error), best_spread(parts), warm_up)


def gauss_legendre(edges: Sequence[float], n_nodes: int) -> tuple[Floats, Floats]:
    """Nodes and weights on the pieces between edges, `(pieces * n_nodes,)` each, in their order."""
    x, w = np.polynomial.legendre.leggauss(n_nodes)
    halves = [((low + high) / 2, (high - low) / 2) for low, high in pairwise(edges)]
    nodes = np.concatenate([middle + half * x for middle, half in halves])
    return nodes, np.concatenate([half * w for _, half in halves])


def best_spread(parts: Sequence[Number]) -> Number:
    """(sum_i sqrt(c_i))^2 of square roots and their errors."""
    total = sum(part.value for part in parts)
    error = math.hypot(*(part.error or 0.0 for part in parts))
    return Number(total**2, 2 * total * error)
