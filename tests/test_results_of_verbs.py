"""Verbs refuse before their work what they would replace, and accept what they made before."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import verbs
from rows import each

from lattice_ml import cli
from lattice_ml.commands import bench, output
from lattice_ml.jobs.exchange import import_array

SECTION = {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.1}


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Two ensembles, a/ens and b/ens, of noise."""
    folder = tmp_path_factory.mktemp("results")
    for seed, name in enumerate("ab"):
        fields = np.random.default_rng(seed).normal(size=(60, 4, 4))
        np.save(folder / "fields.npy", fields)
        config = {"action": SECTION}
        import_array(folder / "fields.npy", folder / name / "ens", config=config, n_chains=3)
    return folder


@pytest.fixture
def folder(ensembles, tmp_path, monkeypatch):
    """A working directory with copies of them."""
    for name in "ab":
        shutil.copytree(ensembles / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def refused(capsys, *words):
    """The sentence with which a command is refused; it changes nothing."""
    before = contents(".")
    said = verbs.refused(capsys, *words)
    assert contents(".") == before
    return said


@each(
    ("words", "said"),
    [
        (["measure", "a/ens", "--json", ""], "json must not be empty"),
        (["measure", "a/ens", "--json="], "json must not be empty"),
        (["compare", "exact", "a/ens", "--out", ""], "out must not be empty"),
        (["spectrum", "a/ens", "--out", ""], "out must not be empty"),
        (["check", "a/ens", ""], "ensembles must not be empty"),
    ],
)
def test_an_empty_name_is_no_file(folder, words, said, capsys):
    assert said in refused(capsys, *words)


@pytest.mark.parametrize("verb", [["measure"], ["compare", "exact"], ["spectrum"]])
def test_a_page_has_no_folder_in_a_file(folder, verb, capsys):
    Path("notes").write_text("mine")
    for out in ("notes", "notes/below"):
        said = refused(capsys, *verb, "a/ens", "--out", out)
        assert "has no folder to lie in" in said and "/notes is none" in said


@pytest.mark.parametrize("number", ["987", "9" * 30])
def test_a_descriptor_that_is_not_open_is_refused_before_the_work(folder, number, capsys):
    said = refused(capsys, "measure", "a/ens", "--json", f"/dev/fd/{number}")
    assert "is no open file of this process" in said


@pytest.mark.parametrize("verb", ["measure", "check"])
def test_a_verb_refuses_before_its_work_and_replaces_its_own(folder, capsys, verb):
    Path("notes.json").write_text('{"notes": [1, 2]}')
    assert "notes.json exists" in refused(capsys, verb, "a/ens", "--json", "notes.json")
    assert "there is no absent" in refused(capsys, verb, "a/ens", "--json", "absent/x.json")
    for place in ("manifest.json", "new.json", "shards/new.json"):
        assert "would lie in" in refused(capsys, verb, "b/ens", "--json", f"a/ens/{place}")
    for _ in range(2):
        assert cli.main([verb, "a/ens", "--json", "own.json"]) in (0, 1)
    other = {"measure": "check", "check": "measure"}[verb]
    assert "own.json exists" in refused(capsys, other, "a/ens", "--json", "own.json")


def test_pages_of_ensembles_with_one_name_are_both_there(folder, capsys):
    assert cli.main(["measure", "a/ens", "b/ens", "--out", "page"]) == 0
    out = capsys.readouterr().out
    assert "page: page/a-ens/index.html" in out and "page: page/b-ens/index.html" in out
    assert (
        Path("page/a-ens/history.png").read_bytes() != Path("page/b-ens/history.png").read_bytes()
    )
    Path("page/b-ens/index.html").write_text("mine")
    assert "index.html exists" in refused(capsys, "measure", "a/ens", "b/ens", "--out", "page")
    assert "would lie in" in refused(capsys, "measure", "a/ens", "--out", "a/ens")


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("compare a/ens b/ens", "report.html"),
        ("compare a/ens b/ens", "report.json"),
        ("compare a/ens b/ens", "classifier.svg"),
        ("extrapolate a/ens b/ens", "index.html"),
        ("extrapolate a/ens b/ens", "extrapolation.png"),
        ("spectrum a/ens", "spectrum.json"),
        ("spectrum a/ens", "kernel.png"),
        ("bench kernel --size toy", "kernel.html"),
    ],
)
def test_every_verb_with_pages_refuses_before_its_work(folder, capsys, monkeypatch, words, file):
    monkeypatch.setattr(bench, "_use_one_core", lambda: None)
    Path("page").mkdir()
    Path("page", file).write_text("mine")
    assert f"{file} exists" in refused(capsys, *words.split(), "--out", "page")
    assert "would lie in" in refused(capsys, *words.split(), "--out", "b/ens/page")


