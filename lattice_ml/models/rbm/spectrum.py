"""The spectrum of a Gaussian RBM: the eigenvalues of its kernel K = mu^2 - sigma^2 w w^T.

They can reach min(exact, mu^2) only, and only as many of the lowest as there are hidden fields
(arXiv:2309.15002).  Eigenvalues are compared as sets, one set per shell of equal p_hat^2: whatever
symmetry makes equal has no order of its own, and noise splits it.
"""

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.actions import conventions
from lattice_ml.analysis.probes import plane_waves
from lattice_ml.analysis.spectrum import bare_form_of, per_shell
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.model import Model
from lattice_ml.runtime.json import JsonTable

__all__ = ["data_kernel", "largest_deviation", "machine", "of_rbm", "regulated", "shell_sets"]


def of_rbm(model: Model) -> JsonTable:
    """The eigenvalues of a model's kernel, beside those of its data.

    Args:
        model: whose network is a `GaussianRBM`, and whose last theory are `Moments`.
    """
    stage, rbm = model.stages[-1], model.network
    section, moments = stage.actions[-1], stage.theories[-1]
    mean, centre = np.asarray(moments.mean, np.float64), np.asarray(rbm.centre, np.float64)
    # hidden means give the machine a mean of its own: K^-1 is then the covariance
    origin = mean if np.any(np.asarray(rbm.eta)) else centre
    second = np.asarray(moments.second, np.float64) - np.outer(mean, mean)
    second += np.outer(mean - origin, mean - origin)
    action = conventions.from_config(section, len(stage.shape))
    lattice = None if action is None else Lattice(stage.shape)
    free = None
    if lattice is not None:
        bare, b = bare_form_of(action, lattice)
        free = bare if b == 0 else None
    mass, sigma = np.asarray(rbm.mu_squared, np.float64), float(rbm.sigma)
    errors, history = model.report["eigenvalue_errors"], model.history
    found = machine(rbm.w, mass, sigma, second, errors, lattice=lattice, free=free)
    return {
        "kind": "GaussianRBM",
        "what": "eigenvalues of the kernel K",
        "shape": list(stage.shape),
        "action": dict(section),
        **found,
        "multiplicity": [1] * len(mean),
        "p_hat_squared": None,
        "history": [
            {"step": int(step), "eigenvalues": values, "log_likelihood": worth}
            for step, values, worth in zip(
                history["step"], history["eigenvalues"], history["log_likelihood"], strict=True
            )
        ],
        "mu_squared": mass,
        "sigma": sigma,
        "n_hidden": rbm.w.shape[1],
        "n_data": moments.n,
    }


def data_kernel(second: ArrayLike) -> np.ndarray:
    """Eigenvalues that a Gaussian's kernel needs to have this second moment, `(N_v,)`, ascending.

    1 over the eigenvalues of `second`; infinite where it is singular to rounding, as for pixels
    that never vary.
    """
    moments = np.linalg.eigvalsh(np.asarray(second, np.float64))[::-1]
    floor = len(moments) * np.finfo(np.float64).eps * max(moments[0], 0.0)
    safe = np.where(moments > floor, moments, 1.0)
    return np.where(moments > floor, 1 / safe, np.inf)


def regulated(exact: ArrayLike, mu_squared: float, n_hidden: int) -> np.ndarray:
    """What a Gaussian RBM can learn of a spectrum (ascending): min(exact, mu^2), `(N_v,)`.

    N_h hidden fields lower the N_h lowest modes; the rest stays at mu^2 (arXiv:2309.15002).
    """
    learned = np.minimum(np.asarray(exact, np.float64), mu_squared)
    learned[n_hidden:] = mu_squared
    return learned


def largest_deviation(
    eigenvalues: ArrayLike, target: ArrayLike, exact: ArrayLike, mu_squared: float
) -> float | None:
    """Largest |eigenvalue/target - 1| over modes with exact < 0.9 mu^2; None without any."""
    learned = np.asarray(exact) < 0.9 * mu_squared
    if not learned.any():
        return None
    return float(np.max(np.abs(np.asarray(eigenvalues) / np.asarray(target) - 1)[learned]))


