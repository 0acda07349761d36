"""Ensembles at several step sizes that nobody ran, for the tests of extrapolation."""

import numpy as np

from lattice_ml.observables import PRIMARIES
from lattice_ml.statistics import estimate
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import open_run

SHAPE, VOLUME, N_CHAINS = (4, 4), 16, 8
STEPS = (0.05, 0.1, 0.2)
LANGEVIN = {"kind": "Langevin", "trajectory_length": 1.0, "scheme": "euler", "temperature": 1.0}
KRAMERS = {"kind": "Kramers", "trajectory_length": 1.0, "friction": 1.0, "accept": False}
HMC = {"kind": "HMC", "trajectory_length": 1.0, "n_steps": 5}
MALA = {"kind": "MALA"}


def written(directory, step_size=0.1, *, sampler=LANGEVIN, seed=None, ratio=1.0, means=(), **more):
    """An ensemble of histories whose means are lines in the step size; nothing was run.

    phi2 = 1 + eps, <phi dS/dphi> = 1 + eps, the rest does not depend on it, but for the `means`
    that are given. `ratio` is how many steps were made for every one that was asked.
    """
    config = {
        "seed": round(1e4 * step_size) if seed is None else seed,
        "lattice": {"shape": SHAPE},
        "action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.02},
        **({"sampler": {**sampler, "step_size": step_size}} if sampler else {}),  # or an import
        "chain": {"n_chains": N_CHAINS, "n_configs": 100, "thin": 1},
        "output": {"dtype": "float32", "save_configs": False},
    }
    for name, table in more.items():  # one of another kind takes the place of all
        config[name] = table if "kind" in table else config[name] | table
    rows = config["chain"]["n_configs"], config["chain"]["n_chains"]
    rng = np.random.default_rng([config["seed"], *rows])
    means = dict.fromkeys(PRIMARIES, 1.0) | {
        "magnetisation": 0.0,
        "phi2": 1 + step_size,
        "two_point_min": 0.002 * VOLUME,
        "schwinger_dyson": 1 + step_size,
        **dict(means),
    }
    widths = dict.fromkeys(PRIMARIES, 0.1) | {"two_point_min": 0.0002 * VOLUME}
    series = {name: means[name] + widths[name] * rng.normal(size=rows) for name in PRIMARIES}
    series["n_steps"] = np.full(rows, ratio * round(1 / step_size))
    with open_run(directory, config, provenance={}) as run:
        run.append(np.arange(rows[0]), None, series, {})
    return open_ensemble(directory)


def measure_means(ensemble):
    """Some histories as they are, in the place of `measure`, which takes most of a test's time."""
    found = {name: estimate(ensemble.series(name)) for name in ("phi2", "phi4", "schwinger_dyson")}
    return found | {"acceptance": None}
