"""The benchmark of phase classification: what must be blind is, what must see does."""

import json

import numpy as np
import pytest
from rows import each

from lattice_ml import cli
from lattice_ml.benches import phase_classification
from lattice_ml.benches.phase_classification import Settings, half_ordered
from lattice_ml.benches.record import Number


def test_half_of_the_configurations_are_ordered_between_two_couplings():
    shares = [Number(0.0, 0.0), Number(0.2, 0.02), Number(0.8, 0.04), Number(1.0, 0.0)]
    found = half_ordered([0.1, 0.2, 0.3, 0.4], shares)
    assert found.value == pytest.approx(0.25)
    assert found.error == pytest.approx(0.1 * np.hypot(0.5 * 0.02, 0.5 * 0.04) / 0.6)
    assert half_ordered([0.1, 0.2], shares[:2]) is None
    assert half_ordered([0.1, 0.2], shares[:1:-1]) is None
    assert half_ordered([0.1, 0.2, 0.3, 0.4], [*shares[1:3], *shares[1:3]]) is None, "twice"


@each(
    ("changes", "match"),
    [
        ({"kappas": (0.2,)}, "at least two, rising"),
        ({"kappas": (0.3, 0.2)}, "at least two, rising"),
        ({"near": (0.2, 0.25)}, r"near must be two of kappas \(0.2, 0.3\), got \(0.2, 0.25\)"),
        ({"n_data": 100}, "multiple of 64, at least 128, got 100"),
        ({"classifiers": ("forest",)}, "unknown classifiers: forest"),
    ],
)
def test_settings_are_refused(changes, match):
    good = {"kappas": (0.2, 0.3), "near": (0.2, 0.3), "lam": 0.02, "extents": (4,), "n_data": 128}
    Settings(**good)
    with pytest.raises(ValueError, match=match):
        Settings(**(good | changes))


def test_the_toy_tells_phases_apart_and_what_is_linear_in_phi_cannot(tmp_path):
    pytest.importorskip("matplotlib")
    words = ["bench", "phase_classification", "--size", "toy", "--out", str(tmp_path)]
    assert cli.main([*words, "--json", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["phase_classification"]["rows"]
    found = {row["classifier"]: row for row in rows}
    assert list(found) == list(phase_classification.CLASSIFIERS)
    blind = found.pop("fields")
    assert abs(blind["far"]["value"] - 0.5) < 4.5 * blind["far"]["error"] < 0.2
    for name, row in found.items():
        assert row["far"]["value"] > 0.999 and row["near"]["value"] > 0.9, name
        assert row["kappas"][0] < row["half_ordered"]["value"] < row["kappas"][-1], name
        assert row["shares"][0]["value"] < 0.05 and row["shares"][-1]["value"] > 0.95, name
        assert row["roc"][-1] == 1 and all(np.diff(row["roc"]) >= 0)
    assert (tmp_path / "phase_classification_8.png").stat().st_size > 10_000
