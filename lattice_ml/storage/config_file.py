"""The resolved config beside a run, for people: nothing reads it back."""

import json
from collections.abc import Mapping
from pathlib import Path

from lattice_ml.runtime.json import Section
from lattice_ml.runtime.writing import replacing
from lattice_ml.storage.files import CONFIG

__all__ = ["as_toml", "write_config"]


def write_config(directory: Path, config: Section) -> None:
    """The resolved config beside the output."""
    with replacing(directory / CONFIG) as temporary:
        temporary.write_text(as_toml(config), encoding="utf-8", errors="backslashreplace")


def as_toml(config: Section) -> str:
    """A resolved config as TOML that the same verb reads, where a person wants it to."""
    lines = ["# For people: nothing reads this file back, the JSON file beside it is what counts."]
    lines += [f"seed = {config['seed']}"]
    for section, table in config.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{section}]"]
            given = {key: value for key, value in table.items() if value is not None}
            lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in given.items()]
    return "\n".join(lines) + "\n"
