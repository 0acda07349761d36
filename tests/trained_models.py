"""Small models and the ensembles they learn, for the tests of training and sampling."""

import json
from pathlib import Path

from lattice_ml.jobs import config, generate
from lattice_ml.jobs import train as training
from lattice_ml.runtime.arguments import as_arguments

ACTION = {"action.kappa": 0.25, "action.lam": 0.1}
NETWORK = {"model.n_channels": 1, "model.n_hidden": 4, "model.n_outputs": 1}
SETTINGS = NETWORK | {
    "training.n_steps": 40,
    "training.batch_size": 16,
    "training.fine_tune_steps": 20,
    "training.fine_tune_batch": 8,
    "training.flow_steps": 2,
}


def make_ensemble(out, shape=(4, 4), n_chains=8, n_configs=40, couplings=ACTION, **changes):
    settings = couplings | {
        "lattice.shape": list(shape),
        "chain.n_chains": n_chains,
        "chain.n_configs": n_configs,
        "chain.n_thermalise": 50,
    }
    settings |= {key.replace("_", ".", 1): value for key, value in changes.items()}
    generate.generate(config.parse(as_arguments(settings)), out)
    return Path(out)


def job(**changes):
    """A job of `train` with SETTINGS and changes such as training_n_steps=3."""
    settings = SETTINGS | {key.replace("_", ".", 1): value for key, value in changes.items()}
    return config.parse_training(as_arguments(settings))


def train(out, data=(), init_from=None, **changes):
    limits = {key: changes.pop(key) for key in ("time_limit", "on_progress") if key in changes}
    return training.train(job(**changes), out, data=data, init_from=init_from, **limits)


def metrics(directory):
    text = (Path(directory) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
