r"""Relaxation: the approach to equilibrium in fictitious time, measured or, if free, exact.

The modes of a free field, S = sum_p w_p |phi_p|^2 / (2V) with w_p = 2a - 2dh + h p_hat^2, move
independently under Langevin dynamics, dphi = -C dS/dphi dtau + sqrt(2 alpha C) dW with a kernel
C(p), 1 without acceleration.  Their power v_p = <|phi_p|^2>/V relaxes as

    v(tau) = v_inf + (v(0) - v_inf) exp(-2 C w tau),    v_inf = alpha / w,                       (1)

and in steps of size eps, with x = eps C w, n steps after the start, exactly as

    euler, heun            v_n = v_inf + (v_0 - v_inf) r^{2n},   r = 1 - x or 1 - x + x^2/2
    leimkuhler_matthews    v_n = v_inf + (v_1 - v_inf) r^{2(n-1)},   r = 1 - x,
                           v_1 = r^2 v_0 + alpha x / w

with the stationary v_inf of `finite_step.py` (docs/stochastic_quantisation.md derives them).  The
last scheme has no bias in equilibrium but one of first order on the way there: its first step has
half the noise.

Measured are, at every time, <phi^2>, <M^2>, Binder's cumulant and G(p) per shell of momenta, with
errors from the spread over chains, which are independent at equal times whatever the dynamics.  Of
fields under noise, x = phi + sqrt(t) eps, all are known from those without:

    G + t,      <phi^2> + t,      <M^2> + t/V,      U [<M^2> / (<M^2> + t/V)]^2.                 (2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lattice_ml.actions import Quartic
from lattice_ml.analysis.dynamics.finite_step import SCHEMES, gaussian_variance
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.json import JsonTable, plain_table
from lattice_ml.statistics import jackknife_error

__all__ = [
    *("Curve", "Equilibrium", "Relaxation"),
    *("quadratic_form", "relaxation", "relaxation_of_frames", "relaxed_power", "stepped_power"),
]


class Curve(NamedTuple):
    """Values and their errors, of one shape."""

    value: Floats
    error: Floats

    def to_json(self) -> JsonTable:
        """Nested lists, with null for what is not finite."""
        return plain_table(self._asdict())


@dataclass(frozen=True)
class Relaxation:
    """What fields show along fictitious time, or along the noise that is taken from them."""

    times: Floats  # Langevin times or variances of noise, `(n_times,)`
    n_chains: int  # that values are means over
    p_hat_squared: Floats  # of the shells, `(n_shells,)`
    phi2: Curve  # `(n_times,)`
    m2: Curve  # `(n_times,)`
    binder: Curve  # `(n_times,)`
    propagator: Curve  # G(p) averaged over shells, `(n_times, n_shells)`

    def to_json(self) -> JsonTable:
        """Lists and numbers; null for what is not finite."""
        return plain_table(vars(self))


class Equilibrium(NamedTuple):
    """Where relaxation ends."""

    volume: int
    m2: Curve  # of one number
    binder: Curve  # of one number
    propagator: Curve  # `(n_shells,)`

    def noised(self, variances: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """<M^2>, binder `(n,)` and G(p) `(n, n_shells)` under noise of variances `(n,)`: (2)."""
        t = np.asarray(variances, np.float64)
        m2 = self.m2.value + t / self.volume
        return m2, self.binder.value * (self.m2.value / m2) ** 2, self.propagator.value + t[:, None]


# ------------------------------------------------------------------------- exact, of a free field


def quadratic_form(action: Quartic, lattice: Lattice) -> Floats:
    """Eigenvalues w_p of the quadratic form of a free action, `(*L)` in FFT order.

    Raises:
        ValueError: the action has an interaction, or a mode that is not bound.
    """
    form, b = action.quadratic_form(lattice), float(action.couplings()[2])
    if b != 0 or form.min() <= 0:
        raise ValueError(
            "relaxation is known exactly for a free action with positive eigenvalues, got "
            f"b = {b:.6g} and a least eigenvalue of {form.min():.6g}"
        )
    return form


def relaxed_power(
    form: ArrayLike,
    start: ArrayLike,
    times: ArrayLike,
    *,
    temperature: float = 1.0,
    kernel: ArrayLike = 1.0,
) -> Floats:
    """<|phi(p)|^2>/V of a free field at Langevin times, in continuous time: (1).

    Its mean over p is <phi^2>, and its p = 0 is V <M^2>.

    Args:
        form: w_p, `(*L)`, as of `quadratic_form`.
        start: v_p(0), a number or `(*L)`: the variance of white noise, or 0 from a cold start.
        times: tau, `(n_times,)`.
        temperature: alpha.
        kernel: C(p), a number or `(*L)`.

    Returns:
        `(n_times, *L)`.
    """
    w, c = np.asarray(form, np.float64), np.asarray(kernel, np.float64)
    tau = np.reshape(np.asarray(times, np.float64), (-1, *[1] * w.ndim))
    end = temperature / w
    return np.asarray(end + (np.asarray(start) - end) * np.exp(-2 * c * w * tau))


def stepped_power(
    scheme: str,
    form: ArrayLike,
    start: ArrayLike,
    n_steps: ArrayLike,
    step_size: float,
    *,
    temperature: float = 1.0,
    kernel: ArrayLike = 1.0,
) -> Floats:
    """<|phi(p)|^2>/V of a free field after whole steps of a scheme, exact at any step size.

    Args:
        scheme: one of `finite_step.SCHEMES`; of "leimkuhler_matthews" the first noise is
            independent of the start, and all steps are one run, as in the sampler.
        form, start, temperature, kernel: as for `relaxed_power`.
        n_steps: since the start, `(n_times,)`.
        step_size: eps.

    Returns:
        `(n_times, *L)`.

    Raises:
        ValueError: there is no such scheme, or its steps are unstable.
    """
    w, c, first = (np.asarray(given, np.float64) for given in (form, kernel, start))
    x = step_size * c * w
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    end = c * gaussian_variance(scheme, step_size, c * w, temperature)
    n = np.reshape(np.asarray(n_steps, np.int64), (-1, *[1] * w.ndim))
    factor, begin, since = 1 - x, first, n
    if scheme == "heun":
        factor = 1 - x + x * x / 2
    elif scheme == "leimkuhler_matthews":
        begin, since = factor**2 * first + temperature * x / w, np.maximum(n - 1, 0)
    power = end + (begin - end) * factor ** (2 * since)
    return np.where(n > 0, power, first)


# --------------------------------------------------------------------------- measured, of fields


def relaxation(chains: Ensemble, times: ArrayLike) -> Relaxation:
    """Means over chains at every configuration, read in blocks.

    Args:
        chains: `Chains` or an opened ensemble: all chains of one configuration together.
        times: Langevin time of every configuration, `(n_configs,)`; for a start without warm-up
            thin * trajectory_length * (1, 2, ...).

    Raises:
        ValueError: times are not one per configuration, there are fewer than two chains, or the
            chains carry weights.
    """
    if chains.log_weight is not None:
        raise ValueError("relaxation is of unweighted chains, got an ensemble with log_weight")
    n_chains, n_configs = chains.n_chains, chains.n_configs
    return _measured(Lattice(chains.shape), n_chains, n_configs, chains.blocks(), times, 0.0)


def relaxation_of_frames(
    frames: ArrayLike, times: ArrayLike, *, noise: ArrayLike = 0.0
) -> Relaxation:
    """Means over fields of every frame, as they are or with the part of known noise taken off.

    Args:
        frames: `(n_frames, n, *L)`, n independent fields on their way.
        times: of the frames, `(n_frames,)`; for a diffusion model the variances of its noise.
        noise: variance of white noise whose part is taken off by (2), a number or `(n_frames,)`.

    Raises:
        ValueError: times are not one per frame, or there are fewer than two fields.
    """
    fields = np.asarray(frames)
    if fields.ndim < 3:
        raise ValueError(f"frames must be (n_frames, n, *L), got shape {fields.shape}")
    n_frames, n = fields.shape[:2]
    blocks = ((i * n, frame) for i, frame in enumerate(fields))
    return _measured(Lattice(fields.shape[2:]), n, n_frames, blocks, times, noise)


def _measured(
    lattice: Lattice,
    n_chains: int,
    n_configs: int,
    blocks: Iterator[tuple[int, np.ndarray]],
    times: ArrayLike,
    noise: ArrayLike,
) -> Relaxation:
    at = np.asarray(times, np.float64)
    if at.shape != (n_configs,):
        raise ValueError(
            f"relaxation needs one time per configuration, ({n_configs},), got shape {at.shape}"
        )
    if n_chains < 2:
        raise ValueError(f"errors from the spread over chains need at least two, got {n_chains}")
    t = np.broadcast_to(np.asarray(noise, np.float64), at.shape)
    n_shells = len(lattice.shells[0])
    magnetisation, phi2 = np.empty((2, n_configs * n_chains))
    sums, squares = np.zeros((2, n_configs, n_shells))
    for start, fields in blocks:
        here = slice(start, start + len(fields))
        phi = np.asarray(fields, np.float64)
        sites = tuple(range(1, phi.ndim))
        magnetisation[here], phi2[here] = phi.mean(axis=sites), (phi**2).mean(axis=sites)
        modes = np.fft.fftn(phi, axes=sites)
        power = lattice.shell_means(np.abs(modes) ** 2 / lattice.volume)
        configuration = np.arange(start, start + len(fields)) // n_chains
        np.add.at(sums, configuration, power)
        np.add.at(squares, configuration, power**2)
    m = magnetisation.reshape(n_configs, n_chains)
    mean = sums / n_chains
    spread = np.sqrt(np.maximum(squares / n_chains - mean**2, 0) / (n_chains - 1))
    shift = t / lattice.volume
    return Relaxation(
        times=at,
        n_chains=n_chains,
        p_hat_squared=lattice.shells[0],
        phi2=_mean(phi2.reshape(m.shape), t),
        m2=_mean(m**2, shift),
        binder=_binder(m, shift),
        propagator=Curve(mean - t[:, None], spread),
    )


def _mean(values: Floats, shift: Floats) -> Curve:
    """Mean over chains `(n_times, n_chains)` less what noise adds."""
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    return Curve(values.mean(axis=1) - shift, error)


def _binder(m: Floats, shift: Floats) -> Curve:
    """Binder's cumulant of M `(n_times, n_chains)` by jackknife, undoing (2); NaN where M = 0."""
    n = m.shape[1]

    def cumulant(m2: Floats, m4: Floats, shift: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):  # fields of a cold start may be 0
            return (1 - m4 / (3 * m2**2)) * (m2 / (m2 - shift)) ** 2

    m2, m4 = m**2, m**4
    s2, s4 = m2.sum(axis=1, keepdims=True), m4.sum(axis=1, keepdims=True)
    left_out = cumulant((s2 - m2) / (n - 1), (s4 - m4) / (n - 1), shift[:, None])
    value = cumulant(s2[:, 0] / n, s4[:, 0] / n, shift)
    return Curve(value, jackknife_error(left_out, axis=1))
