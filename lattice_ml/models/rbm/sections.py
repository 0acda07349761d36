"""The sections of a config that a Gaussian RBM takes."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from lattice_ml.runtime.arguments import Fields, parameters

__all__ = ["ModelSection", "RBMSamplingSection", "RBMTrainingSection", "model_fields"]


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """A Gaussian RBM, see `models.rbm`.

    Args:
        kind: GaussianRBM.
        n_hidden: hidden fields; auto for as many as there are visible ones.
        mu_squared: mass of the visible fields, where it begins if it is trained; auto for twice the
            largest eigenvalue of the data's kernel.
        train_mu: adapt it.
        per_site: one for every site.
        sigma: width of the hidden fields; only sigma w matters.
        train_eta: adapt the hidden means, which give the visible fields a mean.
        centre: subtract the mean of the data from every field first.
        initial: sigma w / mu begins as this number times orthonormal columns (or rows).
    """

    kind: str = "GaussianRBM"
    n_hidden: int | Literal["auto"] = "auto"
    mu_squared: float | Literal["auto"] = "auto"
    train_mu: bool = False
    per_site: bool = False
    sigma: float = 1.0
    train_eta: bool = True
    centre: bool = False
    initial: float = 0.3


@dataclasses.dataclass(frozen=True)
class RBMTrainingSection:
    """How a Gaussian RBM is trained.

    Args:
        method: exact gradient from the two moments of the data; cd or pcd sample the model.
        natural: use the natural gradient, whose rate is the same for all modes.
        n_steps: gradient steps.
        learning_rate: largest size of a step; it is halved where the step is not allowed.  From
            the natural gradient, infrared modes overshoot by as much as they missed at 1.
        decay: steps after which the learning rate is halved; it falls as 1/step, 0 for never.
        n_gibbs: steps of block Gibbs sampling per gradient step, of cd and pcd.
        batch_size: fields per step of cd and pcd, and number of persistent chains.
        validation: share of the chains held out.
        augment: average over the symmetries of the lattice, and over phi -> -phi.
        snapshots: spectra kept along the training besides the first and the last, at steps spaced
            evenly in the logarithm.
        checkpoint_every: seconds between checkpoints; a run goes on from any to the same weights.
        pool_bytes: how much of an ensemble is in memory at once, of cd and pcd.
    """

    method: Literal["exact", "cd", "pcd"] = "exact"
    natural: bool = True
    n_steps: int = 300
    learning_rate: float = 0.7
    decay: int = 0
    n_gibbs: int = 1
    batch_size: int = 512
    validation: float = 0.1
    augment: bool = False
    snapshots: int = 40
    checkpoint_every: float = 30.0
    pool_bytes: int = 1 << 28


@dataclasses.dataclass(frozen=True)
class RBMSamplingSection:
    """How samples of a Gaussian RBM are drawn.

    Args:
        method: direct for independent samples, gibbs for chains that each begin with a random
            hidden field and give one sample.
        n_steps: of block Gibbs sampling, where that is the method.
        batch_size: samples drawn together; auto from the volume.
        n_updates: of every sample by HMC, where that corrects.
    """

    method: Literal["direct", "gibbs"] = "direct"
    n_steps: int = 100
    batch_size: int | Literal["auto"] = "auto"
    n_updates: int = 2


def model_fields(arguments: Sequence[str]) -> Fields:
    """The keys of `[model]`."""
    return parameters(ModelSection)
