"""`extrapolate` on ensembles: what it fits, what it doubts and what it refuses."""

import re

import numpy as np
import pytest
from extrapolation_runs import HMC, KRAMERS, LANGEVIN, MALA, STEPS, measure_means, written
from rows import each

import lattice_ml
from lattice_ml.analysis import measurement
from lattice_ml.analysis.dynamics.extrapolation_fit import fit
from lattice_ml.jobs import extrapolate as extrapolation
from lattice_ml.jobs.extrapolate import as_table, extrapolate
from lattice_ml.observables import DERIVED
from lattice_ml.statistics import estimate


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Three step sizes, in no order."""
    folder = tmp_path_factory.mktemp("extrapolation")
    return [written(folder / f"eps={step}", step) for step in (0.1, 0.05, 0.2)]


@pytest.fixture(scope="module")
def found(ensembles):
    return extrapolate(ensembles)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(extrapolation, "measure", measure_means)


# What is fitted.


def test_every_observable_is_fitted_to_what_measure_finds(ensembles, found):
    assert lattice_ml.extrapolate is extrapolate
    assert list(found) == list(DERIVED)
    assert [name for name, line in found.items() if line is None] == ["acceptance"]
    measured = [measurement.measure(ensembles[i]) for i in (1, 0, 2)]
    for name in set(DERIVED) - {"acceptance"}:
        points = [estimates[name] for estimates in measured]
        assert found[name] == fit(STEPS, points, 1), name


def test_lines_are_found_within_their_errors(found):
    for name, value, slope in (("phi2", 1, 1), ("schwinger_dyson", 1, 1), ("phi4", 1, 0)):
        line = found[name]
        assert abs(line.value - value) < 4.5 * line.error
        assert abs(line.slope - slope) < 4.5 * line.slope_error
        assert line.error < 0.01 and line.slope_error < 0.1
        assert line.warnings == (), name


def test_what_is_not_defined_in_one_ensemble_is_none(tmp_path):
    pair = [written(tmp_path / "a", 0.1), written(tmp_path / "b", 0.2, means={"two_point_min": 9})]
    found = extrapolate(pair)
    assert found["correlation_length"] is None and found["chi2"] is not None


def test_what_has_no_error_is_none(ensembles, monkeypatch):
    constant = {"phi2": estimate(np.ones((2, 9)))}
    monkeypatch.setattr(extrapolation, "measure", lambda ensemble: constant)
    found = extrapolate(ensembles)
    assert found == {"phi2": None}
    assert as_table(ensembles, found)["order"] == 1


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (LANGEVIN, 1),
        (LANGEVIN | {"scheme": "heun"}, 2),
        (LANGEVIN | {"scheme": "leimkuhler_matthews"}, 2),
        (KRAMERS, 2),
    ],
    ids=lambda value: value.get("scheme", value["kind"]) if isinstance(value, dict) else "",
)
def test_the_order_is_that_of_the_scheme_unless_it_is_given(tmp_path, quick, sampler, order):
    pair = [written(tmp_path / str(step), step, sampler=sampler) for step in (0.1, 0.2)]
    assert extrapolate(pair)["phi2"].order == order
    assert extrapolate(pair, order=3 - order)["phi2"].order == 3 - order


@pytest.mark.parametrize(
    "more",
    [{"seed": 77}, {"chain": {"n_chains": 5, "n_configs": 60, "thin": 2, "start": "cold"}}],
    ids=["seed", "chain"],
)
def test_seed_and_chains_may_differ(ensembles, tmp_path, quick, more):
    other = written(tmp_path / "other", 0.15, **more)
    assert len(extrapolate([*ensembles, other])["phi2"].points) == 4


# Doubts that are those of the ensembles.


def test_two_step_sizes_are_not_a_test(ensembles, tmp_path, quick):
    assert extrapolate(ensembles)["phi2"].marks == ()
    again = written(tmp_path / "again", 0.1, seed=5)
    line = extrapolate([*ensembles[:2], again])["phi2"]
    assert (line.marks, line.dof, line.curved) == (("two",), 1, None)
    assert line.warnings[0].startswith("two step sizes fix the line")


def test_equal_seeds_are_not_independent(tmp_path, quick):
    same = [written(tmp_path / str(step), step, seed=1) for step in STEPS]
    line = extrapolate(same[::-1])["phi2"]
    assert line.marks == ("seed",)
    assert "at step size 0.05, 0.1, 0.2 share the seed 1" in line.warnings[0]
    other = written(tmp_path / "other", 0.2, seed=2)
    assert "at step size 0.05, 0.1 share" in extrapolate([*same[:2], other])["phi2"].warnings[0]
    others = [written(tmp_path / f"seed {seed}", 0.2, seed=seed) for seed in (3, 4)]
    assert extrapolate([same[0], *others])["phi2"].marks == ("two",)


def test_steps_shortened_by_the_drift_limit_are_seen(tmp_path, quick):
    def made(name, ratio, limits):
        return [
            written(
                tmp_path / f"{name} {step}",
                step,
                ratio=ratio if step == 0.2 else 1.0,
                sampler=LANGEVIN | {"drift_limit": limit},
            )
            for step, limit in zip(STEPS, limits, strict=True)
        ]

    assert extrapolate(made("rarely", 1.009, (0.3,) * 3))["phi2"].marks == ()
    line = extrapolate(made("often", 1.2, (0.3,) * 3))["phi2"]
    assert line.marks == ("steps",)
    assert "at step size 0.2 there were 1.2 times as many" in line.warnings[0]
    in_proportion = made("in proportion", 1.2, (0.15, 0.3, 0.6))
    assert extrapolate(in_proportion)["phi2"].marks == ()


def test_the_schwinger_dyson_identity_is_known_at_zero(tmp_path, ensembles, quick):
    assert extrapolate(ensembles)["schwinger_dyson"].marks == ()
    for at_zero in (0.9, 1.1):
        off = [
            written(tmp_path / f"{at_zero} {step}", step, means={"schwinger_dyson": at_zero + step})
            for step in STEPS
        ]
        found = extrapolate(off)
        line = found["schwinger_dyson"]
        assert line.marks == ("exact",) and found["phi2"].marks == ()
        z = (line.value - 1) / line.error
        assert line.warnings[0].startswith(f"extrapolated to {line}, {z:+.1f} errors from its ex")
    warm = [
        written(
            tmp_path / f"warm {step}",
            step,
            sampler=LANGEVIN | {"temperature": 1.1},
            means={"schwinger_dyson": 1.1 + step},
        )
        for step in STEPS
    ]
    assert extrapolate(warm)["schwinger_dyson"].marks == ()


# Refusals.


def refused(ensembles, sentence, **options):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        extrapolate(ensembles, **options)


@pytest.mark.parametrize(
    ("sampler", "sentence"),
    [
        (HMC, "was made by HMC, which is exact at every step size here, so there is nothing to"),
        (MALA, "was made by MALA, which is exact"),
        (KRAMERS | {"accept": True}, "was made by Kramers, which is exact"),
        ({"kind": "Foreign"}, "was not made by a sampler with steps; extrapolation needs Langevin"),
        (None, "was not made by a sampler with steps"),
    ],
    ids=["hmc", "mala", "kramers", "unknown", "imported"],
)
@pytest.mark.parametrize("order", [None, 1])
def test_samplers_without_a_bias_are_refused(ensembles, tmp_path, sampler, sentence, order):
    refused([*ensembles, written(tmp_path, 0.3, sampler=sampler)], sentence, order=order)


@each(
    ("more", "sentence"),
    [
        ({"action": {"kappa": 0.21}}, "action.kappa: {0} has 0.2, {1} has 0.21; ensembles may"),
        (
            {"action": {"kind": "FreeField", "mass_squared": 1.0}},
            "action.convention: {0} has 'kappa'",
        ),
        ({"lattice": {"shape": (4, 8)}}, "lattice.shape: {0} has [4, 4], {1} has [4, 8]"),
        ({"sampler": LANGEVIN | {"scheme": "heun"}}, "sampler.scheme: {0} has 'euler', {1} has"),
        ({"sampler": LANGEVIN | {"temperature": 2.0}}, "sampler.temperature: {0} has 1.0, {1}"),
        ({"sampler": LANGEVIN | {"drift_limit": 0.1}}, "drift_limit: {0} has None, {1} has 0.1"),
        ({"sampler": KRAMERS}, "sampler.accept: {0} has None, {1} has False"),
        ({"output": {"dtype": "float64"}}, "output.dtype: {0} has 'float32', {1} has 'float64'"),
    ],
)
def test_ensembles_of_different_theories_or_samplers_are_refused(
    ensembles, tmp_path, more, sentence
):
    other = written(tmp_path, 0.3, **more)
    refused([*ensembles, other], sentence.format(ensembles[0].directory, tmp_path))


def test_drift_limits_that_differ_otherwise_are_refused(tmp_path):
    pair = [
        written(tmp_path / str(step), step, sampler=LANGEVIN | {"drift_limit": limit})
        for step, limit in ((0.1, 0.2), (0.2, 0.3))
    ]
    refused(pair, f"sampler.drift_limit: {tmp_path / '0.1'} has 0.2, {tmp_path / '0.2'} has 0.3")


def test_too_few_step_sizes_are_refused(ensembles, tmp_path):
    refused(ensembles[:1], "ensembles at two or more step sizes, got 1")
    refused([], "ensembles at two or more step sizes, got 0")
    again = written(tmp_path, 0.1, seed=5)
    refused([ensembles[0], again], "all ensembles have sampler.step_size = 0.1; a fit needs at")


def test_the_same_run_twice_is_refused(ensembles, tmp_path):
    first = ensembles[0].directory
    refused([*ensembles, ensembles[0]], f"{first} and {first} have the same step size 0.1 and seed")
    longer = written(tmp_path, 0.1, chain={"n_configs": 120})
    refused([*ensembles, longer], f"{first} and {tmp_path} have the same step size 0.1 and seed")


def test_an_order_that_no_scheme_has_is_refused(ensembles):
    refused(ensembles, "order must be 1 or 2, got 3", order=3)