def shell_sets(kernel: ArrayLike, lattice: Lattice) -> list[np.ndarray]:
    """Eigenvalues of each shell's block of a symmetric kernel `(V, V)`, ascending.

    A set belongs to one exact value: its mean is the shell's mean of <p|K|p>, and its spread shows
    how far noise has split what symmetry makes degenerate.  Blocks mix nothing between shells.
    """
    waves, shell = plane_waves(lattice)
    turned = waves @ np.asarray(kernel, np.float64) @ waves.T
    n_shells = len(lattice.shell_sizes)
    return [np.linalg.eigvalsh(turned[np.ix_(shell == s, shell == s)]) for s in range(n_shells)]


def machine(
    w: ArrayLike,
    mu_squared: ArrayLike,
    sigma: float,
    second: ArrayLike,
    errors: ArrayLike,
    *,
    lattice: Lattice | None = None,
    free: np.ndarray | None = None,
) -> JsonTable:
    """The kernel K = mu^2 - sigma^2 w w^T of a Gaussian RBM against what it can learn.

    Args:
        w: `(N_v, N_h)`.
        mu_squared: a scalar, or one per site `(N_v,)`: then no closed form is known, and all that
            is made of `regulated` is NaN or None.
        sigma: of the hidden fields.
        second: moment of the data whose inverse K should be, `(N_v, N_v)`.
        errors: of the eigenvalues of K in increasing order, `(N_v,)`.
        lattice: of the fields, for the table of shells.
        free: exact kernel of every shell where the data's action is quadratic, `(n_shells,)`.

    Returns:
        eigenvalues, errors, exact, regulated, deviation, singular_values, singular_values_exact,
        and shells, a table with the columns regulated and spread, or None.
    """
    w, mass, errors = (np.asarray(a, np.float64) for a in (w, mu_squared, errors))
    n_visible, n_hidden = w.shape
    kernel = np.diag(np.broadcast_to(mass, n_visible)) - sigma**2 * w @ w.T
    eigenvalues, vectors = np.linalg.eigh(kernel)
    exact = data_kernel(second)
    if lattice is not None and free is not None:
        exact = np.sort(np.repeat(free, lattice.shell_sizes))

    def target(spectrum: np.ndarray) -> np.ndarray:
        unknown = mass.ndim > 0
        return spectrum * np.nan if unknown else regulated(spectrum, float(mass), n_hidden)

    found: JsonTable = {
        "eigenvalues": eigenvalues,
        "errors": errors,
        "exact": exact,
        "regulated": target(exact),
        "deviation": None,
        "singular_values": np.linalg.svd(w, compute_uv=False),
        "singular_values_exact": None,
        "shells": None,
    }
    if mass.ndim == 0:
        singular = np.sqrt(np.maximum(float(mass) - found["regulated"], 0)) / sigma
        found["singular_values_exact"] = singular[: min(n_visible, n_hidden)]
        found["deviation"] = largest_deviation(eigenvalues, found["regulated"], exact, float(mass))
    if lattice is not None:
        sets, sizes = shell_sets(kernel, lattice), lattice.shell_sizes
        targets = free
        if targets is None:
            targets = 1 / np.array([s.mean() for s in shell_sets(second, lattice)])
        modes = np.repeat(targets, sizes)
        order = np.argsort(modes, kind="stable")
        modes[order] = target(modes[order])
        ceiling = np.array([part.mean() for part in np.split(modes, np.cumsum(sizes)[:-1])])
        learned = np.array([s.mean() for s in sets])
        table = per_shell(
            lattice,
            learned,
            _shell_errors(vectors, errors, lattice),
            targets,
            ratio=learned / ceiling,
            regulated=ceiling,
            spread=np.array([s.std() for s in sets]),
        )
        found["shells"] = table["shells"]
    return found


def _shell_errors(vectors: np.ndarray, errors: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Errors of the means of <p|K|p>, from those of the eigenvalues, taken to be independent."""
    waves, shell = plane_waves(lattice)
    overlaps = (waves @ vectors) ** 2
    shares = [overlaps[shell == s].mean(axis=0) for s in range(len(lattice.shell_sizes))]
    combined: np.ndarray = np.sqrt(np.square(shares) @ errors**2)
    return combined
