"""Arguments: a word belongs to the key before it and to no other; what cannot be is a sentence."""

import numpy as np
import pytest
from rows import each
from verbs import refused

from lattice_ml import HMC, FreeField, cli
from lattice_ml.chains.blocks import check
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import config
from lattice_ml.runtime import arguments
from lattice_ml.runtime.arguments import ConfigError, as_arguments, read_file, seconds

BASE = "[action]\nkappa = 0.2\nlam = 0.1\n[chain]\nn_chains = 2\nn_configs = 4\n"
SHAPE = "[lattice]\nshape = [4, 4]\n"  # the last list of the file


@pytest.fixture
def toml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(BASE + SHAPE)
    return tmp_path / "job.toml"


# A stray word is nobody's.


@each(
    ("words", "stray"),
    [
        (["8"], "got 8"),
        (["-8"], "got -8"),
        (["8", "--seed", "3"], "got 8"),
        (["--", "8"], "got 8"),
        (["--seed", "3", "4"], "seed must be a whole number, got 3 4"),
        (["--seed=3", "4"], "got 4 after --seed=3"),
        (["--lattice.shape=4", "4"], "got 4 after --lattice.shape=4"),
        (["--lattice.shape", "4", "4", "--", "8"], "got 8"),
        (["--dry-run", "later"], "dry_run must be true or false, got later"),
        (["--out", "a", "b"], "out must be a word, got a b"),
        (["--chain.start", "-x", "cold"], "chain.start must be a word, got -x cold"),
    ],
)
def test_a_stray_word_is_refused(toml, capsys, words, stray):
    assert stray in refused(capsys, "generate", "job.toml", *words)
    assert sorted(toml.parent.iterdir()) == [toml]


@pytest.mark.parametrize("verb", ["generate", "train"])
def test_a_stray_word_behind_a_config_is_refused_by_every_verb_that_has_one(toml, capsys, verb):
    assert "expected --section.key VALUE, got 8" in refused(capsys, verb, "job.toml", "8")


def test_a_stray_word_behind_the_file_of_an_import_is_refused(toml, capsys):
    np.save("a.npy", np.ones((20, 4, 4)))
    words = ["--out", "out", "--action.kappa", "0.2", "--action.lam", "0.1"]
    assert "expected --section.key VALUE, got 8" in refused(capsys, "import", "a.npy", "8", *words)


def test_settings_of_a_model_end_before_the_words_of_its_user():
    defaults = as_arguments({"lattice": {"shape": [4, 4]}})
    with pytest.raises(ConfigError, match="got 8"):
        arguments.given_keys([*defaults, "8"])
    assert arguments.words([*defaults, "--seed", "3"], "lattice.shape") == ["4", "4"]


@each("verb", ["measure", "check", "compare", "extrapolate", "info", "export"])
def test_a_stray_word_behind_an_option_is_refused_where_directories_come_first(verb, capsys):
    assert cli.main([verb, "a", "--out", "b", "c"]) == 2


def test_several_words_are_a_list_where_they_are_one(toml):
    words = [*config.read_arguments(toml), "--lattice.shape", "4", "4", "8"]
    assert config.parse(words, file=toml).lattice.shape == (4, 4, 8)


# Values.


def test_an_empty_value_is_refused(toml, capsys):
    for key in ("out", "time-limit", "chain.start", "seed"):
        said = refused(capsys, "generate", "job.toml", f"--{key}=")
        assert f"must not be empty: say --{key} VALUE" in said
    toml.write_text(BASE + 'start = ""\n' + SHAPE)
    assert "chain.start must not be empty" in refused(capsys, "generate", "job.toml")


def test_a_text_that_looks_like_a_key_stays_a_text(toml):
    toml.write_text(BASE + 'start = "--seed"\n' + SHAPE)
    job = config.parse(config.read_arguments(toml), file=toml)
    assert (job.chain.start, job.seed) == ("--seed", 1)
    with pytest.raises(ConfigError, match="the values of shape must not begin with --"):
        as_arguments({"shape": ["4", "--seed"]})


