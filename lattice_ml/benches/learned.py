"""The models of the sampler league: data, training by `train`, and timed draws.

Every model is trained by the package's own `train` on ensembles that the package's own HMC made,
in a folder that is thrown away.  Counted as training are the seconds of the HMC runs, warm-up
included, and of the gradient steps; compilation and the report on the trained model are not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import Samples, compiled_apart, timed_draws
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import config
from lattice_ml.jobs.generate import generate
from lattice_ml.jobs.train import train
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.drawer import Drawer
from lattice_ml.models.rbm.drawer import RBMDrawer
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.statistics import estimate, reweight, weights_of

__all__ = ["MODELS", "Learned", "ModelSettings", "Workshop", "effective_share"]

_DOUBLED = 64  # samples whose steps are doubled
_CHAINS = 64


@dataclass(frozen=True)
class ModelSettings:
    """How the models of the league are made.

    Args:
        data_configs: of 64 chains each, per lattice.
        n_samples: drawn of every model that is fast.
        first_steps: of denoising on the smallest lattice of the `shallow` network.
        next_steps: on each larger one, up to the lattice of the league.
        fine_tune_steps: on every lattice; 0 for no fine-tuning.
        channels: of the U-Net.
        unet_steps: of its training.
        unet_samples: drawn of it.
        unet_sampling_steps: of its reverse diffusion.
        rbm_steps: of the training of the RBM.
    """

    data_configs: int
    n_samples: int
    first_steps: int
    next_steps: int
    fine_tune_steps: int
    channels: tuple[int, ...]
    unet_steps: int
    unet_samples: int
    unet_sampling_steps: int
    rbm_steps: int


class Learned(NamedTuple):
    """A trained model's samples.

    Attributes:
        samples: raw, with their log weights where there is a density.
        training_seconds: data and gradient steps.
        log_w_change: rms when the steps of the flow are doubled, None where nothing is integrated.
    """

    samples: Samples
    training_seconds: float
    log_w_change: float | None


@dataclass(frozen=True)
class Workshop:
    """Where the models of one lattice are made.

    Args:
        folder: for ensembles and models.
        action: of the theory, and its `[action]` section.
        section: the couplings in a config.
        lattice: of the league.
        seed: of data, training and samples.
        settings: of the models.
    """

    folder: Path
    action: Any
    section: Mapping[str, Any]
    lattice: Lattice
    seed: int
    settings: ModelSettings
    _data: dict[int, tuple[Path, float]] = field(default_factory=dict)

    def data(self, extent: int) -> tuple[Path, float]:
        """An ensemble on a lattice of that extent, and the seconds that it took."""
        if extent not in self._data:
            path = self.folder / f"data-{extent}"
            table = {
                "seed": self.seed + extent,
                "lattice": {"shape": [extent] * self.lattice.ndim},
                "action": dict(self.section),
                "chain": {
                    "n_chains": _CHAINS,
                    "n_configs": self.settings.data_configs,
                    "thin": 2,
                    "start": "cold",
                },
            }
            job = config.parse(as_arguments(table))
            _, seconds = compiled_apart(lambda: generate(job, path))
            self._data[extent] = path, seconds
        return self._data[extent]

    def train(self, name: str, extents: list[int], table: Mapping[str, Any]) -> tuple[Any, float]:
        """A model trained on lattices of these extents, and the seconds of data and training."""
        made = [self.data(extent) for extent in extents]
        job = config.parse_training(as_arguments({"seed": self.seed, **table}))
        model = train(job, self.folder / name, data=[path for path, _ in made])
        return model, sum(s for _, s in made) + float(model.seconds or 0.0)

    def sell(self, drawer: Drawer, seconds: float, n_samples: int) -> Learned:
        """Samples of a trained model, timed and judged."""
        change = drawer.step_error(self.action, jax.random.fold_in(self.key, 2**32 - 2), _DOUBLED)
        rms = None if change is None else float(np.sqrt(np.mean(change**2)))
        return Learned(timed_draws(drawer, self.action, n_samples), seconds, rms)

    @property
    def extent(self) -> int:
        return self.lattice.shape[0]

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.seed)


def _rbm(shop: Workshop) -> Learned:
    table = {
        "model": {"kind": "GaussianRBM"},
        "training": {"n_steps": shop.settings.rbm_steps, "augment": True, "snapshots": 0},
    }
    model, seconds = shop.train("rbm", [shop.extent], table)
    drawer = RBMDrawer.choose(model.network, shop.lattice.shape, shop.key)
    return shop.sell(drawer, seconds, shop.settings.n_samples)


def _zero(shop: Workshop) -> Learned:
    model, seconds = shop.train("zero", [shop.extent], {"model": {"denoiser": "zero"}})
    return shop.sell(_diffusion(shop, model), seconds, shop.settings.n_samples)


def _shallow(shop: Workshop) -> Learned:
    """Learned on small lattices first: the weights do not know the volume."""
    extents = [shop.extent]
    while extents[0] % 2 == 0 and extents[0] >= 16:
        extents.insert(0, extents[0] // 2)
    settings = shop.settings
    steps = [settings.first_steps, *[settings.next_steps] * (len(extents) - 1)]
    training: dict[str, Any] = {"n_steps": steps}
    if settings.fine_tune_steps:
        training |= {"fine_tune": True, "fine_tune_steps": settings.fine_tune_steps}
    table = {"model": {"denoiser": "shallow"}, "training": training}
    model, seconds = shop.train("shallow", extents, table)
    return shop.sell(_diffusion(shop, model), seconds, settings.n_samples)


def _unet(shop: Workshop) -> Learned:
    settings = shop.settings
    table = {
        "model": {"denoiser": "unet", "target": "data", "channels": list(settings.channels)},
        "training": {"n_steps": settings.unet_steps, "batch_size": 64, "learning_rate": 2e-3},
    }
    model, seconds = shop.train("unet", [shop.extent], table)
    drawer = _diffusion(
        shop, model, method="sde", schedule="exploding", n_steps=settings.unet_sampling_steps
    )
    return shop.sell(drawer, seconds, settings.unet_samples)


MODELS: dict[str, Callable[[Workshop], Learned]] = {
    "rbm": _rbm,
    "diffusion_zero": _zero,
    "diffusion_shallow": _shallow,
    "diffusion_unet": _unet,
}


def _diffusion(shop: Workshop, model: Any, **choices: Any) -> DiffusionDrawer:
    """A drawer at the theory that a model was trained on last."""
    theory = model.stages[-1].theories[-1].astype(jnp.float32)
    drawing = Drawing.choose(model.network, shop.lattice.shape, **choices)
    return DiffusionDrawer(model.network, theory, drawing, shop.key)


def effective_share(samples: Samples) -> Number:
    """Kish's effective share <w>^2 / <w^2> of weighted independent draws, with its error."""
    logs = np.asarray(samples.log_weights)
    w = weights_of(logs)
    found = estimate(np.stack([w, w * w]), lambda means: means[0] ** 2 / means[1])
    return Number(reweight(logs).ess, found.error)
