"""Names that somebody else has chosen reach terminal, page and figure without being obeyed."""

import io
import json
import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import h5py
import numpy as np
import pytest
import verbs

from lattice_ml import comparison
from lattice_ml.comparison import verdict
from lattice_ml.jobs.exchange import import_array
from lattice_ml.report import page
from lattice_ml.runtime import progress, session
from lattice_ml.runtime.printable import say, shown
from lattice_ml.storage import files
from lattice_ml.storage.config_file import write_config
from lattice_ml.storage.ensemble import open_ensemble

ESCAPE, FORGED, TURNED = "\x1b[2J", "a\nb: passed", "\u202efdp"
NO_TEXT = os.fsdecode(b"\xff")
NASTY = f"_{ESCAPE}{FORGED}{TURNED}{NO_TEXT}$\\frac$ [red]\u65e5\x9b<&"


def test_what_is_not_printable_is_shown_by_its_number():
    assert shown("M\u00fcller \u03ba [x] $y$ \u65e5") == "M\u00fcller \u03ba [x] $y$ \u65e5"
    assert shown(ESCAPE + FORGED) == "\\x1b[2Ja\\nb: passed"
    assert shown(TURNED + NO_TEXT + "\x9b\x7f\u2028\ufffe\u200b") == (
        "\\u202efdp\\xff\\x9b\\x7f\\u2028\\ufffe\\u200b"
    )
    assert shown(Path(ESCAPE)) == "\\x1b[2J"
    every = "".join(map(chr, range(0x110000)))
    assert shown(every).isprintable()


def test_a_line_stays_one_and_fits_the_terminal():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("one\ntwo", "\u03ba", file=file)
    assert file.buffer.getvalue() == b"one\\ntwo\n\\u03ba\n"


def test_a_name_in_a_figure_is_no_formula_and_not_hidden(tmp_path):
    from matplotlib.figure import Figure

    assert page.in_figure("runs/kappa=0.27") == "runs/kappa=0.27"
    assert page.in_figure("\u65e5") == "\\u65e5", "the font has no such sign"
    figure = Figure()
    axis = figure.subplots()
    for name in (NASTY, "$\\frac$", "a\\$b$"):
        axis.plot([0, 1], label=page.in_figure(name))
    axis.set_title(page.in_figure(NASTY))
    legend = axis.legend()
    assert len(legend.get_texts()) == 3
    page.write_page(tmp_path / "p.html", title=NASTY, figures=[("f", figure, NASTY)])
    ET.parse(tmp_path / "p.html")
    ET.parse(tmp_path / "f.svg")


def test_every_text_of_a_page_is_escaped(tmp_path):
    table = page.Table(NASTY, [NASTY, "b"], [[NASTY, page.Mark(NASTY, True)]])
    summary = [(NASTY, Path(NASTY))]
    page.write_page(tmp_path / "p.html", title=NASTY, summary=summary, tables=[table])
    text = "".join(ET.parse(tmp_path / "p.html").getroot().itertext())
    assert text.count(shown(NASTY)) == 8


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Two ensembles below folders with such names, with nasty words in provenance and histories."""
    folder = tmp_path_factory.mktemp("printable")
    section = {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.1}
    for seed, name in enumerate((NASTY, f"2{NASTY}")):
        file = folder / f"{seed}{NASTY}.npy"
        np.save(file, np.random.default_rng(seed).normal(size=(160, 4, 4)))
        import_array(
            file,
            folder / name,
            config={"action": section},
            provenance={"said": NASTY},
            n_chains=4,
        )
    return folder


@pytest.fixture(autouse=True)
def in_folder(ensembles, monkeypatch):
    monkeypatch.chdir(ensembles)


def run(capsys, *words):
    """Status and output of a command, nothing of which is obeyed by a terminal."""
    status, out, err = verbs.run(capsys, *words)
    assert (out + err).replace("\n", "").isprintable()
    assert "\nb: passed" not in out + err
    return status, out, err


def test_measure_and_its_page(capsys, ensembles):
    status, out, err = run(capsys, "measure", NASTY, "--json", "m.json", "--out", "measured")
    assert (status, err) == (0, "")
    assert out.startswith(shown(NASTY) + "\n")
    assert list(json.loads(Path("m.json").read_text())) == [NASTY], "the name itself"
    title = f"Ensemble {shown(NASTY)}"
    assert title in "".join(ET.parse("measured/index.html").getroot().itertext())


def test_check_and_info(capsys):
    status, out, _ = run(capsys, "check", NASTY, "--json", "c.json")
    assert status in (0, 1, 4) and out.startswith(shown(NASTY) + ": ")
    status, out, _ = run(capsys, "info", NASTY)
    assert status == 0
    assert f"said = {shown(NASTY)}" in out and f"imported = 0{shown(NASTY)}.npy" in out


def test_compare_and_its_page(capsys):
    words = ["compare", NASTY, f"2{NASTY}", "--no-classifier", "--out", "compared"]
    status, out, err = run(capsys, *words)
    assert status in (0, 1) and err == ""
    assert out.startswith(f"2{shown(NASTY)} against {shown(NASTY)}: ")
    for file in Path("compared").iterdir():
        if file.suffix in (".html", ".svg"):
            ET.parse(file)
    assert json.loads(Path("compared/report.json").read_text())["accepted"] == (status == 0)


def test_errors_stay_one_line(capsys):
    for words in (["measure", f"absent{NASTY}"], [NASTY], ["info", f"absent{NASTY}"]):
        status, out, err = run(capsys, *words)
        assert (status, out, err.count("\n")) == (2, "", 1)


def test_names_of_histories(capsys, tmp_path):
    """HDF5 takes any name; `info` lists them."""
    copy = Path(shutil.copytree(NASTY, tmp_path / "copy"))
    manifest = files.read_manifest(copy)
    shard = copy / "shards" / manifest["shards"][0]["file"]
    with h5py.File(shard, "a") as file:
        file[f"history/{ESCAPE}\n"] = np.zeros(len(file["chain"]))
        chain = file["chain"][:]
    manifest["shards"][0] = files.entry(shard, 0, chain)
    files.write_manifest(copy, manifest)
    status, out, _ = run(capsys, "info", str(copy))
    assert status == 0 and "\\x1b[2J\\n" in out


def test_progress_shows_the_name_and_no_more(capsys):
    with progress.Reporter(NASTY) as reporter:
        reporter(session.Progress("production", 3, 3, {}))
    assert capsys.readouterr().err.startswith(f"{shown(NASTY)} production 3/3")


def test_two_candidates_of_one_name_are_told_apart():
    reference, candidate = (open_ensemble(name) for name in (NASTY, f"2{NASTY}"))
    found = comparison.compare(reference, candidate, classifier=False)
    labels = [c.candidate.label for c in verdict.labelled([found] * 3)]
    assert labels == [f"2{shown(NASTY)}{more}" for more in ("", " (2)", " (3)")]


def test_a_config_with_signs_beyond_the_plane_reads_again(tmp_path):
    config = {"seed": 1, "chain": {"start": "runs/\U0001f600 \x1b"}}
    write_config(tmp_path, config)
    import tomllib

    assert tomllib.loads((tmp_path / "config.toml").read_text()) == config
