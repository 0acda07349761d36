"""The public names: their list, what a type checker sees of them, and their page."""

import ast
import importlib.util
from pathlib import Path

import lattice_ml

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("make_api", DOCS / "make_api.py")
make_api = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_api)


def test_a_type_checker_sees_every_name_where_it_comes_from():
    tree = ast.parse(Path(lattice_ml.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        home = node.module.removeprefix("lattice_ml.")
        assert all(alias.asname == alias.name for alias in node.names)
        seen |= {alias.name: home for alias in node.names}
    assert seen == lattice_ml._HOMES


def test_the_page_of_the_names_is_that_of_their_docstrings():
    named = [name for names in make_api.topics().values() for name in names]
    assert named == list(lattice_ml._HOMES)
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert text == make_api.page(), "docs/api.md is not that of the docstrings: run `make api`"


def test_a_name_that_does_not_exist_is_an_error():
    assert not hasattr(lattice_ml, "nonsense")
    assert set(dir(lattice_ml)) == set(lattice_ml._HOMES)
