"""Lattice field theory sampling with machine learning, on JAX.

From couplings to a verdict: generate ensembles of scalar field theories, measure them with honest
errors, check them, and compare whatever else claims to sample the same distribution.  Names are
imported when first used; importing the package imports neither JAX nor sets any of its flags.
"""

import importlib
from typing import Any

_HOMES = {
    "Cycle": "samplers",
    "FourierHMC": "samplers",
    "FreeField": "actions",
    "HMC": "samplers",
    "Kramers": "samplers",
    "Langevin": "samplers",
    "Lattice": "lattice",
    "MALA": "samplers",
    "Phi4": "actions",
    "ReplicaExchange": "samplers",
    "SwendsenWang": "samplers",
    "Wolff": "samplers",
    "action": "conventions",
    "check": "analysis.certificates",
    "compare": "comparison",
    "convert": "conventions",
    "convert_ensemble": "exchange",
    "estimate": "statistics",
    "export_array": "exchange",
    "extrapolate": "extrapolation",
    "generate": "generation",
    "import_array": "exchange",
    "infer_couplings": "analysis.couplings",
    "measure": "analysis.measurement",
    "open_ensemble": "ensemble",
    "open_model": "model_files",
    "pytree": "_pytree",
    "run": "chain",
    "sample": "sampling",
    "spectrum": "spectra",
    "static": "_pytree",
    "train": "training",
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
