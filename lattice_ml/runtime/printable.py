r"""Names and words that come from files, as they may be shown.

The name of a folder, the provenance in a manifest or the name of a dataset is whatever somebody
wrote there.  A control character would move the cursor or colour the terminal, a newline would
forge a line of output, a mark of direction would turn the rest of the line around, a byte that is
no text cannot be printed or written to a page at all.  All of them are shown by their numbers:
`\x1b`, `\n`, `\u202e`; `\xff` for a byte.
"""

import sys
from collections.abc import Iterable
from typing import IO

__all__ = ["numbered", "say", "shape_label", "shown"]


def shown(text: object) -> str:
    """What `str` makes of it, with every character that is not printable replaced by its number."""
    return "".join(c if c.isprintable() else numbered(c) for c in str(text))


def say(*lines: object, file: IO[str] | None = None) -> None:
    """Print lines, each of which stays one; what the terminal has no sign for as its number."""
    stream = sys.stdout if file is None else file
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "".join(f"{shown(line)}\n" for line in lines)
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def numbered(character: str) -> str:
    """The number of a character that is not to be shown itself."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no text
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shape_label(shape: Iterable[int]) -> str:
    """Extents of a lattice, as in `32 x 32`."""
    return " x ".join(map(str, shape))
