"""The house rules that a reader relies on: imports point down, nothing happens at import."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lattice_ml

PACKAGE = Path(lattice_ml.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Bottom to top: a module imports only what stands before it.
ORDER = [
    *("_pytree", "jax_modes", "interruptions", "distributed", "memory", "processes"),
    *("randomness", "statistics", "arguments", "printable", "writing", "results", "schema"),
    *("seals", "manifests", "intact"),
    *("files", "locks", "shards", "resuming", "storage"),
    *("lattice", "layout", "split", "integrators", "site_term", "actions"),
    *("conventions", "samplers", "observables", "run_arguments", "engine", "failures", "chain"),
    "ensemble",
    *("array_axes", "array_names", "array_files", "exchange"),
    *("analysis", "correction", "models"),
    *(
        "model_sections",
        "sections",
        "config",
        "session",
        "generation",
        "calibration",
        "forecast",
        "extrapolation",
        "comparison",
    ),
    *(
        "model_schema",
        "model_files",
        "checkpoints",
        "model_runs",
        "editing",
        "training_data",
        "training_phases",
        "training_report",
    ),
    *("rbm_report", "rbm_training", "training", "score_spectrum", "spectra"),
    *("sampling_units", "sampling", "benches", "progress", "commands", "cli", "__main__"),
]

# What a module must not know of, although it stands higher.
APART = {
    "statistics": ORDER,
    "arguments": ORDER,
    "integrators": ORDER,
    "interruptions": ORDER,
    "printable": ORDER,
    "writing": ORDER,
    "results": [name for name in ORDER if name != "writing"],
    "schema": ORDER,
    "seals": [name for name in ORDER if name not in ("writing", "schema")],
    "shards": [name for name in ORDER if name not in ("intact", "files")],
    "storage": [
        name for name in ORDER if name not in ("processes", "files", "locks", "shards", "resuming")
    ],
    "samplers": ["files", "shards", "storage", "statistics", "conventions"],
    "observables": ["samplers", "conventions"],
    "failures": ORDER,
    "site_term": ORDER,
    "jax_modes": ORDER,
    "chain": ["writing", "files", "shards", "storage", "statistics", "conventions", "samplers"],
    "analysis": ["samplers", "engine", "chain", "storage"],
    "correction": ["writing", "files", "storage", "conventions", "ensemble", "analysis"],
    "models": [
        "writing",
        "files",
        "shards",
        "storage",
        "conventions",
        "samplers",
        "engine",
        "chain",
        "ensemble",
    ],
    "session": ["sections", "config"],
}


def component(module):
    """The part of the house that a module belongs to: `samplers` of `lattice_ml.samplers.hmc`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(path):
    """The components that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {component(name) for name in names if name.split(".")[0] == "lattice_ml"}
    return found


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("module", [name for name in MODULES if name != "lattice_ml"])
def test_imports_point_down(module):
    own = component(module)
    assert own in ORDER, f"give {own} its place in ORDER"
    below = ORDER[: ORDER.index(own)]
    assert imported(MODULES[module]) - {own} <= set(below) - set(APART.get(own, ()))


def test_every_entry_of_the_order_exists():
    assert {component(name) for name in MODULES if name != "lattice_ml"} == set(ORDER)


def test_importing_the_package_imports_neither_jax_nor_numpy():
    code = "import lattice_ml, lattice_ml.cli, sys; print(*{'jax', 'numpy'} & set(sys.modules))"
    assert python(code) == []


def test_no_module_changes_jax_or_the_environment_at_import():
    names = ", ".join(name for name in MODULES if not name.endswith("__main__"))
    code = (
        "import os, jax\n"
        "before = dict(jax.config.values), dict(os.environ)\n"
        f"import {names}\n"
        "print((dict(jax.config.values), dict(os.environ)) == before)\n"
        "os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=3'\n"
        "print(jax.device_count())"
    )
    assert python(code) == ["True", "3"], "flags are unchanged and devices not yet counted"


@pytest.mark.parametrize("name", lattice_ml.__all__)
def test_every_public_name_of_the_package_resolves_and_has_a_docstring(name):
    assert name not in ORDER, "once imported, the module of that name takes its place"
    thing = getattr(lattice_ml, name)
    assert callable(thing)
    source = ast.parse(inspect.getsource(thing))
    assert ast.get_docstring(source.body[0]), f"{name} has no docstring of its own"


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_a_module_explains_itself_and_has_all_that_it_exports(module):
    found = importlib.import_module(module)
    assert found.__doc__
    assert [name for name in getattr(found, "__all__", ()) if not hasattr(found, name)] == []


def test_no_file_is_longer_than_350_lines():
    folders = (ROOT / name for name in ("lattice_ml", "tests", "benchmarks"))
    files = [path for folder in folders for path in folder.rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert lengths, "found no files"
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_the_module_map_names_the_modules_that_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`\w+(?:\.py|/)`.*?) \|", text, re.MULTILINE)
    named = re.findall(r"`(\w+)(?:\.py|/)`", " ".join(cells))
    assert sorted(named) == sorted(ORDER)
