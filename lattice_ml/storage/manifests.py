"""What the JSON files of an ensemble may say, checked before anything is allocated or opened.

A manifest must be complete and of the right types, every shard in it a plain name inside `shards/`
that says what it holds, and its shards must follow each other without a gap and with all chains.
Unknown keys are refused, also in files that have no seal: a flipped bit in a key is one.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict, cast

from lattice_ml.runtime.json import Section
from lattice_ml.storage.schema import (
    SchemaError,
    anything,
    either,
    flag,
    listed,
    nullable,
    number,
    table,
    text,
    whole,
    words,
)

__all__ = ["ACTION", "COST", "SHA256", "VALUES", "Entry", "check_manifest", "shard_name"]

_FEWEST = 16  # bytes of a row: its chain and its trajectory

SHA256 = text("[0-9a-f]{64}", "64 hexadecimal digits")
VALUES = table({}, others=anything)  # a section that others look at
COST = table(
    {"seconds": number(0)},
    {"compile_seconds": number(0), "phases": listed(VALUES)},  # of a model
)
ACTION = table({"kind": text()}, {"convention": text()}, others=nullable(either(number(), flag)))

_ENTRY = table(
    {
        "file": text(r"c\d{8,}-n\d{4,}\.h5", "a plain name such as c00000000-n0000.h5"),
        "first_config": whole(),
        "n_configs": whole(1),
        "bytes": whole(1),
        "sha256": SHA256,
    },
    {"first_chain": whole(), "n_chains": whole(1)},  # not there in files of earlier versions
)
_CONFIG = table(
    {
        "lattice": table({"shape": listed(whole(1, 2**31), 1)}),
        "chain": table(
            {"n_chains": whole(1)},
            {"n_configs": whole(1), "n_thermalise": whole(), "thin": whole(1), "start": text()},
        ),
        "output": table({"dtype": words("float32", "float64")}, {"save_configs": flag}),
    },
    {
        "seed": whole(),
        "action": ACTION,
        "sampler": table({}, {"temperature": number(0)}, others=anything),
        "sampling": VALUES,
        "converted": VALUES,
    },
)
_KEYS = table(
    {
        "format_version": whole(1),
        "config": _CONFIG,
        "parent": nullable(text()),
        "provenance": listed(table({"first_config": whole(), "made_by": VALUES})),
        "tuned": VALUES,
        "shards": listed(_ENTRY),
    }
)


class Entry(TypedDict):
    """What a manifest keeps of a shard."""

    file: str
    first_config: int
    n_configs: int
    first_chain: NotRequired[int]  # this and the next are not there in files of earlier versions
    n_chains: NotRequired[int]
    bytes: int
    sha256: str


def check_manifest(value: object, key: str) -> None:
    """The rule for a manifest: its keys, and that what they say fits together."""
    _KEYS(value, key)
    manifest = cast(Section, value)
    _check_entries(manifest["shards"], manifest["config"]["chain"])


def shard_name(first_config: int, first_chain: int) -> str:
    """The name of a shard."""
    return f"c{first_config:08d}-n{first_chain:04d}.h5"


def _check_entries(entries: Sequence[Entry], chain: Section) -> None:
    """Refuse shards that leave a gap, lack a chain, or could not hold so many rows."""
    everyone, n_done = chain["n_chains"], 0  # configurations of which all chains are there
    reached, n_configs = 0, 0  # chains of the next ones that are there, and how many those are
    for index, entry in enumerate(entries):
        key = f"shards[{index}]"
        first, own = entry.get("first_chain", 0), entry.get("n_chains", everyone)
        n_configs = n_configs if reached else entry["n_configs"]
        found = (entry["first_config"], entry["n_configs"], first)
        if found != (n_done, n_configs, reached) or reached + own > everyone:
            raise SchemaError(
                f"{key} holds {found[1]} configurations from {found[0]} on of {own} chains from "
                f"{first} on, which does not follow what is before it in {everyone} chains "
                f"(config.chain.n_chains)"
            )
        if entry["file"] != shard_name(entry["first_config"], first):
            raise SchemaError(
                f"{key}.file must be {shard_name(entry['first_config'], first)}, got "
                f"{entry['file']}"
            )
        if entry["n_configs"] * own * _FEWEST > entry["bytes"]:
            raise SchemaError(
                f"{key} cannot hold {entry['n_configs']} configurations of {own} chains in "
                f"{entry['bytes']} bytes"
            )
        reached += own
        if reached == everyone:
            n_done, reached = n_done + n_configs, 0
    if reached:
        raise SchemaError(
            f"shards[{len(entries) - 1}] ends at chain {reached} of {everyone} "
            f"(config.chain.n_chains)"
        )
    if n_done > chain.get("n_configs", n_done):
        raise SchemaError(
            f"config.chain.n_configs is {chain['n_configs']}, but shards hold {n_done}"
        )
