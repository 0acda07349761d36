"""The config: a file and the command line are one language, and every mistake gets a sentence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rows import each

from lattice_ml.jobs import config, generate
from lattice_ml.jobs.config import ConfigError
from lattice_ml.runtime import arguments
from lattice_ml.runtime.arguments import as_arguments

pytestmark = pytest.mark.unoptimised

READY = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))

BASE = {"lattice.shape": [4, 4], "action.kappa": 0.2, "action.lam": 0.1}

KEYS = [
    ("seed", 5),
    ("lattice.shape", [8]),
    ("lattice.shape", [2, 3, 4, 5]),
    ("action.kind", "Phi4"),
    ("action.convention", "kappa"),
    ("action.kappa", -0.3),
    ("action.lam", 1e-3),
    ("sampler.kind", "HMC"),
    ("sampler.trajectory_length", 1.5),
    ("sampler.trajectory_length", "auto"),
    ("sampler.n_steps", 7),
    ("sampler.n_steps", "auto"),
    ("sampler.step_size", 0.25),
    ("sampler.step_size", "auto"),
    ("sampler.integrator", "leapfrog"),
    ("sampler.integrator", "omelyan2"),
    ("sampler.integrator", "omelyan4"),
    ("sampler.jitter", 0.0),
    ("sampler.target_acceptance", 0.9),
    ("sampler.sign_flip", True),
    ("sampler.sign_flip", False),
    ("sampler.sign_flip", "auto"),
    ("chain.n_chains", 3),
    ("chain.n_thermalise", 0),
    ("chain.n_configs", 1),
    ("chain.thin", 4),
    ("chain.start", "cold"),
    ("chain.start", "runs/another"),
    ("output.dtype", "float64"),
    ("output.save_configs", False),
    ("output.save_configs", True),
]

CONVENTIONS = [  # keys of [action] and the (h, a, b) that they mean in two dimensions
    ({"convention": "kappa", "kappa": 0.25, "lam": 0.125}, (0.5, 0.75, 0.125)),
    ({"convention": "beta", "beta": 0.5, "lam": 0.125}, (0.5, 0.75, 0.125)),
    ({"convention": "standard", "mass_squared": -4, "g": 0.5}, (1, 0, 0.5)),
    ({"convention": "standard24", "mass_squared": -4, "lam": 12}, (1, 0, 0.5)),
    ({"convention": "nohalf", "mass_squared": -4, "lam": 6.975}, (2, 0, 6.975)),
    ({"kind": "FreeField", "mass_squared": 0.5}, (1, 2.25, 0)),
]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a verb takes beside the config."""

    out: str | None = None
    sweep: tuple[str, ...] = ()


def as_file(folder, settings):
    """A TOML file of {dotted key: value}; JSON's numbers, strings and lists are TOML's."""
    path = Path(folder) / "job.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    return path


def parse_file(path, *words):
    return config.read_job(path, *words)


def options_in(words, file=None):
    parsed = config.parse_sections(words, config.SECTIONS, file=file, options=Options)
    return config.options_of(parsed, Options)


def lookup(resolved, key):
    section, _, name = key.rpartition(".")
    return resolved[section][name] if section else resolved[name]


# One language.


@each(("key", "value"), KEYS)
def test_every_key_means_the_same_in_a_file_and_on_the_command_line(tmp_path, key, value):
    settings = BASE | {key: value}
    job = parse_file(as_file(tmp_path, settings))
    assert lookup(job.config, key) == value
    assert job.config == config.parse(as_arguments(settings)).config
    assert job.config == parse_file(as_file(tmp_path, BASE), *as_arguments({key: value})).config


@each(("action", "couplings"), CONVENTIONS)
def test_the_keys_of_the_action_follow_from_its_kind_and_convention(tmp_path, action, couplings):
    settings = {"lattice.shape": [4, 4]} | {f"action.{key}": v for key, v in action.items()}
    for job in (config.parse(as_arguments(settings)), parse_file(as_file(tmp_path, settings))):
        assert job.sampler.action.couplings() == pytest.approx(couplings, abs=1e-15)


def test_what_is_left_out_has_the_documented_default():
    resolved = config.parse(as_arguments(BASE)).config
    assert resolved == {
        "seed": 1,
        "lattice": {"shape": [4, 4]},
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.1},
        "sampler": {
            "kind": "HMC",
            "trajectory_length": "auto",
            "n_steps": "auto",
            "step_size": "auto",
            "integrator": "leapfrog",
            "jitter": 0.2,
            "target_acceptance": 0.8,
            "sign_flip": "auto",
            "periods": 0.25,
        },
        "chain": {
            "n_chains": 64,
            "n_thermalise": 500,
            "n_configs": 1000,
            "thin": 1,
            "start": "hot",
        },
        "output": {"dtype": "float32", "save_configs": True},
    }


def test_a_job_holds_the_objects_that_its_config_names():
    job = config.parse(as_arguments(BASE | {"sampler.n_steps": 5, "chain.thin": 2, "seed": 9}))
    assert job.lattice.shape == (4, 4)
    assert (job.sampler.n_steps, job.chain.thin, job.seed) == (5, 2, 9)
    assert job.output.dtype == "float32"


