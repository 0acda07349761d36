"""Markov-chain updates: each module is one algorithm, a pytree with `start`, `draw` and `step`."""

from lattice_ml.samplers.cluster import SwendsenWang, Wolff
from lattice_ml.samplers.cycle import Cycle
from lattice_ml.samplers.fourier_hmc import FourierHMC
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kinds import KINDS
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA
from lattice_ml.samplers.replica import ReplicaExchange

__all__ = [
    "HMC",
    "KINDS",
    "MALA",
    "Cycle",
    "FourierHMC",
    "Kramers",
    "Langevin",
    "ReplicaExchange",
    "SwendsenWang",
    "Wolff",
]
