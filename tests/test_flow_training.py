"""A flow learns from its own samples, goes on after any step, and its mistakes are seen."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import trained_flows
from flows import bent
from theories import free_theory
from trained_flows import train
from trained_models import make_ensemble, metrics

from lattice_ml import action
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.flow import drawer, fitting, phases, report
from lattice_ml.models.model import Stage
from lattice_ml.models.training import Task, TrainingError
from lattice_ml.runtime.session import Interrupted

pytestmark = pytest.mark.unoptimised

PLAIN = {"training_kl_steps": 0, "training_n_steps": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e44")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A trained flow, to be read but not changed."""
    return train(tmp_path_factory.mktemp("models") / "whole", [data])


def same_bits(one, other):
    first, second = (jax.tree.leaves(model.network) for model in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_few_steps_make_samples_worth_nearly_all(whole):
    (entry,) = whole.report["theories"]
    assert entry["ess"] > 0.98
    assert entry["forward_ess"]["value"] > 0.95
    assert whole.report["verdict"] == "passed"
    lines = metrics(whole.directory)
    assert [line["phase"] for line in lines] == ["reverse KL"] * 2 + ["variance"] * 2
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["variance"] < 0.3 * lines[0]["variance"]
    assert same_bits(whole, open_model(whole.directory))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_goes_on_from_any_step_with_the_same_bits(stop, data, whole, tmp_path):
    left = [stop]

    def interrupt(progress):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        train(tmp_path, [data], on_progress=interrupt)
    assert [line["step"] for line in metrics(tmp_path)][-1] == stop
    again = train(tmp_path, [data])
    assert same_bits(again, whole)
    assert again.hash == whole.hash


def test_two_couplings_are_learned_together_and_one_between_is_sampled(data, tmp_path):
    other = make_ensemble(tmp_path / "other", action_kappa=0.2)
    model = train(tmp_path / "m", [data, other])
    assert len(model.network.powers) == 2
    assert [entry["action"]["kappa"] for entry in model.report["theories"]] == [0.25, 0.2]
    assert all(entry["ess"] > 0.9 for entry in model.report["theories"])
    made = trained_flows.sample(
        model, tmp_path / "between", 512, correct="reweight", action_kappa=0.225
    )
    log_w = made.column("log_weight")
    share = np.exp(log_w - log_w.max())
    assert share.sum() ** 2 / np.sum(share**2) > 0.9 * share.size


# Larger lattices, and other trainings before.


def task(*shapes, initial=None, **changes):
    """A task on free fields of some lattices."""
    asked = trained_flows.job(**changes)
    stages = tuple(Stage(shape, ({},), (free_theory(shape),)) for shape in shapes)
    return Task(asked.model, asked.training, 1, (), initial, stages)


def test_every_lattice_has_its_phases_and_levels(whole):
    found = phases.plan(task((4, 4), (8, 8), (16, 16), training_n_steps=[2, 0, 3]))
    names = ["4 x 4 reverse KL", "4 x 4 variance", "8 x 8 reverse KL", "16 x 16 reverse KL"]
    assert [phase.name for phase in found.phases] == [*names, "16 x 16 variance"]
    assert [phase.first for phase in found.phases] == [0, 2, 4, 6, 8]
    assert [len(phase.flow.weights.levels) for phase in found.phases] == [1, 1, 1, 2, 2]
    # what a stage begins with is what the one before it ended with, and a level more
    last = found.phases[-2]
    begun = fitting.fitted(last.flow, last.start(found.network))
    finest, of_network = begun.weights.levels[0], found.network.weights.levels[0]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, finest, of_network)))


def test_fine_levels_that_overdo_are_dropped_where_a_level_is_new():
    found = phases.plan(task((8, 8), (16, 16), training_n_steps=0))
    weights, last = found.network.weights, found.phases[-1]
    for size, kept in ((1.0, False), (1e-4, True)):
        wild = replace(weights, levels=bent(weights.levels, size))
        begun = last.start(replace(found.network, weights=wild))
        finest = fitting.fitted(last.flow, begun).weights.levels[0]
        old = (wild if kept else last.flow.weights).levels[0]
        assert all(
            np.allclose(a, b, atol=1e-3)
            for a, b in zip(jax.tree.leaves(finest), jax.tree.leaves(old), strict=True)
        )


