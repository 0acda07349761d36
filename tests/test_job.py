"""Jobs from objects: the same config, and the same directory, as from a TOML file."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lattice_ml import (
    HMC,
    Cycle,
    FreeField,
    Lattice,
    Phi4,
    ReplicaExchange,
    SwendsenWang,
    Wolff,
    action,
    open_ensemble,
)
from lattice_ml.actions import conventions
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.jobs import config
from lattice_ml.jobs.generate import generate
from lattice_ml.jobs.job import Job, SamplingJob, TrainingJob
from lattice_ml.jobs.sections import OutputSettings
from lattice_ml.models.diffusion.sections import SamplingSection, TrainingSection
from lattice_ml.models.rbm.sections import RBMTrainingSection
from lattice_ml.runtime.arguments import as_arguments
from lattice_ml.runtime.values import ConfigError
from lattice_ml.storage.run import StorageError

pytestmark = pytest.mark.unoptimised

SQUARE = Lattice((4, 4))
KAPPA = action("kappa", 2, kappa=0.2, lam=0.1)
SHORT = ChainSettings(n_chains=2, n_thermalise=8, n_configs=3)


def table(**sections):
    return {"lattice": {"shape": [4, 4]}, "action": {"kappa": 0.2, "lam": 0.1}} | sections


def as_json(job):
    return json.dumps(job.config)


def test_a_job_of_objects_has_the_config_of_the_same_job_from_words():
    exchange = ReplicaExchange(
        KAPPA, coupling=conventions.Parameter("kappa", "kappa", 2), ladder=(0.21, 0.22)
    )
    free = FreeField(mass_squared=1, ndim=2)
    double_well = {"beta": 0.3, "lam": 3, "convention": "beta"}
    both = Cycle(
        (
            HMC(action("beta", 2, beta=0.3, lam=3), periods=0.15),
            SwendsenWang(action("beta", 2, beta=0.3, lam=3)),
        )
    )
    pairs = [
        (Job(SQUARE, HMC(KAPPA)), {}),
        (Job(SQUARE, HMC(KAPPA, step_size=1, n_steps=np.int64(3)), seed=5),
         {"sampler": {"step_size": 1, "n_steps": 3}, "seed": 5}),
        (Job(SQUARE, Cycle((HMC(KAPPA), Wolff(KAPPA))), output=OutputSettings("float64")),
         {"sampler": {"kind": "HMC + Wolff"}, "output": {"dtype": "float64"}}),
        (Job(SQUARE, both), {"action": double_well}),
        (Job(SQUARE, HMC(free), SHORT),
         {"action": {"kind": "FreeField", "mass_squared": 1},
          "chain": {"n_chains": 2, "n_thermalise": 8, "n_configs": 3}}),
        (Job(SQUARE, exchange),
         {"sampler": {"kind": "ReplicaExchange", "coupling": "kappa", "ladder": [0.21, 0.22]}}),
    ]  # fmt: skip
    for job, words in pairs:
        assert as_json(job) == as_json(config.parse(as_arguments(table(**words))))


NAMED = [
    ("kappa", {"kappa": 0.27, "lam": 0.022}),
    ("beta", {"beta": 0.1 + 0.2, "lam": 1 / 3}),
    ("standard", {"mass_squared": -1.2732, "g": 0.5}),
    ("standard24", {"mass_squared": 0.1, "lam": 1.7}),
    ("nohalf", {"mass_squared": -4, "lam": 6.975}),
]


def test_an_action_of_a_convention_keeps_the_numbers_that_it_was_made_of():
    for convention, values in NAMED:
        section = conventions.section(action(convention, 2, **values), 2)
        assert section == {"kind": "Phi4", "convention": convention, **values}
        assert all(type(section[key]) is float for key in values)


def test_an_action_in_h_a_b_gets_the_plainest_numbers_of_a_convention_that_fits():
    for convention, values in NAMED:
        made = action(convention, 2, **values)
        bare = Phi4(*made.couplings())
        section = conventions.section(bare, 2)
        assert conventions.from_config(section, 2).couplings() == bare.couplings()
        if convention in ("kappa", "standard", "nohalf"):
            assert section == {"kind": "Phi4", "convention": convention, **values}
    changed = replace(KAPPA, h=0.5)  # no longer what it was made of
    assert conventions.section(changed, 2)["kappa"] == 0.25


def test_an_action_that_no_config_can_name_is_refused():
    class Sine:
        ndim = None

    with pytest.raises(ValueError, match=r"actions Phi4, FreeField, .* got Sine: `run` keeps"):
        conventions.section(Sine(), 2)
    with pytest.raises(ValueError, match=r"not normalised as any convention.*convert"):
        conventions.section(Phi4(0.7, 1.3, 0.2), 2)
    with pytest.raises(ValueError, match="not bounded below"):
        Job(SQUARE, HMC(Phi4(0.4, 1.2, -0.1)))


def test_a_value_that_a_config_refuses_is_refused_of_an_object():
    refused = [
        (ChainSettings(n_chains=0), r"chain\.n_chains must be at least 1, got 0"),
        (ChainSettings(n_configs=1.5), r"chain\.n_configs must be a whole number, got 1\.5"),
        (ChainSettings(thin=True), r"chain\.thin must be a whole number, got True"),
        (ChainSettings(start=3), r"chain\.start must be a word, got 3"),
    ]
    for settings, message in refused:
        with pytest.raises(ConfigError, match=message):
            Job(SQUARE, HMC(KAPPA), settings)
    with pytest.raises(ConfigError, match=r"output\.dtype must be float32 or float64, got half"):
        Job(SQUARE, HMC(KAPPA), output=OutputSettings("half"))
    with pytest.raises(ConfigError, match=r"seed must be a whole number, got 1\.0"):
        Job(SQUARE, HMC(KAPPA), seed=1.0)
    with pytest.raises(ConfigError, match=r"sampler\.integrator must be .*leapfrog.* got frog"):
        Job(SQUARE, HMC(KAPPA, integrator="frog"))


def test_a_training_job_of_records_has_the_config_of_the_same_job_from_words():
    model = {"denoiser": "convnet", "channels": 4}
    pairs = [
        (TrainingJob(), {}),
        (TrainingJob(model, TrainingSection(n_steps=(3,), clip=2)),
         {"model": model, "training": {"n_steps": 3, "clip": 2}}),
        (TrainingJob({"kind": "GaussianRBM", "sigma": 1}, RBMTrainingSection(decay=2), seed=3),
         {"model": {"kind": "GaussianRBM", "sigma": 1}, "training": {"decay": 2}, "seed": 3}),
    ]  # fmt: skip
    for job, words in pairs:
        assert as_json(job) == as_json(config.parse_training(as_arguments(words)))


def test_a_training_job_refuses_what_its_kind_does_not_have():
    with pytest.raises(ConfigError, match=r"model\.n_hiden; did you mean model\.n_hidden"):
        TrainingJob({"n_hiden": 3})
    with pytest.raises(ConfigError, match=r"unknown model\.kind: GAN"):
        TrainingJob({"kind": "GAN"})
    with pytest.raises(ConfigError, match="training of a Diffusion must be TrainingSection"):
        TrainingJob({}, RBMTrainingSection())
    with pytest.raises(ConfigError, match=r"training\.ema must be in \[0, 1\), got 1\.5"):
        TrainingJob({}, TrainingSection(ema=1.5))


def test_a_sampling_job_of_records_has_the_config_of_the_same_job_from_words():
    job = SamplingJob(SQUARE, KAPPA, SamplingSection("path", n_steps=20))
    words = as_arguments(table(sampling={"method": "path", "n_steps": 20}))
    assert as_json(job) == as_json(config.parse_sampling(words))


def test_a_sampling_job_of_a_model_is_that_of_the_command_line():
    actions = [conventions.section(KAPPA, 2)]
    model = SimpleNamespace(directory="runs/m", kind="Diffusion", stages=[], defaults={})
    model.stages.append(SimpleNamespace(shape=(4, 4), actions=actions))
    model.defaults |= table(sampling={"method": "path"})
    assert as_json(SamplingJob.of(model)) == as_json(
        config.parse_sampling(as_arguments(model.defaults))
    )
    actions.append(conventions.section(action("kappa", 2, kappa=0.3, lam=0.1), 2))
    with pytest.raises(ValueError, match=r"runs/m learned 2 actions .* SamplingJob\(lattice,"):
        SamplingJob.of(model)


def contents(directory):
    """All bytes but those that say when and how fast."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("cost.json", "manifest.json")
    }


