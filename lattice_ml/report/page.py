"""One self-contained HTML page from figures and tables, and the look of both.

The page holds everything it shows: figures are inline SVG with text as outlines, there are no
scripts, fonts or links to fetch, and equal input gives equal bytes. It follows the reader's
light or dark theme, prints in black on white, and is well-formed XML as well as HTML. Beside
it lies every figure as a PNG and as an SVG.

Figures are drawn inside `style()`: fonts that matplotlib carries, no background, and ink in the
one colour `INK`, which becomes the text colour of the page. Matplotlib is the optional extra
`plot`, imported when it is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lattice_ml.runtime.printable import numbered, shown
from lattice_ml.runtime.results import check_page, signature, write_result
from lattice_ml.runtime.writing import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "Drawn", "Mark", "Table", "in_figure", "style", "write_page"]

Drawn = tuple[str, "Figure", str]  # name of the file, figure and caption

INK = "#1b1f24"

_DPI = 150
_FONT = "STIXGeneral"
_DPI_IN_SVG = 110  # of resampled images, so that a page stays near 1 MB

_NUMBER = re.compile("[-+\u2212]?([.]?[0-9]|nan|inf)|\u2013$")  # or the dash of a missing one

_FIGURE_STYLE = {
    "font.family": _FONT,
    "mathtext.fontset": "stix",
    "font.size": 10.5,
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9.5),
    "axes.facecolor": "none",
    "axes.titlelocation": "left",
    "axes.xmargin": 0.02,
    "image.cmap": "RdBu_r",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "svg.hashsalt": "lattice_ml",
}

_PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #d5d9de;
  --good: #00703c; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --paper: #15181c; --faint: #3a4048;
    --good: #5fd39a; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { max-width: 48rem; margin: 2.5rem auto; padding: 0 1.25rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 "STIX Two Text", "Times New Roman", Times, serif; }
h1 { font-size: 1.7rem; font-weight: 600; line-height: 1.2; margin: 0 0 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.5rem; margin: 0; }
dt { opacity: 0.7; }
dd { margin: 0; overflow-wrap: anywhere; }
section { overflow-x: auto; margin: 2rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; padding-bottom: 0.4rem; font-weight: 600; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: baseline; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; }
td { border-bottom: 1px solid var(--faint); }
th.number, td.number { text-align: right; }
td.number, .good, .bad { white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 2.5rem 0; break-inside: avoid; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 0.6rem; font-size: 0.95rem; opacity: 0.85; }
@page { margin: 18mm; }
@media print { body { max-width: none; margin: 0; padding: 0; font-size: 0.8rem; }
  section { overflow: visible; } caption { break-after: avoid; } tr { break-inside: avoid; } }
"""


@contextmanager
def style() -> Iterator[None]:
    """Hold the house style, whatever the user's own matplotlib settings are.

    A context and a decorator. Matplotlib reads settings when it draws and again when it saves:
    hold it around `savefig` too.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib, which is not installed: "
            "it comes with the `plot` extra, pip install 'lattice-ml[plot]'"
        ) from error
    with matplotlib.style.context(["default", _FIGURE_STYLE]):
        yield


@style()
def in_figure(text: object) -> str:
    """A name as a label of a figure: no formula, in signs that the font has, not hidden.

    Matplotlib leaves labels that begin with `_` out of legends.
    """
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(_FONT))
    plain = "".join(c if font.get_char_index(ord(c)) else numbered(c) for c in shown(text))
    plain = plain.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


class Mark(NamedTuple):
    """A cell that says whether something is good, in words and in colour."""

    text: str
    good: bool

    def __str__(self) -> str:
        return self.text


class Table(NamedTuple):
    """A table of the page; columns of numbers are set flush right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: Sequence[tuple[str, object]] = (),
    tables: Sequence[Table] = (),
    figures: Sequence[Drawn] = (),
    appendix: Sequence[Table] = (),
    verb: str = "page",
    ours: bool = False,
) -> None:
    """Write the page and, in the same folder, `<name>.png` and `<name>.svg` of every figure.

    Everything is rendered before anything is written, and every file replaces its predecessor
    atomically, the page last. Floats are shown with six digits, None as a dash and other objects by
    `str`, so an `Estimate` or a string with its error is shown as it is. All text is escaped.

    Args:
        path: the HTML file; its folder is made where missing.
        title: heading of the page.
        summary: (label, value) pairs shown under the heading.
        tables: shown in this order after the summary.
        figures: shown in this order after the tables; names consist of letters, digits and
            underscores. The layout of a figure is settled here.
        appendix: tables shown after the figures.
        verb: that writes the page; only pages and figures of the same are replaced.
        ours: the folder is an ensemble's, which is this program's own: all may be replaced. Other
            pages do not go into an ensemble.

    Raises:
        ValueError: a row of a table does not fit its header, or figure names are not distinct
            and usable as file names.
        StorageError: one of the files would replace something else, or lie in an ensemble.
        ImportError: there are figures, and matplotlib is not installed.
    """
    path = Path(path)
    _check_names([name for name, _, _ in figures])
    drawings = {name: _svg(figure) for name, figure, _ in figures}
    content = [
        _summary(summary),
        *(_table(table) for table in tables),
        *(_figure(name, drawings[name], caption) for name, _, caption in figures),
        *(_table(table) for table in appendix),
    ]
    images, signed = {}, signature(verb)
    for name, figure, _ in figures:
        images[path.with_name(f"{name}.png")] = _png(figure, signed)
        images[path.with_name(f"{name}.svg")] = _signed(drawings[name], signed)
    if not ours:
        check_page(path, verb, drawings)
    make_folder(path.parent)
    for file, image in images.items():
        write_result(file, image)
    write_result(path, _page(title, content, signed).encode())


