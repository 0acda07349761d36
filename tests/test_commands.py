"""Whatever goes wrong in a verb is one sentence and an exit status, never a traceback."""

import importlib

import numpy as np
import pytest

from lattice_ml import cli, commands
from lattice_ml.commands import data
from lattice_ml.storage.run import StorageError

VERB = ["info", "somewhere"]


def raising(monkeypatch, error):
    """Let a verb raise."""

    def fail(arguments):
        raise error

    monkeypatch.setattr(data, "info_command", fail)


def said(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    "error",
    [
        KeyError("tuned"),
        TypeError("unsupported operand"),
        IndexError("list index out of range"),
        AttributeError("'NoneType' object has no attribute 'shape'"),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        RecursionError("maximum recursion depth exceeded"),
        NotImplementedError("someday"),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
        EOFError("several\nlines"),
    ],
)
def test_what_nobody_meant_to_raise_is_named_with_its_place(monkeypatch, capsys, error):
    raising(monkeypatch, error)
    assert cli.main(VERB) == 3
    line = said(capsys)
    assert line.startswith(f"lattice-ml info: {type(error).__name__} at ")
    assert "is a fault of the program and worth reporting; with LATTICE_ML_TRACEBACK=1" in line
    assert "Traceback" not in line


def test_the_place_is_the_last_line_of_the_package(monkeypatch, capsys):
    monkeypatch.setattr("lattice_ml.storage.files.describe_folder", lambda folder: {}["tuned"])
    assert cli.main(VERB) == 3
    assert "KeyError at lattice_ml/storage/files.py:" in said(capsys)


def test_all_of_it_is_shown_where_that_is_asked_for(monkeypatch, capsys):
    raising(monkeypatch, KeyError("tuned"))
    monkeypatch.setenv("LATTICE_ML_TRACEBACK", "1")
    assert cli.main(VERB) == 3
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert "worth reporting" in shown.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"), [(StorageError("not a run"), 2), (ImportError("no module"), 2)]
)
def test_what_the_library_means_to_say_stands_for_itself(monkeypatch, capsys, error, status):
    raising(monkeypatch, error)
    assert cli.main(VERB) == status
    assert said(capsys) == f"lattice-ml info: {error}"


def test_what_a_library_below_says_is_given_with_its_place(monkeypatch, capsys):
    monkeypatch.setattr(
        "lattice_ml.storage.files.describe_folder", lambda folder: np.zeros(0).max()
    )
    assert cli.main(VERB) == 2
    line = said(capsys)
    assert "zero-size array to reduction operation maximum" in line
    assert "(ValueError, lattice_ml/storage/files.py:" in line


def test_many_lines_of_a_library_become_one(monkeypatch, capsys):
    raising(monkeypatch, RuntimeError("INTERNAL: \x1b[31m" + 1000 * "x" + "\nand a stack"))
    assert cli.main(VERB) == 3
    line = said(capsys)
    assert "INTERNAL: \\x1b[31mxxx" in line
    assert len(line) < 600
    assert "stack" not in line


def test_a_program_that_cannot_be_imported_says_so(monkeypatch, capsys):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert cli.main(VERB) == 2
    assert said(capsys) == "lattice-ml info: No module named 'lattice_ml.commands'"


def test_every_verb_has_a_home():
    for verb in cli.VERBS:
        home = commands._HOMES.get(verb, verb)
        module = importlib.import_module(f"lattice_ml.commands.{home}")
        assert callable(getattr(module, f"{verb}_command"))
    assert commands._HOMES.keys() <= cli.VERBS.keys()
