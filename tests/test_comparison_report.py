"""`lattice-ml compare`: statuses, words, and a report that holds all that was found."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rows import each

from lattice_ml import cli, generate
from lattice_ml.jobs import config
from lattice_ml.report import figures
from lattice_ml.report.page import Mark, Table, write_page
from lattice_ml.storage import files

WORDS = ["--lattice.shape", "4", "4", "--action.kappa", "0.2", "--action.lam", "0.022"]
WORDS += ["--chain.n-chains", "64", "--chain.n-configs", "20", "--chain.n-thermalise", "50"]


def made(out, *words):
    return generate(config.parse([*WORDS, *words]), out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds, and one at another temperature that does not say so."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        made(folder / f"seed{seed}", "--seed", str(seed))
    made(folder / "wrong", "--action.kappa", "0.22", "--seed", "3")
    manifest = files.read_manifest(folder / "wrong")
    manifest["config"]["action"]["kappa"] = 0.2
    files.write_manifest(folder / "wrong", manifest)
    (folder / "wrong" / "ensemble.h5").unlink()
    return folder


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """The report on a right and a wrong candidate, its JSON, and the exit status."""
    out = tmp_path_factory.mktemp("report") / "new"
    words = [str(runs / name) for name in ("seed1", "seed2", "wrong")]
    status = cli.main(["compare", *words, "--out", str(out)])
    return out, json.loads((out / "report.json").read_text()), status


def test_a_wrong_candidate_is_rejected_and_a_right_one_is_not(report, runs):
    _, table, status = report
    assert status == 1 and table["accepted"] is False
    right, wrong = table["candidates"]
    assert right["accepted"] and not right["rejected_by"]
    assert {"observables", "two_point", "schwinger_dyson"} <= set(wrong["rejected_by"])
    assert right["label"] == str(runs / "seed2")
    assert abs(right["observables"]["phi2"]["z"]) < 4.5 < abs(wrong["observables"]["phi2"]["z"])
    assert right["n_configs"] == 1280 and 100 < right["n_effective"] < 2000
    assert right["seconds"] > 0 and right["n_effective_per_second"] > 0
    js = wrong["distributions"]["phi"]["jensen_shannon"]
    assert 0 < js["value"] < np.log(2) and js["error"] > 0
    assert right["observables"]["acceptance"]["p_value"] is None, "NaN is null"


def test_the_page_is_complete_in_itself_and_has_every_part(report):
    out, _, _ = report
    page = ET.fromstring((out / "report.html").read_text(encoding="utf-8"))
    captions = [" ".join(c.itertext()) for c in page.iter() if c.tag.endswith("caption")]
    for part in ("Verdict", "Observables", "Distributions", "Tests of", "Cumulants", "cost"):
        assert any(part in caption for caption in captions), part
    assert sum("Provenance of" in caption for caption in captions) == 3
    text = (out / "report.html").read_text()
    assert text.count("<svg") == 7 and "accepted" in text and "rejected" in text
    links = [v for e in page.iter() for k, v in e.attrib.items() if k.endswith(("href", "src"))]
    assert all(link.startswith(("#", "data:")) for link in links)
    drawn = {"observables", "distributions", "two_point", "schwinger_dyson"}
    drawn |= {"classifier", "configurations", "history"}
    names = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert {path.name for path in out.iterdir()} == names | {"report.html", "report.json"}


def test_a_right_candidate_alone_exits_zero_and_prints_the_table(runs, capsys):
    words = ["compare", str(runs / "seed1"), str(runs / "seed2")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "accepted: none of" in out and "correlation_length" in out and "two_point" in out


def test_the_exact_solution_is_a_reference(runs, tmp_path, capsys):
    """4 x 4 sites by the transfer matrix."""
    words = ["compare", "exact", str(runs / "seed1"), "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert "seed1 against exact: accepted" in capsys.readouterr().out
    table = json.loads((tmp_path / "report.json").read_text())
    assert table["reference"]["source"].startswith("transfer matrix with 7 nodes")
    assert table["candidates"][0]["observables"]["phi2"]["reference"]["error"] < 1e-6
    assert cli.main(["compare", "exact", str(runs / "wrong")]) == 1


def test_measured_values_are_a_reference(runs, tmp_path):
    values = str(tmp_path / "values.json")
    assert cli.main(["measure", str(runs / "seed1"), "--json", values]) == 0
    words = ["compare", "--reference-values", values]
    assert cli.main([*words, str(runs / "seed2")]) == 0
    assert cli.main([*words, str(runs / "wrong")]) == 1


@each(
    ("names", "more", "match"),
    [
        (["seed1"], [], "needs a reference"),
        ([], ["--reference-values", "x.json"], "needs a reference"),
        (["seed1", "seed2", "seed2"], [], "needs different ensembles"),
        (["seed1", "none"], [], "none"),
        (
            ["seed1", "seed2"],
            ["--reference-values", "none.json"],
            "cannot read none.json: No such file",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, names, more, match, capsys):
    words = ["compare", *(str(runs / name) for name in names), *more]
    assert cli.main(words) == 2
    assert match in capsys.readouterr().err


def test_another_lattice_is_refused_before_anything_is_written(runs, tmp_path, capsys):
    made(tmp_path / "other", "--lattice.shape", "4", "6", "--chain.n-configs", "4")
    words = ["compare", str(runs / "seed1"), str(runs / "seed2"), str(tmp_path / "other")]
    assert cli.main([*words, "--out", str(tmp_path / "report")]) == 2
    assert "the lattices differ" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_an_altered_ensemble_is_refused(runs, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(runs / "seed2", tmp_path / "copy")
    shard = next((copy / "shards").glob("*.h5"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert cli.main(["compare", str(runs / "seed1"), str(copy)]) == 2
    assert "is altered" in capsys.readouterr().err


def test_marks_are_words_and_classes_and_the_appendix_comes_last(tmp_path):
    path = tmp_path / "report.html"
    rows = [["a", Mark("rejected <", False)], ["b", Mark("accepted", True)]]
    drawn = figures.histogram(np.random.default_rng(3).normal(size=(4, 60)), name="$M$")
    write_page(
        path,
        title="t",
        tables=[Table("verdicts", ["name", "verdict"], rows)],
        figures=[("histogram", drawn, "caption")],
        appendix=[Table("last", ["x"], [["1"]])],
    )
    text = path.read_text()
    assert '<b class="bad">rejected &lt;</b>' in text and '<b class="good">accepted</b>' in text
    assert text.index("verdicts") < text.index("<figure>") < text.index("last")
