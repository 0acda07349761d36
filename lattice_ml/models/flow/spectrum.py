"""What a flow has learned, momentum by momentum."""

from lattice_ml.models.model import Probing
from lattice_ml.runtime.json import JsonTable

__all__ = ["of_flow"]


def of_flow(model: object, probing: Probing) -> JsonTable:
    raise ValueError("not yet")
