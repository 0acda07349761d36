"""Markov-chain updates: each module is one algorithm, a pytree with `start`, `draw` and `step`."""

from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA
from lattice_ml.samplers.replica import ReplicaExchange

__all__ = ["HMC", "KINDS", "MALA", "Kramers", "Langevin", "ReplicaExchange"]

KINDS = {cls.__name__: cls for cls in (HMC, Langevin, MALA, Kramers, ReplicaExchange)}
