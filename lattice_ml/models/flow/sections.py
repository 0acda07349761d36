"""The sections of a config that a flow model takes."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from lattice_ml.models.stages import PerStage
from lattice_ml.runtime.arguments import Fields, parameters

__all__ = ["FlowModelSection", "FlowSamplingSection", "FlowTrainingSection", "model_fields"]


@dataclasses.dataclass(frozen=True)
class FlowModelSection:
    """A multiscale flow, see `models.flow`.

    Numbers of levels begin with the finest lattice; the last is for all coarser ones, whose
    networks cost little.

    Args:
        kind: Flow.
        channels: filtered fields that a network sees where sites are filled in.
        hidden: units of these networks.
        couplings: after each step of a level, in which sites are mapped given the others in turn.
        coupling_hidden: units of their networks.
        base_couplings: of the coarsest lattice.
        base_hidden: units of their networks.
        degree: of the polynomials in kappa and lam that the weights are, where several couplings
            are learned.
    """

    kind: str = "Flow"
    channels: int = 2
    hidden: tuple[int, ...] = (8, 16, 24)
    couplings: tuple[int, ...] = (4, 4, 8)
    coupling_hidden: tuple[int, ...] = (8, 8, 16)
    base_couplings: int = 8
    base_hidden: int = 12
    degree: int = 2


@dataclasses.dataclass(frozen=True)
class FlowTrainingSection(PerStage):
    """How a flow is trained; a key with several values has one per stage (lattice size).

    Args:
        kl_steps: Gauss-Newton steps that minimise the reverse Kullback-Leibler divergence.
        n_steps: steps after them that minimise the variance of log w.
        n_samples: of the flow, per step; more than there are weights is best.
        memory: how much of the normal equations of the steps before is kept.
        validation: share of the chains held out, to judge the model by.
        checkpoint_every: seconds between checkpoints; a run goes on from any to the same weights.
    """

    kl_steps: tuple[int, ...] = (6,)
    n_steps: tuple[int, ...] = (16,)
    n_samples: tuple[int, ...] = (4096,)
    memory: float = 0.7
    validation: float = 0.1
    checkpoint_every: float = 60.0


@dataclasses.dataclass(frozen=True)
class FlowSamplingSection:
    """How samples are drawn.

    Args:
        batch_size: samples drawn together; auto from the volume.
        n_updates: of every sample by HMC, where that corrects.
    """

    batch_size: int | Literal["auto"] = "auto"
    n_updates: int = 2


def model_fields(arguments: Sequence[str]) -> Fields:
    """The keys of `[model]`; no argument changes which they are."""
    return parameters(FlowModelSection)
