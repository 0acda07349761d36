"""The models of the sampler league: data, training by `train`, and timed draws.

Every model is trained by the package's own `train` on ensembles that the package's own HMC made,
in a folder that is thrown away.  Counted as training are the seconds of the HMC runs, warm-up
included, and of the gradient steps; compilation and the report on the trained model are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import Quartic
from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import Samples, compiled_apart, timed_draws, timed_steps
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.types import Floats
from lattice_ml.jobs import config
from lattice_ml.jobs.generate import generate
from lattice_ml.jobs.latent import LatentUnits
from lattice_ml.jobs.train import train
from lattice_ml.models.kinds import KINDS
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.runtime.json import Section
from lattice_ml.statistics import estimate, reweight, weights_of

__all__ = [
    *("DENSITIES", "MODELS", "DensitySettings", "Learned", "ModelMaker", "ModelSettings", "Recipe"),
    "effective_share",
]

_DOUBLED = 64  # samples whose steps are doubled
_DOUBLING = 2**32 - 2  # the stream of their key
_CHAINS = 64


@dataclass(frozen=True)
class DensitySettings:
    """How the models of `DENSITIES` are made."""

    data_configs: int  # of 64 chains each, per lattice
    n_samples: int  # drawn of every model that is fast
    first_steps: int  # of denoising on the smallest lattice of the `shallow` network
    next_steps: int  # on each larger one, up to the lattice of the league
    fine_tune_steps: int  # on every lattice; 0 for no fine-tuning
    flow_kl_steps: int  # of the flow on every lattice, of its divergence
    flow_steps: int  # after them, of the variance of log w
    flow_batch: int  # samples per step


@dataclass(frozen=True)
class ModelSettings(DensitySettings):
    """How all models of the league are made."""

    channels: tuple[int, ...]  # of the U-Net
    unet_steps: int  # of its training
    unet_samples: int  # drawn of it
    unet_sampling_steps: int  # of its reverse diffusion
    rbm_steps: int  # of the training of the RBM
    latent_steps: int  # of chains that propose samples of the flow


class Learned(NamedTuple):
    """A trained model's samples."""

    samples: Samples  # raw, with their log weights where there is a density
    training_seconds: float  # data and gradient steps
    # of some samples, when the steps of their flow are doubled; None where nothing is integrated
    log_w_change: Floats | None
    chains: Samples | None  # that propose its samples, where its recipe has them


class Recipe(NamedTuple):
    """How a model is made."""

    extents: Sequence[int]  # of the lattices that it is trained on, one after the other
    table: Section  # of the config of its training
    n_samples: int  # drawn of it
    # what its `[sampling]` section says; the rest are the kind's defaults
    sampling: Section = MappingProxyType({})
    chain_steps: int = 0  # of chains that propose its samples; none where 0


@dataclass(frozen=True)
class ModelMaker:
    """Makes the models of one lattice."""

    folder: Path  # for ensembles and models
    action: Quartic  # of the theory
    section: Section  # the same in a config
    lattice: Lattice  # of the league
    seed: int  # of data, training and samples
    data_configs: int  # of 64 chains each, per lattice
    _data: dict[int, tuple[Path, float]] = field(default_factory=dict)

    def data(self, extent: int) -> tuple[Path, float]:
        """An ensemble on a lattice of that extent, and the seconds that it took."""
        if extent not in self._data:
            path = self.folder / f"data-{extent}"
            counts = {"n_chains": _CHAINS, "n_configs": self.data_configs, "thin": 2}
            table = {
                "seed": self.seed + extent,
                "lattice": {"shape": [extent] * self.lattice.ndim},
                "action": dict(self.section),
                "chain": counts | {"start": "cold"},
            }
            job = config.parse(as_arguments(table))
            _, seconds = compiled_apart(lambda: generate(job, path))
            self._data[extent] = path, seconds
        return self._data[extent]

    def make(self, name: str, recipe: Recipe) -> Learned:
        """Train a model in a folder of that name; time and judge its samples."""
        made = [self.data(extent) for extent in recipe.extents]
        job = config.parse_training(as_arguments({"seed": self.seed, **recipe.table}))
        model = train(job, self.folder / name, data=[path for path, _ in made])
        sampling = KINDS[model.kind].sampling(**recipe.sampling)
        key = jax.random.key(self.seed)
        drawer = model.drawer(self.lattice.shape, self.action, sampling, key)
        change = drawer.step_error(self.action, jax.random.fold_in(key, _DOUBLING), _DOUBLED)
        chains = None
        if recipe.chain_steps:
            updates = sampling.n_updates
            units = LatentUnits(drawer, self.action, "latent", updates, self.seed, {})
            chains = timed_steps(units, recipe.chain_steps)
        return Learned(
            timed_draws(drawer, self.action, recipe.n_samples),
            sum(seconds for _, seconds in made) + float(model.seconds or 0.0),
            change,
            chains,
        )


