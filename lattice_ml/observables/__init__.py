"""Observables: primaries of one configuration, and what is derived from their means."""

from lattice_ml.observables.scalar import (
    DERIVED,
    PRIMARIES,
    Derived,
    Fields,
    known_primaries,
    measure_configurations,
    primaries,
    real,
    require_powers,
)

__all__ = [
    "DERIVED",
    "PRIMARIES",
    "Derived",
    "Fields",
    "known_primaries",
    "measure_configurations",
    "primaries",
    "real",
    "require_powers",
]
