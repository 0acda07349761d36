"""The kinds of model: a row for each.

A row imports the sections of the kind, which say what a config may hold; the kind itself, with its
networks, is imported when it is asked for.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lattice_ml.models.diffusion import sections as diffusion
from lattice_ml.models.model import Model
from lattice_ml.models.rbm import sections as rbm
from lattice_ml.runtime.arguments import Fields, chosen

__all__ = ["DEFAULT", "KINDS", "Kind", "Sections", "chosen_kind"]

DEFAULT = "Diffusion"


class Sections(Protocol):
    """The module `sections.py` of a kind.

    Attributes:
        TrainingSection: the keys of `[training]`.
        SamplingSection: the keys of `[sampling]`.
    """

    __name__: str

    @property
    def TrainingSection(self) -> type: ...
    @property
    def SamplingSection(self) -> type: ...

    def model_fields(self, arguments: Sequence[str]) -> Fields:
        """The keys of `[model]`, with what else the arguments name."""


@dataclass(frozen=True)
class Kind:
    """A row: where a kind is found."""

    sections: Sections

    @property
    def model(self) -> type[Model]:
        """The class of its models; imports its networks."""
        folder = self.sections.__name__.rpartition(".")[0]
        found: type[Model] = importlib.import_module(f"{folder}.kind").MODEL
        return found


KINDS: dict[str, Kind] = {
    "Diffusion": Kind(diffusion),
    "GaussianRBM": Kind(rbm),
}


def chosen_kind(arguments: Sequence[str]) -> Kind:
    """The kind that `model.kind` names among the arguments of a config.

    Raises:
        ConfigError: a name that there is not.
    """
    kind: Kind = chosen("model.kind", DEFAULT, KINDS, arguments)[1]
    return kind
