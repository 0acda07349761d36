"""Runs that `check` looks at, and what it says by name."""

from dataclasses import replace

import jax

import lattice_ml
from lattice_ml import HMC, Lattice
from lattice_ml.analysis.certificates import check

SHAPE = (16, 16)
N_CHAINS, N_CONFIGS = 32, 200
NAMES = {
    "amplitudes",
    "copies",
    "movement",
    "rejections",
    "steps",
    "schwinger_dyson",
    "cluster_signs",
    "exp_minus_dh",
    "acceptance",
    "chains_agree",
    "halves_agree",
    "z2_balance",
    "histories_agree",
    "repeats",
    "chains_independent",
}


def phi4(kappa, lam=0.022, ndim=2):
    return lattice_ml.action("kappa", ndim, kappa=kappa, lam=lam)


def run(action, shape=SHAPE, seed=1, *, n_chains=N_CHAINS, n_configs=N_CONFIGS, **settings):
    """A run of HMC, with the keys of its `sampler` beside those of the chains."""
    sampler = HMC(action, **settings.pop("sampler", {}))
    counts = {"n_chains": n_chains, "n_configs": n_configs, "n_thermalise": 100} | settings
    return lattice_ml.run(jax.random.key(seed), sampler, Lattice(shape), **counts)


def verdicts(ensemble, **options):
    """Names by verdict; every certificate is there once."""
    found = check(ensemble, **options)
    assert [c.name for c in found] == list(dict.fromkeys(c.name for c in found))
    assert {c.name for c in found} == NAMES | {"weights"}
    found = [c for c in found if c.meaning != "all configurations count alike"]
    return {
        v: {c.name for c in found if c.verdict == v}
        for v in ("pass", "fail", "undecided", "not applicable")
    }


def one(ensemble, name):
    return next(c for c in check(ensemble) if c.name == name)


def part(ensemble, n_chains, n_configs):
    """The first chains and configurations of an ensemble."""
    cfgs = ensemble.cfgs.reshape(-1, ensemble.n_chains, *ensemble.shape)
    few = {name: series[:n_chains, :n_configs] for name, series in ensemble.histories.items()}
    flat = cfgs[:n_configs, :n_chains].reshape(-1, *ensemble.shape)
    return replace(ensemble, cfgs=flat, histories=few)
