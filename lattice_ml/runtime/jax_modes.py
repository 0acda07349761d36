"""The modes of JAX that the package is written for, whatever a user's own program asks of its code.

`jax_numpy_dtype_promotion = "strict"` and `jax_numpy_rank_promotion = "raise"` refuse sums of
unlike arrays, which are meant here; under `jax_debug_nans` a correlation length that has no value,
or an energy change that overflows in the warm-up, would be an error.  Public functions set these
aside while they run.  They stay as they are for everything else, and no flag is set.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax

__all__ = ["ordinary"]


@contextmanager
def ordinary() -> Iterator[None]:
    """Run a block, or as `@ordinary()` a function, in the ordinary modes of JAX."""
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.debug_nans(False))
        stack.enter_context(jax.debug_infs(False))
        yield