def test_the_later_of_two_equal_keys_wins(tmp_path):
    file = as_file(tmp_path, BASE | {"chain.thin": 2})
    assert parse_file(file).chain.thin == 2
    assert parse_file(file, "--chain.thin", "3").chain.thin == 3
    assert parse_file(file, "--chain.thin", "3", "--chain.thin", "4").chain.thin == 4


@pytest.mark.parametrize(
    "words", [["--chain.n-configs", "7"], ["--chain.n_configs", "7"], ["--chain.n-configs=7"]]
)
def test_hyphens_and_underscores_and_equals_signs_are_all_understood(words):
    assert config.parse([*as_arguments(BASE), *words]).chain.n_configs == 7


@pytest.mark.parametrize("number", ["-4", "-4.0", "-0.4e1"])
def test_negative_numbers_are_values(number):
    words = ["--lattice.shape", "4", "4", "--action.convention", "nohalf", "--action.lam", "6.975"]
    job = config.parse([*words, "--action.mass-squared", number])
    assert job.config["action"]["mass_squared"] == -4


@pytest.mark.parametrize("word", ["true", "false", "True"])
def test_a_word_of_toml_is_a_word_where_no_switch_is_meant(tmp_path, word):
    words = [*as_arguments(BASE), "--out", word, "--sweep", "chain.start", word]
    assert options_in(words) == Options(word, ("chain.start", word))
    job = config.parse([*as_arguments(BASE), "--chain.start", word])
    assert job.chain.start == word
    assert parse_file(as_file(tmp_path, BASE | {"chain.start": word})).chain.start == word


@pytest.mark.parametrize("word", ["true", "True"])
def test_booleans_are_written_as_in_the_file_or_as_in_python(word):
    job = config.parse([*as_arguments(BASE), "--sampler.sign-flip", word])
    assert job.config["sampler"]["sign_flip"] is True


# What a verb takes beside the config.


def test_options_are_read_beside_the_config_and_are_no_part_of_it(tmp_path):
    file = as_file(tmp_path, BASE)
    words = [*config.read_arguments(file), "--sweep", "action.kappa", "0.1", "--out", "here"]
    assert options_in(words, file) == Options("here", ("action.kappa", "0.1"))
    parsed = config.parse_sections(words, config.SECTIONS, file=file, options=Options)
    assert config.job_of(parsed).config == parse_file(file).config


def test_a_verb_reads_its_file_once(tmp_path, monkeypatch):
    reads, read = [], arguments.read_toml
    monkeypatch.setattr(arguments, "read_toml", lambda file: reads.append(file) or read(file))
    file, words = config.split_file([str(as_file(tmp_path, BASE))], "generate", Options)
    parsed = config.parse_sections(words, config.SECTIONS, file=file, options=Options)
    assert config.job_of(parsed).seed == 1 and config.options_of(parsed, Options) == Options()
    assert reads == [file]


@pytest.mark.parametrize("option", ["out", "sweep"])
def test_options_cannot_be_set_in_the_file(tmp_path, option):
    file = as_file(tmp_path, BASE | {option: "x"})
    with pytest.raises(ConfigError, match=rf"key in .*job\.toml: {option}\b"):
        options_in(config.read_arguments(file), file)


# Mistakes: what was asked, what was got, what is allowed.

