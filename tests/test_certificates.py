"""Correct ensembles pass `check`, whatever they are; what each certificate looks at."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from checked_runs import NAMES, one, part, phi4, run, verdicts
from users_actions import SineGordon

import lattice_ml
from lattice_ml import FreeField, Lattice
from lattice_ml.analysis.certificates import Certificate, check, evidence, movement, suite
from lattice_ml.chains.run import Chains
from lattice_ml.storage.run import open_run

pytestmark = pytest.mark.unoptimised


SHAPE = (16, 16)


@pytest.fixture(scope="module")
def symmetric():
    return run(phi4(0.25))


def store(directory, ensemble, action, *, keep=True, log_weight=None):
    """Write an ensemble in memory as if it had been generated with the config's `action`."""
    config = {
        "lattice": {"shape": list(ensemble.shape)},
        "action": action,
        "chain": {"n_chains": ensemble.n_chains},
        "output": {"dtype": "float32"},
    }
    cfgs = ensemble.cfgs.reshape(-1, ensemble.n_chains, *ensemble.shape)
    history = {name: series.T for name, series in ensemble.histories.items()}
    with open_run(directory, config, provenance={}) as stored:
        trajectory = np.arange(len(cfgs))
        weight = None if log_weight is None else log_weight.T
        stored.append(trajectory, cfgs if keep else None, history, {}, log_weight=weight)
    return lattice_ml.open_ensemble(directory)


# ------------------------------------------------------------------- correct ensembles pass


@pytest.mark.parametrize(
    ("kappa", "start"),
    [(0.21, "hot"), (0.2705, "hot"), (0.3, "cold"), (0.5, "cold")],  # hot at 0.5 leaves stripes
)
def test_both_phases_and_the_critical_point_pass(kappa, start):
    assert verdicts(run(phi4(kappa), start=start))["pass"] == NAMES


@pytest.mark.parametrize(
    ("action", "shape", "settings"),
    [
        (phi4(0.19, 0.9, ndim=3), (6, 6, 4), {}),
        (phi4(0.4, 1.0, ndim=1), (32,), {}),
        (FreeField(0.25, 2), (8, 8), {"dtype": "float64"}),
        (FreeField(0.5, 2), (2, 3), {"thin": 3}),
    ],
    ids=["3d", "1d", "free float64", "extents of 2 and 3, thinned"],
)
def test_other_dimensions_actions_and_types_pass(action, shape, settings):
    several = {"rejections"} if "thin" in settings else set()  # proposals per configuration
    assert verdicts(run(action, shape, **settings))["pass"] == NAMES - several


def test_a_single_chain_passes_what_a_single_chain_can_show():
    single = run(phi4(0.2), n_chains=1, n_configs=800)
    assert verdicts(single) == {
        "pass": NAMES - {"chains_agree", "chains_independent", "movement"},
        "fail": set(),
        "undecided": set(),
        "not applicable": {"chains_agree", "chains_independent", "movement"},
    }
    assert one(single, "chains_agree").meaning == "there is a single chain"


def test_a_reweighted_ensemble_passes_with_its_weights_alone(tmp_path, symmetric):
    """From kappa = 0.25 to 0.254: log w = 2 (0.254 - 0.25) sum phi phi'."""
    target = {"kind": "Phi4", "convention": "kappa", "kappa": 0.254, "lam": 0.022}
    log_weight = 2 * 0.004 * 256 * symmetric.series("link_sum")
    plain = replace(symmetric, histories={"link_sum": symmetric.series("link_sum")})
    ensemble = store(tmp_path, plain, target, log_weight=log_weight)
    assert not verdicts(ensemble)["fail"]
    assert verdicts(ensemble, weights=False)["fail"] == {"schwinger_dyson"}


