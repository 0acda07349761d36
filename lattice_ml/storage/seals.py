"""JSON files that vouch for themselves.

Under its last key, "seal", a file holds the sha256 of all its other content, written canonically:
keys sorted, nothing between the words, so that neither the order of keys nor white space matters.
Whoever reads the file compares; any bit that changes a number, a word or a key is noticed::

    {"seconds": 12.5, "seal": "5c0f..."}

A file of a version from before seals has none and is read all the same.  What is read is parsed
strictly first: UTF-8, no key twice, nothing that is not finite, not too large, not too deep.
"""

import hashlib
import json
import math
from pathlib import Path

from lattice_ml.runtime.json import Json, JsonTable, Section
from lattice_ml.runtime.writing import StorageError, replacing
from lattice_ml.storage.schema import Rule, SchemaError

__all__ = ["SEAL", "check", "digest", "image", "parse", "read", "sealed", "write"]

SEAL = "seal"

_LARGEST = 2**28  # bytes: a manifest of a million shards


def digest(content: object) -> str:
    """The sha256 of JSON values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Section) -> JsonTable:
    """The content with its seal last, in the place of one that it may have had."""
    bare = {key: value for key, value in content.items() if key != SEAL}
    return bare | {SEAL: digest(bare)}


def image(content: Section) -> bytes:
    """The bytes of a sealed file."""
    return (json.dumps(sealed(content), indent=1) + "\n").encode()


def write(path: Path, content: Section) -> JsonTable:
    """Replace a file by a sealed one; return what it now holds."""
    with replacing(path) as temporary:
        temporary.write_bytes(image(content))
    return sealed(content)


def read(path: Path, rule: Rule, *, remedy: str) -> JsonTable:
    """Return what a file holds, its seal among it, after checking it against a rule and its seal.

    Raises:
        StorageError: naming the file and what is wrong with it; a wrong seal with its `remedy`.
    """
    content = parse(path)
    check(path, content, rule, remedy=remedy)
    return content


def check(path: Path, content: Section, rule: Rule, *, remedy: str, edited: bool = False) -> None:
    """Check what was parsed against a rule, and its seal unless the file was edited on purpose."""
    try:
        rule({key: value for key, value in content.items() if key != SEAL}, "")
    except SchemaError as error:
        raise StorageError(f"{path} is altered: {error}") from error
    if not edited and SEAL in content and content[SEAL] != sealed(content)[SEAL]:
        raise StorageError(f"{path} is altered: its seal does not fit its content; {remedy}")


def parse(path: Path, *, finite: bool = True) -> JsonTable:
    """The table in a JSON file, unchecked but for what no file of ours has, which is refused."""
    if (size := path.stat().st_size) > _LARGEST:
        raise StorageError(f"{path} is altered: {size} bytes are more than it can have")
    try:
        found = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_table,
            parse_float=_finite if finite else float,
            parse_constant=_finite if finite else float,
        )
        json.dumps(found, ensure_ascii=False).encode(errors="surrogateescape")  # bytes of names
    except RecursionError as error:
        raise StorageError(f"{path} is altered: it is nested too deeply") from error
    except ValueError as error:
        raise StorageError(f"{path} is altered: it is not JSON as we write it ({error})") from error
    if type(found) is not dict:
        raise StorageError(f"{path} is altered: it holds no table")
    return found


def _table(pairs: list[tuple[str, Json]]) -> JsonTable:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!a} is there twice")
    return found


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word[:30]} is not a finite number")
    return value
