"""What `check` leaves open: whatever could not be tested never passes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from checked_runs import SHAPE, one, part, phi4, run, verdicts
from synthetic import ar1

import lattice_ml
from lattice_ml import cli
from lattice_ml.analysis.certificates import Certificate, check, verdict
from lattice_ml.chains.failures import Doubt
from lattice_ml.chains.run import Chains

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def symmetric():
    return run(phi4(0.25))


def slow(n_chains, n_configs, tau):
    """Independent sites with a slow mean: M is an AR(1) process in Monte Carlo time."""
    free = np.random.default_rng(1).standard_normal((n_configs, n_chains, 8, 8)) / math.sqrt(2)
    free -= free.mean(axis=(2, 3), keepdims=True)
    mean = ar1(2, (n_chains, n_configs), math.exp(-1 / (2 * tau))).T / math.sqrt(2 * 64)
    cfgs = free + mean[:, :, None, None]
    histories = {"magnetisation": mean.T}
    return Chains(phi4(0.0, 0.0), (8, 8), 1, cfgs.reshape(-1, 8, 8), histories, {})


def test_chains_shorter_than_their_slowest_mode_are_not_compared():
    short = slow(64, 200, 40.0)
    found = one(short, "chains_agree")
    assert found.verdict == "undecided"
    assert found.meaning.startswith("chains are shorter than 20 tau_int of M^2, and one that is ")
    assert verdict(check(short)) == "undecided"


@pytest.mark.parametrize("n_chains", [1, 16])
def test_a_double_well_that_chains_do_not_cross_never_passes(n_chains):
    """Every chain keeps the two walls that it begins with: <phi^2> is off by many errors."""
    wells = lattice_ml.action("standard", 1, mass_squared=-12.0, g=1.0)
    with pytest.warns(Doubt, match="is high: chains stay for long in the wells"):
        walls = 1.6 * np.repeat([1.0, -1.0], 8)[None]
        counts = {"n_chains": n_chains, "n_configs": 300, "n_thermalise": 100}
        found = run(wells, (16,), start=walls, **counts)
    assert verdict(check(found)) != "pass"
    assert one(found, "cluster_signs").verdict != "pass"


def test_the_slowest_quantity_must_be_judged_too():
    """The first of one chain of 60 tau: phi^2 and S could be judged, M^2 could not."""
    short = slow(1, 600, 5.0)
    found = verdicts(short)
    assert "halves_agree" in found["undecided"] and not found["fail"]
    assert one(short, "halves_agree").meaning == (
        "the chains are too short, or too few, to judge the mean of M^2: run longer"
    )


def test_a_single_configuration_is_undecided(symmetric):
    found = verdicts(part(symmetric, 1, 1))
    assert found["fail"] == set()
    assert {"schwinger_dyson", "cluster_signs", "halves_agree"} <= found["undecided"]
    assert verdict(check(part(symmetric, 1, 1))) == "undecided"


def test_one_configuration_per_chain_is_undecided(symmetric):
    found = verdicts(part(symmetric, 32, 1))
    assert found["fail"] == set()
    assert {"chains_agree", "halves_agree"} <= found["undecided"]
    reason = "there is one configuration per chain: run longer"
    assert one(part(symmetric, 32, 1), "chains_agree").meaning == reason


@pytest.mark.parametrize("signs", [1, -1])
@pytest.mark.parametrize("keep", [True, False])
def test_a_run_in_which_nothing_moved_is_undecided(symmetric, signs, keep):
    """Equilibrium was where it began, all trajectories were rejected, and signs were flipped."""
    first = part(symmetric, 32, 1)
    flips = np.resize([1, signs], 100).astype(np.float32)
    cfgs = first.cfgs * flips[:, None, None, None]
    histories = {name: np.repeat(series, 100, axis=1) for name, series in first.histories.items()}
    histories |= {"magnetisation": histories["magnetisation"] * flips}
    still = replace(first, cfgs=cfgs.reshape(-1, *SHAPE), histories=histories)
    if not keep:
        still = replace(still, cfgs=still.cfgs[:0])
    found = {c.name: c for c in check(still)}
    for name in ("chains_agree", "halves_agree"):
        assert found[name].verdict == "undecided"
        assert found[name].meaning == "nothing moved: no chain has left its first configuration"


def test_together_certificates_fail_before_they_are_undecided_and_pass_last(symmetric):
    def of(*verdicts):
        return verdict(Certificate("any", v, "", math.nan, "") for v in verdicts)

    assert of("pass", "not applicable") == "pass"
    assert of("pass", "undecided") == "undecided"
    assert of("pass", "undecided", "fail") == "fail"
    assert of("not applicable") == of() == "undecided", "nothing was tested"
    wrong = replace(symmetric, action=phi4(0.3))
    short = part(wrong, 32, 6)
    found = verdicts(short)
    assert "schwinger_dyson" in found["fail"] and "chains_agree" in found["undecided"]
    assert verdict(check(short)) == "fail"


def test_what_seems_wrong_with_long_tailed_weights_is_left_open(symmetric):
    """They make right averages as improbable: 1 in 10 of narrow Gaussian draws was refused."""
    noise = np.random.default_rng(1).standard_normal(symmetric.series("phi2").shape)
    wrong = replace(symmetric, action=phi4(0.3))
    found = {}
    for width in (0.1, 2.0):
        object.__setattr__(wrong, "log_weight", width * noise)
        found[width] = one(wrong, "schwinger_dyson")
    assert found[0.1].verdict == "fail"
    assert found[2.0].verdict == "undecided" and "allowed is k < 0.25" in found[2.0].meaning


# ------------------------------------------------------------------------- the command


THEORY = ["--action.convention", "kappa", "--action.kappa", "0.0", "--action.lam", "0.0"]


@pytest.fixture
def imported(tmp_path, monkeypatch, capsys):
    """Independent draws of exp(-sum phi^2): six, and two chains of 200 with one sign of M."""
    monkeypatch.chdir(tmp_path)
    fields = np.random.default_rng(1).normal(0, math.sqrt(0.5), (400, 4, 4))
    np.save("few.npy", fields[:6])
    np.save("wrong.npy", fields * np.sign(fields.mean(axis=(1, 2), keepdims=True)))
    for name, n_chains in (("few", "1"), ("wrong", "2")):
        words = ["import", f"{name}.npy", "--out", name, "--n-chains", n_chains, *THEORY]
        assert cli.main(words) == 0
    capsys.readouterr()
    return tmp_path


def test_check_says_undecided_and_what_to_do(imported, capsys):
    assert cli.main(["check", "few", "--json", "few.json"]) == 4
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == "few: undecided: schwinger_dyson, cluster_signs, halves_agree, z2_balance"
    assert sum(line.startswith("  undecided ") for line in lines) == 4
    assert "run longer (the same command with more chain.n_configs), with more chains" in last
    *tests, together = json.loads((imported / "few.json").read_text())["few"]
    assert len(tests) == len(lines) and all(test["name"] != "verdict" for test in tests)
    assert (together["name"], together["verdict"]) == ("verdict", "undecided")
    assert together["value"] == first.removeprefix("few: undecided: ")


@pytest.mark.parametrize("order", [["few", "wrong"], ["wrong", "few"]])
def test_one_that_fails_decides_the_status_over_one_that_is_undecided(imported, capsys, order):
    assert cli.main(["check", *order]) == 1
    out = capsys.readouterr().out
    assert "wrong: FAILED z2_balance" in out and "few: undecided: " in out
