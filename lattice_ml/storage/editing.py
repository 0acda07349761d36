"""Accepting an edit of the JSON files of an ensemble or a model: they are checked and sealed anew.

A seal cannot tell a flipped bit from a changed mind.  Who means a change says so here; what the
files then say must still be complete, typed and true of the shards that lie beside them.
"""

import os
from pathlib import Path

from lattice_ml.runtime.json import JsonTable
from lattice_ml.storage import files, locks, manifests, model, seals, shards
from lattice_ml.storage.checkpoints import Checkpoints
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.model_run import CHECKPOINTS

__all__ = ["accept_edit"]


def accept_edit(path: str | os.PathLike[str]) -> list[str]:
    """Seal the JSON files in a directory anew, those of earlier versions for the first time.

    `ensemble.h5` is written anew where it says something else than the manifest.

    Args:
        path: of an ensemble or a model.

    Returns:
        The names of the files that were written.

    Raises:
        StorageError: there is neither, a process writes there, or a file says what cannot be.
    """
    directory = Path(path)
    is_model = (directory / model.MANIFEST).exists()
    name = model.MANIFEST if is_model else files.MANIFEST
    if not (directory / name).exists():
        files.read_manifest(directory)  # says what is there
    lock = locks.take_lock(directory)
    try:
        return _model(directory) if is_model else _ensemble(directory)
    finally:
        locks.release_lock(lock)


def _ensemble(directory: Path) -> list[str]:
    manifest = files.read_manifest(directory, edited=True)
    config, entries = manifest["config"], manifest["shards"]
    files.check_shards(directory, entries, hashes=False)
    parts = shards.shards(directory, manifest)
    for part in parts:  # whether they have so many chains and configurations
        part.read("chain", shards.layout(parts[0], config), slice(0, 0), hashes=False)
    cost = directory / files.COST
    if cost.exists():
        seals.check(cost, seconds := seals.parse(cost), manifests.COST, remedy="", edited=True)
    written = _write(directory, manifest, files.MANIFEST)
    if cost.exists() and seals.sealed(seconds) != seconds:
        files.write_seconds(directory, seconds["seconds"])
        written.append(files.COST)
    try:
        shards.check_index(directory, config)
    except StorageError:
        shards.write_index(directory, config, entries)
        written.append(files.INDEX)
    return written


def _model(directory: Path) -> list[str]:
    manifest = model.read_manifest(directory, edited=True)
    report = directory / model.REPORT
    if report.exists():
        model.read_report(directory, edited=True)
    if model.WEIGHTS not in manifest["files"] and manifest["format_version"] == 1:
        Checkpoints(directory / CHECKPOINTS, earlier=True).close()
    written = _write(directory, manifest, model.MANIFEST)
    if report.exists() and seals.sealed(found := seals.parse(report, finite=False)) != found:
        seals.write(report, found)
        written.append(report.name)
    return written


def _write(directory: Path, manifest: JsonTable, name: str) -> list[str]:
    """Write a manifest unless its seal fits."""
    if seals.sealed(manifest) == manifest:
        return []
    files.write_manifest(directory, manifest, name)
    return [name]
