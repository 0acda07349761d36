"""What the figures of benchmarks share."""

import numpy as np

from lattice_ml.report.figures import BLUE, ORANGE, empty

__all__ = ["BLUE", "GREY", "ORANGE", "colours", "empty"]

GREY = "#8a9099"


def colours(n: int) -> list[np.ndarray]:
    """Colours from dark to light that are ordered for colour-blind readers too."""
    import matplotlib

    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, n)))