def _page(title: str, content: Sequence[str], signed: str) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en-GB">',
            f'<head><meta charset="utf-8"/><meta name="generator" content="{signed}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{_escape(title)}</title>",
            f"<style>{_PAGE_STYLE}</style></head>",
            f"<body><h1>{_escape(title)}</h1>",
            *content,
            "</body></html>\n",
        ]
    )


def _summary(entries: Sequence[tuple[str, object]]) -> str:
    if not entries:
        return ""
    rows = (f"<dt>{_escape(label)}</dt><dd>{_cell(value)}</dd>" for label, value in entries)
    return "<dl>" + "\n".join(rows) + "</dl>"


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.header):
            raise ValueError(
                f"table {table.caption!r}: a row has {len(row)} cells {tuple(row)}, "
                f"the header has {len(table.header)} {tuple(table.header)}"
            )
    cells = [[_cell(cell) for cell in row] for row in table.rows]
    columns = zip(*cells, strict=True) if cells else ([] for _ in table.header)
    classes = [' class="number"' if all(map(_NUMBER.match, c)) else "" for c in columns]
    head = _row("th", [_escape(name) for name in table.header], classes)
    body = "\n".join(_row("td", row, classes) for row in cells)
    return (
        f"<section><table><caption>{_escape(table.caption)}</caption>\n"
        f"<thead>{head}</thead>\n<tbody>{body}</tbody></table></section>"
    )


def _row(tag: str, cells: Sequence[str], classes: Sequence[str]) -> str:
    columns = zip(cells, classes, strict=True)
    return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in columns) + "</tr>"


def _figure(name: str, drawing: bytes, caption: str) -> str:
    labelled = f'<svg role="img" aria-labelledby="{name}-caption" '
    svg = _inline(name, drawing).replace("<svg ", labelled, 1)
    return f'<figure>{svg}<figcaption id="{name}-caption">{_escape(caption)}</figcaption></figure>'


def _inline(name: str, drawing: bytes) -> str:
    """An SVG whose ids are its own and whose ink is the text colour of the page."""
    svg = drawing.decode()
    svg = svg[svg.index("<svg") :]  # without the XML declaration and the address of a DTD
    svg = re.sub(r'(\bid="|\burl\(#|\bhref="#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor")


@style()
def _svg(figure: Figure) -> bytes:
    """Render a file without background."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # solved anew at each rendering it would differ a little
    buffer = BytesIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", dpi=_DPI_IN_SVG, transparent=True, metadata=no_metadata)
    return buffer.getvalue()


def _signed(drawing: bytes, signed: str) -> bytes:
    """An SVG file that says in its head whose it is."""
    declaration, rest = drawing.split(b"\n", 1)
    return b"\n".join((declaration, f"<!-- {signed} -->".encode(), rest))


@style()
def _png(figure: Figure, signed: str) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": signed})
    return buffer.getvalue()


def _escape(text: str) -> str:
    """Text in the page: not markup, and nothing that is no character of XML."""
    return escape(shown(text))


def _cell(value: object) -> str:
    if isinstance(value, Mark):
        return f'<b class="{"good" if value.good else "bad"}">{_escape(value.text)}</b>'
    if value is None:
        return "\u2013"
    return _escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"figure name {name!r} must be usable as a file name and an id: "
                "a letter, then letters, digits and underscores"
            )
        if names.count(name) > 1:
            raise ValueError(
                f"figure names must be distinct, got {name!r} {names.count(name)} times"
            )
