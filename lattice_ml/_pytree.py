"""Frozen dataclasses that JAX sees as pytrees: numbers are traced, `static()` fields are not."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, dataclass_transform

from jax.tree_util import GetAttrKey, register_pytree_with_keys

__all__ = ["pytree", "static"]

T = TypeVar("T")
Structure = tuple[tuple[object, ...], tuple[type, ...]]  # static fields, classes of the leaves


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

    The structure of a tree tells its class and those of the dataclasses in its fields.  That of
    `jax.tree_util.register_dataclass` does not (jax 0.10 to 0.12): two classes with the same names
    of fields have equal structures, and wherever their hashes meet in its table `jax.jit` runs the
    program compiled for the other one: in 7 of 90 processes with four such classes.
    """
    made: Any = dataclass(frozen=True)(cls)
    statics = [f.name for f in fields(made) if f.metadata.get("static", False)]
    leaves = [f.name for f in fields(made) if f.name not in statics]

    def flatten(tree: T) -> tuple[list[tuple[GetAttrKey, object]], Structure]:
        children = [(GetAttrKey(name), vars(tree)[name]) for name in leaves]
        kinds = tuple(type(child) for _, child in children if is_dataclass(child))
        return children, (tuple(vars(tree)[name] for name in statics), kinds)

    def unflatten(structure: Structure, children: Iterable[object]) -> T:
        settings = zip(statics, structure[0], strict=True)
        return made(**dict(settings), **dict(zip(leaves, children, strict=True)))

    register_pytree_with_keys(made, flatten, unflatten)
    return made
