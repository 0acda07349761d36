"""Actions: phi^4 and free fields in (h, a, b), forces of any action, and the named conventions."""

from lattice_ml.actions.phi4 import (
    Action,
    FreeField,
    Phi4,
    check_dimension,
    difference,
    force,
    hopping_scale,
    number,
    total,
)

__all__ = [
    "Action",
    "FreeField",
    "Phi4",
    "check_dimension",
    "difference",
    "force",
    "hopping_scale",
    "number",
    "total",
]
