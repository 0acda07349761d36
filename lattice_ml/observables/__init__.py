"""Observables: primaries of one configuration, and what is derived from their means."""

from lattice_ml.observables.scalar import DERIVED as DERIVED
from lattice_ml.observables.scalar import PRIMARIES as PRIMARIES
from lattice_ml.observables.scalar import Derived as Derived
from lattice_ml.observables.scalar import Fields as Fields
from lattice_ml.observables.scalar import known_primaries as known_primaries
from lattice_ml.observables.scalar import measure_configurations as measure_configurations
from lattice_ml.observables.scalar import primaries as primaries
from lattice_ml.observables.scalar import real as real
from lattice_ml.observables.scalar import require_powers as require_powers
