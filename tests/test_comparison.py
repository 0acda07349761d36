"""`compare` accepts what is right and finds what is wrong, with any kind of reference."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import lattice_ml
from lattice_ml import FreeField, Lattice, measure, two_point
from lattice_ml.analysis.certificates import judging
from lattice_ml.chains.run import Chains
from lattice_ml.comparison import exact_reference, means, read_values
from lattice_ml.comparison.sides import gather_side
from lattice_ml.report import comparison

ROOT = Path(__file__).parents[1]
SHAPE = (8, 8)


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


verdicts = benchmark("verdicts")


@pytest.fixture(scope="module")
def pair():
    """Two correct ensembles of 64 x 64 draws of a free field, in equilibrium."""
    return [verdicts.free_field((1, i), 64, 64, 1.0) for i in range(2)]


def compare(reference, candidate, *, classifier=False, **options):
    """Without training a network, unless that is what is tested."""
    return lattice_ml.compare(reference, candidate, classifier=classifier, **options)


def failed(reference, candidate, **options):
    return set(compare(reference, candidate, **options).rejected_by)


def test_two_correct_ensembles_agree(pair):
    found = compare(*pair, classifier=True)
    assert found.accepted and not found.warnings
    assert found.verdict.startswith("accepted: none of ")
    assert {test.verdict for test in found.tests} == {"pass", "not applicable"}
    z = [row.z for name, row in found.observables.items() if name != "chi2"]
    assert max(abs(x) for x in z if not math.isnan(x)) < 4.5
    assert str(found).count("\n") > 20


@pytest.mark.parametrize(
    ("fault", "by"),
    [
        (
            "exp(-2S)",
            {"observables", "two_point", "configurations", "classifier", "schwinger_dyson"},
        ),
        ("missing well", {"observables", "distribution_m", "configurations", "z2_balance"}),
        ("domain walls", {"observables", "chains_agree"}),
        ("zero padding", {"two_point", "classifier", "translation"}),
        ("wrong convention", {"observables", "two_point", "schwinger_dyson"}),
    ],
)
def test_a_planted_fault_is_found(fault, by):
    found = compare(*verdicts.FAULTS[fault](1), classifier="classifier" in by)
    assert by <= set(found.rejected_by)
    level = 1e-3 / 30
    best = min(test.p_value for test in found.tests if not math.isnan(test.p_value))
    assert best < level**3, "the fault is not found by luck"


def test_a_side_that_is_too_short_for_check_is_named(pair):
    """Nine configurations do not show 20 autocorrelation times, whatever these are."""
    short = verdicts.free_field((1, 2), 64, 9, 1.0)
    found = compare(pair[0], short)
    assert any(": chains_agree" in w and "is undecided" in w for w in found.warnings)
    judged = sum(test.verdict in ("pass", "fail") for test in found.tests)
    assert found.verdict == f"accepted: none of {judged} tests finds a difference"
    row = next(row for row in comparison._tests(found).rows if row[0] == "chains_agree")
    assert row[1] == "undecided"


def test_observables_are_those_of_measure_and_z_their_difference(pair):
    found, (a, b) = compare(*pair).observables, map(measure, pair)
    for name, row in found.items():
        assert row.reference == a[name] and row.candidate == b[name]
        if a[name] is not None:
            error = math.hypot(a[name].error, b[name].error)
            assert row.z == pytest.approx((b[name].value - a[name].value) / error)
            if name not in means.NOT_JUDGED:
                gauss = 2 * stats.norm.sf(abs(row.z))
                assert row.p_value == pytest.approx(gauss, abs=0.2), name


def test_the_two_point_function_is_that_of_all_configurations(pair):
    found = compare(*pair).two_point
    p_hat_squared, g, _ = two_point(pair[0]).shells()
    n = 9  # of 13, one by one
    assert_allclose(found.p_hat_squared[:n], p_hat_squared[:n], atol=1e-6)
    assert_allclose(found.reference[:n], g[:n], rtol=1e-5)
    assert found.dof == len(p_hat_squared) and 0.001 < found.p_value < 1


def test_shells_are_judged_together_where_there_are_ten_configurations_each():
    few = [verdicts.free_field((2, i), 16, 4, 0.0) for i in range(2)]
    found = compare(*few)
    assert found.two_point.dof == 5 and len(found.two_point.reference) == 13
    fewer = [verdicts.free_field((2, i), 9, 1, 0.0) for i in range(2)]
    with pytest.raises(ValueError, match="too few configurations: 1 per chain"):
        compare(*fewer)
    assert "independent configurations: only large differences show" in compare(*few).warnings[0]


@pytest.fixture(scope="module")
def weighted():
    """Draws of m^2 = 0.14 with the weights that make them m^2 = 0.1."""
    lattice, rng = Lattice(SHAPE), np.random.default_rng(3)
    target, proposal = FreeField(0.1, 2), FreeField(0.14, 2)
    noise = np.fft.rfft2(rng.standard_normal((8192, *SHAPE)))
    modes = np.sqrt(proposal.propagator(lattice)[:, :5]) * noise
    phi = np.fft.irfft2(modes, s=SHAPE)
    log_weight = 0.5 * (0.14 - 0.1) * np.sum(phi**2, axis=(1, 2))
    phi32 = phi.astype(np.float32)
    history = {"magnetisation": phi32.mean(axis=(1, 2))[None].astype(float)}
    return Chains(target, SHAPE, 1, phi32, history, {}, log_weight=log_weight[None])


def test_weights_count(weighted, pair):
    exact = exact_reference(weighted)
    assert not failed(exact, weighted)
    assert not failed(pair[0], weighted)
    assert {"observables", "two_point"} <= failed(exact, weighted, weights=False)
    assert "distribution_m" in failed(exact, weighted, weights=False)
    size = gather_side(weighted).effective_size
    assert 1000 < size < 0.95 * 8192


def test_weights_that_leave_a_handful_are_never_accepted(weighted):
    """A hundred times the width of the right weights: one configuration has them all."""
    logs = 100 * (weighted.log_weight - weighted.log_weight.mean())
    few = replace(weighted, log_weight=logs)
    side = gather_side(few)
    assert side.effective_size < 10 and "k < 0.7" in side.doubt
    for reference, candidate in ((exact_reference(few), few), (few, weighted)):
        found = compare(reference, candidate, classifier=False)
        assert not found.accepted and "k < 0.7" in found.doubts[0]
        assert found.rejected_by or found.verdict.startswith("undecided: the ensemble in memory:")
        assert "  weights\n" in str(found) and found.warnings
    assert not compare(few, weighted, classifier=False, weights=False).doubts


def test_a_sample_agrees_with_the_exact_solution_and_not_with_another(pair):
    found = compare(exact_reference(pair[1]), pair[0])
    assert found.accepted
    judged = {test.name for test in found.tests if test.verdict == "pass"}
    assert {"observables", "two_point", "distribution_m", "translation"} <= judged
    assert found.observables["acceptance"].reference is None
    other = replace(pair[0], action=FreeField(0.12, 2))
    assert {"observables", "two_point"} <= failed(exact_reference(other), pair[0])


def test_values_of_a_file(pair, tmp_path):
    values = exact_reference(pair[0]).values
    path = tmp_path / "values.json"
    table = {"phi2": values["phi2"].value, "m2": [values["m2"].value, 1e-3], "m4": None}
    table["binder"] = {"value": 0.0, "error": 0.01, "tau_int": 1.0}
    path.write_text(json.dumps(table))
    found = compare(read_values(path), pair[0])
    assert found.accepted
    assert found.observables["m2"].reference == (values["m2"].value, 1e-3)
    assert found.observables["m4"].reference is None
    path.write_text(json.dumps({"runs/some": table | {"phi2": [1.05 * values["phi2"].value, 0]}}))
    assert failed(read_values(path), pair[0]) == {"observables"}
    path.write_text(json.dumps({"phi2": [1.05 * values["phi2"].value, 0.1]}))
    assert not failed(read_values(path), pair[0]), "the error of a value counts"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[" * 10**5 + "]" * 10**5, "is not JSON"),
        ('{"phi2": 1' + "0" * 400 + "}", "phi2 must be a number"),
        ("[]", "must hold one table of observables"),
        ('{"a": {"phi2": 1}, "b": {"phi2": 1}}', "'a' is no observable; allowed are magnetisation"),
        ('{"phi2": "x"}', r"phi2 must be a number, \[value, error\].*got 'x'"),
        ('{"phi2": [1, -1]}', r"got \[1, -1\]"),
        ('{"phi2": {"error": 1}}', "phi2 must be a number"),
        ('{"phi3": 1, "phi2": 1}', "'phi3' is no observable"),
    ],
)
def test_a_file_of_other_things_is_refused(text, match, tmp_path):
    (tmp_path / "values.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_values(tmp_path / "values.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*none\.json: No such file"):
        read_values(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory"):
        read_values(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"picture\.png is not JSON: 'utf-8' codec"):
        read_values(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": (4, 16)}, "the lattices differ: .* has 8 x 8, .* has 4 x 16"),
        ({"action": FreeField(0.2, 2)}, r"the actions differ: .*\(1, 2.05, 0\).*\(1, 2.1, 0\)"),
        ({"action": None}, "is not known"),
        ({"temperature": 0.5}, r"exp\(-S/1\).*exp\(-S/0.5\): that is another action"),
    ],
)
def test_different_distributions_are_not_compared(pair, changes, match):
    other = replace(pair[1], **changes)
    if "shape" in changes:
        other = replace(other, cfgs=other.cfgs.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match=match):
        compare(pair[0], other)


def test_another_normalisation_is_refused_with_the_conversion(pair):
    from lattice_ml import convert
    from lattice_ml.actions import Phi4

    action, scale = convert(Phi4(*pair[0].action.couplings()), "nohalf", 2)
    other = replace(pair[1], action=action, cfgs=pair[1].cfgs / np.float32(scale))
    with pytest.raises(ValueError, match=r"lattice-ml convert .* --action\.convention standard"):
        compare(pair[0], other)


def test_there_is_no_exact_solution_of_nothing_or_at_another_temperature(pair):
    with pytest.raises(ValueError, match=r"no exact solution without an action"):
        exact_reference(replace(pair[0], action=None))
    with pytest.raises(ValueError, match=r"exp\(-S/alpha\) with alpha = 0.5"):
        exact_reference(replace(pair[0], temperature=0.5))


def test_what_is_in_both_ensembles_and_a_reference_that_is_wrong_are_said(pair):
    found = compare(pair[0], pair[0])
    assert found.accepted, "an ensemble agrees with itself"
    assert "4096 configurations are in both ensembles" in found.warnings[0]
    scaled = verdicts.bare(pair[0], 1.05 * pair[0].cfgs)
    found = compare(scaled, pair[1])
    assert any("does not pass check itself: schwinger_dyson" in w for w in found.warnings)


def test_without_configurations_histories_are_compared(pair):
    from lattice_ml.analysis.measurement import stored_series

    def bare(ensemble):
        return replace(ensemble, cfgs=ensemble.cfgs[:0], histories=stored_series(ensemble))

    found = compare(bare(pair[0]), bare(pair[1]))
    assert found.accepted and found.two_point is None and found.distances is None
    assert set(found.distributions) == {"M", "S/V"}


def test_hotelling_is_exact_for_gaussians():
    rng = np.random.default_rng(7)
    p_values = []
    mix = rng.standard_normal((5, 5))
    for _ in range(400):
        a, b = rng.standard_normal((40, 5)) @ mix, 2 * rng.standard_normal((60, 5)) @ mix
        difference = a.mean(axis=0) - b.mean(axis=0)
        p_values.append(judging.hotelling(difference, a, -b).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    shifted = judging.hotelling(np.full(5, 1.0) @ mix, rng.standard_normal((100, 5)) @ mix)
    assert shifted.chi2 == pytest.approx(500, rel=0.5) and shifted.p_value < 1e-30
    assert math.isnan(judging.hotelling(np.zeros(5), rng.standard_normal((10, 5))).p_value)


def test_means_of_two_samples_are_judged_by_welch():
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal(30), 3 * rng.standard_normal(50)
    found = judging.judge(float(a.mean() - b.mean()), a, -b)
    scipy = stats.ttest_ind(a, b, equal_var=False)
    assert found.value / found.error == pytest.approx(scipy.statistic)
    assert found.p_value >= scipy.pvalue * (1 - 1e-9)
    known = judging.judge(0.5, a, known_error=0.4)
    assert known.error == pytest.approx(math.hypot(0.4, a.std(ddof=1) / math.sqrt(30)))


def test_the_benchmark_of_false_alarms_and_faults_runs(monkeypatch, capsys):
    monkeypatch.setattr(verdicts, "use_all_cores", lambda: None)
    monkeypatch.setattr(verdicts, "FAULTS", {"zero padding": verdicts.zero_padding})
    assert verdicts.main(["--size", "toy"]) == 0
    out = capsys.readouterr().out
    assert "0 of 2 correct pairs refused" in out
    assert "| zero padding | 1 of 1 | classifier, observables, translation, two_point |" in out
