r"""The couplings that configurations were sampled with, by linear regression and no simulation.

For p ~ exp(-S), S = sum_k c_k S_k of the terms in `terms.py`, partial integration gives the
Schwinger-Dyson equations <sum_x O_x dS/dphi_x> = <sum_x dO_x/dphi_x> of any field O.  For O the
gradient of each term they are as many linear equations as there are couplings, exact at any volume:

    A c = b,    A_jk = <grad S_j . grad S_k>,    b_j = <laplacian S_j>.

Their solution minimises c A c / 2 - b c, the Fisher divergence of the data from exp(-S)/Z up to a
constant: it is score matching (A. Hyvarinen, J. Mach. Learn. Res. 6 (2005) 695), and regression of
the score that is not known on gradients that are.  On the lattice the equations have measured the
couplings of blocked fields (A. Gonzalez-Arroyo and M. Okawa, Phys. Rev. D 35 (1987) 672).

With penalties, in units of A's diagonal, the couplings of many terms are kept small (`ridge`) or
few (`lasso`; L. Lin, M. Drton and A. Shojaie, Electron. J. Stat. 10 (2016) 806).  Errors come from
the jackknife over stretches of chains that are independent (`judging.stretch_starts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lattice_ml.actions import Phi4, Quartic
from lattice_ml.actions.conventions import convert, parameters
from lattice_ml.analysis.certificates import judging
from lattice_ml.analysis.certificates.evidence import by_chain, pieces, require_finite
from lattice_ml.analysis.normal_equations import lasso, solve, split, validated
from lattice_ml.analysis.terms import TERMS, gradients, laplacians
from lattice_ml.fields.types import Floats, Integers
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.arguments import unknown
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.statistics import doubt_of, jackknife_error
from lattice_ml.statistics.series import as_weights

__all__ = ["PHI4", "Couplings", "infer_couplings"]

PHI4 = ("link", "square", "quartic")  # of h, a and b

_METHODS = ("least_squares", "ridge", "lasso")
_FEWEST_STRETCHES = 8
_DEPENDENT = 1e-10  # smallest eigenvalue of A, its diagonal scaled to one


@dataclass(frozen=True)
class Couplings:
    """Couplings of S = sum_k c_k S_k; prints as a table, `found["link"]` is value and error.

    Attributes:
        terms: names of the S_k, those that were selected.
        values: c, `(n_terms,)`.
        left_out: c without each of the independent stretches, `(n_stretches, n_terms)`.
        expected: c of the ensemble's own action over its temperature, `(n_terms,)`; None where
            that action has no (h, a, b).
        ndim: dimensions of the lattice.
        penalty: of the method; 0 without one.
        doubt: why weights leave too little to rely on any of this, or None.
    """

    terms: tuple[str, ...]
    values: Floats
    left_out: Floats
    expected: Floats | None
    ndim: int
    penalty: float = 0.0
    doubt: str | None = None

    @property
    def covariance(self) -> Floats:
        """Covariance of the values by the jackknife, `(n_terms, n_terms)`."""
        n, change = len(self.left_out), self.left_out - self.left_out.mean(axis=0)
        return np.asarray((n - 1) / n * change.T @ change)

    @property
    def errors(self) -> Floats:
        """Standard errors of the values, `(n_terms,)`."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def __getitem__(self, term: str) -> tuple[float, float]:
        k = self.terms.index(term)
        return float(self.values[k]), float(self.errors[k])

    def agreement(self) -> judging.Hotelling | None:
        """Hotelling's T^2 of all couplings against the action's; None where it is not known."""
        if self.expected is None:
            return None
        n = len(self.left_out)
        pseudo = n * self.values - (n - 1) * self.left_out
        return judging.hotelling(self.values - self.expected, pseudo)

    def named(self, convention: str = "kappa") -> dict[str, tuple[float, float]]:
        """Parameters of a named convention with their errors: kappa and lam by default.

        The field is rescaled for it (`conventions.convert`).

        Raises:
            ValueError: a term that no convention has, or couplings that this one cannot say.
        """
        if further := sorted(set(self.terms) - set(PHI4)):
            raise ValueError(
                f"named conventions have the terms {', '.join(PHI4)} only, "
                f"but there is {', '.join(further)} too"
            )

        def read(values: Floats) -> dict[str, float]:
            c = dict.fromkeys(PHI4, 0.0) | dict(zip(self.terms, map(float, values), strict=True))
            h, a, b = (c[term] for term in PHI4)
            phi4, _ = convert(Phi4(h, a, b), convention, self.ndim)
            return dict(parameters(phi4, convention, self.ndim))

        found = read(self.values)
        left_out = np.array([list(read(values).values()) for values in self.left_out])
        errors = jackknife_error(left_out)
        return {key: (found[key], float(e)) for key, e in zip(found, errors, strict=True)}

    def __str__(self) -> str:
        rows = [f"{'term':<12}{'coupling':>14}{'error':>12}"]
        for term, value, error in zip(self.terms, self.values, self.errors, strict=True):
            rows.append(f"{term:<12}{value:>14.6g}{error:>12.2g}")
        if self.expected is not None and (agreement := self.agreement()):
            pulls = (self.values - self.expected) / self.errors
            rows[0] += f"{'action':>14}{'pull':>8}"
            for i, (c, pull) in enumerate(zip(self.expected, pulls, strict=True), 1):
                rows[i] += f"{c:>14.6g}{pull:>8.1f}"
            rows.append(
                f"against the action: chi2 = {agreement.chi2:.1f} of {agreement.dof} "
                f"(p = {agreement.p_value:.2g})"
            )
        return "\n".join([*rows, *([f"warning: {self.doubt}"] if self.doubt else [])])


