"""What do the parts of `rbm_figures.py` hand back?  Numbers, tables, figures, and what they assert.

Not a benchmark by itself: `rbm_lattice`, `rbm_phi4` and `rbm_mnist` measure and draw, and
`rbm_figures` writes the page.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from lattice_ml.benches.style import BLUE, GREY, ORANGE
from lattice_ml.benches.style import colours as shades
from lattice_ml.benches.style import empty as figure
from lattice_ml.report.page import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "Check", "Part", "figure", "shades"]


class Check(NamedTuple):
    """A number that must not exceed its bound."""

    name: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        return bool(self.value <= self.bound)  # false for NaN too

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.value:.3g} (allowed {self.bound:g})"


@dataclasses.dataclass
class Part:
    """One subject of the page; `figures` are (name, figure, caption)."""

    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    tables: list[Table] = dataclasses.field(default_factory=list)
    figures: list[tuple[str, Figure, str]] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)

    def add(self, other: Part) -> None:
        """Take over what another part found."""
        self.numbers |= other.numbers
        self.tables += other.tables
        self.figures += other.figures
        self.checks += other.checks