def of_free_sites(n, mass_squared, told):
    """Independent Gaussian sites, weighted to a free field of the mass squared `told`."""
    free = FreeField(told, 2)
    cfgs = np.random.default_rng(5).normal(size=(n, 2, 2)) / math.sqrt(mass_squared)
    density = 2 * math.log(mass_squared / (2 * math.pi)) - mass_squared / 2 * np.sum(
        cfgs**2, axis=(1, 2)
    )
    action = evidence.measure_configurations(free, cfgs)["action"]
    weights = {"log_weight": (-action - density)[None], "log_prob": density[None]}
    return Chains(free, (2, 2), 1, cfgs, {"action": action[None]}, {}, **weights)


def test_weights_that_leave_a_handful_are_undecided():
    """Narrow draws of a wide field: what is averaged rests on few, whatever the other tests say."""
    wide, narrow = (of_free_sites(2000, m, 4.0) for m in (6.0, 60.0))
    passed, undecided = one(wide, "weights"), one(narrow, "weights")
    assert passed.verdict == "pass" and "2000 samples are worth 1" in passed.value
    assert undecided.verdict == "undecided" and math.isnan(undecided.p_value)
    assert "2000 samples are worth" in undecided.meaning and "k < 0.7" in undecided.meaning
    ignored = next(c for c in check(narrow, weights=False) if c.name == "weights")
    assert (ignored.verdict, ignored.meaning) == (
        "not applicable",
        "all configurations count alike",
    )


def test_weights_that_are_not_those_of_the_density_fail():
    made = of_free_sites(500, 6.0, 4.0)
    changed = made.log_weight.copy()
    changed[0, 7] += 0.5
    found = one(replace(made, log_weight=changed), "weights")
    assert found.verdict == "fail" and "; 1 of them differ from -S - log q" in found.value


def test_an_import_passes_without_histories(tmp_path, symmetric):
    np.save(tmp_path / "cfgs.npy", symmetric.cfgs)
    action = {"kind": "Phi4", "convention": "kappa", "kappa": 0.25, "lam": 0.022}
    ensemble = lattice_ml.import_array(
        tmp_path / "cfgs.npy", tmp_path / "imported", config={"action": action}, n_chains=32
    )
    without = {"exp_minus_dh", "acceptance", "histories_agree", "rejections", "steps"}
    found = verdicts(ensemble)
    assert found["pass"] == NAMES - without and found["not applicable"] == without
    assert one(ensemble, "exp_minus_dh").meaning == "there is no history of exp_minus_dh"


def test_a_run_that_kept_no_configurations_is_judged_by_its_histories(tmp_path, symmetric):
    action = {"kind": "Phi4", "convention": "kappa", "kappa": 0.25, "lam": 0.022}
    ensemble = store(tmp_path / "right", symmetric, action, keep=False)
    without = {"histories_agree", "repeats", "cluster_signs", "amplitudes", "copies"}
    without |= set(movement.TESTS)
    found = verdicts(ensemble)
    assert found["pass"] == NAMES - without and found["not applicable"] == without
    assert "at all momenta" in one(ensemble, "schwinger_dyson").value
    wrong = {n: 1.02 * symmetric.series(n) for n in ("schwinger_dyson", *symmetric.history)}
    ensemble = store(tmp_path / "wrong", replace(symmetric, histories=wrong), action, keep=False)
    assert "schwinger_dyson" in verdicts(ensemble)["fail"]


