"""Results replace results of their own kind and nothing else, and never go into an ensemble."""

import json
import os
import threading

import numpy as np
import pytest
from rows import each

from lattice_ml.report import page
from lattice_ml.runtime import results
from lattice_ml.runtime.results import check_json, check_page, distinct, write_json
from lattice_ml.runtime.writing import StorageError

SHAPE = results.has_keys("answer")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawn():
    with page.style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
    return [("line", figure, "A line.")]


def test_a_result_may_be_replaced_by_its_own_kind(tmp_path):
    file = tmp_path / "file.json"
    for values in ({"answer": 1}, {"answer": 2, "more": 3}, {"answer": 42}):
        write_json(file, values, SHAPE)
    assert file.read_text() == '{\n "answer": 42\n}\n'
    file.write_text("")
    write_json(file, {"answer": 1}, SHAPE)


def test_what_json_has_no_word_for_is_null_or_a_list(tmp_path):
    values = {"answer": np.float32(0.5), "rows": (np.array([1.0, np.nan]), [float("inf"), 2, None])}
    write_json(tmp_path / "file.json", values, SHAPE)
    written = json.loads((tmp_path / "file.json").read_text())
    assert written == {"answer": 0.5, "rows": [[1.0, None], [None, 2, None]]}


@each("content", [b"notes", b"{}", b"[1]", b'{"question": 1}', b"\xff\xfe", b"[" * 100_000, b"1"])
def test_anything_else_is_not_replaced(tmp_path, content):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        write_json(file, {"answer": 1}, SHAPE)
    assert file.read_bytes() == content


def test_links_and_folders_are_refused(tmp_path):
    (tmp_path / "victim").write_text('{"answer": 0}')
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("link", "dangling"):
        with pytest.raises(StorageError, match="is a link and is not followed"):
            write_json(tmp_path / name, {"answer": 1}, SHAPE)
    with pytest.raises(StorageError, match="is no file"):
        write_json(tmp_path, {"answer": 1}, SHAPE)
    assert (tmp_path / "victim").read_text() == '{"answer": 0}'
    assert not (tmp_path / "new").exists()


def test_a_pipe_and_the_standard_output_are_written_to(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_json(tmp_path / "pipe", {"answer": 1}, SHAPE)
    reader.join()
    assert read == ['{\n "answer": 1\n}\n']
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        print("before")
        write_json(name, {"answer": 2}, SHAPE)
    assert capfd.readouterr().out == 'before\n{\n "answer": 2\n}\n' * 3
    write_json("/dev/null", {}, SHAPE)


@each(
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


def test_a_page_and_its_figures_may_be_replaced_by_others(tmp_path):
    for title in ("first", "second"):
        page.write_page(tmp_path / "page.html", title=title, figures=drawn())
    assert "second" in (tmp_path / "page.html").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "line.png", "line.svg"}


def test_pages_and_figures_of_another_verb_stay(tmp_path):
    page.write_page(tmp_path / "page.html", title="first", verb="measure", figures=drawn())
    with pytest.raises(StorageError, match=r"page\.html exists and is not overwritten"):
        page.write_page(tmp_path / "page.html", title="second", verb="spectrum")
    with pytest.raises(StorageError, match=r"line\.png exists and is not overwritten"):
        page.write_page(tmp_path / "other.html", title="t", verb="spectrum", figures=drawn())


@pytest.mark.parametrize("name", ["page.html", "line.png", "line.svg"])
def test_pages_and_figures_of_others_stay(tmp_path, name):
    page.write_page(tmp_path / "page.html", title="first", figures=drawn())
    (tmp_path / name).write_text("<html>mine</html>")
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=f"{name} exists and is not overwritten"):
        page.write_page(tmp_path / "page.html", title="second", figures=drawn())
    assert contents(tmp_path) == before


def test_what_a_verb_writes_into_its_own_ensemble_is_not_asked_for(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format_version": 1, "config": {}}')
    (tmp_path / "page.html").write_text("of an earlier version")
    with pytest.raises(StorageError, match="would lie in"):
        page.write_page(tmp_path / "page.html", title="first")
    page.write_page(tmp_path / "page.html", title="first", ours=True)
    assert "first" in (tmp_path / "page.html").read_text()


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
