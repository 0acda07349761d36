r"""Whether clusters have the signs that they should have, without waiting for one to change it.

With all |phi_x| held fixed, signs of a nearest-neighbour action are an Ising model.  Where a link
is a bond with probability 1 - exp(-2 h phi_x phi_{x+mu}), never where that is negative, every
cluster of bonds has either sign with probability 1/2, whatever others have (`samplers.cluster`):

    < M^2 - sum_C M_C^2 > = 0,    M_C = (1/V) sum_{x in C} phi_x.

In deep wells no dynamics of small steps moves a sign on the scale of a run.  Domain walls of the
start then stay, all exact identities hold around them, and all means within a chain look right.
Here they show in each configuration by itself: domains beside each other have opposite signs, and
there are none of equal sign that happen to share no bond.  Where h < 0 neighbours have opposite
signs, and M is the staggered magnetisation, the mean of (-1)^(x_1 + ... + x_d) phi_x: the equation
holds for any factors of the sites.
"""

import math
from typing import NamedTuple

import numpy as np

from lattice_ml.actions import Quartic
from lattice_ml.fields.types import Floats, Integers
from lattice_ml.observables.ensemble import Ensemble

__all__ = ["ClusterSigns", "measure"]

_SITES = 1 << 18  # looked at: a fraction of a second
_MOST_SITES = 1 << 24  # of large lattices
_FEWEST = 128  # configurations, so that those of one chain can be judged
_AT_ONCE = 1 << 17  # sites


class ClusterSigns(NamedTuple):
    """M^2 - sum_C M_C^2 of some configurations."""

    difference: Floats  # (n_chains, n)
    configs: Integers  # (n,) which they are, evenly spaced


def measure(ensemble: Ensemble, temperature: float) -> ClusterSigns | None:
    """Find the clusters of some configurations of all chains, with the same bonds every time.

    None where the action is not one of nearest neighbours, or the lattice too large.
    """
    n_chains, volume = ensemble.n_chains, math.prod(ensemble.shape)
    if not (isinstance(ensemble.action, Quartic) and ensemble.action.z2):
        return None
    n = max(_SITES // (n_chains * volume), math.ceil(_FEWEST / n_chains))
    if n * n_chains * volume > _MOST_SITES:
        return None
    n_configs = len(ensemble.cfgs) // n_chains
    configs = np.unique(np.linspace(0, n_configs - 1, min(n, n_configs)).astype(int))
    coupling = 2 * float(ensemble.action.couplings()[0]) / temperature
    rng = np.random.default_rng(1)
    rows = (configs[:, None] * n_chains + np.arange(n_chains)).ravel()
    parts = np.array_split(rows, math.ceil(len(rows) * volume / _AT_ONCE))
    found = [_differences(np.asarray(ensemble.cfgs[part]), coupling, rng) for part in parts]
    return ClusterSigns(np.concatenate(found).reshape(len(configs), n_chains).T, configs)


def _differences(fields: Floats, coupling: float, rng: np.random.Generator) -> Floats:
    """M^2 - sum_C M_C^2 of configurations `(n, *L)`: `(n,)`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    phi = fields.astype(np.float64)
    sites, ends = np.arange(phi.size).reshape(phi.shape), []
    for axis in range(1, phi.ndim):
        energy = coupling * phi * np.roll(phi, -1, axis)
        bonds = rng.random(phi.shape) < -np.expm1(-np.maximum(energy, 0))
        ends.append((sites[bonds], np.roll(sites, -1, axis)[bonds]))
    links = tuple(np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(links[0]), bool), links), shape=(phi.size, phi.size))
    n_clusters, cluster = connected_components(graph, directed=False)
    config = np.empty(n_clusters, int)
    config[cluster] = sites.ravel() // phi[0].size
    if coupling < 0:
        phi *= 1 - 2 * (np.indices(phi.shape[1:]).sum(axis=0) % 2)
    parts = np.bincount(cluster, phi.ravel(), n_clusters) / phi[0].size
    squares = np.bincount(config, parts**2, len(phi))
    return np.asarray(phi.reshape(len(phi), -1).mean(axis=1) ** 2 - squares)
