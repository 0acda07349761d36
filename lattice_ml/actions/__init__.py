"""Actions: their contract and forces, phi^4 and free fields in (h, a, b), the named conventions."""

from lattice_ml.actions.action import Action, as_action, check_dimension, difference, force, total
from lattice_ml.actions.phi4 import (
    FreeField,
    Phi4,
    Quartic,
    hopping_scale,
    number,
    quadratic_form,
    quartic,
)

__all__ = [
    "Action",
    "FreeField",
    "Phi4",
    "Quartic",
    "as_action",
    "check_dimension",
    "difference",
    "force",
    "hopping_scale",
    "number",
    "quadratic_form",
    "quartic",
    "total",
]
