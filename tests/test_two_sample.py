"""The classifier two-sample test: its p-values, its halves, and what it says in a comparison."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from test_comparison import verdicts

from lattice_ml import FreeField, compare
from lattice_ml.chains.run import Chains
from lattice_ml.comparison import two_sample
from lattice_ml.comparison.sides import Fields, gather_side
from lattice_ml.comparison.two_sample import tell_apart
from lattice_ml.report import comparison


def side(phi, stretch, log_weights=None, action=None):
    """What the test asks of an ensemble."""
    ensemble = SimpleNamespace(action=action)
    fields = Fields(phi, stretch, log_weights)
    return SimpleNamespace(fields=fields, n_stretches=int(stretch.max()) + 1, ensemble=ensemble)


@pytest.fixture
def first_site(monkeypatch):
    """A network that has learned to look at the first site; what it was shown is kept."""
    shown = []
    monkeypatch.setattr(
        two_sample, "fit_cnn", lambda *data, **options: shown.append((data, options))
    )
    monkeypatch.setattr(two_sample, "log_odds", lambda network, phi: phi[:, 0].astype(float))
    return shown


def test_p_values_of_correlated_configurations_are_uniform(first_site):
    """16 and 40 stretches of 8 configurations, half of whose variance they share."""
    rng, p_values = np.random.default_rng(1), []

    def draw(n):
        common = np.repeat(rng.normal(size=(n, 1)), 8, axis=0)
        return side(common + rng.normal(size=(8 * n, 1)), np.repeat(np.arange(n), 8))

    for _ in range(1000):
        p_values.append(tell_apart(draw(16), draw(40)).area.p_value)
    low = np.array([np.mean(np.less(p_values, level)) for level in (0.5, 0.1, 0.01, 0.001)])
    allowed = np.array([0.5, 0.1, 0.01, 0.001])
    assert np.all(low < allowed + 4 * np.sqrt(allowed / 1000))
    assert low[0] > 0.4 and low[1] > 0.06


def test_no_arrangement_of_few_stretches_is_rarer_than_it_is(first_site):
    stretch = np.repeat(np.arange(16), 4)
    apart = [side(np.full((64, 1), x), stretch) for x in (0.0, 1.0)]
    found = tell_apart(*apart).area
    assert found.value == 1 and found.p_value == 1 / math.comb(16, 8)


def test_halves_share_no_stretch_and_weights_go_to_both(first_site):
    rng = np.random.default_rng(2)
    stretch = np.arange(20).repeat(5)
    phi = np.stack([rng.normal(size=100), stretch], axis=1)
    logs = rng.normal(size=100)
    found = tell_apart(side(phi, stretch, action=FreeField(1.0, 1)), side(phi, stretch, logs))
    (_, fields, labels, weights), options = first_site[0]
    assert len(fields) == 100 and labels.tolist() == [0] * 50 + [1] * 50
    assert np.all(weights[:50] == 1)
    trained = set(fields[:, 1])
    assert len(trained) == 10 and options == {"even": True}
    log_of = dict(zip(phi[:, 0], logs, strict=True))
    expected = np.exp([log_of[x] - logs.max() for x in fields[50:, 0]])
    assert np.allclose(weights[50:], expected)
    judged = ~np.isin(stretch, list(trained))
    w = np.exp(logs[judged])
    above = [
        np.sum(w[phi[judged, 0] > x]) + np.sum(w[phi[judged, 0] == x]) / 2 for x in phi[judged, 0]
    ]
    assert found.area.value == pytest.approx(np.mean(above) / w.sum())


def test_too_few_stretches_are_not_judged_and_nothing_without_configurations():
    few = [verdicts.free_field((4, i), 9, 8, 0.0) for i in range(2)]
    test = next(t for t in compare(*few).tests if t.name == "classifier")
    assert test.verdict == "not applicable"
    assert "fewer than 16 independent stretches" in test.meaning
    sides = [gather_side(one) for one in few]
    bare = SimpleNamespace(fields=None)
    assert tell_apart(sides[0], bare) is None and tell_apart(bare, sides[0]) is None


def test_what_no_mean_shows_is_found_by_the_network(tmp_path):
    """Neighbours are correlated along one axis; in the candidate along the other."""
    pytest.importorskip("matplotlib")
    made = []
    for axis, seed in ((1, 5), (2, 6)):
        noise = np.random.default_rng(seed).normal(size=(1024, 8, 8))
        phi = noise + 0.2 * np.roll(noise, 1, axis)
        history = {"magnetisation": phi.mean(axis=(1, 2)).reshape(-1, 64).T}
        made.append(Chains(None, (8, 8), 1, phi.astype(np.float32), history, {}))
    found = compare(*made)
    assert found.rejected_by == ["classifier"]
    assert found.told_apart.area.value > 0.6
    comparison.write([found], tmp_path)
    table = json.loads((tmp_path / "report.json").read_text())["candidates"][0]
    assert table["classifier"]["value"] == found.told_apart.area.value
    assert (tmp_path / "classifier.png").stat().st_size > 5000
    assert "classifier" in str(found)
    assert compare(*made, classifier=False).accepted
