"""Samplers by the names of a config: one kind, a cycle of several, or the one that suits best."""

from collections.abc import Sequence
from dataclasses import fields

from lattice_ml.actions import Action
from lattice_ml.runtime.json import Section
from lattice_ml.samplers.cluster import SwendsenWang, Wolff
from lattice_ml.samplers.cycle import Cycle, own
from lattice_ml.samplers.fourier_hmc import FourierHMC
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA
from lattice_ml.samplers.replica import ReplicaExchange
from lattice_ml.samplers.sampler import Sampler

__all__ = ["AUTO", "CLUSTER_PERIODS", "KINDS", "automatic", "build", "parts"]

KINDS: dict[str, type[Sampler]] = {
    cls.__name__: cls
    for cls in (HMC, FourierHMC, ReplicaExchange, Langevin, MALA, Kramers, Wolff, SwendsenWang)
}

AUTO = "auto"
CLUSTER_PERIODS = 0.15  # of the slowest mode, for trajectories with a Wolff update after each
_CLUSTERS_FROM = 32  # sites along the shortest axis: from here on a Wolff update pays
_BARRIER_FROM = 1.0  # of a site: from here on flips of all clusters pay, on lattices of any size


def automatic(
    action_kind: str, shape: Sequence[int], barrier: float
) -> tuple[str, dict[str, float]]:
    """The kind that is chosen where none is named, and settings with other defaults in it.

    HMC, and after every trajectory of phi^4 a cluster update where that pays: of all clusters where
    sites have a barrier between two wells, which HMC hardly crosses; of one from 32 sites along
    every axis.  Then trajectories need not be as long: `CLUSTER_PERIODS` of the slowest mode.

    Args:
        action_kind: the name of the action.
        shape: of the lattice.
        barrier: of the action's site term; see `Action.barrier`.
    """
    if action_kind == "Phi4" and barrier >= _BARRIER_FROM:
        return "HMC+SwendsenWang", {"periods": CLUSTER_PERIODS}
    if action_kind == "Phi4" and min(shape, default=0) >= _CLUSTERS_FROM:
        return "HMC+Wolff", {"periods": CLUSTER_PERIODS}
    return "HMC", {}


def parts(kind: str) -> list[str]:
    """Names of the parts of a kind: "HMC+Wolff" is a cycle of HMC and Wolff."""
    return kind.replace(" ", "").split("+")


def build(kind: str, action: Action, settings: Section, theory: Section, ndim: int) -> Sampler:
    """A sampler by its name in a config, kinds of a cycle joined by `+`.

    Args:
        kind: e.g. "HMC" or "HMC+Wolff".
        action: what is sampled.
        settings: of all its kinds, as `cycle.merged` names them.
        theory, ndim: as of `Sampler.from_config`.

    Raises:
        ValueError: settings that make no sense, or updates that do not sample by themselves.
    """
    names = parts(kind)
    keys = {name: [f.name for f in fields(KINDS[name]) if f.name != "action"] for name in names}
    built = tuple(
        KINDS[name].from_config(action, own(settings, name, keys[name]), theory, ndim)
        for name in names
    )
    sampler = built[0] if len(built) == 1 else Cycle(built)
    sampler.check()
    if sampler.incomplete:
        raise ValueError(sampler.incomplete)
    return sampler
