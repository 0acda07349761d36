r"""Terms that an action may consist of, S = sum_k c_k S_k, with their gradients and Laplacians.

    link         -sum_x sum_mu phi_x phi_{x+mu}                                   c = h
    diagonal     -sum_x sum_{mu<nu} phi_x (phi_{x+mu+nu} + phi_{x+mu-nu})
    distance_2   -sum_x sum_mu phi_x phi_{x+2mu}
    source        sum_x phi_x                                                     c = r
    square, quartic, sextic     sum_x phi_x^2, phi_x^4, phi_x^6                   c = a, b, ...

A sum over displacements r has the gradient -sum_r (phi_{x+r} + phi_{x-r}) and no Laplacian, except
-2V for an r that leads back to x: two steps along an extent of 2.  As in `lattice.hop`, an extent
of 2 has two links between the same pair.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lattice_ml.fields.types import Floats

__all__ = ["TERMS", "gradients", "laplacians"]

_POWERS = {"source": 1, "square": 2, "quartic": 4, "sextic": 6}

TERMS = ("link", "square", "quartic", "sextic", "diagonal", "distance_2", "source")


def gradients(terms: Sequence[str], fields: npt.ArrayLike) -> Floats:
    """Return dS_k/dphi_x of fields `(n, *L)`, for some of `TERMS`: `(n, n_terms, V)`."""
    phi = np.asarray(fields, np.float64)
    parts = [_gradient(name, phi).reshape(len(phi), -1) for name in terms]
    return np.stack(parts, axis=1)


def laplacians(terms: Sequence[str], fields: npt.ArrayLike) -> Floats:
    """Return sum_x d^2 S_k/dphi_x^2 of fields `(n, *L)`, for some of `TERMS`: `(n, n_terms)`."""
    phi = np.asarray(fields, np.float64)
    return np.stack([_laplacian(name, phi) for name in terms], axis=1)


def _gradient(name: str, phi: Floats) -> Floats:
    if name in _POWERS:
        power = _POWERS[name]
        return power * phi ** (power - 1)
    axes = tuple(range(1, phi.ndim))
    total = np.zeros_like(phi)
    for r in _displacements(name, len(axes)):
        total -= np.roll(phi, r, axes) + np.roll(phi, -r, axes)
    return total


def _laplacian(name: str, phi: Floats) -> Floats:
    axes, shape = tuple(range(1, phi.ndim)), phi.shape[1:]
    if name in _POWERS:
        power = _POWERS[name]
        if power < 2:
            return np.zeros(len(phi))
        per_site: Floats = np.sum(phi ** (power - 2), axis=axes)
        return power * (power - 1) * per_site
    loops = sum(not np.any(r % shape) for r in _displacements(name, len(axes)))
    return np.full(len(phi), -2.0 * loops * np.prod(shape))


def _displacements(name: str, ndim: int) -> npt.NDArray[np.int_]:
    """Return the r of a term, `(n, ndim)`, one of each pair +-r; none for diagonals of a chain."""
    unit = np.eye(ndim, dtype=int)
    if name == "diagonal":
        pairs = combinations(unit, 2)
        return np.array([mu + sign * nu for mu, nu in pairs for sign in (1, -1)], int)
    return {"link": unit, "distance_2": 2 * unit}[name]
