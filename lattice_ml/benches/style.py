"""What the figures of benchmarks share."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "colours", "empty"]

BLUE, ORANGE, GREY = "#1f7fc4", "#d55e00", "#8a9099"
_WIDTH = 7.2  # inches


def empty(height: float, width: float = _WIDTH) -> "Figure":
    """An empty figure of that size in inches, laid out as it is drawn."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colours(n: int) -> list[Any]:
    """Colours from dark to light that are ordered for colour-blind readers too."""
    import matplotlib
    import numpy as np

    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, n)))
