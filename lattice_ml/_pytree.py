"""Frozen dataclasses that JAX sees as pytrees: numbers are traced, `static()` fields are not."""

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

import jax

__all__ = ["pytree", "static"]

T = TypeVar("T")


def static(*, default: Any = ...) -> Any:
    """Declare a field of the tree's structure: hashable, and a new value recompiles."""
    if default is ...:
        return field(metadata={"static": True})
    return field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it with JAX.

    Fields are leaves unless declared with `static()`.  Do not check leaves in `__post_init__`:
    JAX rebuilds the object around tracers; check couplings where the user hands them over.
    """
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))
