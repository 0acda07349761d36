"""The house rules that a reader relies on: imports point down, nothing happens at import."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import lattice_ml

PACKAGE = Path(lattice_ml.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Bottom to top: what each room imports beside itself, all of it further up in this table. None is
# named that is not used, so that a rule says what there is and a new import is a decision.
MAY_IMPORT = {
    "_pytree": "",
    "statistics": "",
    "fields": "",
    "runtime": "statistics",
    "actions": "_pytree fields runtime",  # of it only what a section of a config is
    "observables": "statistics fields runtime actions",
    "samplers": "_pytree fields runtime actions",  # likewise
    "chains": "fields runtime actions observables samplers",  # of these only their contract
    "storage": "runtime actions",
    "analysis": "statistics fields runtime actions observables storage",
    "models": "_pytree statistics fields runtime actions observables analysis",
    "comparison": "statistics fields runtime actions observables storage analysis models",
    "report": "statistics fields runtime actions observables analysis comparison",
    "jobs": "statistics fields runtime actions observables samplers chains storage analysis models "
    "report",
    "benches": "statistics fields runtime actions observables samplers chains storage analysis "
    "models comparison report jobs",
    "commands": "statistics runtime actions chains storage analysis models comparison report jobs "
    "benches",
    "cli": "runtime commands",
    "__main__": "cli",
}
ROOMS = list(MAY_IMPORT)


def component(module):
    """The part of the house that a module belongs to: `samplers` of `lattice_ml.samplers.hmc`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(path):
    """The components that a file imports, anywhere in it, by a statement or by `import_module`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names = [
                part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)
            ]
        found |= {component(name) for name in names if name.split(".")[0] == "lattice_ml"}
    return found


def python(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_rooms_import_what_their_rules_name_and_nothing_else():
    used = {room: set() for room in ROOMS}
    wrong = []
    for module, path in MODULES.items():
        if module != "lattice_ml":
            own = component(module)
            found = imported(path) - {own}
            used[own] |= found
            beyond = found - set(MAY_IMPORT[own].split())
            wrong += [f"{module} imports {room}: {own} may not" for room in sorted(beyond)]
    for own, rule in MAY_IMPORT.items():
        unused = sorted(set(rule.split()) - used[own])
        wrong += [f"{own} may import {room} and does not: tighten its rule" for room in unused]
    assert wrong == []


def test_chains_know_no_sampler_but_what_all_are():
    known = {
        name
        for module, path in MODULES.items()
        if component(module) == "chains"
        for name in re.findall(r"lattice_ml\.samplers[\w.]*", path.read_text(encoding="utf-8"))
    }
    assert known == {"lattice_ml.samplers.sampler"}


def test_rules_point_down_in_at_most_twenty_rooms():
    there = {component(name) for name in MODULES if name != "lattice_ml"}
    assert there == set(ROOMS), "a room without a rule, or a rule without a room"
    for i, room in enumerate(ROOMS):
        up = set(MAY_IMPORT[room].split()) - set(ROOMS[:i])
        assert not up, f"the rule of {room} points up, or to no room: {sorted(up)}"
    assert len(ROOMS) <= 20, f"{len(ROOMS)} rooms are more than a reader finds his way in"
    alone = {path.name for path in PACKAGE.glob("*.py")}
    assert alone == {"__init__.py", "__main__.py", "_pytree.py", "cli.py"}, "belongs into a room"


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


def test_every_public_name_of_the_package_resolves_and_has_a_docstring():
    assert not set(lattice_ml.__all__) & set(ROOMS), "a room takes the place of that name"
    wrong = []
    for name in lattice_ml.__all__:
        thing = getattr(lattice_ml, name)
        source = ast.parse(inspect.getsource(thing))
        if not (callable(thing) and ast.get_docstring(source.body[0])):
            wrong.append(name)
    assert lattice_ml.__all__ and wrong == []


def test_a_module_explains_itself_and_has_all_that_it_exports():
    wrong = []
    for name in MODULES:
        if not name.endswith("__main__"):
            module = importlib.import_module(name)
            missing = [
                thing for thing in getattr(module, "__all__", ()) if not hasattr(module, thing)
            ]
            wrong += [(name, missing)] if missing or not module.__doc__ else []
    assert wrong == []


def test_no_file_is_longer_than_350_lines():
    folders = (ROOT / name for name in ("lattice_ml", "tests", "benchmarks"))
    files = [path for folder in folders for path in folder.rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert lengths, "found no files"
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_the_module_map_names_the_rooms_and_modules_that_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)(?:\.py|/)` \| (.*) \|$", text, re.MULTILINE))
    assert list(rows) == ROOMS
    for room, row in rows.items():
        folder = PACKAGE / room
        names = {path.stem for path in folder.glob("*.py")} | {
            path.name for path in folder.glob("*/") if (path / "__init__.py").exists()
        }
        named = set(re.findall(r"`(\w+)/?`", row))
        assert not folder.is_dir() or names - {"__init__"} <= named, room
