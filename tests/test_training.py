"""`train`: whatever ends it, the same command goes on and the weights do not know."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import storage_runs
import trained_models
from trained_models import make_ensemble, metrics, train

from lattice_ml.jobs import config, exchange, training_data
from lattice_ml.jobs import train as training
from lattice_ml.jobs.open_model import open_model
from lattice_ml.models.data import Source
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.training import TrainingError
from lattice_ml.runtime import session
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised
FINE_TUNED = {"training_fine_tune": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e44")


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    """A model of both phases, to be read or copied but not changed."""
    return train(tmp_path_factory.mktemp("model") / "m", [data], **FINE_TUNED)


def files(model, *names):
    return {name: (model.directory / name).read_bytes() for name in names}


def assert_same(model, other):
    """Equal files, byte for byte, but for the seconds."""
    assert storage_runs.contents(model.directory) == storage_runs.contents(other.directory)


# What a training leaves behind.


def test_training_lowers_the_loss_and_reports_what_the_model_is_worth(uninterrupted):
    report = uninterrupted.report
    assert report["verdict"] == "passed"
    (entry,) = report["theories"]
    assert entry["shape"] == [4, 4]
    assert entry["action"]["kappa"] == 0.25
    assert 0.4 < entry["ess"] <= 1
    assert entry["forward_ess"]["value"] == pytest.approx(entry["ess"], abs=0.1)
    assert entry["log_weight_change"]["rms"] < 0.2
    assert abs(entry["schwinger_dyson"]["value"] - 1) < 0.1
    assert max(report["equivariance"].values()) < 1e-5
    assert report["evaluations"] == 40 * 16 + 20 * 8 * 2 * 3
    assert [phase["n_steps"] for phase in report["phases"]] == [40, 20]
    assert uninterrupted.seconds > 0
    assert not (uninterrupted.directory / "checkpoints").exists(), "nobody goes on from them"


def test_seconds_that_an_older_version_kept_in_the_report_are_found(uninterrupted, tmp_path):
    old = Path(shutil.copytree(uninterrupted.directory, tmp_path / "old"))
    (old / "cost.json").unlink()
    assert open_model(old).seconds is None
    report = open_model(old).report | {"training_seconds": 1.5}
    (old / "report.json").write_text(json.dumps(report))
    assert open_model(old).seconds == 1.5


def test_metrics_have_a_line_per_block_of_either_phase(uninterrupted):
    lines = metrics(uninterrupted.directory)
    assert [line["step"] for line in lines] == [*range(2, 41, 2), *range(41, 61)]
    assert {line["phase"] for line in lines[:20]} == {"denoising"}
    assert {line["phase"] for line in lines[20:]} == {"fine-tuning"}
    assert all(line["validation_loss"] > 0 for line in lines[:20])
    losses = np.array([line["loss"] for line in lines[:20]])
    assert losses[10:].mean() < losses[:10].mean()
    identity = {i: x["schwinger_dyson"] for i, x in enumerate(lines) if "schwinger_dyson" in x}
    assert list(identity) == [4, 9, 14, 19, 24, 29, 34, 39]
    assert abs(identity[39] - 1) < 0.2


def test_a_finished_training_is_opened_at_once(uninterrupted, data):
    again = train(uninterrupted.directory, [data], on_progress=pytest.fail, **FINE_TUNED)
    assert_same(again, uninterrupted)


# Interruptions.


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killer(after):
    """Raise in the progress report of the block number `after`."""
    left = iter(range(after, -1, -1))

    def report(progress):
        if next(left) == 0:
            raise Killed

    return report


@pytest.mark.parametrize("checkpoint_every", [0, 1e9])
def test_killed_in_either_phase_and_begun_again_every_byte_is_the_same(
    data, tmp_path, uninterrupted, checkpoint_every
):
    for after in (0, 7, 13, 12):  # blocks; without checkpoints each begins from the start
        with pytest.raises(Killed):
            train(
                tmp_path,
                [data],
                on_progress=killer(after),
                training_checkpoint_every=checkpoint_every,
                **FINE_TUNED,
            )
    assert (open_step(tmp_path) > 30) == (checkpoint_every == 0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"half a li')  # died while writing
    model = train(tmp_path, [data], **FINE_TUNED)
    assert_same(model, uninterrupted)


def open_step(directory):
    steps = [int(path.name) for path in (directory / "checkpoints").iterdir()]
    return max(steps, default=0)


def test_the_time_limit_stops_after_a_block_that_is_kept(data, tmp_path, uninterrupted):
    for done in (2, 4, 6):
        with pytest.raises(session.Interrupted, match=rf"time limit: step {done} of 60 \(4 x 4 de"):
            train(tmp_path, [data], time_limit=1e-9, **FINE_TUNED)
    with pytest.raises(StorageError, match=r"not finished: run the same `train` command again"):
        open_model(tmp_path)
    assert_same(train(tmp_path, [data], **FINE_TUNED), uninterrupted)


# Curriculum, conditioning, further training.


def test_lattice_shapes_are_stages_in_order_of_volume(data, tmp_path):
    larger = make_ensemble(tmp_path / "e64", shape=(6, 4), n_configs=20)
    model = train_zero(tmp_path / "m", [larger, data])
    assert [stage.shape for stage in model.stages] == [(4, 4), (6, 4)]
    assert [theory.modes.shape for theory in model.theories] == [(4, 4), (6, 4)]
    assert model.report["theories"][0]["shape"] == [6, 4]
    assert model.defaults["lattice"] == {"shape": [6, 4]}


def test_ensembles_of_one_shape_are_one_stage(data, tmp_path):
    other = make_ensemble(tmp_path / "other", action_kappa=0.2)
    model = train_zero(tmp_path / "m", [data, other])
    assert [action["kappa"] for action in model.stages[0].actions] == [0.25, 0.2]
    assert [float(theory.h) for theory in model.theories] == [0.5, 0.4]
    assert [entry["action"]["kappa"] for entry in model.report["theories"]] == [0.25, 0.2]
    assert "kappa" not in model.defaults["action"]
    assert model.defaults["action"]["lam"] == 0.1


def test_a_model_is_fine_tuned_without_data(uninterrupted, tmp_path):
    model = train(tmp_path, init_from=uninterrupted.directory, **FINE_TUNED)
    assert {line["phase"] for line in metrics(tmp_path)} == {"fine-tuning"}
    assert "forward_ess" not in model.report["theories"][0]
    assert model.hash != uninterrupted.hash
    assert model.manifest["parent"] != uninterrupted.manifest["parent"]


def test_init_from_begins_with_the_weights_of_the_model(data, uninterrupted, tmp_path):
    model = train(tmp_path, [data], init_from=uninterrupted.directory, training_n_steps=0)
    names = ("weights.npz",)
    assert files(model, *names) == files(uninterrupted, *names)


def train_zero(out, data, *words):
    job = config.parse_training(["--model.denoiser", "zero", *words])
    return training.train(job, out, data=data)


def test_the_zero_denoiser_is_measured_and_reported_without_steps(data, tmp_path):
    model = train_zero(tmp_path, [data])
    assert metrics(tmp_path) == []
    assert model.report["n_weights"] == model.report["evaluations"] == 0
    assert 0.5 < model.report["theories"][0]["ess"] < 1


# What goes wrong.


def test_a_model_that_misses_a_well_is_refused(tmp_path):
    """Data and mixture of one well: the model's own samples are fine, the mirrored data not."""
    chains = make_ensemble(
        tmp_path / "wells", n_configs=60, action_kappa=0.5, action_lam=0.022, chain_start="cold"
    )
    one_well = mirrored(chains, tmp_path / "one_well")
    model = train_zero(
        tmp_path / "m", [one_well], "--model.symmetric", "False", "--model.pairs", "1"
    )
    (entry,) = model.report["theories"]
    assert entry["ess"] > 0.3
    assert entry["forward_ess"]["value"] < 1e-3
    assert "the model misses a part of the distribution" in model.report["verdict"]


