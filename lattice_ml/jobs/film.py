r"""The fields of a film: a sample on its way from noise, beside the same theory in Langevin time.

A diffusion model is the learned reversal of the noising x = phi + sigma eps.  Stochastic
quantisation runs the same kind of process in a fictitious time with the action's own drift,
dphi = -dS/dphi dtau + sqrt(2) dW (arXiv:2309.17082), so both are shown in one figure
(`report/film.py`): noise levels above, Langevin times from a hot start below.

A sampler that knows the zero mode starts at noise too small to hide the well of a broken phase.
Seen backwards its path goes on by white noise alone, so the film shows it from sigma^2 = V <M^2>
down, where the well is decided; the caption says how many frames are no sampler's.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from lattice_ml.actions import Quartic
from lattice_ml.analysis.spectrum import bare_form
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import single
from lattice_ml.fields.randomness import chain_keys
from lattice_ml.fields.types import Floats, Integers
from lattice_ml.report import film
from lattice_ml.runtime.printable import shape_label
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.sampler import FieldState

__all__ = ["langevin", "langevin_step_size", "write_film"]

_SHOWN = 6  # frames in a row
_NOISIER = 2  # of them at most above the sampler's first noise level
_STIFFNESS = 0.05  # step size times the largest eigenvalue
_STEPS = 20_000  # of Langevin
_FIRST_STEPS = 100  # before the second frame: five relaxation times of the stiffest mode


def write_film(
    frames: ArrayLike,
    variances: ArrayLike,
    action: Quartic,
    directory: str | os.PathLike[str],
    *,
    seed: int = 0,
) -> Path:
    """Write `film.html`, a self-contained page, and `film.png`; returns the page's path.

    Args:
        frames: fields of some samples on their way from noise, `(n_frames, n, *L)`; the first
            sample is shown.
        variances: of the noise in each frame, falling, `(n_frames,)`.
        action: that the samples are of; the Langevin process is its own.
        directory: made if it does not exist.
        seed: of the Langevin process, and of the noise above the first frame.

    Raises:
        ValueError: frames and variances do not fit each other, or are no falling noise.
        ImportError: matplotlib is not installed.
    """
    fields, noise = _checked(frames, variances)
    shape = fields.shape[2:]
    rng = np.random.default_rng(seed)
    before, levels = _noisier(rng, fields, noise)
    at = _spread(fields[-1, 0].var(), noise, _SHOWN - len(before))
    shown = np.concatenate([before, fields[at, 0]])
    sigmas = np.sqrt(np.concatenate([levels, noise[at]]))

    step_size = langevin_step_size(action, shape)
    ends = np.rint([0, *np.geomspace(_FIRST_STEPS, _STEPS, len(shown) - 1)]).astype(np.int32)
    hot = action.hot(rng.normal(size=(1, *shape)).astype(np.float32))
    quantised = langevin(jax.random.key(seed), action, jnp.asarray(hot), ends, step_size)

    (h, a, b), first = action.couplings(), sigmas[len(before)]
    return film.write_film(
        directory,
        shown,
        sigmas,
        np.asarray(quantised)[:, 0],
        step_size * ends,
        n_before=len(before),
        summary=[
            ("lattice", shape_label(shape)),
            ("couplings", f"h = {h:.6g}, a = {a:.6g}, b = {b:.6g}"),
            ("diffusion model", f"{len(fields)} frames of noise {first:.3g} to {sigmas[-1]:.3g}"),
            ("Langevin process", f"{_STEPS:,} Euler steps of {step_size:.3g} from a hot start"),
        ],
    )


def langevin_step_size(action: Quartic, shape: tuple[int, ...]) -> float:
    """0.05 over the largest eigenvalue of d^2S/dphi^2 at the uniform field of least action.

    That is max_p [2a - 2dh + h p_hat^2] + 12 b phi_min^2, and the quadratic form's own where the
    minimum is at zero.  A free mode of eigenvalue A gets the variance 1 / (A (1 - eps A/2)) from
    Euler steps, so the bias is at most 2.6 %.
    """
    h, a, b = action.couplings()
    form = bare_form(h, a, Lattice(shape))
    return float(_STIFFNESS / (form.max() + 12 * b * action.minimum(len(shape)) ** 2))


@jax.jit
def langevin(
    key: jax.Array, action: Quartic, phi: jax.Array, ends: Integers, step_size: float
) -> jax.Array:
    """Euler steps of `samplers.Langevin`: a bias of order eps, no correction.

    Args:
        key: of all noise.
        action: that drives them.
        phi: fields to start from, `(n, *L)`; returned are those kept, `(n_frames, n, *L)`.
        ends: rising numbers of steps after which the fields are kept, `(n_frames,)`.
        step_size: eps, the Langevin time of a step.
    """
    layout, keys = single(phi.shape[1:], len(phi)), chain_keys(key, len(phi))
    sampler = Langevin(action, step_size, trajectory_length=step_size, sign_flip=False)

    def step(k: jax.Array, phi: jax.Array) -> jax.Array:
        state, _ = sampler.update(layout, keys, k, sampler.draw(keys, k), FieldState(phi))
        return state.phi

    def frame(phi: jax.Array, span: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        phi = lax.fori_loop(*span, step, phi)
        return phi, phi

    last = jnp.asarray(ends)
    first = jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])
    _, kept = lax.scan(frame, jnp.moveaxis(phi, 0, -1), (first, last))
    return jnp.moveaxis(kept, -1, 1)


def _noisier(rng: np.random.Generator, fields: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """The first sample's first frame with white noise added, where its well can be seen.

    Returns:
        Fields `(n, *L)` and the variances of their noise, from V <M^2> down, `(n,)`: two, or none.
    """
    first, last = fields[0, 0], fields[-1]
    seen = first.size * np.mean(last.reshape(len(last), -1).mean(axis=1) ** 2)
    if seen <= variances[0]:
        return np.empty((0, *first.shape)), np.empty(0)
    levels = np.geomspace(seen, variances[0], _NOISIER + 1)
    added = rng.normal(size=(_NOISIER, *first.shape))
    steps = np.sqrt(levels[:-1] - levels[1:]).reshape(-1, *[1] * first.ndim)
    walk = np.cumsum((steps * added)[::-1], axis=0)[::-1]
    return first + walk, levels[:-1]


def _spread(fluctuation: float, variances: Floats, n: int) -> Integers:
    """At most `n` frames from the first to the last, with even changes of log(field + noise)."""
    logs = np.log(fluctuation + variances)
    wanted = np.linspace(logs[0], logs[-1], n)
    return np.unique(np.abs(logs - wanted[:, None]).argmin(axis=1))


def _checked(frames: ArrayLike, variances: ArrayLike) -> tuple[Floats, Floats]:
    """Frames `(n_frames, n, *L)` and variances `(n_frames,)` in float64."""
    fields, noise = np.asarray(frames, np.float64), np.asarray(variances, np.float64)
    if fields.ndim < 3 or len(fields) < 2 or fields.size == 0:
        raise ValueError(
            "a film needs frames (n_frames, n, *L), at least two of them and of at least one "
            f"sample, got shape {fields.shape}"
        )
    if noise.shape != fields.shape[:1]:
        raise ValueError(
            f"a film needs one noise variance per frame, ({len(fields)},), got {noise.shape}"
        )
    if not np.isfinite(fields).all():
        raise ValueError("the frames of a film must be finite numbers, got some that are not")
    if not (noise.min() >= 0 and np.all(np.diff(noise) < 0) and np.isfinite(noise[0])):
        raise ValueError(f"the noise of a film must fall towards 0, got variances {noise}")
    return fields, noise