def test_a_run_begun_one_way_goes_on_the_other_and_is_the_same_to_the_byte(tmp_path):
    sizes = {"n_chains": 2, "n_thermalise": 8, "n_configs": 3}
    written = config.parse(as_arguments(table(chain=sizes, sampler={"kind": "HMC"})))
    built = Job(SQUARE, HMC(KAPPA), SHORT)
    generate(written, tmp_path / "words", block_configs=1)
    generate(built, tmp_path / "objects", block_configs=1)
    assert contents(tmp_path / "words") == contents(tmp_path / "objects")
    longer = replace(built, chain=replace(SHORT, n_configs=5))
    again = generate(longer, tmp_path / "words", block_configs=1)
    assert again.n_configs == 5
    assert open_ensemble(tmp_path / "words").action == KAPPA
    with pytest.raises(StorageError, match="action"):
        generate(Job(SQUARE, HMC(Phi4(0.5, 0.8, 0.1)), SHORT), tmp_path / "words")


def test_settings_may_be_numbers_of_numpy(tmp_path):
    phi4, chain = action("kappa", 2, kappa=0.2, lam=0.02), ChainSettings(2, 0, 3)
    sampler = HMC(phi4, step_size=np.float32(0.25), n_steps=np.int64(3))
    made = generate(Job(Lattice((4, 4)), sampler, chain), tmp_path / "numpy")
    plain = HMC(phi4, step_size=0.25, n_steps=3)
    same = generate(Job(Lattice((4, 4)), plain, chain), tmp_path / "plain")
    assert made.config == same.config and made.tuned == same.tuned
    assert np.array_equal(made.cfgs[:], same.cfgs[:])