@pytest.mark.parametrize("words", ["extrapolate a/ens b/ens", "bench kernel --size toy"])
def test_every_verb_with_json_refuses_before_its_work(folder, capsys, monkeypatch, words):
    monkeypatch.setattr(bench, "_use_one_core", lambda: None)
    Path("x.json").write_text('{"x": 1}')
    assert "x.json exists" in refused(capsys, *words.split(), "--json", "x.json")
    assert "would lie in" in refused(capsys, *words.split(), "--json", "b/ens/manifest.json")


def test_a_dry_run_refuses_before_its_work(folder, capsys):
    Path("c.toml").write_text("[lattice]\nshape = [4, 4]\n[action]\nkappa = 0.2\nlam = 0.1\n")
    Path("x.json").write_text('{"x": 1}')
    words = ["generate", "c.toml", "--dry-run", "--json"]
    assert "x.json exists" in refused(capsys, *words, "x.json")
    assert "would lie in" in refused(capsys, *words, "b/ens/x.json")


@each("shape", [s for s in output.__all__])
def test_no_manifest_or_config_is_taken_for_a_result(folder, shape):
    for text in (Path("a/ens/manifest.json").read_text(), '{"phi2": 1.0}', '{"a": {"phi2": 1.0}}'):
        assert not getattr(output, shape)(json.loads(text))


@pytest.mark.parametrize("ending", ["npy", "npz", "h5", "json.gz"])
def test_an_export_that_is_there_is_accepted_where_it_is_equal(folder, capsys, ending):
    file = Path(f"out.{ending}")
    words = ["export", "a/ens", "--out", str(file)]
    assert cli.main(words) == 0
    first, made = file.read_bytes(), file.stat().st_mtime_ns
    capsys.readouterr()
    assert cli.main(words) == 0
    assert (
        "out." in (said := capsys.readouterr().out)
        and "was there already, complete and equal" in said
    )
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (first, made)
    assert not list(Path().glob("*.tmp"))
    other = ["export", "b/ens", "--out", str(file)]
    assert f"{file} exists and is not overwritten" in refused(capsys, *other)
    file.write_bytes(first[:-1])
    assert f"{file} exists and is not overwritten" in refused(capsys, *words)
    assert "would lie in" in refused(capsys, *words[:-1], f"b/ens/{file}")


def test_import_and_convert_run_again_say_the_same(folder, capsys):
    assert cli.main(["export", "a/ens", "--out", "fields.npy"]) == 0
    action = [word for key, value in SECTION.items() for word in (f"--action.{key}", str(value))]
    again = [
        ["import", "fields.npy", "--out", "made", "--n-chains", "3", *action],
        ["convert", "a/ens", "--action.convention", "standard", "--out", "converted"],
    ]
    for words in again:
        said = []
        for _ in range(2):
            capsys.readouterr()
            assert cli.main(words) == 0
            said.append((capsys.readouterr().out, contents(words[words.index("--out") + 1])))
        assert said[0] == said[1]


def test_what_a_killed_export_left_is_swept(folder):
    Path("fields.npy.0123456789abcdef.tmp").write_text("half")
    assert cli.main(["export", "a/ens", "--out", "fields.npy"]) == 0
    assert not list(Path().glob("*.tmp"))