def _rbm(settings: ModelSettings, extent: int) -> Recipe:
    training = {"n_steps": settings.rbm_steps, "augment": True, "snapshots": 0}
    table = {"model": {"kind": "GaussianRBM"}, "training": training}
    return Recipe([extent], table, settings.n_samples)


def _zero(settings: ModelSettings, extent: int) -> Recipe:
    return Recipe([extent], {"model": {"denoiser": "zero"}}, settings.n_samples)


def _doublings(extent: int, smallest: int) -> list[int]:
    """Half of the extent, half of that, ..., none below the smallest; in rising order."""
    extents = [extent]
    while extents[0] % 2 == 0 and extents[0] >= 2 * smallest:
        extents.insert(0, extents[0] // 2)
    return extents


def _shallow(settings: DensitySettings, extent: int) -> Recipe:
    """Learned on small lattices first: the weights do not know the volume."""
    extents = _doublings(extent, 8)
    steps = [settings.first_steps, *[settings.next_steps] * (len(extents) - 1)]
    fine_tuning = {"fine_tune": True, "fine_tune_steps": settings.fine_tune_steps}
    training = {"n_steps": steps} | (fine_tuning if settings.fine_tune_steps else {})
    table = {"model": {"denoiser": "shallow"}, "training": training}
    return Recipe(extents, table, settings.n_samples)


def _unet(settings: ModelSettings, extent: int) -> Recipe:
    model = {"denoiser": "unet", "target": "data", "channels": list(settings.channels)}
    training = {"n_steps": settings.unet_steps, "batch_size": 64, "learning_rate": 2e-3}
    table = {"model": model, "training": training}
    sampling = {"method": "sde", "schedule": "exploding", "n_steps": settings.unet_sampling_steps}
    return Recipe([extent], table, settings.unet_samples, sampling)


def _flow(settings: DensitySettings, extent: int) -> Recipe:
    """Learned lattice after lattice: each knows the levels of the ones before."""
    training = {
        "kl_steps": settings.flow_kl_steps,
        "n_steps": settings.flow_steps,
        "n_samples": settings.flow_batch,
    }
    table = {"model": {"kind": "Flow"}, "training": training}
    return Recipe(_doublings(extent, 16), table, settings.n_samples)


def _flow_and_chains(settings: ModelSettings, extent: int) -> Recipe:
    return _flow(settings, extent)._replace(chain_steps=settings.latent_steps)


# Those whose weights are worth something next to a critical point.
DENSITIES: dict[str, Callable[[DensitySettings, int], Recipe]] = {
    "diffusion_shallow": _shallow,
    "flow": _flow,
}

MODELS: dict[str, Callable[[ModelSettings, int], Recipe]] = {
    "rbm": _rbm,
    "diffusion_zero": _zero,
    "diffusion_shallow": _shallow,
    "diffusion_unet": _unet,
    "flow": _flow_and_chains,
}


def effective_share(samples: Samples) -> Number:
    """Kish's effective share <w>^2 / <w^2> of weighted independent draws, with its error."""
    logs = np.asarray(samples.log_weights)
    w = weights_of(logs)
    found = estimate(np.stack([w, w * w]), lambda means: means[0] ** 2 / means[1])
    return Number(reweight(logs).ess, found.error)
