r"""Exact solutions: free fields in closed form, phi^4 on small lattices by the transfer matrix.

A free field has G(p) = 1 / (h p_hat^2 + 2 (a - d h)), and M is Gaussian.  For phi^4 the partition
function is Tr T^L along the longest axis; see `transfer_matrix`.  From G(p), <phi^4> and the law of
M follow all observables of `measure`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lattice_ml.actions import Action, quadratic_form, quartic
from lattice_ml.analysis.transfer_matrix import SmallLattice, solve
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.runtime.printable import shape_label

__all__ = ["Exact", "exact"]

_CONVERGED = 0.02
_ROUNDING = 1e-8  # relative, of the modes of the transfer matrix that are left out


@dataclass(frozen=True)
class Exact:
    """Expectation values of exp(-S)/Z."""

    # of the observables that `measure` names, as far as they are defined
    values: Mapping[str, float]
    errors: Mapping[str, float]  # numerical ones of the values; zero in closed form
    two_point: Floats  # G(p), `(*L)` in FFT order
    magnetisation: tuple[Floats, Floats]  # x and P(M <= x), `(n,)` each
    log_z: float  # logarithm of Z, of the (h, a, b) action
    source: str  # how it was found


def exact(action: Action, shape: tuple[int, ...]) -> Exact:
    """Solve an action on a periodic lattice.

    Args:
        action: quartic, in (h, a, b); without b on any lattice, with b where all extents but the
            longest have at most 4 sites together: chains, 2 x L, 3 x L, 4 x L, 2 x 2 x L.
        shape: extents of the lattice.

    Raises:
        ValueError: the lattice is too large, the quadrature does not suffice for wells so deep,
            or the action is not of this kind.
    """
    lattice = Lattice(shape)
    known = quartic(action, "exact solutions are")
    known.check(lattice.ndim)
    h, a, b = (float(x) for x in known.couplings())
    if b == 0:
        return _free(lattice, h, a)
    fine, coarse = solve(lattice, h, a, b)
    values, rough = (_values(lattice, h, a, b, found) for found in (fine, coarse))
    both = {name: (value, rough[name]) for name, value in values.items() if name in rough}
    errors = {name: abs(one - two) + _ROUNDING * abs(one) for name, (one, two) in both.items()}
    identity = values["schwinger_dyson"]
    if not (errors["phi2"] < _CONVERGED * values["phi2"] and abs(identity - 1) < _CONVERGED):
        raise ValueError(
            f"{fine.n_nodes} quadrature nodes a site do not suffice for {action} on "
            f"{shape_label(shape)}: the Schwinger-Dyson identity gives {identity:.4g} "
            f"instead of 1, and <phi^2> = {values['phi2']:.4g} changes by {errors['phi2']:.2g} "
            f"with one node less"
        )
    known_values = {name: values[name] for name in errors}
    source = f"transfer matrix with {fine.n_nodes} nodes a site"
    return Exact(known_values, errors, fine.two_point, fine.cumulative(), fine.log_z, source)


def _free(lattice: Lattice, h: float, a: float) -> Exact:
    two_point = 1 / quadratic_form(h, a, lattice.ndim, lattice.p_hat_squared)
    phi2 = float(two_point.mean())
    variance = float(two_point.ravel()[0]) / lattice.volume
    log_z = 0.5 * float(np.sum(np.log(2 * np.pi * two_point)))
    sigma = math.sqrt(variance)
    moments = SmallLattice(
        n_nodes=0,
        log_z=log_z,
        two_point=two_point,
        phi4=3 * phi2**2,
        reach=12 * sigma,
        characteristic=np.exp(-0.5 * (np.pi / 12 * np.arange(1, 64)) ** 2),
    )
    values = _values(lattice, h, a, 0.0, moments)
    values |= {"abs_magnetisation": math.sqrt(2 / math.pi) * sigma, "m4": 3 * variance**2}
    values["binder"] = 0.0
    errors, law = dict.fromkeys(values, 0.0), moments.cumulative()
    return Exact(values, errors, two_point, law, log_z, "free field in closed form")


def _values(
    lattice: Lattice, h: float, a: float, b: float, found: SmallLattice
) -> dict[str, float]:
    """The observables of `measure` from G(p), <phi^4> and the law of M."""
    volume, g = lattice.volume, found.two_point
    phi2 = float(g.mean())
    hopping = 2 * sum(np.cos(p) for p in lattice.momenta())  # of the sum over neighbours
    link_sum = float(np.mean(g * hopping)) / 2
    m2 = float(g.ravel()[0]) / volume
    absolute, m4 = found.absolute_moment(), found.fourth_moment(m2)
    unit = np.eye(lattice.ndim, dtype=int)
    lowest = [g[tuple(unit[axis])] for axis in lattice.longest_axes]
    susceptibility = volume * (m2 - absolute**2)
    values = {
        "magnetisation": 0.0,
        "abs_magnetisation": absolute,
        "phi2": phi2,
        "phi4": found.phi4,
        "m2": m2,
        "m4": m4,
        "action_density": a * phi2 + b * found.phi4 - h * link_sum,
        "link_sum": link_sum,
        "chi2": volume * m2,
        "susceptibility": susceptibility,
        "binder": 1 - m4 / (3 * m2**2),
        "schwinger_dyson": 2 * a * phi2 + 4 * b * found.phi4 - 2 * h * link_sum,
    }
    lengths = {"correlation_length": volume * m2, "correlation_length_conn": susceptibility}
    for name, chi in lengths.items():
        ratio = chi / float(np.mean(lowest)) - 1
        if ratio > 0:
            values[name] = math.sqrt(ratio) / (2 * math.sin(math.pi / max(lattice.shape)))
    return values