@ordinary()
def infer_couplings(
    ensemble: Ensemble,
    *,
    terms: Sequence[str] = PHI4,
    method: Literal["least_squares", "ridge", "lasso"] = "least_squares",
    penalty: float | None = None,
    weights: bool = True,
) -> Couplings:
    """Infer the couplings of an ensemble from its configurations, whatever it says of itself.

    `least_squares` solves A c = b.  `ridge` adds `penalty` times its diagonal to A: for terms that
    are nearly dependent; the couplings are biased towards zero and their errors do not say so.
    `lasso` selects terms by their coefficients at `penalty` and solves A c = b for those: errors
    are those of the selected terms, as if they had been known before.

    The penalty is cross-validated over stretches where it is None: the one of least loss for
    `ridge`; for `lasso` the largest whose selection, refitted, is no worse than the best by more
    than one standard error of their difference.

    Args:
        ensemble: from `open_ensemble` or `run`; read in blocks.
        terms: some of `terms.TERMS`.
        method: least_squares, ridge or lasso.
        penalty: in units of A's diagonal for `ridge`, of its square root for `lasso`.
        weights: use the ensemble's `log_weight` where it has one.

    Returns:
        The couplings of exp(-S): an ensemble of exp(-S/alpha) has those of its action over alpha.
        Their bias falls as 1/n, one order faster than the error.

    Raises:
        ValueError: an unknown term or method, terms that are linearly dependent on this lattice,
            a penalty that leaves none, too few independent stretches, or a configuration that is
            not finite.
    """
    names = _checked(terms, method, penalty)
    log_weight = ensemble.log_weight if weights else None
    rows = np.concatenate([_equations(names, fields) for _, fields in pieces(ensemble)])
    require_finite(rows, ensemble.n_chains)
    equations = by_chain(rows, ensemble.n_chains)  # (n_chains, n_configs, n_terms, n_terms + 1)
    whole = equations * as_weights(log_weight, equations.shape[:2])[..., None, None]
    _require_independent(whole.mean(axis=(0, 1)), names, ensemble.shape, method)
    parts = judging.stretch_means(whole, _starts(whole))  # (n_stretches, n_terms, n_terms + 1)
    n, fewest = len(parts), max(_FEWEST_STRETCHES, 2 * len(names) + 1)
    if n < fewest:
        raise ValueError(
            f"{len(names)} couplings need {fewest} independent stretches of chains, at least "
            f"10 tau_int long each, got {n}: run longer, or more chains"
        )
    mean, left_out = parts.mean(axis=0), (parts.sum(axis=0) - parts) / (n - 1)
    chosen = 0.0
    if method != "least_squares":
        chosen = validated(parts, method) if penalty is None else penalty
    ridge = chosen if method == "ridge" else 0.0
    keep = lasso(*split(mean), chosen) != 0 if method == "lasso" else np.ones(len(names), bool)
    if not keep.any():
        raise ValueError(f"no term is left at a penalty of {chosen:.3g}: make it smaller")
    selected = tuple(name for name, kept in zip(names, keep, strict=True) if kept)
    return Couplings(
        terms=selected,
        values=solve(mean, keep, ridge)[keep],
        left_out=solve(left_out, keep, ridge)[:, keep],
        expected=_expected(ensemble, selected),
        ndim=len(ensemble.shape),
        penalty=chosen,
        doubt=doubt_of(log_weight),
    )


