"""Networks that denoise: each a Flax NNX module with the interface of `denoiser.Denoiser`."""

import inspect
from collections.abc import Callable, Mapping

from flax import nnx

from lattice_ml.models.diffusion.denoiser import Denoiser, Zero
from lattice_ml.models.diffusion.networks.convnet import ConvNet
from lattice_ml.models.diffusion.networks.shallow import Shallow
from lattice_ml.models.diffusion.networks.unet import UNet

__all__ = ["KINDS", "ConvNet", "Shallow", "UNet", "Zero", "initial_network"]

KINDS: dict[str, type[Denoiser]] = {
    "shallow": Shallow,
    "zero": Zero,
    "convnet": ConvNet,
    "unet": UNet,
}


def initial_network(section: Mapping[str, object], ndim: int, seed: int) -> Denoiser:
    """The network of a `[model]` section, with initial weights drawn from `seed`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the section describes none.
    """
    kind = KINDS[str(section["denoiser"])]
    taken = inspect.signature(kind.__init__).parameters
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in {**section, "ndim": ndim}.items()
        if key in taken
    }
    build: Callable[..., Denoiser] = kind
    return build(**settings, rngs=nnx.Rngs(seed))