@each(
    ("content", "sentence"),
    [
        ("[[lattice]]\nshape = [4, 4]\n", "lattice must be one table, [lattice], got a list of 1"),
        ("[lattice]\nshape = [[4, 4]]\n", "lattice.shape must be a list of values"),
        ("[lattice]\nshape = {a = 1}\n", "unknown key in job.toml: lattice.shape.a"),
        ("[lattice]\nshape = 1979-05-27\n", "lattice.shape must be whole numbers, got 1979-05-27"),
        ("[lattice]\nshape = [4, true]\n", "lattice.shape must be whole numbers, got 4 True"),
        ("[lattice]\nshape = [4]\nseed = 3\n", "lattice.seed; did you mean seed?"),
        ("[lattice]\nshape = [4]\nkappa = 3\n", "lattice.kappa; did you mean action.kappa?"),
        ('[lattice]\n"shape x" = [4]\n', "a key consists of letters, figures, . _ and -"),
        ("[output]\nsave-configs = true\nsave_configs = false\n" + SHAPE, "one key, given twice"),
        ("[lattice]\nshape = " + 5000 * "[" + 5000 * "]" + "\n", "nested too deep"),
        ("", "lattice.shape is required"),
        ("\udcff", "is not valid TOML, which is UTF-8"),
    ],
)
def test_what_toml_can_say_and_a_config_cannot_is_a_sentence(toml, capsys, content, sentence):
    toml.write_bytes((BASE + content).encode("utf-8", "surrogateescape"))
    assert sentence in refused(capsys, "generate", "job.toml")


def test_a_byte_order_mark_is_no_part_of_a_config(toml):
    plain = read_file(toml)
    toml.write_bytes(b"\xef\xbb\xbf" + toml.read_bytes().replace(b"\n", b"\r\n"))
    assert read_file(toml) == plain


def test_a_config_is_one_whatever_its_ending(toml, capsys):
    for name in ("JOB.TOML", "job.txt"):
        toml.with_name(name).write_text(BASE + "shape = [4]\n")  # a mistake of the file's
        assert f"unknown key in {name}" in refused(capsys, "generate", name)
    assert "cannot read the config ." in refused(capsys, "generate", ".")


# Numbers that a machine cannot count.

HUGE = 10**18


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (f"--seed {2**63}", "seed must be below 2^63"),
        (f"--seed {-(2**63) - 1}", "seed must be below 2^63 in size"),
        ("--seed -1", "seed must be at least 0"),
        ("--seed 1e3", "seed must be a whole number, got 1e3"),
        (f"--sampler.n-steps {10**30}", "sampler.n_steps must be below 2^63"),
        (f"--split {10**30}", "split must be below 2^63"),
        (f"--chain.n-configs {HUGE}", "must be below 2^31, which random numbers count"),
        (f"--chain.n-thermalise {HUGE}", "must be below 2^31, which random numbers count"),
        (f"--chain.thin {2**31}", "must be below 2^31, which random numbers count"),
        (f"--chain.n-chains {HUGE}", "chain.n_chains must be below 2^31"),
        (f"--time-limit {10**400}h", "--time-limit must be at most 1000000000 seconds"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_numbers_that_cannot_be_counted_are_refused(toml, capsys, words, sentence, dry):
    assert sentence in refused(capsys, "generate", "job.toml", *words.split(), *dry)
    assert sorted(toml.parent.iterdir()) == [toml]


@pytest.mark.parametrize("seed", [2**63, -1, 10**30])
def test_seeds_of_spectra_and_benchmarks_are_checked_too(seed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["spectrum", "nothing", "--out", "s"], ["bench", "kernel", "--size", "toy"]):
        assert "seed must be" in refused(capsys, *words, "--seed", str(seed))


@each("value", [2.0, True, "2", None, float("nan"), np.float64(3)])
def test_counts_of_a_run_are_whole_numbers(value):
    sampler = HMC(FreeField(mass_squared=1.0, ndim=2))
    with pytest.raises(ValueError, match=r"chain\.n_configs must be a whole number >= 1, got"):
        check(sampler, Lattice((4, 4)), ChainSettings(2, n_configs=value))
    check(sampler, Lattice((4, 4)), ChainSettings(np.int64(2), n_configs=3))


def test_a_limit_of_years_is_one():
    assert seconds("100000h") == 3.6e8
