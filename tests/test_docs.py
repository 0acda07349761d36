"""The documentation is true: its code runs, its commands work, its links lead somewhere."""

import re
import shlex
import shutil
from pathlib import Path
from unittest import mock

import pytest

from lattice_ml import cli
from lattice_ml.observables import scalar

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
EVERY_PAGE = [*PAGES, CONTRIBUTING, ROOT / "CHANGELOG.md"]
MARKS = {  # of pages whose commands train a model
    "tutorial_diffusion": (pytest.mark.slow, pytest.mark.unoptimised),
    "tutorial_flow": (pytest.mark.slow, pytest.mark.unoptimised),
    "tutorial_rbm": (pytest.mark.slow,),
}

# Put between a verb's first word, a config or a model, and what a page gives, which wins.
SMALL = {
    "generate": "--lattice.shape 8 8 --chain.n-configs 8 --chain.n-thermalise 10",
    "train configs/diffusion.toml": (
        "--lattice.shape 8 8 --training.n-steps 20 --training.fine-tune False"
    ),
    "train configs/flow.toml": (
        "--lattice.shape 8 8 --training.kl-steps 3 --training.n-steps 2 --training.n-samples 512 "
        "--model.hidden 4 --model.couplings 2 --model.coupling-hidden 4"
    ),
    "sample runs/model": "--sampling.n-steps 4",
}
FEW = {"sample": "--n-samples 2000"}  # put last: wins over the page


def blocks(page):
    """(language, code) of every fenced block; the code keeps its line numbers in the page."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], "\n" * text.count("\n", 0, found.start(2)) + found[2]


def python_blocks(page):
    return [compile(code, page, "exec") for language, code in blocks(page) if language == "python"]


def run_commands(script):
    """Run the `lattice-ml` lines of a shell script; `# exit 2` states the status, else it is 0."""
    for line in script.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program != "lattice-ml":
            continue
        for small in (words[0], " ".join(words[:2])):
            words[2:2] = shlex.split(SMALL.get(small, ""))
        words += shlex.split(FEW.get(words[0], ""))
        expected = re.search(r"# exit (\d+)", line)
        allowed = {int(expected[1]) if expected else 0}
        if words[0] == "check":
            allowed.add(4)  # the runs are much shorter here than on the page
        assert cli.main(words) in allowed, line


def anchors(page):
    """The anchors that a page's headings get where it is rendered."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


MARKED = [pytest.param(page, marks=MARKS.get(page.stem, ()), id=page.stem) for page in PAGES]


@pytest.mark.parametrize("page", MARKED)
def test_code_and_commands_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page, "exec"), namespace)
        elif language == "bash":
            run_commands(code)


def test_worked_example_adds_an_observable_that_measure_reports():
    edit, test = python_blocks(CONTRIBUTING)
    with mock.patch.dict(scalar.PRIMARIES), mock.patch.dict(scalar.DERIVED):
        exec(edit, dict(vars(scalar)))
        namespace = {}
        exec(test, namespace)
        namespace["test_staggered_susceptibility_of_a_free_field_is_exact"]()


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.stem)
def test_relative_links_of_a_page_resolve(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", text):
        if re.match(r"\w+:", target):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"