def test_a_step_far_from_the_goal_is_damped_until_it_helps():
    phase = phases.plan(task((8, 8))).phases[0]
    far = replace(phase.flow, weights=bent(phase.flow.weights, 0.3))
    fit = fitting.start(far)._replace(damping=np.full((), 1e-4))
    theories = [tables.astype(np.float32) for tables in phase.theories]
    settings, key = fitting.Settings(True, 1024, 0.7), jax.random.key(0)
    state, found = fitting.step(far, theories, fit, key, settings)
    judging = jax.random.split(jax.random.fold_in(key, 0))[1]
    assert found.loss < fitting.loss(far, theories, judging, settings) - 0.3
    assert state.damping > 0.005  # more than ten times that of the step before


def test_init_from_begins_with_the_weights_of_the_model(data, whole, tmp_path):
    again = train(tmp_path, [data], init_from=whole.directory, **PLAIN)
    assert same_bits(again, whole)
    assert again.report["theories"][0]["ess"] > 0.98


def test_weights_of_another_network_are_refused(data, whole, tmp_path):
    with pytest.raises(ValueError, match=r"model\.base_hidden is 5, but .* was trained with 3"):
        train(tmp_path, [data], init_from=whole.directory, model_base_hidden=5)


def test_weights_that_are_not_of_the_config_are_refused(whole):
    weights = dict(whole.weights(whole.network))
    weights["weights.base.extra"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"holds weights .*, the network of its config has"):
        whole.build(whole.config["model"], 2, weights)


# What goes wrong.


@pytest.mark.parametrize(("factor", "batch"), [(0.0, 16), (2.5, 32)])
def test_a_wrong_density_is_seen_in_samples_and_in_data(
    factor, batch, data, whole, tmp_path, monkeypatch
):
    """Programs are compiled for a batch, so another one makes them see what is planted."""

    def wrong(regular):
        def found(*given):
            values, log_q = regular(*given)
            return values, factor * log_q

        return found

    for name in ("draw", "invert"):
        monkeypatch.setattr(drawer, name, wrong(getattr(drawer, name)))
    monkeypatch.setattr(report, "batch_of", lambda shape: batch)
    model = train(tmp_path, [data], init_from=whole.directory, **PLAIN)
    (entry,) = model.report["theories"]
    assert entry["ess"] < 0.2
    assert entry["forward_ess"]["value"] < 0.2
    assert abs(entry["log_z"] - whole.report["theories"][0]["log_z"]) > 1
    assert model.report["verdict"] != "passed"


def test_log_w_that_is_no_number_stops_with_step_and_remedy(data, tmp_path, monkeypatch):
    regular = fitting.step

    def diverge(flow, theories, fit, key, settings):
        state, found = regular(flow, theories, fit, key, settings)
        bad = not settings.by_kl and fit.done == 1
        return state, found._replace(variance=np.nan) if bad else found

    monkeypatch.setattr(fitting, "step", diverge)
    with pytest.raises(TrainingError, match=r"not finite at step 4 \(4 x 4 variance\): look at"):
        train(tmp_path, [data])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing to train on: give --data ENSEMBLE"):
        train(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lattice_shape": [4, 5]}, r"even extents, got lattice\.shape = \[4, 5\]"),
        ({"lattice_shape": [4, 4, 2, 2]}, r"1 to 3 dimensions"),
        ({"kappa": -0.2}, r"align, h >= 0, got h = -0\.4: on even lattices"),
    ],
)
def test_ensembles_that_no_flow_is_for_are_refused(changes, message):
    """Before anything is measured."""
    shape = tuple(changes.get("lattice_shape", (4, 4)))
    ensemble = SimpleNamespace(action=action("kappa", 2, kappa=changes.get("kappa", 0.25), lam=0.1))
    given = SimpleNamespace(shape=shape, sources=(SimpleNamespace(ensemble=ensemble),))
    with pytest.raises(ValueError, match=message):
        phases.check(replace(task(), data=(given,)))
