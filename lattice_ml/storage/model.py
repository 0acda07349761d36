"""A model on disk: its manifest, and arrays by name.

    DIR/model.json      format version, resolved config, shape and actions of every stage, parent
                        (hash of the data), provenance, sha256 of the .npz files, its own seal
    DIR/config.toml     the resolved config for people, and ready for `train`
    DIR/theories.npz    what was measured of the data: STAGE.THEORY.name of every theory
    DIR/metrics.jsonl   one line per block of steps: step, losses, and where there are several
                        phases which one
    DIR/checkpoints/    the last two states of a training that is not finished, sealed
    DIR/weights.npz     the averaged weights, by the names that the kind of model gives them
    DIR/history.npz     what was noted along the training, of kinds that note something
    DIR/report.json     what the trained model is worth, sealed
    DIR/cost.json       seconds that it took: all else is the same whenever it was resumed
    DIR/lock            there while a process writes

`storage/model_run.py` writes it; `read_model` reads it once the training is finished.  What the
arrays mean is known to the kind of model (`models/`), which `jobs/open_model.py` asks.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.storage import files, intact, model_schema, seals
from lattice_ml.storage.files import StorageError

__all__ = [
    *("MANIFEST", "REPORT", "THEORIES", "WEIGHTS", "Arrays", "StoredModel", "check_file"),
    *("digest", "kind_of", "read_manifest", "read_model", "read_report", "read_theories"),
    *("write_result", "write_theories"),
]

Arrays = Mapping[str, np.ndarray]

MANIFEST, THEORIES, WEIGHTS, REPORT = "model.json", "theories.npz", "weights.npz", "report.json"
HISTORY = "history.npz"


@dataclass(frozen=True)
class StoredModel:
    """What the directory of a trained model holds.

    Attributes:
        directory: where it lives.
        manifest: what `model.json` holds.
        theories: of every stage, in the order of the manifest.
        weights: by name.
    """

    directory: Path
    manifest: JsonTable
    theories: Sequence[Sequence[Arrays]] = field(repr=False)
    weights: Arrays = field(repr=False)

    @property
    def config(self) -> JsonTable:
        """The resolved config of the training."""
        return dict(self.manifest["config"])

    @cached_property
    def history(self) -> Arrays:
        """What was noted along the training, by name; empty where nothing was."""
        path = self.directory / HISTORY
        return _read_arrays(path) if path.exists() else {}

    @cached_property
    def report(self) -> JsonTable:
        """What the training found out about the model at its end.

        Raises:
            StorageError: as `read_report`, or it is about other weights.
        """
        report = read_report(self.directory)
        own = self.manifest["files"].get(WEIGHTS)
        if report.pop("weights", own) != own:  # not there in reports of earlier versions
            raise StorageError(
                f"{self.directory / REPORT} is of another model: the sha256 of its weights is not "
                f"{own}; copy it back from where the model came from"
            )
        return report

    @property
    def seconds(self) -> float | None:
        """Wall time of the training without compilation; None where unknown."""
        kept = files.read_seconds(self.directory)
        return self.report.get("training_seconds") if kept is None else kept  # as once it was kept

    @property
    def hash(self) -> str:
        """Identifies all that samples depend on: the network, its weights and the theories."""
        made_of = {name: self.manifest["files"][name] for name in (WEIGHTS, THEORIES)}
        return digest([self.manifest["config"]["model"], made_of])


def read_model(path: str | os.PathLike[str]) -> StoredModel:
    """Read the trained model in a directory.

    Raises:
        StorageError: there is none, its training is not finished, or a file is missing or altered.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    if WEIGHTS not in manifest["files"]:
        raise StorageError(
            f"the model in {directory} is not finished: run the same `train` command again"
        )
    for name, sha256 in manifest["files"].items():
        check_file(directory, name, sha256)
    theories = read_theories(directory, manifest)
    return StoredModel(directory, manifest, theories, _read_arrays(directory / WEIGHTS))


def kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of the model in a directory; raises as `read_manifest`."""
    kind: str = read_manifest(Path(path))["config"]["model"]["kind"]
    return kind


def digest(values: object) -> str:
    """The sha256 of JSON values, as the hashes and parents of models have had it from the start."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path, *, edited: bool = False) -> JsonTable:
    """Return what `model.json` holds; raises as `files.read_manifest`."""
    return files.read_manifest(directory, MANIFEST, "model", model_schema.MODEL, edited=edited)


def read_report(directory: Path, *, edited: bool = False) -> JsonTable:
    """Return what `report.json` holds; refused if missing, or altered unless it may be `edited`."""
    path = directory / REPORT
    if not path.is_file():
        raise StorageError(f"{path} is missing; copy it back from where the model came from")
    report = seals.parse(path, finite=False)
    rule = model_schema.REPORT if seals.SEAL in report else model_schema.OLD_REPORT
    seals.check(path, report, rule, remedy=files.remedy(directory), edited=edited)
    return {key: value for key, value in report.items() if key != seals.SEAL}


def check_file(directory: Path, name: str, sha256: str) -> None:
    """Refuse a file of a model that is missing, a link, or not what it was."""
    intact.size(directory / name, "the model")
    intact.verify(directory / name, sha256)


def write_result(
    directory: Path, weights: Arrays, report: Section, history: Arrays | None = None
) -> dict[str, str]:
    """Write report, history and weights; return the sha256 of what a model is made of, by file."""
    names = (WEIGHTS, THEORIES) if history is None else (WEIGHTS, THEORIES, HISTORY)
    if history is not None:
        _write_arrays(directory / HISTORY, history)
    _write_arrays(directory / WEIGHTS, weights)
    about = dict(report) | {"weights": intact.sha256(directory / WEIGHTS)}
    seals.write(directory / REPORT, json.loads(json.dumps(about)))
    return {name: intact.sha256(directory / name) for name in names}


def write_theories(directory: Path, stages: Sequence[Sequence[Arrays]]) -> None:
    """Write the theories of all stages, in float64."""
    arrays = {
        f"{i}.{j}.{name}": np.asarray(value, np.float64)
        for i, theories in enumerate(stages)
        for j, theory in enumerate(theories)
        for name, value in theory.items()
    }
    _write_arrays(directory / THEORIES, arrays)


def read_theories(directory: Path, manifest: Section) -> list[list[Arrays]]:
    """Read what `write_theories` wrote, of the stages that a manifest lists."""
    stored = _read_arrays(directory / THEORIES)

    def theory(prefix: str) -> Arrays:
        return {n.removeprefix(prefix): stored[n] for n in stored if n.startswith(prefix)}

    return [
        [theory(f"{i}.{j}.") for j in range(len(entry["actions"]))]
        for i, entry in enumerate(manifest["stages"])
    ]


def _write_arrays(path: Path, arrays: Arrays) -> None:
    named: JsonTable = dict(sorted(arrays.items()))  # NumPy's own keywords are flags
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **named)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError:
        raise
    except Exception as error:  # zipfile and NumPy raise whatever they trip over
        raise StorageError(f"{path} is altered: NumPy cannot read it ({error})") from error
