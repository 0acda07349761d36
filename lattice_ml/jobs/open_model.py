"""Models on disk as objects: what arrays mean is known to the kind of model that they are of."""

import os
from collections.abc import Sequence
from pathlib import Path

from lattice_ml.models.kinds import KINDS
from lattice_ml.models.model import Arrays, Model, Stage
from lattice_ml.models.training import WeightsError
from lattice_ml.runtime.json import JsonTable
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import MANIFEST, THEORIES, WEIGHTS, read_model

__all__ = ["open_model", "stages_of"]


def open_model(path: str | os.PathLike[str]) -> Model:
    """Open the trained model in a directory.

    Raises:
        StorageError: there is none, its training is not finished, or a file is missing or altered.
    """
    stored = read_model(path)
    section = stored.config["model"]
    directory, manifest = stored.directory, stored.manifest
    if section["kind"] not in KINDS:
        raise StorageError(
            f"{directory / MANIFEST} is of a {section['kind']}, this reads {', '.join(KINDS)}"
        )
    kind = KINDS[section["kind"]].model
    stages = stages_of(kind, directory, manifest["stages"], stored.theories)
    try:
        network = kind.build(section, len(stages[0].shape), stored.weights)
    except WeightsError as error:
        raise StorageError(f"{directory / WEIGHTS} {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{directory / MANIFEST} describes no network that there is: {error}"
        ) from error
    found = stored.report, stored.history, stored.seconds, stored.hash
    return kind(directory, manifest, stored.config, *found, stages, network)


def stages_of(
    kind: type[Model],
    directory: Path,
    entries: Sequence[JsonTable],
    theories: Sequence[Sequence[Arrays]],
) -> tuple[Stage[object], ...]:
    """The stages that a manifest lists, with the theories that lie beside it.

    Raises:
        StorageError: those are of something else.
    """
    found: list[Stage[object]] = []
    try:
        for entry, arrays in zip(entries, theories, strict=True):
            shape = tuple(entry["shape"])
            known = tuple(kind.theory(shape, numbers) for numbers in arrays)
            found.append(Stage(shape, tuple(entry["actions"]), known))
    except TypeError as error:
        raise StorageError(
            f"{directory / THEORIES} holds no theory as {MANIFEST} lists it: {error}"
        ) from error
    return tuple(found)
