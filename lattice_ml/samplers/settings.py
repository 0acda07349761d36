"""Settings that several samplers share: the global sign flip, and numbers that must be positive."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["check_fraction", "check_positive", "check_sign_flip", "signs"]


def signs(sampler: Any, uniform: jax.Array) -> jax.Array:
    """Of the flip phi -> -phi, for uniforms of any shape: +1 or -1, all +1 where it is off."""
    flips = sampler.sign_flip is True or (
        sampler.sign_flip == "auto" and getattr(sampler.action, "z2", False)
    )
    return jnp.where(uniform < 0.5, -1, 1) if flips else jnp.ones_like(uniform)


def check_sign_flip(sampler: Any) -> None:
    """Refuse a `sign_flip` that is not true, false or "auto".

    Raises:
        ValueError: naming the value and what is allowed.
    """
    if sampler.sign_flip not in (True, False, "auto"):
        raise ValueError(f"sampler.sign_flip must be true, false or auto, got {sampler.sign_flip}")


def check_positive(sampler: Any, *names: str, auto: bool = False) -> None:
    """Refuse settings that are not positive and finite, or "auto" where that is allowed.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """
    for name in names:
        value = getattr(sampler, name)
        if auto and value == "auto":
            continue
        if isinstance(value, str) or not 0 < value < math.inf:
            allowed = "auto or positive and finite" if auto else "positive and finite"
            raise ValueError(f"sampler.{name} must be {allowed}, got {value}")


def check_fraction(sampler: Any, name: str, *, zero: bool = False) -> None:
    """Refuse a setting outside (0, 1), or [0, 1) where zero is allowed.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """
    value = getattr(sampler, name)
    if not (0 if zero else 1e-9) <= value < 1:
        raise ValueError(f"sampler.{name} must be in {'[' if zero else '('}0, 1), got {value}")
