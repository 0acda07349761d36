"""Warm-up: step size by dual averaging, trajectory length by the slowest mode.

Step size: Nesterov's dual averaging of log(step size) towards the target acceptance, as in
Hoffman and Gelman, arXiv:1111.4246, eq. (6), fed with the acceptance averaged over all chains.
While a chain accepts next to nothing it is fed with that, until steps are so small that all move:
one far out among many others does not show in the average, and would be left where it began.
Trajectory length: a number of periods of the slowest mode, by default a quarter of one,
tau = (pi/2)/omega_min, where 1/omega_min^2 = max_p G_conn(p) is measured in windows of doubling
length, so that what was measured far from equilibrium is forgotten.  A sampler with more to learn
from the propagator says what, and what its slowest mode is.

The last quarter of the warm-up runs with the final values; they do not change after it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from lattice_ml.actions import Action, as_action
from lattice_ml.fields.lattice import Lattice

__all__ = ["Fixed", "Learned", "Lengths", "Propagator", "Tuner"]

S = TypeVar("S")  # a sampler

_MEASUREMENTS = 16  # of the propagator, at equal distances
_TO_LEARN = 30  # where more than a length comes from it: the last window is half of the time
_MAX_STEPS = 1024
_TRANSFORMED = 64  # chains at a time, to need little memory
_STUCK = 0.02  # of the target acceptance: less is that of a chain that does not move
_SHORT = 20  # trajectories of tuning that are not split


@dataclass(frozen=True)
class Lengths:
    """The user's trajectory length, number of steps and step size; None where left to us.

    What is left is tuned for the acceptance `target`, and trajectories of `periods` of the slowest
    mode.
    """

    trajectory_length: float | None
    n_steps: int | None
    step_size: float | None
    target: float = 0.8
    periods: float = 0.25

    def check(self) -> None:
        """Refuse three lengths that contradict each other."""
        length, n_steps, step = self.trajectory_length, self.n_steps, self.step_size
        if length is None or n_steps is None or step is None:
            return
        if not math.isclose(n_steps * step, length, rel_tol=1e-6):
            raise ValueError(
                f"sampler.trajectory_length = {length} is not n_steps x step_size = {n_steps} x "
                f"{step}; leave one of the three out"
            )

    @property
    def tunes_length(self) -> bool:
        return self.trajectory_length is None and self.n_steps is None

    @property
    def tunes_step(self) -> bool:
        return self.step_size is None and (self.trajectory_length is None or self.n_steps is None)

    def resolve(self, length: float, step: float) -> tuple[float, int, float]:
        """(trajectory_length, n_steps, step_size) from the current estimates of what is free."""
        if self.step_size is not None:
            step = self.step_size
        if self.n_steps is not None:
            n_steps = self.n_steps
            if self.trajectory_length is not None:
                step = self.trajectory_length / n_steps
            return n_steps * step, n_steps, step
        length = self.trajectory_length or length
        if self.step_size is not None:
            n_steps = max(1, round(length / step))
            return n_steps * step, n_steps, step
        n_steps = min(_MAX_STEPS, max(1, math.ceil(length / step)))
        length = min(length, n_steps * step)
        return length, n_steps, length / n_steps


class Propagator(NamedTuple):
    """G(p) = <|phi(p)|^2>/V as the warm-up has measured it."""

    connected: np.ndarray  # without <|M|>^2 at p = 0 (without Z2 <M>^2), in the order of rfftn
    zero_mode: float  # the same at p = 0, but not smaller than G where M is Gaussian


Learned = tuple[float, dict[str, float]]  # 1/omega^2 of the slowest mode, and settings


def peak(propagator: Propagator) -> Learned:
    """1/omega_min^2 = max_p G_conn(p); there is nothing else to learn."""
    return float(propagator.connected.max()), {}


class Tuner(Generic[S]):
    """Holds the sampler as tuned so far; `update` it after every chunk of trajectories.

    Args:
        build: makes a sampler of (length, n_steps, step) and the settings that `learn` gives.
        lengths: what they leave free is tuned.
        action: S.
        lattice: of the fields.
        n_thermalise: trajectories of the warm-up.
        learn: from the propagator; it is measured where that or the trajectory length asks for it.
    """

    def __init__(
        self,
        build: Callable[..., S],
        lengths: Lengths,
        action: Action,
        lattice: Lattice,
        n_thermalise: int,
        learn: Callable[[Propagator], Learned] | None = None,
    ) -> None:
        self._lengths, self._build, self._learn = lengths, build, learn or peak
        self._measurements = _TO_LEARN if learn else _MEASUREMENTS if lengths.tunes_length else 0
        self._until = max(1, math.ceil(0.75 * n_thermalise))
        self._step = _DualAveraging(lattice.volume**-0.25, lengths.target)
        self._average = _Average(as_action(action).z2)
        self._measured, self._settling, self._frozen = 0, True, False
        self._recent: np.ndarray | None = None  # acceptance of every chain, chunks halved each time
        self._length, self._learned = 1.0, dict[str, float]()
        self._set(self._step.current)

    def update(
        self, done: int, means: Mapping[str, np.ndarray], fields: Callable[[], np.ndarray]
    ) -> None:
        if self._frozen:
            return
        due = done * self._measurements >= self._measured * self._until
        if self._measurements and due:
            self._measured += 1
            slowest, self._learned = self._learn(self._average.update(fields()))
            self._length = self._lengths.periods * 2 * math.pi * math.sqrt(slowest)
        if self._lengths.tunes_step:
            if self._settling and 2 * done > self._until > _SHORT:  # forget the way here
                self._step = _DualAveraging(self._step.average, self._lengths.target)
                self._settling = False
            self._step.update(self._seen(means["acceptance"]))
        self._frozen = done >= self._until
        self._set(self._step.average if self._frozen else self._step.current)

    def _seen(self, acceptance: np.ndarray) -> float:
        """The average over chains; where one has accepted nothing of late, that of this chain."""
        before = acceptance if self._recent is None else self._recent
        self._recent = (before + acceptance) / 2
        stuck = self._recent < _STUCK * self._lengths.target
        return float(np.min(acceptance) if np.any(stuck) else np.mean(acceptance))

    def _set(self, step: float) -> None:
        """Use `step`; a whole number of steps makes it shorter only when it is final."""
        # Equal chains at a cold start show no fluctuations: still move by a step at least.
        length, n_steps, final = self._lengths.resolve(max(self._length, step), step)
        explores = self._lengths.tunes_step and not self._frozen
        self.sampler = self._build(length, n_steps, step if explores else final, **self._learned)


@dataclass(frozen=True)
class Fixed(Generic[S]):
    """The tuner of a sampler in which nothing is tuned."""

    sampler: S

    def update(
        self, done: int, means: Mapping[str, np.ndarray], fields: Callable[[], np.ndarray]
    ) -> None:
        pass


class _DualAveraging:
    """arXiv:1111.4246, eq. (6): `current` explores, `average` is what to keep.

    The shrinkage is four times that of the paper: the acceptance is averaged over chains, and a
    gain made for the noise of one chain would make the step size oscillate.
    """

    shrinkage, offset, decay = 0.2, 10.0, 0.75

    def __init__(self, guess: float, target: float) -> None:
        self._target, self._centre = target, math.log(guess)
        self._log = self._log_average = math.log(guess)
        self._error, self._count = 0.0, 0

    @property
    def current(self) -> float:
        return math.exp(self._log)

    @property
    def average(self) -> float:
        return math.exp(self._log_average)

    def update(self, acceptance: float) -> None:
        self._count += 1
        weight = 1 / (self._count + self.offset)
        self._error += weight * (self._target - acceptance - self._error)
        self._log = self._centre - math.sqrt(self._count) / self.shrinkage * self._error
        forget = self._count**-self.decay
        self._log_average += forget * (self._log - self._log_average)


class _Average:
    """The propagator, averaged over chains and a window of measurements."""

    def __init__(self, z2: bool) -> None:
        self._z2, self._count, self._window = z2, 0, 1
        self._power: float | np.ndarray = 0.0
        self._centre = 0.0

    def update(self, phi: np.ndarray) -> Propagator:
        """Add fields `(n_chains, *L)` and return the current estimate."""
        if self._count == self._window:
            self._window, self._count, self._power, self._centre = 2 * self._window, 0, 0.0, 0.0
        volume, zeros, power = phi[0].size, [], 0.0
        for first in range(0, len(phi), _TRANSFORMED):
            modes = np.fft.rfftn(phi[first : first + _TRANSFORMED], axes=tuple(range(1, phi.ndim)))
            zeros.append(modes.reshape(len(modes), -1)[:, 0].real)
            power = power + np.sum(np.abs(modes) ** 2, axis=0)
        zero = np.concatenate(zeros)
        self._power = self._power + power / len(phi) / volume
        self._centre += float(np.mean(np.abs(zero) if self._z2 else zero))
        self._count += 1
        connected = np.array(self._power / self._count)
        full = float(connected.flat[0])
        connected.flat[0] -= (self._centre / self._count) ** 2 / volume
        zero_mode = float(connected.flat[0])
        if self._z2 and full > 0:
            # <|M|>^2 takes 2/pi of a Gaussian mode and nothing of the fluctuations deep in a well;
            # in between, interpolate in the relative width of |M|.
            left = 1 - 2 / math.pi
            width = math.sqrt(max(0.0, zero_mode) / (left * full))
            zero_mode *= 1 + (1 / left - 1) * width
        return Propagator(connected, zero_mode)
