"""Results that a user asks a verb for: where they may go, and what they may replace.

`--json FILE` and `--out DIR` name files that may be there already.  What is there is replaced only
where it is such a result of this program: a page or a figure says so in its head, a JSON file by
its shape, which is the contract of the verb.  An empty file may be replaced, a link never is.
Nothing goes into the directory of an ensemble or a model, whatever way leads there.  All this is
checked before the work is done, and again when it is written.

A device or a pipe is written to as it is: `--json /dev/stdout` appends to the standard output.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lattice_ml.runtime import writing
from lattice_ml.runtime.json import Json, plain
from lattice_ml.runtime.writing import StorageError

__all__ = [
    *("Shape", "check_export", "check_file", "check_json", "check_page", "distinct"),
    *("has_keys", "of_entries", "read_json", "signature", "write_json", "write_result"),
]

Shape = Callable[[Json], bool]  # whether JSON values are the result of a verb

_HEAD = 2**12  # bytes within which they say it
_LONGEST_JSON = 2**28
_STREAMS = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/self/fd/\d+")
_HOLDINGS = {  # of an ensemble or a model: its manifest, and what else tells it from a stranger's
    "manifest.json": ("shards", "ensemble.h5"),
    "model.json": ("theories.npz", "checkpoints", "weights.npz"),
}


def check_json(path: str | os.PathLike[str], is_result: Shape, *, new_folder: bool = False) -> None:
    """Refuse a file for a verb's JSON that is something else; not a device or a pipe.

    With `new_folder` its folder is made where there is none.

    Raises:
        StorageError: it is a folder, a link or another file, lies in an ensemble or a model, or
            there is no folder for it.
    """
    file = Path(path)
    if _STREAMS.fullmatch(str(file)):
        try:
            os.fstat(_descriptor(file))
        except (OSError, OverflowError) as error:
            raise StorageError(f"{file} is no open file of this process") from error
    if _is_stream(file):
        return
    if not (new_folder or file.parent.is_dir()):
        raise StorageError(f"{file} has no folder to lie in: there is no {file.parent}")
    check_file(file, lambda there: _is_json(there, is_result))


def write_json(path: str | os.PathLike[str], values: object, is_result: Shape) -> None:
    """Write a verb's results as JSON after the same check, atomically; or to a device or pipe."""
    file = Path(path)
    check_json(file, is_result)
    content = (json.dumps(plain(values), indent=1, allow_nan=False) + "\n").encode()
    if _is_stream(file):
        _write_stream(file, content)
    else:
        write_result(file, content)


def read_json(path: str | os.PathLike[str]) -> Json:
    """The JSON values in a file that a user names.

    Raises:
        ValueError: it cannot be read, or is not JSON.
    """
    try:
        found: Json = json.loads(Path(path).read_text(encoding="utf-8"))
        return found
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_result(path: Path, content: bytes) -> None:
    """Write a checked file so that a reader sees the old one or the new one, never a part."""
    writing.sweep(path)
    with writing.replacing(path) as temporary:
        temporary.write_bytes(content)


def signature(verb: str) -> str:
    """What pages and figures of a verb say of themselves in their first bytes."""
    return f"lattice_ml {verb}"


def check_page(page: Path, verb: str, figures: Iterable[str] = ()) -> None:
    """Refuse a page, or figures beside it, that would replace something else than the verb's."""
    images = [page.with_name(f"{name}.{end}") for name in figures for end in ("png", "svg")]
    for path in (page, *images):
        check_file(path, lambda there: _is_page(there, verb))


def check_file(path: Path, is_result: Callable[[Path], bool]) -> None:
    """Refuse a file that is no such result, or that would lie in an ensemble or a model.

    Raises:
        StorageError: saying which it is.
    """
    if home := _home(path):
        raise StorageError(
            f"{path} would lie in {home}, which is an ensemble or a model; results go elsewhere"
        )
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise StorageError(f"{path} has no folder to lie in: {above} is none")
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        raise StorageError(
            f"{path} is a link and is not followed; name the file itself, or remove it"
        )
    if not writing.is_plain(path):
        raise StorageError(f"{path} is no file; name one for the results")
    if path.stat().st_size and not is_result(path):
        raise StorageError(
            f"{path} exists and is not overwritten: it is no such result of this program; remove "
            f"it or name another"
        )


def check_export(path: Path, least: int = 0) -> None:
    """Refuse a file for an export of `least` bytes that is shorter, or where `check_file` does."""
    check_file(path, lambda there: there.stat().st_size >= least)
    writing.sweep(path)


def has_keys(*keys: str) -> Shape:
    """The shape of a table with these keys."""
    return lambda found: isinstance(found, dict) and found.keys() >= set(keys)


def of_entries(entry: Shape) -> Shape:
    """The shape of a table, not empty, whose values are all of one shape."""
    return lambda found: isinstance(found, dict) and bool(found) and all(map(entry, found.values()))


def distinct(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A name for each directory: its last part, with as many of those above as tell it from others.

    Two ways to write one directory get one name.
    """
    resolved = [Path(path).resolve() for path in paths]
    names: dict[Path, str] = {}
    for path in dict.fromkeys(resolved):
        parts = path.parts[1:] or ("root",)
        others = {other.parts[1:] or ("root",) for other in resolved if other != path}
        length = 1
        while length < len(parts) and any(o[-length:] == parts[-length:] for o in others):
            length += 1
        name, number = "-".join(parts[-length:]), 1
        used = {n.casefold() for n in names.values()}
        while (unused := name if number == 1 else f"{name}-{number}").casefold() in used:
            number += 1
        names[path] = unused
    return [names[path] for path in resolved]


def _home(path: Path) -> Path | None:
    """The ensemble or model that a path leads into, links followed."""
    folder = Path(os.path.realpath(path))
    for above in (folder, *folder.parents):
        for manifest, others in _HOLDINGS.items():
            if os.path.lexists(above / manifest) and (
                any(os.path.lexists(above / other) for other in others)
                or _is_json(above / manifest, has_keys("format_version", "config"))
            ):
                return above
    return None


def _is_json(path: Path, is_result: Shape) -> bool:
    try:
        if path.stat().st_size > _LONGEST_JSON:
            return False
        return is_result(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False


def _is_page(path: Path, verb: str) -> bool:
    """Whether a page or a figure is of a verb, by its head."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    kinds = {
        ".html": f'<meta name="generator" content="{signature(verb)}"/>',
        ".svg": f"<!-- {signature(verb)} -->",
        ".png": f"Software\0{signature(verb)}",
    }
    return kinds[path.suffix].encode() in head


def _is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or an open file of this process."""
    if _STREAMS.fullmatch(str(path)):
        return True
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _descriptor(path: Path) -> int:
    known = {"stdout": 1, "stderr": 2}
    return known[path.name] if path.name in known else int(path.name)


def _write_stream(path: Path, content: bytes) -> None:
    try:
        if _STREAMS.fullmatch(str(path)):
            sys.stdout.flush()
            descriptor = os.dup(_descriptor(path))
        else:
            descriptor = os.open(path, os.O_WRONLY)
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        writing.name_file(error, path)
        raise
