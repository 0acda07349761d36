"""What several samplers share: settings as numbers, the sign flip, steps, and refusals."""

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from lattice_ml.actions import Action, as_action
from lattice_ml.fields import randomness
from lattice_ml.fields.types import Scalar

__all__ = [
    *("Auto", "SignFlip", "check", "divergence", "draw_signs", "given", "number", "signs"),
    *("smaller_steps", "whole_steps"),
]

N = TypeVar("N", int, float)
Auto = Literal["auto"]  # for a warm-up to find
SignFlip = bool | Auto

_DIVERGENT = 0.01  # of the updates may have |dH| > 1000
_OPTIONAL = ("fourier_mass_squared", "drift_limit")
_POSITIVE = (
    *("trajectory_length", "n_steps", "step_size", "friction", "temperature", "periods"),
    *("mass_squared", *_OPTIONAL),
)
_FRACTIONS = {"jitter": 0.0, "target_acceptance": 1e-9}  # from here on, and below 1


def number(setting: N | Auto) -> N:
    """A setting once nothing is "auto" any more."""
    assert not isinstance(setting, str), "the setting needs a warm-up"
    return setting


def given(setting: N | Auto) -> N | None:
    """A setting as the user gave it; None where that is "auto"."""
    return None if isinstance(setting, str) else setting


def draw_signs(
    sign_flip: SignFlip, action: Action, keys: randomness.Keys, trajectory: jax.Array
) -> jax.Array:
    """Signs of updates: the only draws of samplers whose noise is that of their steps."""
    return signs(sign_flip, action, randomness.uniforms(keys, trajectory, 1)[0])


def signs(sign_flip: SignFlip, action: Action, uniform: jax.Array) -> jax.Array:
    """Of the flip phi -> -phi, for uniforms of any shape: +1 or -1, all +1 where it is off."""
    flips = sign_flip is True or (sign_flip == "auto" and as_action(action).z2)
    return jnp.where(uniform < 0.5, -1, 1) if flips else jnp.ones_like(uniform)


def whole_steps(length: Scalar, step_size: Scalar) -> jax.Array:
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


def smaller_steps(step_size: float | Auto, target_acceptance: float) -> str:
    """What `remedy` says of a step size, as the user gave it."""
    if step_size == "auto":
        return (
            "lengthen chain.n_thermalise, in which step_size is tuned, or raise "
            f"sampler.target_acceptance from {target_acceptance:g}, for smaller steps"
        )
    return (
        f"make sampler.step_size smaller than {step_size:.4g}, or leave it to auto with a "
        "longer chain.n_thermalise"
    )


def check(settings: Mapping[str, Any], tuned: Collection[str]) -> None:
    """Refuse values of settings whose names several samplers share.

    Args:
        settings: by name.
        tuned: names of those that may be "auto".

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """
    for name, value in settings.items():
        off = (name in tuned and value == "auto") or (name in _OPTIONAL and value is None)
        if name in _POSITIVE and not off and (isinstance(value, str) or not 0 < value < math.inf):
            allowed = "auto or positive and finite" if name in tuned else "positive and finite"
            raise ValueError(f"sampler.{name} must be {allowed}, got {value}")
        if name in _FRACTIONS and not _FRACTIONS[name] <= value < 1:
            allowed = f"{'(' if _FRACTIONS[name] else '['}0, 1)"
            raise ValueError(f"sampler.{name} must be in {allowed}, got {value}")
        if name == "sign_flip" and value not in (True, False, "auto"):
            raise ValueError(f"sampler.sign_flip must be true, false or auto, got {value}")
