r"""What a theory says to the flow: couplings in its units, and the Gaussian part of every level."""

import math
from collections.abc import Sequence

import numpy as np

from lattice_ml.actions import hopping_scale
from lattice_ml.fields.types import Floats
from lattice_ml.models.flow.base import base_theory
from lattice_ml.models.flow.gaussian import conditional
from lattice_ml.models.flow.grids import steps
from lattice_ml.models.flow.heat_bath import fit_heat_bath
from lattice_ml.models.flow.multiscale import Tables
from lattice_ml.models.theory import Theory

__all__ = ["check_couplings", "check_shape", "coarsest", "make_tables"]

_MEANS = 16  # of a lattice, for the heat bath
_KURTOSES = (2.0, 2.8)  # two wells for sure, and perhaps none
_SMALLEST = 4  # extents down to which a lattice is coarsened


def check_shape(shape: Sequence[int]) -> None:
    """Refuse lattices without a checkerboard of grids.

    Raises:
        ValueError: four dimensions, or odd extents.
    """
    if len(shape) > 3 or any(extent % 2 for extent in shape):
        raise ValueError(
            f"a flow model lives on lattices of 1 to 3 dimensions with even extents, got "
            f"lattice.shape = {list(shape)}"
        )


def check_couplings(h: float) -> None:
    """Refuse neighbours that do not align.

    Raises:
        ValueError: h < 0.
    """
    if h < 0:
        raise ValueError(
            f"a flow model needs neighbours that align, h >= 0, got h = {h:.6g}: on even lattices "
            "that is the theory of -h with the signs of all odd sites turned"
        )


def coarsest(shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Extents of the coarsest lattice, and the number of levels above it: at least one."""
    check_shape(shape)
    extents, n = tuple(extent // 2 for extent in shape), 1
    while min(extents) > _SMALLEST and all(extent % 2 == 0 for extent in extents):
        extents, n = tuple(extent // 2 for extent in extents), n + 1
    return extents, n


def make_tables(theory: Theory) -> Tables:
    """The tables of a theory on its lattice, in float64 on the host.

    Raises:
        ValueError: a lattice or couplings that the flow is not made for.
    """
    shape, ndim = theory.modes.shape, theory.modes.ndim
    h, a, b = float(theory.h), float(theory.a), float(theory.b)
    check_couplings(h)
    unit = math.sqrt(hopping_scale(a, b))
    h, a, b = h * unit**2, a * unit**2, b * unit**4
    propagator = _fourier_order(theory) / unit**2
    means, width = _neighbours(np.asarray(theory.quantiles) / unit, propagator)
    well = _well(np.asarray(theory.quantiles)) / unit / math.sqrt(propagator.size)
    levels = []
    for number in range(coarsest(shape)[1]):
        each = steps(ndim, finest=not number)
        levels.append(tuple(conditional(propagator, grids, well) for grids in each))
        propagator = _every_second(propagator)
    return Tables(
        levels=tuple(levels),
        base=base_theory(
            propagator,
            _base_quantiles(np.asarray(theory.quantiles) / unit, shape, propagator),
        ),
        heat_bath=fit_heat_bath(a, b, 2 * ndim * h * means, 2 * ndim * h * width),
        h=h,
        a=a,
        b=b,
        unit=unit,
    )


def _fourier_order(theory: Theory) -> Floats:
    """C in FFT order, `(*L)`, of the modes that a theory has it in."""
    modes = theory.modes
    natural = np.asarray(theory.propagator, np.float64).transpose(np.argsort(modes.order))
    places = [np.minimum(np.arange(n), n - np.arange(n)) for n in modes.shape]
    return natural[np.ix_(*[np.maximum(2 * k - 1, 0) for k in places])]


def _neighbours(quantiles: Floats, propagator: Floats) -> tuple[Floats, float]:
    """How the mean of a site's neighbours is distributed: normal around the mean of all sites.

    Args:
        quantiles: of the absolute zero mode.
        propagator: in FFT order.

    Returns:
        The absolute mean of all sites, at some quantiles, and the deviation around it.
    """
    cosines = [np.cos(2 * np.pi * np.arange(n) / n) for n in propagator.shape]
    mean = sum(np.meshgrid(*cosines, indexing="ij")) / propagator.ndim
    means = quantiles / math.sqrt(propagator.size)
    variance = float(np.mean(mean**2 * propagator) - np.mean(means**2))
    every = max(len(means) // _MEANS, 1)
    return means[every // 2 :: every], math.sqrt(max(variance, 1e-4))


def _well(quantiles: Floats) -> float:
    """m of a variable that is normal around +-m and has these quantiles of its absolute value.

    Nothing where its kurtosis may be that of a single normal variable, for all that is measured.
    """
    square, fourth = float(np.mean(quantiles**2)), float(np.mean(quantiles**4))
    sure = float(np.interp(fourth / square**2, _KURTOSES, (1, 0)))
    return sure * (max(3 * square**2 - fourth, 0.0) / 2) ** 0.25


def _every_second(propagator: Floats) -> Floats:
    """C of the lattice of every second site along each axis."""
    correlation = np.fft.ifftn(propagator).real
    return np.fft.fftn(correlation[(slice(None, None, 2),) * propagator.ndim]).real


def _base_quantiles(quantiles: Floats, shape: Sequence[int], propagator: Floats) -> Floats:
    """Quantiles of the absolute zero mode of the coarsest lattice.

    Its mean is that of all sites, plus what other modes add, which is Gaussian: the difference of
    the variances.

    Args:
        quantiles: of the absolute zero mode of the whole lattice.
        shape: of the whole lattice.
        propagator: of the coarsest.
    """
    from scipy.stats import norm

    scaled = quantiles * math.sqrt(propagator.size / math.prod(shape))
    variance = max(float(propagator.flat[0] - np.mean(scaled**2)), 1e-12)
    reach = scaled.max() + 6 * math.sqrt(variance)
    x = np.linspace(0, reach, 4001)
    width = math.sqrt(variance)
    below = np.mean(norm.cdf((x[:, None] - scaled) / width), axis=1)
    below += np.mean(norm.cdf((x[:, None] + scaled) / width), axis=1) - 1
    n = len(quantiles)
    return np.interp((np.arange(n) + 0.5) / n, below, x)