REFUSED = [
    ({"chain.n_confgs": 5}, r"chain\.n_confgs; did you mean chain\.n_configs\?"),
    ({"lattise.shape": [4]}, r"lattise\.shape; did you mean lattice\.shape\?"),
    ({"seeds": 4}, r"seeds; did you mean seed\?"),
    ({"action.mass_squared": 1.0}, r"action\.mass_squared.*allowed: .*action\.kappa"),
    ({"chain.n_configs": "many"}, r"chain\.n_configs must be a whole number, got many"),
    ({"chain.n_configs": 1.5}, r"chain\.n_configs must be a whole number, got 1\.5"),
    ({"action.kappa": "big"}, r"action\.kappa must be a number, got big"),
    ({"lattice.shape": ["a", 4]}, r"lattice\.shape must be whole numbers, got a 4"),
    ({"sampler.step_size": "small"}, r"sampler\.step_size must be a number or auto, got small"),
    ({"output.dtype": "float16"}, r"output\.dtype must be float32 or float64, got float16"),
    ({"output.save_configs": "maybe"}, r"output\.save_configs must be .*, got maybe"),
    ({"seed": [1, 2]}, r"seed must be a whole number, got 1 2"),
    ({"action.kind": "phi4"}, r"unknown action\.kind: phi4; did you mean Phi4\?"),
    ({"action.kind": "Ising"}, r"unknown action\.kind: Ising.*allowed: Phi4, FreeField"),
    ({"action.convention": "kapa"}, r"unknown action\.convention: kapa; did you mean kappa\?"),
    ({"sampler.kind": "Metropolis"}, r"unknown sampler\.kind: Metropolis.*allowed: .*HMC"),
    ({"sampler.integrator": "omelyan"}, r"sampler\.integrator must be .*omelyan2.* got .?omelyan"),
    ({"lattice.shape": [4, -4]}, r"lattice\.shape must be .* at least 2, got \(4, -4\)"),
    ({"lattice.shape": [4, 1]}, r"lattice\.shape must be .* at least 2, got \(4, 1\)"),
    ({"lattice.shape": []}, r"lattice\.shape must be 1 to 4 .*, got \(\)"),
    ({"lattice.shape": [2] * 5}, r"lattice\.shape must be 1 to 4 "),
    ({"chain.n_configs": 0}, r"chain\.n_configs must be at least 1, got 0"),
    ({"chain.n_chains": 0}, r"chain\.n_chains must be at least 1, got 0"),
    ({"chain.thin": -1}, r"chain\.thin must be at least 1, got -1"),
    ({"chain.n_thermalise": -1}, r"chain\.n_thermalise must be at least 0, got -1"),
    ({"seed": -1}, r"seed must be at least 0, got -1"),
    ({"action.lam": -0.1}, r"not bounded below.*b = -0\.1"),
    ({"action.lam": 0, "action.kappa": 0.25}, r"free action cannot be normalised"),
    ({"sampler.jitter": 1.5}, r"sampler\.jitter must be in \[0, 1\), got 1\.5"),
    ({"sampler.target_acceptance": 0}, r"sampler\.target_acceptance must be in \(0, 1\), got 0"),
    ({"sampler.step_size": -0.1}, r"sampler\.step_size must be auto or positive.*got -0\.1"),
    ({"sampler.n_steps": 0}, r"sampler\.n_steps must be auto or positive.*got 0"),
    (
        {"sampler.trajectory_length": 3, "sampler.n_steps": 10, "sampler.step_size": 0.1},
        r"trajectory_length = 3.* is not n_steps x step_size = 10 x 0\.1",
    ),
]


@each(("settings", "message"), REFUSED)
def test_a_mistake_is_refused_in_a_file_and_on_the_command_line(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        config.parse(as_arguments(BASE | settings))
    with pytest.raises(ConfigError, match=message):
        parse_file(as_file(tmp_path, BASE | settings))


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_coupling_that_is_not_finite_is_refused(tmp_path, number):
    with pytest.raises(ConfigError, match=f"finite.*{number}"):
        config.parse(as_arguments(BASE | {"action.kappa": number}))
    file = as_file(tmp_path, BASE)
    file.write_text(file.read_text().replace("action.kappa = 0.2", f"action.kappa = {number}"))
    with pytest.raises(ConfigError, match=f"finite.*{number}"):
        parse_file(file)


@pytest.mark.parametrize("missing", BASE)
def test_a_required_key_that_is_missing_is_named(missing):
    given = {key: value for key, value in BASE.items() if key != missing}
    with pytest.raises(ConfigError, match=f"{missing} is required"):
        config.parse(as_arguments(given))


def test_a_key_without_its_value_is_refused():
    with pytest.raises(ConfigError, match=r"chain\.thin must be a whole number, got nothing"):
        config.parse([*as_arguments(BASE), "--chain.thin"])


def test_a_word_without_a_key_is_refused():
    with pytest.raises(ConfigError, match="got kappa=3"):
        config.parse(["kappa=3", *as_arguments(BASE)])


def test_an_unknown_key_is_blamed_on_where_it_stands(tmp_path):
    good, bad = as_file(tmp_path, BASE), {"chain.thim": 2}
    with pytest.raises(ConfigError, match=r"on the command line: chain\.thim"):
        parse_file(good, *as_arguments(bad))
    with pytest.raises(ConfigError, match=r"in .*job\.toml: chain\.thim"):
        parse_file(as_file(tmp_path, BASE | bad))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        config.read_arguments(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.read_arguments(tmp_path)


@pytest.mark.parametrize("content", [b"[lattice\nshape = [4, 4]", b"seed = ", b"\x89HDF\r\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        config.read_arguments(file)


# The ready configs.


def test_the_ready_configs_are_those_of_the_documentation():
    names = {"free", "phi4_symmetric", "phi4_critical", "phi4_broken", "phi4_1d", "phi4_3d"}
    names |= {"phi4_4d", "phi4_tempered", "albergo_e1", "diffusion", "rbm", "rbm_mnist"}
    assert {file.stem for file in READY} >= names


GENERATING = [file for file in READY if "[sampler]" in file.read_text()]


@pytest.mark.parametrize("file", GENERATING, ids=lambda file: file.stem)
def test_a_ready_config_opens_with_what_it_is_and_runs(file, tmp_path):
    assert file.read_text().startswith("# ")
    words = ["--chain.n-chains", "2", "--chain.n-configs", "2", "--chain.n-thermalise", "2"]
    job = parse_file(file, *words)
    made = generate.generate(job, tmp_path)
    assert made.cfgs.shape == (4, *job.lattice.shape)
    assert np.isfinite(made.series("action")).all()
