"""Results replace results of their own kind and nothing else, and never go into an ensemble."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from lattice_ml import cli, results
from lattice_ml.analysis import report
from lattice_ml.commands import bench, output
from lattice_ml.exchange import import_array
from lattice_ml.results import check_json, check_page, distinct, write_json
from lattice_ml.writing import StorageError

SECTION = {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.1}
SHAPE = results.has_keys("answer")


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
    capsys.readouterr()
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "", "refused before the work"
    assert err.startswith(f"lattice-ml {words[0]}: ") and err.count("\n") == 1
    assert contents(".") == before
    return err


@pytest.mark.parametrize(
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


# Files of JSON.


def test_a_result_may_be_replaced_by_its_own_kind(tmp_path):
    file = tmp_path / "file.json"
    for text in ('{"answer": 1}', '{"answer": 2, "more": 3}', '{"answer": 42}'):
        write_json(file, text, SHAPE)
    assert file.read_text() == '{"answer": 42}'
    file.write_text("")
    write_json(file, '{"answer": 1}', SHAPE)


@pytest.mark.parametrize(
    "content", [b"notes", b"{}", b"[1]", b'{"question": 1}', b"\xff\xfe", b"[" * 100_000, b"1"]
)
def test_anything_else_is_not_replaced(tmp_path, content):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        write_json(file, '{"answer": 1}', SHAPE)
    assert file.read_bytes() == content


def test_links_and_folders_are_refused(tmp_path):
    (tmp_path / "victim").write_text('{"answer": 0}')
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("link", "dangling"):
        with pytest.raises(StorageError, match="is a link and is not followed"):
            write_json(tmp_path / name, '{"answer": 1}', SHAPE)
    with pytest.raises(StorageError, match="is no file"):
        write_json(tmp_path, '{"answer": 1}', SHAPE)
    assert (tmp_path / "victim").read_text() == '{"answer": 0}'
    assert not (tmp_path / "new").exists()


def test_a_pipe_and_the_standard_output_are_written_to(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_json(tmp_path / "pipe", '{"answer": 1}', SHAPE)
    reader.join()
    assert read == ['{"answer": 1}']
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        print("before")
        write_json(name, '{"answer": 2}\n', SHAPE)
    assert capfd.readouterr().out == 'before\n{"answer": 2}\n' * 3
    write_json("/dev/null", "{}", SHAPE)


@pytest.mark.parametrize(
    ("place", "above"),
    [
        ("ens/x.json", "manifest.json shards/"),
        ("ens/deeper/x.json", "manifest.json ensemble.h5"),
        ("ens/x.json", '{"format_version": 1, "config": {}}'),
        ("ens/shards/x.json", "manifest.json shards/"),
        ("model/x.json", "model.json weights.npz"),
        ("link/x.json", "manifest.json shards/"),
        ("other/../ens/x.json", "manifest.json shards/"),
    ],
)
def test_nothing_goes_into_an_ensemble_or_a_model(tmp_path, place, above):
    home = tmp_path / ("model" if "model" in above else "ens")
    (tmp_path / "other").mkdir()
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    if above.startswith("{"):
        (home / "manifest.json").write_text(above)
    else:
        for name in above.split():
            (home / name).mkdir() if name.endswith("/") else (home / name).write_text("damaged")
    with pytest.raises(
        StorageError, match=f"would lie in .*{home.name}, which is an ensemble or a"
    ):
        check_json(tmp_path / place, SHAPE, new_folder=True)
    with pytest.raises(StorageError, match="would lie in"):
        check_page((tmp_path / place).with_suffix(".html"), "page")


def test_a_manifest_of_another_program_forbids_nothing(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    check_json(tmp_path / "x.json", SHAPE)


# Pages.


def drawn():
    with report.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
    return [("line", figure, "A line.")]


def test_a_page_and_its_figures_may_be_replaced_by_others(tmp_path):
    for title in ("first", "second"):
        report.write_page(tmp_path / "page.html", title=title, figures=drawn())
    assert "second" in (tmp_path / "page.html").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "line.png", "line.svg"}


def test_pages_and_figures_of_another_verb_stay(tmp_path):
    report.write_page(tmp_path / "page.html", title="first", verb="measure", figures=drawn())
    with pytest.raises(StorageError, match=r"page\.html exists and is not overwritten"):
        report.write_page(tmp_path / "page.html", title="second", verb="spectrum")
    with pytest.raises(StorageError, match=r"line\.png exists and is not overwritten"):
        report.write_page(tmp_path / "other.html", title="t", verb="spectrum", figures=drawn())


@pytest.mark.parametrize("name", ["page.html", "line.png", "line.svg"])
def test_pages_and_figures_of_others_stay(tmp_path, name):
    report.write_page(tmp_path / "page.html", title="first", figures=drawn())
    (tmp_path / name).write_text("<html>mine</html>")
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=f"{name} exists and is not overwritten"):
        report.write_page(tmp_path / "page.html", title="second", figures=drawn())
    assert contents(tmp_path) == before


def test_what_a_verb_writes_into_its_own_ensemble_is_not_asked_for(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "config": {}}')
    (tmp_path / "page.html").write_text("of an earlier version")
    with pytest.raises(StorageError, match="would lie in"):
        report.write_page(tmp_path / "page.html", title="first")
    report.write_page(tmp_path / "page.html", title="first", ours=True)
    assert "first" in (tmp_path / "page.html").read_text()


# Names.


def test_names_are_distinct_and_as_short_as_may_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct(["a/ens", "b/ens"]) == ["a-ens", "b-ens"]
    assert distinct(["a/x", "b/y"]) == ["x", "y"]
    assert distinct(["a/ens", "b/ens", "c"]) == ["a-ens", "b-ens", "c"]
    assert distinct(["a/ens", "./a/../a/ens", "b/y/"]) == ["ens", "ens", "y"]
    assert distinct(["s/a/ens", "t/a/ens"]) == ["s-a-ens", "t-a-ens"]
    assert distinct(["x/a-ens", "a/ens", "b/ens"]) == ["a-ens", "a-ens-2", "b-ens"]
    assert distinct(["x/Ens", "y/ens"]) == ["Ens", "ens-2"], "one name on some file systems"
    assert distinct([".", "a"]) == [tmp_path.name, "a"]
    assert distinct(["..", "/"]) == [tmp_path.parent.name, "root"]


# The verbs.


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


@pytest.mark.parametrize("shape", [s for s in output.__all__])
def test_no_manifest_or_config_is_taken_for_a_result(folder, shape):
    for text in (Path("a/ens/manifest.json").read_text(), '{"phi2": 1.0}', '{"a": {"phi2": 1.0}}'):
        assert not getattr(output, shape)(json.loads(text))


# Exports.


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
