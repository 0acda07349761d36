"""The command line as a user meets it: what it prints, what it writes, how it exits."""

import json
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from rows import each
from verbs import refused, run

from lattice_ml import cli
from lattice_ml.chains.failures import RunError
from lattice_ml.jobs import generate
from lattice_ml.storage import run as storage
from lattice_ml.storage.ensemble import open_ensemble

SMALL = "seed = 3\n[lattice]\nshape = [4, 4]\n[action]\nkappa = 0.2\nlam = 0.1\n[chain]\n"
CHAINS = "n_chains = 3\nn_thermalise = 20\nn_configs = 40\n"

MEASURED = {  # what design promises in `measure --json`
    *("magnetisation", "abs_magnetisation", "phi2", "phi4", "m2", "m4", "action_density"),
    *("link_sum", "chi2", "susceptibility", "binder", "correlation_length"),
    *("schwinger_dyson", "acceptance"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a config, an ensemble made from it, and an exported array."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(SMALL + CHAINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["generate", "small.toml"]) == 0
        assert cli.main(["export", "runs/small", "--out", "small.npy"]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def shell(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


# The first steps.


def test_help_answers_within_half_a_second():
    """Of the processor's time: the clock on the wall is that of other processes too."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell("-m", "lattice_ml", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5


def test_help_imports_neither_jax_nor_numpy():
    code = (
        "import sys; from lattice_ml import cli; status = cli.main(['--help'])\n"
        "print('imported', *{'jax', 'jaxlib', 'numpy', 'tyro'} & set(sys.modules))\n"
        "sys.exit(status)"
    )
    done = shell("-c", code)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "imported"


def test_help_names_every_verb_and_no_words_get_the_same_page(capsys):
    status, page, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"\n  {verb} " in page for verb in cli.VERBS)
    assert run(capsys) == (2, page, "")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_help_page(capsys, verb):
    status, page, _ = run(capsys, verb, "--help")
    assert status == 0
    assert f"usage: lattice-ml {verb} " in page


def test_the_help_of_a_config_shows_the_keys_that_it_takes(capsys):
    words = ["--action.kind", "FreeField", "--lattice.shape", "4"]
    status, page, _ = run(capsys, "generate", *words, "--help")
    assert status == 0
    assert "--action.mass-squared" in page and "--action.kappa" not in page
    assert "--chain.n-thermalise" in page and "--time-limit" in page


def test_the_version_is_printed():
    done = shell("-m", "lattice_ml", "--version")
    assert (done.returncode, done.stdout) == (0, "lattice-ml 0.1.0\n")


def test_an_unknown_verb_names_the_nearest(capsys):
    status, _, err = run(capsys, "genrate", "small.toml")
    assert status == 2
    assert "unknown command genrate; did you mean generate?" in err


# Exit statuses.


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (storage.StorageError("changed"), 2),
        (ValueError("wrong"), 2),
        (RunError("diverged"), 3),
        (OSError(28, "No space left on device"), 3),
        (generate.Interrupted("time is up", None), 0),
        (generate.Interrupted("SIGINT", signal.SIGINT), 130),
        (generate.Interrupted("SIGTERM", signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_command_decides_its_status(capsys, monkeypatch, failure, status):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(generate, "generate", fail)
    refused(capsys, "generate", "small.toml", "--out", "other", status=status)


BUSY = """
import hashlib, os, sys, threading
from lattice_ml import cli, commands
def run(*words):
    threading.Timer(0.1, os.kill, (os.getpid(), {signum})).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no instruction of Python's, as in the compiler
commands.run = run
sys.argv[1:] = ["generate", "small.toml"]
cli.main()
print("went on")
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_anything_to_save_ends_the_process_with_a_sentence(signum):
    begin = time.monotonic()
    done = shell("-c", BUSY.format(signum=int(signum)))
    assert (done.returncode, done.stdout) == (128 + signum, "")
    assert time.monotonic() - begin < 20
    assert done.stderr == (
        f"lattice-ml generate: {signum.name}: ended at once; nothing that was kept is lost, and "
        f"the same command goes on from there or begins again\n"
    )


def test_a_run_that_diverges_ends_with_status_3(capsys):
    words = ["--sampler.step-size", "20", "--sampler.n-steps", "20", "--out", "diverged"]
    status, _, err = run(capsys, "generate", "small.toml", *words)
    assert status == 3
    assert "make sampler.step_size smaller" in err.splitlines()[-1]


REFUSED = [
    ("generate", "no file given"),
    ("generate absent.toml", "cannot read the config absent.toml"),
    ("generate small.toml --chain.n-confgs 5", "did you mean chain.n_configs?"),
    ("generate small.toml --chain.n-configs x", "chain.n_configs must be a whole number, got x"),
    ("generate small.toml --out", "out must be a word, got nothing"),
    ("generate small.toml --action.kappa 0.1", "action.kappa: the run in runs/small was made with"),
    ("generate small.toml --sweep action.kappa", "--sweep needs a key and its values"),
    ("generate small.toml --sweep action.kapa 1", "did you mean action.kappa?"),
    ("generate small.toml --sweep chain.start runs/small runs_small", "both be run into"),
    ("generate small.toml --sweep out a b", "--sweep needs a key of the config, got out"),
    ("measure", "at least one ensemble"),
    ("measure absent", "absent holds no ensemble"),
    ("info absent", "absent holds no ensemble"),
    ("export absent --out x.npy", "absent holds no ensemble"),
    ("export runs/small --out x.txt", "must end in .h5, .npz, .npy, or .json.gz"),
    ("import absent.npy --out x --action.kappa 0.2 --action.lam 0.1", "no such file"),
    ("import small.npy --action.kappa 0.2 --action.lam 0.1", "out is required"),
    ("import small.npy --out x --action.kappa 0.2", "action.lam is required"),
    ("import small.npy --out x --action.kappa 0.2 --action.lam -1", "not bounded below"),
    ("import small.npy --out x --action.kapa 0.2", "did you mean action.kappa?"),
    ("import small.npy --out x --action.kappa 0.2 --action.lam 1 --n-chains 7", "cannot be 7"),
]


@each(("line", "sentence"), REFUSED)
def test_bad_usage_ends_with_status_2_and_one_sentence(capsys, folder, line, sentence):
    assert sentence in refused(capsys, *line.split())
    assert not (folder / "x").exists()


@each("limit", ["3x", "", "h", "1m2h", "-5s", "0s"])
def test_a_time_limit_that_makes_no_sense_is_refused(capsys, limit):
    assert "--time-limit" in refused(capsys, "generate", "small.toml", f"--time-limit={limit}")


@pytest.mark.parametrize(
    ("limit", "seconds"), [("90s", 90), ("45", 45), ("30m", 1800), ("3h", 10800), ("1h30m", 5400)]
)
def test_a_time_limit_is_handed_on_in_seconds(capsys, monkeypatch, limit, seconds):
    asked = []

    def note(job, out, *, time_limit, split, on_progress):
        asked.append(time_limit)
        raise generate.Interrupted("time is up", None)

    monkeypatch.setattr(generate, "generate", note)
    run(capsys, "generate", "small.toml", "--time-limit", limit)
    assert asked == [seconds]


# generate.


def test_generate_reports_lines_without_a_terminal_and_a_summary(capsys, folder):
    status, out, err = run(capsys, "generate", "small.toml", "--out", "reported")
    assert status == 0
    assert out.startswith("reported: 3 chains x 40 configurations of 4 x 4; acceptance 0.")
    warm_up, production = err.splitlines()
    assert warm_up.startswith("reported warm-up 20/20 ")
    assert production.startswith("reported production 40/40 acceptance 0.")
    status, again, err = run(capsys, "generate", "small.toml", "--out", "reported")
    assert (status, again, err) == (0, out, "")


def test_options_may_change_when_a_run_goes_on(capsys):
    words = ["generate", "small.toml", "--out", "options"]
    assert run(capsys, *words, "--time-limit", "1h")[0] == 0
    assert run(capsys, *words)[0] == 0
    assert run(capsys, *words, "--chain.n-configs", "41")[0] == 0
    assert open_ensemble("options").n_configs == 41


def test_a_sweep_makes_one_ensemble_per_value_with_one_compilation(capsys, folder):
    sweep = ["generate", "small.toml", "--out", "sweep", "--sweep", "action.kappa"]
    assert run(capsys, *sweep, "0.1")[0] == 0
    compilations = []

    def count(event, seconds, **details):
        if event.endswith("backend_compile_duration"):
            compilations.append(details)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        assert run(capsys, *sweep, "0.1", "0.15", "0.25")[0] == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert compilations == []
    paths = sorted((folder / "sweep").iterdir())
    assert [path.name for path in paths] == [f"action.kappa={v}" for v in ("0.1", "0.15", "0.25")]
    ensembles = [open_ensemble(path) for path in paths]
    assert [e.config["action"]["kappa"] for e in ensembles] == [0.1, 0.15, 0.25]
    assert len({float(e.series("phi2").mean()) for e in ensembles}) == 3


def test_every_value_of_a_sweep_is_checked_before_the_first_runs(capsys, folder):
    words = ["--out", "checked", "--sweep", "action.lam", "0.1", "-0.1"]
    assert "not bounded below" in refused(capsys, "generate", "small.toml", *words)
    assert not (folder / "checked").exists()


# measure.


def test_measure_writes_every_observable_with_its_error(capsys):
    status, out, _ = run(capsys, "measure", "runs/small", "--json", "measured.json")
    assert status == 0
    with open("measured.json") as file:
        table = json.load(file)
    assert list(table) == ["runs/small"]
    assert set(table["runs/small"]) >= MEASURED
    for name in MEASURED - {"correlation_length"}:
        estimate = table["runs/small"][name]
        assert set(estimate) == {"value", "error", "tau_int", "tau_int_error"}
        assert np.isfinite(list(estimate.values())).all(), name
        assert f"\n  {name} " in out
    assert table["runs/small"]["phi2"]["value"] == pytest.approx(
        open_ensemble("runs/small").series("phi2").mean(), rel=1e-12
    )


def test_what_is_not_defined_is_null_and_a_dash(capsys):
    action = ["--action.kappa", "0.2", "--action.lam", "0.1"]
    assert run(capsys, "import", "small.npy", "--out", "plain", *action, "--n-chains", "3")[0] == 0
    status, out, _ = run(
        capsys, "measure", "plain", "runs/small", "--json", "plain.json", "--no-weights"
    )
    assert status == 0
    with open("plain.json") as file:
        table = json.load(file)
    assert list(table) == ["plain", "runs/small"]
    assert table["plain"]["acceptance"] is None
    assert out.count("acceptance") == 2 and "acceptance                                 -" in out
    assert table["plain"]["phi2"]["value"] == pytest.approx(
        table["runs/small"]["phi2"]["value"], rel=1e-6
    )


def test_two_configurations_are_too_few_to_measure(capsys):
    words = ["--out", "two", "--chain.n-configs", "2"]
    assert run(capsys, "generate", "small.toml", *words)[0] == 0
    assert "configurations" in refused(capsys, "measure", "two")


def test_measure_checks_all_ensembles_before_it_prints(capsys):
    assert "absent holds no ensemble" in refused(capsys, "measure", "runs/small", "absent")


# import, export, info.


@pytest.mark.parametrize("ending", ["npy", "npz", "h5"])
def test_what_is_exported_can_be_imported(capsys, ending):
    file, out = f"round.{ending}", f"round-{ending}"
    assert run(capsys, "export", "runs/small", "--out", file) == (0, f"{file}\n", "")
    action = ["--action.convention", "kappa", "--action.kappa", "0.2", "--action.lam", "0.1"]
    status, text, _ = run(capsys, "import", file, "--out", out, "--n-chains", "3", *action)
    assert (status, text) == (0, f"{out}: 3 chains x 40 configurations of 4 x 4\n")
    made, original = open_ensemble(out), open_ensemble("runs/small")
    assert np.array_equal(made.cfgs[:], original.cfgs[:])
    assert made.action == original.action


def test_info_says_what_an_ensemble_is(capsys):
    status, out, _ = run(capsys, "info", "runs/small")
    assert status == 0
    for words in ("3 chains x 40", "4 x 4", "kappa = 0.2, lam = 0.1", "h = 0.4, a = 0.8, b = 0.1"):
        assert words in out
    assert "constant per site left out: 0" in out
    assert "step_size" in out and "lattice-ml" in out and "exp_minus_dh" in out
    assert "{" not in out, "a table of ours is not Python"
