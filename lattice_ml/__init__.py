"""Lattice field theory sampling with machine learning, on JAX.

From couplings to a verdict: generate ensembles of scalar field theories, measure them with honest
errors, check them, and compare whatever else claims to sample the same distribution.  Names are
imported when first used; importing the package imports neither JAX nor sets any of its flags.
"""

import importlib
from typing import Any

_HOMES = {
    "Cycle": "samplers.kinds",
    "FourierHMC": "samplers.kinds",
    "FreeField": "actions",
    "HMC": "samplers.kinds",
    "Kramers": "samplers.kinds",
    "Langevin": "samplers.kinds",
    "Lattice": "fields.lattice",
    "MALA": "samplers.kinds",
    "Phi4": "actions",
    "ReplicaExchange": "samplers.kinds",
    "SwendsenWang": "samplers.kinds",
    "Wolff": "samplers.kinds",
    "action": "actions.conventions",
    "check": "analysis.certificates",
    "compare": "comparison",
    "convert": "actions.conventions",
    "convert_ensemble": "jobs.exchange",
    "estimate": "statistics",
    "export_array": "jobs.exchange",
    "extrapolate": "jobs.extrapolate",
    "generate": "jobs.generate",
    "import_array": "jobs.exchange",
    "infer_couplings": "analysis.couplings",
    "measure": "analysis.measurement",
    "open_ensemble": "storage.ensemble",
    "open_model": "storage.model",
    "pytree": "_pytree",
    "run": "chains.run",
    "sample": "jobs.sample",
    "spectrum": "jobs.spectrum",
    "static": "_pytree",
    "train": "jobs.train",
    "tune": "chains.run",
    "two_point": "analysis.two_point",
    "verdict": "analysis.certificates",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
