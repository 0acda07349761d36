"""Initial weights of a flow, and those of a larger lattice from those of a smaller one."""

from dataclasses import replace

import jax
import numpy as np

from lattice_ml.models.flow.base import Base
from lattice_ml.models.flow.coupling import Coupling
from lattice_ml.models.flow.filling import Filling
from lattice_ml.models.flow.grids import steps
from lattice_ml.models.flow.multiscale import Step, Weights
from lattice_ml.models.flow.sections import FlowModelSection

__all__ = ["faded", "grown", "initial_weights"]


def initial_weights(
    random: np.random.Generator, ndim: int, n_levels: int, sizes: FlowModelSection
) -> Weights:
    """Weights of the Gaussian theory, with random features."""
    levels = tuple(_level(random, ndim, number, sizes) for number in range(n_levels))
    return Weights(levels, Base.start(random, sizes.base_couplings, sizes.base_hidden))


def grown(weights: Weights, initial: Weights) -> Weights:
    """Weights for as many levels as `initial` has: a new coarse one begins as the one below it.

    Args:
        weights: of another number of levels.
        initial: of `initial_weights`: its random units are added where a level has more of them.
    """
    levels = list(weights.levels)
    for level in initial.levels[len(levels) :]:
        below = levels[-1]
        complete = len(below) == len(level)  # the finest has a step less
        levels.append(jax.tree.map(_widened, below, level) if complete else level)
    return replace(weights, levels=tuple(levels[: len(initial.levels)]))


def faded(weights: Weights, initial: Weights, n_levels: int, share: float) -> Weights:
    """Weights whose finest levels keep a share, and are those of `initial` for the rest."""

    def mixed(leaf: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        return share * leaf + (1 - share) * fresh

    fine = jax.tree.map(mixed, weights.levels[:n_levels], initial.levels[:n_levels])
    return replace(weights, levels=fine + weights.levels[n_levels:])


def _widened(weights: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Weights beside the units and couplings that a larger level has beyond them."""
    whole = np.array(initial)
    whole[tuple(map(slice, np.shape(weights)))] = weights
    return whole


def _level(
    random: np.random.Generator, ndim: int, number: int, sizes: FlowModelSection
) -> tuple[Step, ...]:
    hidden, n, units = (
        numbers[min(number, len(numbers) - 1)]
        for numbers in (sizes.hidden, sizes.couplings, sizes.coupling_hidden)
    )
    return tuple(
        Step(
            Filling.start(random, grids, hidden, sizes.channels),
            Coupling.start(random, n, units),
        )
        for grids in steps(ndim, finest=not number)
    )
