r"""What stops a run whose dynamics have failed, judged by all that it has produced so far.

* An action that is not finite, and what a sampler's own `diagnose` finds in the averages.
* A chain that never moves.  One far in the tails, where every trajectory diverges, is invisible in
  averages over many chains, and its one field is kept again and again.  A chain of which nothing is
  accepted where the others have accepted 30 times is such a one: its phi^2 has the same bits in
  every configuration, whatever signs change, and its acceptances add up to less than one.  Chains
  in equilibrium are alike, and one of e^30 is so unlucky.  Where 30 updates are accepted and no bit
  changes, steps are below the rounding of the fields.
* A mean of exp(-dH) that equilibrium forbids: positive numbers of mean 1 have a mean above m by a
  chance of at most 1/m (Markov).  A chain that falls into its well while it is kept has 1e40.

`doubt` says beforehand where chains will stay in the wells that they begin in.
"""

import warnings
from collections.abc import Mapping

import numpy as np

from lattice_ml.actions import as_action
from lattice_ml.samplers.sampler import Sampler

__all__ = ["Doubt", "RunError", "Watch", "doubt", "voice_doubt"]

_EXPECTED = 30.0  # acceptances, after which a chain that has none is no chance
_FEWEST = 1000  # updates of all chains together, of which something is accepted in any useful run
_IMPOSSIBLE = 1e6  # of the mean of exp(-dH)
_HIGH = 3.0  # barrier that HMC needs hundreds of trajectories to cross (docs/methods.md)


class RunError(RuntimeError):
    """The dynamics failed: the message says where and what to change."""


class Doubt(UserWarning):
    """A run may be wrong in a way that its errors do not show."""


class Watch:
    """Sees the histories of a run, and raises.

    Args:
        sampler: as tuned, for `diagnose`.
        asked: as the user gave it, for `remedy`: it knows what is "auto".
        thermalised: whether there was a warm-up; without one chains may be on their way.
    """

    def __init__(self, sampler: Sampler, asked: Sampler, *, thermalised: bool) -> None:
        self._sampler, self._asked, self._thermalised = sampler, asked, thermalised
        self._total: dict[str, float] = {}
        self._count = 0
        self._moves = _Moves()

    def check(self, history: Mapping[str, np.ndarray], trajectory: np.ndarray, thin: int) -> None:
        """Look at the histories `(n, n_chains)` of a block: averages over `thin` updates each.

        Raises:
            RunError: the dynamics have failed.
        """
        self._check_finite(history, trajectory)
        self._count += len(trajectory)
        for name, value in history.items():
            self._total[name] = self._total.get(name, 0.0) + float(np.sum(np.mean(value, axis=1)))
        means = {name: total / self._count for name, total in self._total.items()}
        means["n_samples"] = self._count * history["action"].shape[1]
        self._moves.see(history, thin)
        problem = self._sampler.diagnose(means) or self._moves.problem() or self._disorder(means)
        if problem:
            raise RunError(f"up to trajectory {trajectory[-1]}: {problem}; {self._asked.remedy()}")

    def check_warm_up(
        self, history: Mapping[str, np.ndarray], done: int, n: int, *, final: bool
    ) -> None:
        """Look at averages `(1, n_chains)` over the last `n` of `done` updates of a warm-up.

        Chains may be stuck before the settings are `final`, those of the production.

        Raises:
            RunError: the action is not finite, or a chain does not move with final settings.
        """
        self._check_finite(history, np.array([done]))
        if final:
            self._moves.see(history, n)
        if problem := self._moves.problem():
            raise RunError(f"in the warm-up, up to {done}: {problem}; {self._asked.remedy()}")

    def _check_finite(self, history: Mapping[str, np.ndarray], trajectory: np.ndarray) -> None:
        bad = np.argwhere(~np.isfinite(history["action"]))
        if len(bad):
            k, chain = bad[0]
            raise RunError(
                f"the action of chain {chain} is not finite at trajectory {trajectory[k]}; "
                f"{self._asked.remedy()}"
            )

    def _disorder(self, means: Mapping[str, float]) -> str | None:
        """What is said of energy changes that equilibrium does not have."""
        worst = max((m for name, m in means.items() if name.startswith("exp_minus_dh")), default=1)
        if not self._thermalised or worst < _IMPOSSIBLE:
            return None
        return (
            f"the mean of exp(-dH) is {worst:.1e}, of which the chance is at most {1 / worst:.0e} "
            "in equilibrium, where it is 1: chains were still on their way there"
        )


class _Moves:
    """Which chains have not moved since the first configuration that was seen."""

    def __init__(self) -> None:
        self._first: np.ndarray | None = None  # phi^2 of every chain
        self._still = np.zeros(0, bool)
        self._accepted = np.zeros(0)  # sum of the chances to be accepted
        self._updates = 0

    def see(self, history: Mapping[str, np.ndarray], thin: int) -> None:
        """Histories `(n, n_chains)` of configurations with `thin` updates before each."""
        if "acceptance" not in history:  # what is never rejected moves
            return
        square, acceptance = history["phi2"], history["acceptance"]
        if self._first is None:
            self._first, self._still = square[0], np.ones(len(square[0]), bool)
            self._accepted = np.zeros(len(square[0]))
            square, acceptance = square[1:], acceptance[1:]
        self._still &= np.all(square == self._first, axis=0)
        self._accepted += thin * np.sum(acceptance, axis=0)
        self._updates += thin * len(square)

    def problem(self) -> str | None:
        """What is said of chains that are stuck, where that cannot be chance."""
        n, rejected = len(self._still), self._still & (self._accepted < 1)
        nothing = n > 0 and self._accepted.sum() < 1 and self._updates * n >= _FEWEST
        if rejected.any() and (nothing or self._accepted.mean() >= _EXPECTED):
            return (
                f"{_named(rejected)} did not accept one of {self._updates} updates, of which all "
                f"chains accept {100 * self._accepted.mean() / self._updates:.1f} % on average"
            )
        rounded = self._still & (self._accepted >= _EXPECTED)
        if rounded.any():
            return (
                f"{_named(rounded)} accepted {self._accepted[rounded].min():.0f} of "
                f"{self._updates} updates, and no bit of phi^2 changed: the steps are lost in the "
                "rounding of the fields (output.dtype = float64 has more digits)"
            )
        return None


def _named(chains: np.ndarray) -> str:
    """The first of these chains, `(n_chains,)` booleans, and how many more there are."""
    first, *more = np.flatnonzero(chains)
    return f"chain {first} and {len(more)} more of {len(chains)}" if more else f"chain {first}"


def doubt(sampler: Sampler) -> str | None:
    """Why chains may stay in the wells that they begin in, or None."""
    barrier = as_action(sampler.action).barrier / sampler.temperature
    if barrier < _HIGH or sampler.crosses:
        return None
    return (
        f"the barrier between the two wells of a site, a^2/(4 b) = {barrier:.3g}, is high: chains "
        "stay for long in the wells that they begin in, and no error sees that; add cluster "
        "updates, sampler.kind = HMC+SwendsenWang, or use ReplicaExchange"
    )


def voice_doubt(sampler: Sampler) -> None:
    """Warn the caller of a function in `jax_modes.ordinary` of a `doubt`."""
    if text := doubt(sampler):
        # this function, the one that calls it, what surrounds that, and its caller
        warnings.warn(text, Doubt, stacklevel=4)
