"""The config of `train` and `sample`: the same language, and a mistake gets the same sentence."""

import pytest
from rows import each
from test_config import BASE, as_file, lookup, parse_file

from lattice_ml.jobs import config
from lattice_ml.jobs.config import ConfigError
from lattice_ml.runtime import arguments
from lattice_ml.runtime.arguments import as_arguments

TRAINING_KEYS = [
    ("model.denoiser", "shallow"),
    ("model.target", "data"),
    ("model.pairs", 1),
    ("model.symmetric", False),
    ("model.n_hidden", 8),
    ("model.conditional", True),
    ("training.n_steps", [100]),
    ("training.n_steps", [100, 50, 0]),
    ("training.learning_rate", [1e-3, 2e-3]),
    ("training.clip", 0.5),
    ("training.ema", 0.9),
    ("training.validation", 0.0),
    ("training.augment", False),
    ("training.fine_tune", True),
    ("training.flow_steps", [4]),
    ("training.flow_steps", "auto"),
    ("training.checkpoint_every", 2.5),
    ("training.pool_bytes", 1024),
    ("sampling.method", "path"),
]


@each(("key", "value"), TRAINING_KEYS)
def test_training_keys_mean_the_same_in_a_file_and_on_the_command_line(tmp_path, key, value):
    file = as_file(tmp_path, {key: value})
    words = config.read_arguments(file, config.TRAINING)
    job = config.parse_training(words, file=file)
    assert lookup(job.config, key) == value
    assert job.config == config.parse_training(as_arguments({key: value})).config


def test_one_number_means_that_number_in_every_stage():
    training = config.parse_training(as_arguments({"training.n_steps": 7})).training
    assert [training.of_stage(i, 2)["n_steps"] for i in range(2)] == [7, 7]
    training = config.parse_training(as_arguments({"training.n_steps": [7, 9]})).training
    assert [training.of_stage(i, 2)["n_steps"] for i in range(2)] == [7, 9]


@pytest.mark.parametrize("words", [["--training.fine-tune"], ["--training.fine_tune", "true"]])
def test_a_switch_alone_means_true(words):
    job = config.parse_training([*words, "--training.n-steps", "3"])
    assert job.training.fine_tune is True
    assert job.training.n_steps == (3,)


def test_the_keys_of_the_model_are_what_its_network_takes():
    shallow = config.parse_training([]).model
    assert {"n_channels", "n_hidden", "n_outputs", "conditional"} <= shallow.keys()
    assert "rngs" not in shallow
    zero = config.parse_training(["--model.denoiser", "zero"]).model
    assert zero.keys() == {"kind", "denoiser", "target", "pairs", "symmetric"}


def test_a_file_serves_all_verbs_each_reads_its_own_sections(tmp_path):
    settings = BASE | {"training.n_steps": 3, "sampling.n_steps": 4, "chain.thin": 2}
    file = as_file(tmp_path, settings)
    job = parse_file(file)
    assert job.chain.thin == 2
    assert job.config.keys() == set(config.SECTIONS)
    training = config.parse_training(config.read_arguments(file, config.TRAINING), file=file)
    assert training.training.n_steps == (3,)
    assert training.config["sampling"]["n_steps"] == 4
    assert training.config["lattice"] == {"shape": [4, 4]}
    assert "chain" not in training.config
    with pytest.raises(ConfigError, match=r"on the command line: training\.n_steps"):
        parse_file(file, "--training.n-steps", "4")


def test_a_sampling_job_holds_lattice_action_and_method():
    job = config.parse_sampling(as_arguments(BASE | {"sampling.method": "path", "seed": 4}))
    assert (job.lattice.shape, job.action.h, job.sampling.method) == ((4, 4), 0.4, "path")
    assert job.config.keys() == {"seed", "lattice", "action", "sampling", "output"}


REFUSED_TRAINING = [
    ({"model.denoiser": "shalow"}, r"unknown model\.denoiser: shalow; did you mean shallow\?"),
    ({"model.kind": "GAN"}, r"unknown model\.kind: GAN.*allowed: Diffusion"),
    ({"model.n_hiden": 3}, r"model\.n_hiden; did you mean model\.n_hidden\?"),
    ({"model.denoiser": "zero", "model.n_hidden": 3}, r"command line: model\.n_hidden"),
    ({"model.target": "score"}, r"model\.target must be action or data, got score"),
    ({"training.n_step": 3}, r"training\.n_step; did you mean training\.n_steps\?"),
    ({"training.n_steps": "many"}, r"training\.n_steps must be whole numbers, got many"),
    ({"training.learning_rate": "fast"}, r"training\.learning_rate must be numbers, got fast"),
    ({"training.batch_size": [8, 0]}, r"training\.batch_size must be at least 1, got 0"),
    ({"training.validation": 1.0}, r"training\.validation must be in \[0, 1\), got 1\.0"),
    ({"training.ema": 1.5}, r"training\.ema must be in \[0, 1\), got 1\.5"),
    (
        {"training.learning_rate": "nan"},
        r"training\.learning_rate must be a finite number, got nan",
    ),
    ({"sampling.n_steps": 0}, r"sampling\.n_steps must be at least 1, got 0"),
    ({"chain.n_chains": 3}, r"unknown key on the command line: chain\.n_chains"),
]


@each(("settings", "message"), REFUSED_TRAINING)
def test_a_mistake_in_a_training_config_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config.parse_training(as_arguments(settings))


@each(("text", "expected"), [("90s", 90), ("30m", 1800), ("3h", 10800), ("1h30m", 5400), ("7", 7)])
def test_a_time_limit_is_read_in_hours_minutes_and_seconds(text, expected):
    assert arguments.seconds(text) == expected


@each("text", ["", "0", "3 hours", "-5s", "1.5h"])
def test_a_time_limit_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match=r"--time-limit must look like 90s, 30m, 3h or 1h30m"):
        arguments.seconds(text)
