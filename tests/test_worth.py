"""The verdict of a training: what is useless, what cannot be told, and what a user is told."""

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rows import each
from trained_models import make_ensemble
from trained_rbms import FREE
from trained_rbms import train as train_rbm

from lattice_ml import cli
from lattice_ml.commands import train
from lattice_ml.models.worth import verdict
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import open_run

pytestmark = pytest.mark.unoptimised


def entry(ess=0.5, pareto_k=0.3, n_samples=2048, **more):
    """What `judge` finds of a good model, but for what is given."""
    good = {
        "schwinger_dyson": {"value": 1.2, "error": 0.01},
        "log_z": 12.0,
        "forward_ess": {"value": ess, "error": 0.01},
        "missed_mode": None,
        "log_weight_change": {"rms": 0.04, "mean": 0.0, "error": 0.001},
    }
    return good | {"ess": ess, "pareto_k": pareto_k, "n_samples": n_samples} | more


def test_an_error_of_log_z_that_is_too_small_is_said_and_changes_no_verdict():
    printed = []
    for k in (0.3, 0.6):
        found = entry(pareto_k=k, shape=[4, 4], action={}, log_z_error=0.01)
        assert verdict([found]) == "passed"
        model = SimpleNamespace(directory="m", seconds=None, report={"n_weights": 1})
        model.report["theories"] = [found]
        printed += ["the error of log Z is too small" in train.summary(model)[-1]]
    assert printed == [False, True]


@each(
    "good",
    [
        entry(),
        entry(ess=0.07),  # 143 of 2048
        entry(ess=0.9, n_samples=32),
        entry(forward_ess={"value": 0.003, "error": 0.002}),
        {"schwinger_dyson": {"value": 1.6, "error": 0.1}},  # a method without density
        {"log_likelihood": -12.0},  # an action that is not known
    ],
)
def test_good_models_pass(good):
    assert verdict([good]) == "passed"


@each(
    ("bad", "says"),
    [
        (entry(ess=1 / 4096, pareto_k=500.0, n_samples=4096), "useless: 4096 samples are worth 1 "),
        (entry(ess=0.004), "useless: 2048 samples are worth 8.19 "),
        (entry(forward_ess={"value": 1e-4, "error": 1e-5}), "useless: the forward ESS/n on config"),
        (entry(missed_mode="the model misses"), "the model misses"),
        ({"n_not_finite": 3, "n_samples": 64}, "useless: 3 of 64 samples have an action or a dens"),
        ({"schwinger_dyson": {"value": 106.0, "error": 10.0}}, "useless: Schwinger-Dyson of its"),
        (entry(pareto_k=0.7), "undecided: .* Pareto k = 0.70, allowed is k < 0.7"),
        (entry(pareto_k=math.nan, n_samples=24), "undecided: 24 samples are too few to judge"),
        (entry(ess=0.02), "undecided: .* 2048 samples are worth 41, and at least 100 are needed"),
        (entry(ess=0.02, n_samples=64), "undecided: .* 64 samples are worth 1.28"),
        (entry(log_weight_change={"rms": 3.0}), "undecided: log w changes by 3 rms"),
        (entry(log_weight_change={"rms": math.nan}), "undecided: log w changes by nan rms"),
        (entry(data_doubt="2000 samples"), "undecided: of its data 2000 samples"),
    ],
)
def test_what_is_useless_or_open_is_said(bad, says):
    assert re.match(says, verdict([bad]))
    assert re.match(says, verdict([entry(), bad])), "of several theories"


def test_useless_is_said_before_undecided():
    assert verdict([entry(pareto_k=2.0), entry(missed_mode="the model misses")]) == (
        "the model misses"
    )
    assert verdict([entry(ess=0.001, pareto_k=2.0)]).startswith("useless")


# ------------------------------------------------------------------------------ from end to end


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    out = tmp_path_factory.mktemp("free") / "e"
    return make_ensemble(out, (4, 4), n_chains=16, n_configs=60, couplings=FREE)


def words_of(directory, data, **settings):
    """The words of a training without much of it."""
    file = directory.with_suffix(".toml")
    file.write_text("[training]\nn_steps = 20\n")
    named = {key.replace("_", ".", 1): value for key, value in settings.items()}
    return ["train", str(file), *as_arguments(named), "--data", str(data), "--out", str(directory)]


def fixed_machine(directory, data, mu_squared):
    """The words of a training that leaves mu^2 where it was put."""
    return words_of(directory, data, model_kind="GaussianRBM", model_mu_squared=mu_squared)


@pytest.mark.parametrize("mu_squared", [1e-3, 1e-12, 1e-30])
def test_a_machine_with_a_tiny_mass_is_useless(free, tmp_path, capsys, mu_squared):
    """Its samples are as wide as 1/mu: worth one of them, or none that is finite."""
    assert cli.main(fixed_machine(tmp_path / "m", free, mu_squared)) == 1
    printed = capsys.readouterr()
    assert "lattice-ml train: useless: the mean log density of the data is" in printed.err
    assert not re.search(r"\d{12}", printed.out), "numbers of 1e16 have an exponent"
    assert cli.main(["info", str(tmp_path / "m")]) == 0
    assert "verdict         useless: " in capsys.readouterr().out
    text = (tmp_path / "m" / "report.json").read_text()
    report = json.loads(text)
    (found,) = report["theories"]
    assert verdict([found]).startswith("useless: "), "by its samples too"
    assert found["log_likelihood"] < found["log_likelihood_of_noise"] - 2 * 16


def test_a_machine_of_an_unknown_action_is_judged_by_the_density_of_its_data(free, tmp_path):
    file = tmp_path / "plain.npy"
    np.save(file, open_ensemble(free).cfgs[:])
    words = ["import", str(file), "--out", str(tmp_path / "e"), "--action.kind", "none"]
    assert cli.main(words) == 0
    wide = {"model_mu_squared": 1e-4, "training_n_steps": 20}
    useless = train_rbm(tmp_path / "bad", tmp_path / "e", **wide)
    assert useless.report["verdict"].startswith("useless: the mean log density of the data is")
    good = train_rbm(tmp_path / "good", tmp_path / "e", training_n_steps=20)
    assert good.report["verdict"] == "passed"


def weighted(source, out, width):
    """The same fields with log-normal weights of a width."""
    old = open_ensemble(source)
    shape = old.n_configs, old.n_chains
    logs = width * np.random.default_rng(7).normal(size=shape)
    config = {name: old.config[name] for name in ("lattice", "action", "chain", "output")}
    with open_run(out, config, provenance={}) as run:
        cfgs = old.cfgs[:].reshape(*shape, *old.shape)
        run.append(np.arange(shape[0]), cfgs, {}, {}, log_weight=logs)
    return out


def test_data_worth_a_handful_are_refused_and_few_leave_it_open(free, tmp_path, capsys):
    few, some = weighted(free, tmp_path / "few", 30.0), weighted(free, tmp_path / "some", 2.0)
    for kind in ({"model_denoiser": "zero"}, {"model_kind": "GaussianRBM"}):
        assert cli.main(words_of(tmp_path / "of few", few, **kind)) == 2
        error = capsys.readouterr().err
        assert "960 configurations of" in error and "by their weights, at least 10 are" in error
        assert not (tmp_path / "of few").exists()
    assert cli.main(fixed_machine(tmp_path / "m", some, 30.0)) == 4
    assert "lattice-ml train: undecided: of its data weighted averages" in capsys.readouterr().err
    good = weighted(free, tmp_path / "good", 0.3)
    assert cli.main(words_of(tmp_path / "zero", good, model_denoiser="zero")) == 0
