"""Write docs/api.md, the public names of lattice_ml, from their docstrings: `make api`.

The topics are the comments of `_NAMES` in lattice_ml/__init__.py.
"""

import dataclasses
import inspect
import re
from functools import cached_property
from pathlib import Path

import lattice_ml

PAGE = Path(__file__).parent / "api.md"
HEAD = """# The Python API

Every name of `lattice_ml`, from its docstring (`make api` writes this page). A command is the
function of the same name: `lattice-ml measure DIR` is `measure(open_ensemble(DIR))`. Arrays have
their axes in brackets, `(n_configs, *L)` with `*L` for the extents of the lattice.
"""
WORTH_SAYING = ("Args", "Attributes", "Returns", "Raises")


def topics():
    """{topic: public names}, in the order of the table of contents."""
    table = inspect.getsource(lattice_ml).partition("_NAMES = {")[2].partition("\n}")[0]
    found = {}
    for line in table.splitlines():
        if comment := re.fullmatch(r"    # (.*)", line):
            names = found.setdefault(comment[1], [])
        elif row := re.match(r'    "[\w.]+": "(.*)",', line):
            names += row[1].split()
    return found


def signature(name, thing):
    """How it is called, without the paths of types and with `...` for what has no short form."""
    if inspect.isclass(thing) and thing.__init__ is object.__init__:
        return name
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return name
    words, starred = [], False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        starred |= each.kind is each.VAR_POSITIONAL
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        short = isinstance(each.default, str | int | float | bool | tuple | None)
        default = repr(each.default) if short else "..."
        words.append(stars + each.name + ("" if each.default is each.empty else f"={default}"))
    return f"{name}({', '.join(words)})"


def paragraphs(thing):
    """The first sentence or so of a docstring, and its sections as (title, entries)."""
    text = inspect.cleandoc(thing.__doc__)
    parts = re.split(rf"^({'|'.join(WORTH_SAYING)}):\n", text, flags=re.MULTILINE)
    sections = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        body = re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0]  # up to the next section
        entries = re.split(r"^    (?=\S)", body, flags=re.MULTILINE)[1:]
        sections.append((title, [" ".join(entry.split()) for entry in entries]))
    return " ".join(parts[0].partition("\n\n")[0].split()), sections


def entry(name, *, members):
    """One name of the page; of a class also what it has, where that is for its user."""
    thing = getattr(lattice_ml, name)
    first, sections = paragraphs(thing)
    parts = [f"### {name}", f"`{signature(name, thing)}`", first]
    for title, entries in sections:
        pairs = [said.partition(":") for said in entries]
        if title in ("Args", "Attributes"):
            parts.append("\n".join(f"- `{key}`:{meaning}" for key, _, meaning in pairs))
        else:
            parts.append(f"{title}: {' '.join(entries)}")
    if members and dataclasses.is_dataclass(thing):
        found = [name for name, value in vars(thing).items() if is_member(name, value)]
        parts += [f"Has {', '.join(f'`{member}`' for member in found)}."] * bool(found)
    return re.sub(r"<(?=[A-Za-z|])", r"\\<", "\n\n".join(parts)) + "\n"


def is_member(name, value):
    """Whether this is a method or a property that is public."""
    kinds = property | cached_property | classmethod
    return not name.startswith("_") and (callable(value) or isinstance(value, kinds))


def page():
    """The whole page."""
    parts = [HEAD]
    for topic, names in topics().items():
        parts.append(f"## {topic[0].upper()}{topic[1:]}\n")
        parts += [entry(name, members=topic != "samplers") for name in names]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
