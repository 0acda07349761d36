"""Small flows trained on ensembles, for the tests of `train` and `sample`."""

from lattice_ml.jobs import config
from lattice_ml.jobs import sample as sampling
from lattice_ml.jobs import train as training
from lattice_ml.runtime.arguments import as_arguments

SMALL = {
    "model.kind": "Flow",
    "model.hidden": [3],
    "model.couplings": [2],
    "model.coupling_hidden": [3],
    "model.base_couplings": 4,
    "model.base_hidden": 3,
    "training.kl_steps": 2,
    "training.n_steps": 2,
    "training.n_samples": 1024,
    "training.checkpoint_every": 0,
}


def job(**changes):
    settings = SMALL | {key.replace("_", ".", 1): value for key, value in changes.items()}
    return config.parse_training(as_arguments(settings))


def train(out, data=(), init_from=None, **changes):
    limits = {key: changes.pop(key) for key in ("time_limit", "on_progress") if key in changes}
    return training.train(job(**changes), out, data=data, init_from=init_from, **limits)


def sample(model, out, n_samples=64, correct="none", time_limit=None, **changes):
    settings = {key.replace("_", ".", 1): value for key, value in changes.items()}
    words = [*as_arguments(model.defaults), *as_arguments(settings)]
    asked = config.parse_sampling(words, kind=model.kind)
    return sampling.sample(
        asked, model, out, n_samples=n_samples, correct=correct, time_limit=time_limit
    )
