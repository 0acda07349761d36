"""Initial weights of a flow, and those of a larger lattice from those of a smaller one."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lattice_ml.models.flow.base import Base
from lattice_ml.models.flow.coupling import Coupling
from lattice_ml.models.flow.filling import Filling
from lattice_ml.models.flow.grids import steps
from lattice_ml.models.flow.multiscale import Step, Weights

__all__ = ["Sizes", "grown", "initial_weights"]


class Sizes(NamedTuple):
    """How large the networks are, and how many couplings there are.

    Args:
        hidden: units where grids are filled in, from the finest level on; the last is for all
            that are coarser.
        channels: filtered fields that such a network sees, the mean one of them.
        couplings: of even and odd grids on all levels but the finest.
        fine_couplings: of the even grids on the finest.
        base_couplings: of the coarsest lattice.
        coupling_hidden, base_hidden: units of their networks.
    """

    hidden: tuple[int, ...] = (8, 16)
    channels: int = 2
    couplings: int = 4
    fine_couplings: int = 2
    base_couplings: int = 8
    coupling_hidden: int = 8
    base_hidden: int = 12


def initial_weights(random: np.random.Generator, ndim: int, n_levels: int, sizes: Sizes) -> Weights:
    """Weights of the Gaussian theory, with random features."""
    levels = tuple(_level(random, ndim, number, sizes) for number in range(n_levels))
    return Weights(levels, Base.start(random, sizes.base_couplings, sizes.base_hidden))


def grown(weights: Weights, initial: Weights) -> Weights:
    """Weights for more levels: a new coarse one begins as the one below it.

    Args:
        weights: of fewer levels, or as many.
        initial: of `initial_weights`: what the first level that is not the finest begins as.
    """
    levels = list(weights.levels)
    while len(levels) < len(initial.levels):
        levels.append(levels[-1] if len(levels) > 1 else initial.levels[len(levels)])
    return replace(weights, levels=tuple(levels[: len(initial.levels)]))


def _level(random: np.random.Generator, ndim: int, number: int, sizes: Sizes) -> tuple[Step, ...]:
    hidden = sizes.hidden[min(number, len(sizes.hidden) - 1)]
    found = []
    each = steps(ndim, finest=not number)
    for i, grids in enumerate(each):
        refined = sizes.fine_couplings if not number else sizes.couplings * (i == len(each) - 1)
        filling = Filling.start(random, grids, hidden, sizes.channels)
        found.append(Step(filling, Coupling.start(random, refined, sizes.coupling_hidden)))
    return tuple(found)
