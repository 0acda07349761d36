"""The campaign of `benchmarks/bit_flips.py` in small: no flip passes; one that would is seen."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from lattice_ml.storage import intact, seals

pytestmark = pytest.mark.unoptimised

SOURCE = Path(__file__).parents[1] / "benchmarks" / "bit_flips.py"
SPEC = importlib.util.spec_from_file_location("bit_flips", SOURCE)
bit_flips = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bit_flips)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ensembles to be damaged."""
    folder = tmp_path_factory.mktemp("flips")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("empty.toml").touch()
        bit_flips.build(set())
    return folder


def campaign(n, only):
    names = [name for name in ("ensemble", "imported") if only.startswith(name)]
    return sum(bit_flips.campaign(names, only, n, seed=3).values(), Counter())


def test_no_flip_in_an_ensemble_changes_what_a_verb_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert campaign(60, "ensemble/[ms]*") == Counter(noticed=60), "the manifest and the shards"


def test_the_campaign_sees_what_passes_where_nothing_is_checked(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(seals, "check", lambda *args, **options: None)
    monkeypatch.setattr(intact, "verify", lambda path, wanted: None)
    found = campaign(15, "imported/manifest.json")
    assert found["SILENT"] + found["TRACEBACK"] > 2
    assert "byte" in capsys.readouterr().out
