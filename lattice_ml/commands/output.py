"""Files that a user asked a verb for."""

from pathlib import Path

from lattice_ml.files import name_file

__all__ = ["write_text"]


def write_text(path: str, text: str) -> None:
    """Write a file, which may be a device; an error of the file system names it."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        name_file(error, Path(path))
        raise
