"""The ensembles of a training: whether they can be learned together, and as what it says."""

import hashlib
import math
from collections.abc import Sequence

from lattice_ml.models.data import Data, Source, action_section
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.json import Section
from lattice_ml.statistics import doubt_of, kish
from lattice_ml.storage.ensemble import EnsembleOnDisk
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model import digest

__all__ = ["check_agreement", "identify", "open_data"]

_FEWEST_WORTH = 10  # of weighted data; `statistics.doubt` says where more are too few to trust


def open_data(ensembles: Sequence[Ensemble], validation: float) -> list[Data]:
    """Group ensembles by lattice shape, smallest volume first.

    Raises:
        StorageError: fields or couplings that cannot be learned together, or too few of them.
        ValueError: weights that leave less than 10 configurations of an ensemble.
    """
    for ensemble in ensembles:
        _check_weights(ensemble)
    for ensemble in ensembles:
        _check_normalisation(ensembles[0], ensemble)
    groups: dict[tuple[int, ...], list[Source]] = {}
    for ensemble in ensembles:
        _ = ensemble.cfgs  # refuses an ensemble without configurations
        groups.setdefault(ensemble.shape, []).append(Source.split(ensemble, validation))
    order = sorted(groups, key=lambda shape: (math.prod(shape), shape))
    return [Data(tuple(groups[shape])) for shape in order]


def identify(ensembles: Sequence[Ensemble]) -> str:
    """A hash of the numbers that ensembles hold, and of the configs that made them."""

    def made_of(ensemble: Ensemble) -> list[object]:
        if isinstance(ensemble, EnsembleOnDisk):
            return [ensemble.config, [shard["sha256"] for shard in ensemble.manifest["shards"]]]
        sha256 = hashlib.sha256(ensemble.cfgs[:].tobytes()).hexdigest()
        return [{"action": action_section(ensemble)}, [sha256]]

    return digest([made_of(ensemble) for ensemble in ensembles])


def check_agreement(config: Section, ensembles: Sequence[Ensemble]) -> None:
    """Refuse data on another lattice, or of another action, than a training config says.

    Raises:
        ValueError: naming both; or the data were made at another temperature than 1, where they do
            not follow exp(-S) of their action.
    """
    for ensemble in ensembles:
        if ensemble.temperature != 1:
            raise ValueError(
                f"{ensemble.label} was made at sampler.temperature = {ensemble.temperature} "
                "and follows exp(-S / temperature): train on data of temperature 1, at couplings "
                "divided by the temperature"
            )
    for section, found in (
        ("lattice", [{"shape": list(e.shape)} for e in ensembles]),
        ("action", [action_section(e) for e in ensembles]),
    ):
        asked = config.get(section)
        if asked is not None and found and asked not in found:
            raise ValueError(
                f"[{section}] of the config is {_listed(asked)}, the data have "
                f"{' and '.join(map(_listed, found))}: leave it out, or make it that of the data"
            )


def _check_weights(ensemble: Ensemble) -> None:
    """Refuse data of which weights leave a handful: what is learned of them is no distribution."""
    log_weight = ensemble.log_weight
    if log_weight is None or (worth := kish(log_weight)) >= _FEWEST_WORTH:
        return
    if doubt_of(log_weight):
        raise ValueError(
            f"the {log_weight.size} configurations of {ensemble.label} are worth {worth:.2g} "
            f"by their weights, at least {_FEWEST_WORTH} are needed to learn from: draw more, or "
            f"train on configurations without weights"
        )


def _listed(table: Section) -> str:
    return ", ".join(f"{key} = {value}" for key, value in table.items())


def _check_normalisation(first: Ensemble, other: Ensemble) -> None:
    """Refuse fields of another normalisation or dimension: one network cannot serve both."""
    one, two = (
        f"{section['kind']} {section.get('convention', '')}".strip()
        for section in map(action_section, (first, other))
    )
    if one != two:
        raise StorageError(
            f"{other.label} has the action {two}, but {first.label} has {one}: their "
            f"fields are normalised differently; use one convention for all"
        )
    if len(first.shape) != len(other.shape):
        raise StorageError(
            f"{other.label} is a lattice {other.shape}, but {first.label} is "
            f"{first.shape}: a model lives in one dimension"
        )
