"""What several samplers share: the sign flip, whole numbers of steps, and refusals."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lattice_ml.actions import as_action
from lattice_ml.fields import randomness

__all__ = [
    *("Signs", "check_fraction", "check_positive", "check_sign_flip"),
    *("divergence", "draw_signs", "signs", "smaller_steps", "whole_steps"),
]

_DIVERGENT = 0.01  # of the updates may have |dH| > 1000


class Signs(NamedTuple):
    """Per-chain random numbers of an update, drawn outside the loop over updates."""

    sign: jax.Array  # +1 or -1


def draw_signs(sampler: Any, keys: randomness.Keys, trajectory: jax.Array) -> Signs:
    """The only draws of samplers whose noise is that of their steps."""
    return Signs(signs(sampler, randomness.uniforms(keys, trajectory, 1)[0]))


def signs(sampler: Any, uniform: jax.Array) -> jax.Array:
    """Of the flip phi -> -phi, for uniforms of any shape: +1 or -1, all +1 where it is off."""
    flips = sampler.sign_flip is True or (
        sampler.sign_flip == "auto" and as_action(sampler.action).z2
    )
    return jnp.where(uniform < 0.5, -1, 1) if flips else jnp.ones_like(uniform)


def whole_steps(length: Any, step_size: Any) -> jax.Array:
    """The number of steps of an update of about `length`, at least one; may be traced."""
    steps = jnp.round(length / jnp.asarray(step_size, jnp.float32))
    return jnp.maximum(1, steps).astype(jnp.int32)


def divergence(means: Mapping[str, float], updates: str, settings: str) -> str | None:
    """What `diagnose` says of history averages with too many |dH| > 1000."""
    if means["divergent"] <= _DIVERGENT:
        return None
    return (
        f"{100 * means['divergent']:.1f} % of the {updates} have |dH| > 1000 (allowed: "
        f"{100 * _DIVERGENT:.0f} %) at {settings}"
    )


def smaller_steps(sampler: Any) -> str:
    """What `remedy` says of a step size, as the user gave it."""
    if sampler.step_size == "auto":
        return (
            "lengthen chain.n_thermalise, in which step_size is tuned, or raise "
            f"sampler.target_acceptance from {sampler.target_acceptance:g}, for smaller steps"
        )
    return (
        f"make sampler.step_size smaller than {sampler.step_size:.4g}, or leave it to auto with a "
        "longer chain.n_thermalise"
    )


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
