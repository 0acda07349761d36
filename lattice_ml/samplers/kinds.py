"""Samplers by the names of a config: one kind, a cycle of several, or the one that suits best."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lattice_ml.samplers.cluster import SwendsenWang, Wolff
from lattice_ml.samplers.cycle import Cycle, own
from lattice_ml.samplers.fourier_hmc import FourierHMC
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA
from lattice_ml.samplers.replica import ReplicaExchange

__all__ = ["AUTO", "CLUSTER_PERIODS", "KINDS", "automatic", "build", "parts"]

_CLASSES = (HMC, FourierHMC, ReplicaExchange, Langevin, MALA, Kramers, Wolff, SwendsenWang)
KINDS = {cls.__name__: cls for cls in _CLASSES}

AUTO = "auto"
CLUSTER_PERIODS = 0.15  # of the slowest mode, for trajectories with a Wolff update after each
_CLUSTERS_FROM = 32  # sites along the shortest axis: from here on a Wolff update pays


def automatic(action_kind: str, shape: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The kind that is chosen where none is named, and settings with other defaults in it.

    HMC, and from 32 sites along every axis of a phi^4 lattice a Wolff update after every
    trajectory, which then need not be as long: `CLUSTER_PERIODS` of the slowest mode.
    """
    if action_kind == "Phi4" and min(shape, default=0) >= _CLUSTERS_FROM:
        return "HMC+Wolff", {"periods": CLUSTER_PERIODS}
    return "HMC", {}


def parts(kind: str) -> list[str]:
    """Names of the parts of a kind: "HMC+Wolff" is a cycle of HMC and Wolff."""
    return kind.replace(" ", "").split("+")


def build(kind: str, action: Any, settings: Mapping[str, Any]) -> Any:
    """A sampler by its name in a config, kinds of a cycle joined by `+`.

    Args:
        kind: e.g. "HMC" or "HMC+Wolff".
        action: what is sampled.
        settings: of all its kinds, as `cycle.merged` names them.

    Raises:
        ValueError: settings that make no sense, or updates that do not sample by themselves.
    """
    names = parts(kind)
    keys = {name: [f.name for f in fields(KINDS[name]) if f.name != "action"] for name in names}
    built = tuple(KINDS[name](action, **own(settings, name, keys[name])) for name in names)
    sampler = built[0] if len(built) == 1 else Cycle(built)
    sampler.check()
    if problem := getattr(sampler, "incomplete", ""):
        raise ValueError(problem)
    return sampler