@pytest.fixture(scope="module")
def false_alarms():
    path = Path(__file__).parents[1] / "benchmarks" / "false_alarms.py"
    spec = importlib.util.spec_from_file_location("false_alarms", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def test_correct_draws_are_refused_as_rarely_as_stated(false_alarms):
    """The benchmark in small: p-values are neither too small nor too large."""
    p_values = []
    for case in ((64, 100, 2.0), (4, 500, 2.0), (1, 1000, 0.0)):
        tally = false_alarms.Tally()
        assert not list(false_alarms.judge(false_alarms.draws(*case), 12, tally))
        assert (tally.n, tally.undecided) == (12, 0)
        p_values += tally.p_values
    assert 0.03 < np.mean(np.less(p_values, 0.1)) < 0.13
    assert np.mean(np.less(p_values, 0.01)) < 0.03


def test_p_values_of_skewed_averages_are_uniform():
    """The mean of 128 squares of normals: Student's t alone gives p < 0.01 twice too often."""
    draws = np.random.default_rng(1).chisquare(1, (4000, 128, 1)) - 1
    p_values = [suite._zero(delta).p_value for delta in draws]
    assert 20 < np.sum(np.less(p_values, 0.01)) < 60


def test_a_handful_of_short_chains_is_not_judged():
    """Of 8 chains of one square each, 2 in 100 seem far from their mean with p < 1e-3."""
    draws = np.random.default_rng(2).chisquare(1, (1000, 32, 2)) - 1
    assert all(math.isnan(suite._zero(delta).p_value) for delta in draws[:9, :31])
    assert all(math.isnan(suite._zero(delta).p_value) for delta in draws[:9, :8, :1])
    p_values = [suite._zero(delta).p_value for delta in draws]
    assert np.sum(np.less(p_values, 0.001)) < 8
    long = np.random.default_rng(3).standard_normal((8, 100))
    assert suite._zero(long).p_value > 1e-3


def test_the_benchmark_of_false_alarms_runs(false_alarms, monkeypatch, capsys):
    monkeypatch.setattr(false_alarms, "use_all_cores", lambda: None)
    monkeypatch.setattr(false_alarms, "PORTION", 2)
    monkeypatch.setattr(false_alarms, "DRAWS", [(64, 50, 1.0)])
    monkeypatch.setattr(false_alarms, "SMOOTH", [])
    monkeypatch.setattr(false_alarms, "ISING", [((2, 2), 0.3, 10.0, "cold")])
    clock = SimpleNamespace(monotonic=iter([0.0, 1.0, 2.0, 61.0]).__next__)
    monkeypatch.setattr(false_alarms, "time", clock)
    assert false_alarms.main(["--minutes", "1", "--only", "exact draws", "HMC+Wolff"]) == 0
    out = capsys.readouterr().out
    assert "| HMC+Wolff: 2 x 2, kappa 0.3, lam 10, 64 x 100 | 2 | 0 | 0 |" in out
    assert "0 of 4 correct ensembles refused" in out


# ------------------------------------------------------------------- what is looked at


def test_schwinger_dyson_terms_of_a_users_action_are_those_of_the_full_transform():
    action, shape = SineGordon(1.5, mass_squared=0.5), (11, 13)
    lattice = Lattice(shape)
    cfgs = np.random.default_rng(1).standard_normal((6, *shape))
    found = evidence.gather(
        Chains(action, shape, 1, cfgs, {"any": np.zeros((2, 3))}, {})
    ).schwinger_dyson
    gradient = np.asarray(jax.vmap(jax.grad(action))(cfgs))
    modes, forces = (np.fft.fft2(x).reshape(6, -1) for x in (cfgs, gradient))
    terms = (modes.conj() * forces).real / lattice.volume
    values, shell = lattice.shells
    assert len(found) == 33 < len(values)
    for i in range(16):
        expected = terms[:, shell.ravel() == i].mean(axis=1)
        np.testing.assert_allclose(list(found.values())[i].T.ravel(), expected, rtol=1e-9)
    np.testing.assert_allclose(found["all momenta"].T.ravel(), terms.mean(axis=1), rtol=1e-9)
    sizes = [
        np.isin(shell, group).sum() for group in np.array_split(np.arange(16, len(values)), 16)
    ]
    groups = np.array(list(found.values())[16:32])
    lowest = terms[:, shell.ravel() < 16].sum(axis=1)
    whole = np.tensordot(sizes, groups, axes=1).T.ravel() + lowest
    np.testing.assert_allclose(whole, terms.sum(axis=1), rtol=1e-9)


def test_a_users_action_passes():
    ensemble = run(SineGordon(1.5, mass_squared=0.5), (8, 8))
    found = verdicts(ensemble)
    assert found["fail"] == set()
    assert found["not applicable"] == {"z2_balance", "cluster_signs"}


def test_reading_in_small_pieces_changes_nothing(symmetric, monkeypatch):
    whole = check(symmetric)
    monkeypatch.setattr(evidence, "_PIECE_BYTES", 1000 * 4 * 256)
    pieces = check(symmetric)
    assert [c.verdict for c in whole] == [c.verdict for c in pieces]
    np.testing.assert_allclose([c.p_value for c in whole], [c.p_value for c in pieces], rtol=1e-3)


def test_configurations_that_differ_by_signs_have_one_digest():
    cfgs = np.array([[1, 2, 0], [-1, -2, 0], [-1, 2, -0.0], [1, 2, 1e-30], [2, 1, 0]], np.float32)
    digests = evidence._digests(cfgs)
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_rejections_explain_repeats_and_a_few_more_do_not(symmetric):
    assert one(symmetric, "repeats").p_value > 1e-3
    surplus = symmetric.series("acceptance") * 1.05
    histories = {"acceptance": np.minimum(surplus, 1)}
    assert one(replace(symmetric, histories=histories), "repeats").verdict == "fail"
    thinned = replace(symmetric, thin=2)  # two rejections in a row are rarer
    assert one(thinned, "repeats").verdict == "fail"


def test_histories_see_a_change_of_one_in_a_thousand(symmetric):
    scaled = replace(symmetric, cfgs=symmetric.cfgs * np.float32(1.001))
    assert one(scaled, "histories_agree").verdict == "fail"


def test_an_overflowing_weight_is_a_failure_not_an_error(symmetric):
    weight = symmetric.series("exp_minus_dh").copy()
    weight[3, 5] = math.inf
    histories = symmetric.histories | {"exp_minus_dh": weight}
    assert one(replace(symmetric, histories=histories), "exp_minus_dh").verdict == "fail"


def test_weights_of_trajectories_must_average_to_one(symmetric):
    histories = symmetric.histories | {"exp_minus_dh": 1.1 * symmetric.series("exp_minus_dh")}
    assert one(replace(symmetric, histories=histories), "exp_minus_dh").verdict == "fail"
    histories = symmetric.histories | {"dh_negative": 0.9 * symmetric.series("dh_negative")}
    assert one(replace(symmetric, histories=histories), "acceptance").verdict == "fail"


def test_chains_too_short_to_judge_are_not_passed(symmetric):
    short = verdicts(part(symmetric, 2, 3))
    assert short["pass"] == {"histories_agree", "repeats", "copies", "rejections"}
    assert short["fail"] == set()
    assert short["not applicable"] == {"amplitudes", "movement", "steps"}


def test_numbers_that_are_not_finite_are_refused_by_name(symmetric):
    cfgs = symmetric.cfgs.copy()
    cfgs[5 * 32 + 7, 2, 3] = math.nan
    with pytest.raises(ValueError, match="configuration 5 of chain 7 is not finite"):
        check(replace(symmetric, cfgs=cfgs))


def test_a_fourth_power_that_overflows_is_not_called_a_field_that_is_not_finite(symmetric):
    cfgs = symmetric.cfgs.copy()
    cfgs[167, 2, 3] = 1e12
    with pytest.raises(ValueError, match=r"sample 167 has \|phi\| up to 1e\+12, whose"):
        check(replace(symmetric, cfgs=cfgs))


def test_a_certificate_is_one_line(symmetric):
    line = str(Certificate("repeats", "pass", "3 configurations", 0.25, "all is well"))
    assert line == "pass            repeats             3 configurations (p = 0.25): all is well"
    line = str(Certificate("repeats", "not applicable", "", math.nan, "nothing was kept"))
    assert line == "not applicable  repeats             nothing was kept"
    assert all("\n" not in str(c) and c.meaning for c in check(symmetric))
