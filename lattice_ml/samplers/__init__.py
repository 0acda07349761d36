"""Markov-chain updates: each module is one algorithm, a pytree with `start`, `draw` and `step`."""

from lattice_ml.samplers.hmc import HMC

__all__ = ["HMC", "KINDS"]

KINDS = {cls.__name__: cls for cls in (HMC,)}