def mirrored(source, out):
    """An ensemble of the same fields, all with positive magnetisation."""
    cfgs = open_ensemble(source).cfgs[:]
    return alike(source, out, cfgs * np.sign(cfgs.mean(axis=(1, 2), keepdims=True)))


def alike(source, out, cfgs, n_chains=8):
    """An ensemble of `cfgs` with the action of another one."""
    np.save(out.with_suffix(".npy"), cfgs)
    config = {"action": open_ensemble(source).config["action"]}
    exchange.import_array(out.with_suffix(".npy"), out, config=config, n_chains=n_chains)
    return out


def test_a_loss_that_is_not_a_number_stops_with_step_and_remedy(data, tmp_path, monkeypatch):
    regular = fitting.denoise

    def diverge(graph, state, *rest, n, settings):
        new, losses = regular(graph, state, *rest, n=n, settings=settings)
        return new, jnp.where(state.step + jnp.arange(n) < 5, losses, jnp.nan)

    monkeypatch.setattr(fitting, "denoise", diverge)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 6 \(4 x 4 denoising\): "):
        train(tmp_path, [data])
    assert open_step(tmp_path) == 4
    assert [line["step"] for line in metrics(tmp_path)] == [2, 4]


def test_nothing_to_train_on_is_refused(uninterrupted, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to train on: give --data ENSEMBLE, or"):
        train(tmp_path / "m")
    with pytest.raises(ValueError, match="nothing to train on"):
        train(tmp_path / "m", init_from=uninterrupted.directory)
    assert not (tmp_path / "m").exists()


REFUSED = [
    ({"lattice_shape": [8, 8]}, ValueError, r"\[lattice\] of the config is shape = \[8, 8\], the"),
    ({"action_kappa": 0.3, "action_lam": 0.1}, ValueError, r"kappa = 0\.3.* the data have .*0\.25"),
    ({"training_n_steps": [1, 2]}, ValueError, r"training\.n_steps must be one value or one per s"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), REFUSED)
def test_a_config_that_does_not_fit_the_data_is_refused(data, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        train(tmp_path / "m", [data], **changes)


def test_a_config_that_agrees_with_the_data_is_accepted(data):
    settings = trained_models.job(lattice_shape=[4, 4], action_kappa=0.25, action_lam=0.1)
    training_data.check_agreement(settings.config, [open_ensemble(data)])


def test_weights_of_another_network_are_refused(data, uninterrupted, tmp_path):
    with pytest.raises(ValueError, match=r"model\.n_hidden is 5, but .* was trained with 4"):
        train(tmp_path, [data], init_from=uninterrupted.directory, model_n_hidden=5)


def test_fields_of_another_normalisation_are_refused(data, tmp_path):
    settings = {"action.convention": "nohalf", "action.mass_squared": -0.5, "action.lam": 1.0}
    make_ensemble(tmp_path / "nohalf", couplings=settings)
    with pytest.raises(StorageError, match=r"nohalf has the action Phi4 nohalf, but .*Phi4 kappa"):
        train(tmp_path / "m", [data, tmp_path / "nohalf"])


def test_too_few_configurations_are_refused(data, tmp_path):
    few = alike(data, tmp_path / "few", open_ensemble(data).cfgs[:8], n_chains=2)
    with pytest.raises(ValueError, match="at least 16 configurations, got 4"):
        train(tmp_path / "m", [few])


# The data in pieces.


def test_chains_held_out_are_never_trained_on(data):
    ensemble = open_ensemble(data)
    source = Source.split(ensemble, 0.3)
    assert (source.n_chains, source.n_configs) == (5, 40)
    seen = np.concatenate([fields for fields, _ in source.training()])
    kept = source.held_out(60)
    assert kept.shape == (3, 20, 4, 4)
    everything = ensemble.cfgs[:].reshape(40, 8, 4, 4)
    assert np.array_equal(np.sort(seen, axis=None), np.sort(everything[:, :5], axis=None))
    assert not {field.tobytes() for field in kept.reshape(-1, 4, 4)} & {f.tobytes() for f in seen}


def test_of_one_chain_the_last_configurations_are_held_out(data, tmp_path):
    cfgs = open_ensemble(data).cfgs[:40]
    one = open_ensemble(alike(data, tmp_path / "one", cfgs, n_chains=1))
    source = Source.split(one, 0.25)
    assert (source.n_chains, source.n_configs) == (1, 30)
    assert np.array_equal(source.held_out(100)[0], cfgs[30:])
    assert Source.split(source.ensemble, 0).held_out(10) is None


def test_pools_of_an_ensemble_that_does_not_fit_cover_it_in_a_fixed_order(data):
    ensemble = open_ensemble(data)
    (group,) = training_data.open_data([ensemble], 0.3)
    pools = group.pools(seed=1, pool_bytes=64 * 4 * 16, batch_size=16)
    assert (pools.n_fields, pools.constant) == (64, False)
    first = [pools[index] for index in range(4)]
    assert all(pool.shape == (1, 64, 4, 4) and pool.dtype == np.float32 for pool in first)
    assert all(np.array_equal(pools[index], first[index]) for index in (2, 0))
    seen = {field.tobytes() for pool in first for field in pool[0]}
    every = {field.tobytes() for fields, _ in group.sources[0].training() for field in fields}
    assert seen <= every
    assert len(seen) > 0.9 * len(every)


def test_weights_decide_how_often_a_field_is_drawn(data, tmp_path):
    weighted = tmp_path / "weighted"
    shutil.copytree(data, weighted)
    source = Source.split(open_ensemble(weighted), 0)
    share = np.zeros((40, 8))
    share[3, 2] = 1.0
    vars(source)["weights"] = share  # as a log_weight of one field alone would give
    pool = source.pool(np.random.default_rng(1), 0, 320)
    assert np.array_equal(pool, np.broadcast_to(source.read(3, 1, slice(2, 3))[0], pool.shape))


def test_which_pool_serves_a_step_depends_on_the_step_alone(data):
    (group,) = training_data.open_data([open_ensemble(data)], 0.3)
    whole = group.pools(1, 64 * 4 * 16, batch_size=16)
    pools = [np.asarray(whole.at(step)) for step in (0, 3, 4, 8)]
    resumed = group.pools(1, 64 * 4 * 16, batch_size=16)
    assert np.array_equal(pools[0], pools[1])
    assert not np.array_equal(pools[1], pools[2])
    assert np.array_equal(resumed.at(8), pools[3])
