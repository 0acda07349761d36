"""What a directory holds when a run starts in it, and whether the run may go on from there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lattice_ml.runtime import writing
from lattice_ml.storage import files, locks, shards
from lattice_ml.storage.files import FORMAT_VERSION, StorageError

__all__ = ["check_layout", "check_not_foreign", "found", "json_copy", "resumed"]


def resumed(
    directory: Path,
    asked: dict[str, Any],
    made_by: dict[str, Any],
    growable: Sequence[str],
    free: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest to go on from, after checking everything that it names."""
    for stray in _strays(directory):
        stray.unlink()
    recorded, committed = found(directory, asked, growable, free)
    for path in shards.uncommitted(directory, committed):
        path.unlink()
    provenance = _provenance(recorded["provenance"], made_by, committed)
    manifest = recorded | asked | {"provenance": provenance, "shards": committed}
    return manifest if manifest == recorded else files.write_manifest(directory, manifest)


def found(
    directory: Path,
    asked: dict[str, Any],
    growable: Sequence[str],
    free: Sequence[str],
    hashes: bool = True,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the manifest, a new one where there is none, and every shard that was committed."""
    recorded: dict[str, Any] = {"format_version": FORMAT_VERSION} | asked
    recorded |= {"provenance": [], "tuned": {}, "shards": []}
    if (directory / files.MANIFEST).exists():
        recorded = files.read_manifest(directory)
        files.read_seconds(directory)
        files.check_shards(directory, recorded["shards"], hashes=hashes)
    n_chains = asked["config"]["chain"]["n_chains"]
    unrecorded = shards.unrecorded_shards(directory, recorded["shards"], n_chains)
    committed = recorded["shards"] + unrecorded
    if committed:  # a run that kept nothing binds nobody
        _check_same(directory, recorded, asked, growable, free)
    return recorded, committed


def _provenance(
    entries: list[dict[str, Any]], made_by: dict[str, Any], committed: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Say who makes what comes now; who opened the run and committed nothing is forgotten."""
    n_done = shards.n_configs(committed)
    kept = [entry for entry in entries if entry["first_config"] < n_done]
    if kept and kept[-1]["made_by"] == made_by:
        return kept
    return [*kept, {"first_config": n_done, "made_by": made_by}]


def _check_same(
    directory: Path,
    recorded: Mapping[str, Any],
    asked: Mapping[str, Any],
    growable: Sequence[str],
    free: Sequence[str],
) -> None:
    """Refuse to continue a run with other parameters."""
    old, new = (_flat(m["config"]) | {"parent": m["parent"]} for m in (recorded, asked))
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if before == now or any(f"{key}.".startswith(f"{prefix}.") for prefix in free):
            continue
        if key not in growable:
            raise StorageError(
                f"{key}: the run in {directory} was made with {before!r}, asked {now!r}; "
                f"set it back or choose another directory"
            )
        if now is None or before is None or now < before:
            raise StorageError(
                f"{key}: the run in {directory} has {before}, asked {now}; it may only grow"
            )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"section.key": value} of nested sections."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def json_copy(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that is what will be read back: tuples become lists."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what}: got {error}; allowed are finite numbers, strings, booleans, None, and "
            f"lists and tables of them"
        ) from error
    return copy


def check_layout(config: Mapping[str, Any]) -> None:
    """Check that the config says what a shard looks like."""
    for section, key in [("lattice", "shape"), ("chain", "n_chains"), ("output", "dtype")]:
        if config.get(section, {}).get(key) is None:
            raise ValueError(f"the config needs {section}.{key}, got {sorted(_flat(config))}")


def check_not_foreign(directory: Path) -> None:
    """Refuse a directory that holds other things than a run."""
    if directory.exists() and not directory.is_dir():
        raise StorageError(f"{directory} is a file; asked for a new or empty directory, or a run")
    if (folder := directory / files.SHARDS).is_symlink():  # what is uncommitted there is removed
        raise StorageError(f"{folder} is a link; put the folder itself in its place")
    if not directory.exists() or (directory / files.MANIFEST).exists():
        return
    ours = {directory / locks.LOCK, *_strays(directory)}
    if not ours.issuperset(directory.iterdir()):
        raise StorageError(
            f"{directory} is neither empty nor a run: {files.describe_folder(directory)}, "
            f"no {files.MANIFEST}; choose another directory"
        )


def _strays(directory: Path) -> list[Path]:
    """Return the temporary files that a process left when it died."""
    names = (files.MANIFEST, files.INDEX, files.COST, files.CONFIG)
    strays = writing.left_behind(directory, *names)
    return strays + writing.left_behind(directory / files.SHARDS)
