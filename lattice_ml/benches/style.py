"""What the figures of benchmarks share."""

from typing import TYPE_CHECKING

import numpy as np

from lattice_ml.report.figures import BLUE, ORANGE, empty

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "Drawn", "colours", "empty", "in_errors"]

Drawn = list[tuple[str, "Figure", str]]  # name, figure and caption of each

GREY = "#8a9099"
_TICKS = (-100, -10, -3, 0, 3, 10, 100)


def colours(n: int) -> list[np.ndarray]:
    """Colours from dark to light that are ordered for colour-blind readers too."""
    import matplotlib

    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, n)))


def in_errors(axis: "Axes") -> None:
    """Lay out the x axis for differences in standard errors, with a band where they are small."""
    axis.axvspan(-3, 3, color=GREY, alpha=0.2, linewidth=0)
    axis.set_xscale("symlog", linthresh=5)
    axis.set_xticks(_TICKS, map(str, _TICKS))
    axis.minorticks_off()
