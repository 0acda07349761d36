"""`compare`: does a candidate sample the distribution that a reference stands for?

`sides` gathers what is compared of an ensemble, `references` what is known without one (an exact
solution, a file of values); `means` and `shapes` compare them, `verdict` judges all tests together,
`page` writes what was found.
"""

from lattice_ml.comparison.references import Known, exact_reference, read_values
from lattice_ml.comparison.verdict import Comparison, compare

__all__ = ["Comparison", "Known", "compare", "exact_reference", "read_values"]
