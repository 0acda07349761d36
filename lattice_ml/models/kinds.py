"""The kinds of model: a row for each.

A row imports the sections of the kind, which say what a config may hold; the kind itself, with its
networks, is imported when it is asked for.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lattice_ml.models.diffusion import sections as diffusion
from lattice_ml.models.flow import sections as flow
from lattice_ml.models.model import Model
from lattice_ml.models.rbm import sections as rbm
from lattice_ml.runtime.arguments import Fields, chosen

__all__ = ["DEFAULT", "KINDS", "Kind", "chosen_kind"]

DEFAULT = "Diffusion"


@dataclass(frozen=True)
class Kind:
    """A row: the sections of a kind, and where the rest of it is found.

    Args:
        folder: in `models`.
        training: the keys of `[training]`.
        sampling: the keys of `[sampling]`.
        model_fields: the keys of `[model]`, with what else the arguments of a config name.
    """

    folder: str
    training: type
    sampling: type
    model_fields: Callable[[Sequence[str]], Fields]

    @property
    def model(self) -> type[Model]:
        """The class of its models; imports its networks."""
        found: type[Model] = importlib.import_module(f"{__package__}.{self.folder}.kind").MODEL
        return found


KINDS: dict[str, Kind] = {
    "Diffusion": Kind(
        "diffusion", diffusion.TrainingSection, diffusion.SamplingSection, diffusion.model_fields
    ),
    "Flow": Kind("flow", flow.FlowTrainingSection, flow.FlowSamplingSection, flow.model_fields),
    "GaussianRBM": Kind("rbm", rbm.RBMTrainingSection, rbm.RBMSamplingSection, rbm.model_fields),
}


def chosen_kind(arguments: Sequence[str]) -> Kind:
    """The kind that `model.kind` names among the arguments of a config.

    Raises:
        ConfigError: a name that there is not.
    """
    kind: Kind = chosen("model.kind", DEFAULT, KINDS, arguments)[1]
    return kind
