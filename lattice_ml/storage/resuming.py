"""What a directory holds when a run starts in it, and whether the run may go on from there."""

from collections.abc import Sequence
from pathlib import Path

from lattice_ml.runtime.json import JsonTable, Section, copied
from lattice_ml.storage import files, shards
from lattice_ml.storage.directory import Kind, changes, flat, made
from lattice_ml.storage.files import FORMAT_VERSION, StorageError
from lattice_ml.storage.manifests import Entry

__all__ = ["RUN", "asked_for", "found", "resumed"]

RUN = Kind(
    "run",
    files.MANIFEST,
    (files.MANIFEST, files.INDEX, files.COST, files.CONFIG),
    shards=files.SHARDS,
)


def asked_for(config: Section, parent: str | None = None) -> JsonTable:
    """What a manifest keeps of a request, whose config must say what a shard looks like."""
    copy = copied("config", config)
    for section, key in [("lattice", "shape"), ("chain", "n_chains"), ("output", "dtype")]:
        if copy.get(section, {}).get(key) is None:
            raise ValueError(f"the config needs {section}.{key}, got {sorted(flat(copy))}")
    return {"config": copy, "parent": parent}


def resumed(
    directory: Path,
    asked: JsonTable,
    made_by: JsonTable,
    growable: Sequence[str],
    free: Sequence[str],
) -> JsonTable:
    """Return the manifest to go on from, after checking everything that it names."""
    recorded, committed = found(directory, asked, growable, free)
    for path in shards.uncommitted(directory, committed):
        path.unlink()
    n_done = shards.n_configs(committed)
    provenance = made(recorded["provenance"], made_by, "first_config", n_done)
    manifest = recorded | asked | {"provenance": provenance, "shards": committed}
    return manifest if manifest == recorded else files.write_manifest(directory, manifest)


def found(
    directory: Path,
    asked: JsonTable,
    growable: Sequence[str],
    free: Sequence[str],
    hashes: bool = True,
) -> tuple[JsonTable, list[Entry]]:
    """Return the manifest, a new one where there is none, and every shard that was committed."""
    recorded: JsonTable = {"format_version": FORMAT_VERSION} | asked
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


def _check_same(
    directory: Path, recorded: Section, asked: Section, growable: Sequence[str], free: Sequence[str]
) -> None:
    """Refuse to continue a run with other parameters."""
    old, new = (m["config"] | {"parent": m["parent"]} for m in (recorded, asked))
    for key, before, now in changes(old, new, free):
        if key not in growable:
            raise StorageError(
                f"{key}: the run in {directory} was made with {before!r}, asked {now!r}; "
                f"set it back or choose another directory"
            )
        if now is None or before is None or now < before:
            raise StorageError(
                f"{key}: the run in {directory} has {before}, asked {now}; it may only grow"
            )
