"""What signatures call numbers: arrays in double precision, and what JAX may be tracing."""

import jax
import numpy as np
import numpy.typing as npt

__all__ = ["Flags", "Floats", "Integers", "Scalar"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]  # which of something each entry is
Flags = npt.NDArray[np.bool_]
Scalar = float | jax.Array  # a coupling, a time or a step size, on the host or traced
