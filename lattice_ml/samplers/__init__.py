"""Markov-chain updates: each module is one algorithm, a pytree with `start`, `draw` and `step`."""

from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA

__all__ = ["HMC", "KINDS", "MALA", "Kramers", "Langevin"]

KINDS = {cls.__name__: cls for cls in (HMC, Langevin, MALA, Kramers)}
