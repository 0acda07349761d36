r"""Cumulants of one variable, such as the magnetisation, with errors of the Gamma method.

kappa_n is the n-th derivative of log <exp(t x)> at t = 0.  With the moments m_k about any point,

    kappa_n = m_n - sum_{k=1}^{n-1} C(n-1, k-1) kappa_k m_{n-k},

of which only kappa_1 depends on the point.  Those beyond the second vanish for a Gaussian; their
errors grow with the factorial of n, as sqrt(n! / N) for N independent draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lattice_ml.statistics.gamma import Estimate, estimate
from lattice_ml.statistics.series import as_primaries, in_safe_units

if TYPE_CHECKING:
    import jax

__all__ = ["cumulants"]

_LOWEST, _HIGHEST = -900, 900  # exponents of 2 that leave room for what a cumulant is multiplied by


def cumulants(
    series: npt.ArrayLike,
    orders: tuple[int, ...] = (2, 4, 6, 8),
    *,
    symmetric: bool = True,
    log_weights: npt.ArrayLike | None = None,
    thin: int = 1,
) -> dict[int, Estimate]:
    """Estimate cumulants of a series `(n_chains, n_configs)`.

    Args:
        series: one number per configuration.
        orders: from 1 up.
        symmetric: the distribution is even: odd moments are zero and not measured.
        log_weights: as in the module's docstring of `statistics`.
        thin: updates between stored configurations.

    Raises:
        ValueError: odd orders of an even distribution, or orders below 1; a series that `estimate`
            would refuse; a cumulant that is beyond the range of floats.
    """
    if not orders or min(orders) < 1 or (symmetric and any(n % 2 for n in orders)):
        allowed = "even orders from 2 up" if symmetric else "orders from 1 up"
        raise ValueError(
            f"cumulants of a {'' if symmetric else 'not '}symmetric distribution have "
            f"{allowed}, got {orders=}"
        )
    x, unit = in_safe_units(as_primaries(series, None)[0])
    origin = 0.0 if symmetric else float(np.mean(x))  # or differences of huge moments are left
    x = x - origin
    scale = float(np.sqrt(np.mean(x**2))) or 1.0  # powers stay near one
    powers = [k for k in range(1, max(orders) + 1) if not (symmetric and k % 2)]
    moments = np.stack([(x / scale) ** k for k in powers])
    for order in orders:
        if not _LOWEST < order * (math.log2(scale) + math.log2(unit)) < _HIGHEST:
            raise ValueError(
                f"the cumulant of order {order} of numbers of size {scale * unit:.3g} is beyond "
                f"the range of floats: measure in other units"
            )

    def cumulant(order: int) -> Estimate:
        def function(means: jax.Array) -> jax.Array:
            m = dict(zip(powers, means, strict=True))
            kappa: dict[int, jax.Array] = {}
            for n in range(1, order + 1):
                if n not in m:
                    continue
                below = (k for k in range(1, n) if k in kappa and n - k in m)
                kappa[n] = m[n] - sum(math.comb(n - 1, k - 1) * kappa[k] * m[n - k] for k in below)
            return (scale * unit) ** order * kappa[order] + (origin * unit if order == 1 else 0.0)

        return estimate(moments, function, log_weights=log_weights, thin=thin)

    return {order: cumulant(order) for order in orders}