def _checked(terms: Sequence[str], method: str, penalty: float | None) -> tuple[str, ...]:
    names = (terms,) if isinstance(terms, str) else tuple(terms)
    for name in names:
        if name not in TERMS:
            raise ValueError(unknown("term", name, TERMS))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"terms must name some of {', '.join(TERMS)}, once each, got {names}")
    if method not in _METHODS:
        raise ValueError(unknown("method", method, _METHODS))
    if penalty is not None and (method == "least_squares" or not penalty >= 0):
        raise ValueError(f"a penalty >= 0 belongs to ridge or lasso, got {penalty=} and {method=}")
    return names


def _equations(terms: tuple[str, ...], fields: np.ndarray) -> Floats:
    slopes = gradients(terms, fields)
    matrix, vector = slopes @ slopes.swapaxes(1, 2), laplacians(terms, fields)
    return np.concatenate([matrix, vector[..., None]], axis=2) / slopes.shape[2]


def _require_independent(
    mean: Floats, terms: tuple[str, ...], shape: tuple[int, ...], method: str
) -> None:
    """Refuse terms that vanish on this lattice, or that are combinations of each other."""
    matrix, _ = split(mean)
    scale = np.sqrt(np.diag(matrix))
    if not scale.all():
        absent = ", ".join(name for name, s in zip(terms, scale, strict=True) if not s)
        raise ValueError(f"{absent} is zero on a lattice of shape {shape}: leave it out")
    eigenvalues, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    if method != "ridge" and eigenvalues[0] < _DEPENDENT:
        involved = [name for name, v in zip(terms, vectors[:, 0], strict=True) if abs(v) > 1e-3]
        raise ValueError(
            f"on a lattice of shape {shape} these terms are linearly dependent: "
            f"{', '.join(involved)}; leave one out, or share their couplings by method='ridge'"
        )


def _starts(equations: Floats) -> Integers:
    """Where independent stretches begin, for the slowest of the fluctuations of the couplings."""
    matrix, vector = split(equations.mean(axis=(0, 1)))
    inverse = np.linalg.pinv(matrix, hermitian=True)
    residuals = equations[..., -1] - equations[..., :-1] @ (inverse @ vector)
    slow = np.moveaxis(residuals @ inverse, -1, 0)
    return min((judging.stretch_starts(series) for series in slow), key=len)


def _expected(ensemble: Ensemble, terms: tuple[str, ...]) -> Floats | None:
    """The couplings that an ensemble should have, where its action has (h, a, b)."""
    if not isinstance(ensemble.action, Quartic):
        return None
    known = dict(zip(PHI4, map(float, ensemble.action.couplings()), strict=True))
    return np.array([known.get(term, 0.0) for term in terms]) / ensemble.temperature
