"""The sections of a config that a diffusion model takes.

The keys of `[model]` are what all take and what the constructor of the network takes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from lattice_ml.models.stages import PerStage
from lattice_ml.runtime.arguments import Fields, chosen, parameters

__all__ = ["SamplingSection", "TrainingSection", "model_fields"]


@dataclasses.dataclass(frozen=True)
class TrainingSection(PerStage):
    """How a model is trained; a key with several values has one per stage (lattice size).

    Args:
        n_steps: gradient steps of denoising.
        batch_size: fields per step.
        learning_rate: of Adam, at its largest.
        clip: largest norm of a gradient.
        ema: decay per step of the averaged weights, which the model keeps.
        validation: share of the chains held out.
        augment: apply random symmetries of the lattice and of the action to the fields.
        fine_tune: after denoising, minimise the variance of log w over the model's own samples.
        fine_tune_steps: gradient steps of fine-tuning.
        fine_tune_batch: samples per step.
        fine_tune_learning_rate: of Adam, at its largest.
        flow_steps: steps of the probability flow while fine-tuning; auto from the volume.
        checkpoint_every: seconds between checkpoints; a run goes on from any to the same weights.
        pool_bytes: how much of an ensemble is in memory at once.
    """

    n_steps: tuple[int, ...] = (2000,)
    batch_size: tuple[int, ...] = (128,)
    learning_rate: tuple[float, ...] = (3e-3,)
    clip: float = 1.0
    ema: float = 0.999
    validation: float = 0.1
    augment: bool = True
    fine_tune: bool = False
    fine_tune_steps: tuple[int, ...] = (200,)
    fine_tune_batch: tuple[int, ...] = (64,)
    fine_tune_learning_rate: tuple[float, ...] = (2e-3,)
    flow_steps: tuple[int, ...] | Literal["auto"] = "auto"
    checkpoint_every: float = 30.0
    pool_bytes: int = 1 << 28


@dataclasses.dataclass(frozen=True)
class SamplingSection:
    """How samples are drawn.

    Args:
        method: ode has an exact density, path has weights, sde and pc (with a corrector) neither.
        n_steps: of the integration; auto from the volume.
        scheme: of the ode.
        schedule: of the noise, for sde and pc.
        batch_size: samples drawn together; auto from the volume and the device.
        n_probes: of the estimated density of networks without an exact one; its weights, and all
            that is made of them, are approximate.
        n_updates: of every sample by HMC, where that corrects.
        snapshots: fields kept along the way, for a film of the first samples before they are
            corrected; those of an ode come from Heun's scheme in x, close to its samples.
    """

    method: Literal["ode", "sde", "pc", "path"] = "ode"
    n_steps: int | Literal["auto"] = "auto"
    scheme: Literal["rk3", "heun"] = "rk3"
    schedule: Literal["power", "exploding", "geometric", "preserving"] = "power"
    batch_size: int | Literal["auto"] = "auto"
    n_probes: int = 0
    n_updates: int = 2
    snapshots: int = 0


def model_fields(arguments: Sequence[str]) -> Fields:
    """The keys of `[model]` for the network that the arguments name."""
    from lattice_ml.models.diffusion import networks  # and Flax with them

    name, network = chosen("model.denoiser", "shallow", networks.KINDS, arguments)
    return [
        ("kind", str, "Diffusion"),
        ("denoiser", str, name),
        ("target", Literal["action", "data"], "action"),
        ("pairs", int, 2),
        ("symmetric", bool, True),
        *parameters(network, "rngs", "ndim"),
    ]
