"""Networks that denoise: each a Flax NNX module with the interface of `denoiser.Denoiser`."""

from typing import Any

from lattice_ml.models.diffusion.denoiser import Zero
from lattice_ml.models.diffusion.networks.convnet import ConvNet
from lattice_ml.models.diffusion.networks.shallow import Shallow
from lattice_ml.models.diffusion.networks.unet import UNet

__all__ = ["KINDS", "ConvNet", "Shallow", "UNet", "Zero"]

KINDS: dict[str, Any] = {"shallow": Shallow, "zero": Zero, "convnet": ConvNet, "unet": UNet}
