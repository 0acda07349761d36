"""Replica exchange samples every value of its ladder, tunnels, and swaps as often as it must."""

from collections import namedtuple
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

from lattice_ml import HMC, Lattice, Phi4, ReplicaExchange, estimate, measure, run
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import Parameter, action
from lattice_ml.analysis.exact import exact
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single

KAPPA = Parameter("kappa", "kappa", 2)
MAX_Z = 4.0


VALUES = (0.46, 0.4, 0.33, 0.24)  # HMC does not tunnel at the first
SHAPE = (2, 4)
MOMENTS = ("m2", "phi2", "phi4")
FIXED = {"n_steps": 4, "step_size": 0.3, "sign_flip": False}
COUNTS = {"n_chains": 128, "n_configs": 500, "n_thermalise": 100}


@pytree
class Watched(ReplicaExchange):
    """Reports moments of every replica as histories of their own."""

    eagerness: float = 0.0  # swaps below threshold + eagerness

    def draw(self, keys, trajectory):
        draws = super().draw(keys, trajectory)
        return draws._replace(threshold=draws.threshold + self.eagerness)

    def update(self, layout, keys, trajectory, draws, state):
        state, info = super().update(layout, keys, trajectory, draws, state)
        phi = jnp.concatenate([state.phi[None], state.others])
        means = jax.vmap(layout.site_sum)
        m, phi2, phi4 = (means(phi**power) / layout.volume for power in (1, 2, 4))
        rows = zip(MOMENTS, (m**2, phi2, phi4), strict=True)
        found = {f"{name}_{r}": x for name, row in rows for r, x in enumerate(row)}
        return state, namedtuple("Info", [*info._fields, *found])(*info, *found.values())


def at(kappa):
    return action("kappa", 2, kappa=kappa, lam=0.1)


@cache
def known(kappa):
    return exact(at(kappa), SHAPE).values


def sample(seed, eagerness=0.0):
    sampler = Watched(
        at(VALUES[0]), coupling=KAPPA, ladder=VALUES[1:], eagerness=eagerness, **FIXED
    )
    return run(jax.random.key(seed), sampler, Lattice(SHAPE), **COUNTS)


def pulls(chains):
    """(found - exact) / error of the moments at every value."""
    found = {}
    for r, kappa in enumerate(VALUES):
        for name in MOMENTS:
            mean, expected = estimate(chains.series(f"{name}_{r}")), known(kappa)[name]
            assert mean.error < 0.02 * expected
            found[f"{name} at {kappa}"] = (mean.value - expected) / mean.error
    return found


@pytest.fixture(scope="module")
def chains():
    return {seed: sample(seed) for seed in (1, 2)}


@pytest.mark.parametrize("seed", [1, 2])
def test_every_value_of_the_ladder_has_its_exact_moments(chains, seed):
    found = pulls(chains[seed])
    assert max(map(abs, found.values())) < MAX_Z, found
    assert 0.1 < chains[seed].series("swap_acceptance").mean() < 0.5


def test_swaps_without_their_accept_step_would_be_seen():
    found = pulls(sample(1, eagerness=np.inf))
    assert max(map(abs, found.values())) > 20


@pytest.mark.parametrize("seed", [1, 2])
def test_it_tunnels_where_hmc_does_not(chains, seed):
    alone = run(jax.random.key(seed), HMC(at(VALUES[0]), **FIXED), Lattice(SHAPE), **COUNTS)
    crossings = [
        np.sum(np.diff(np.sign(found.series("magnetisation"))) != 0)
        for found in (alone, chains[seed])
    ]
    assert crossings[0] == 0 and crossings[1] > 1000
    found = measure(chains[seed])
    assert abs(found["magnetisation"].value) < MAX_Z * found["magnetisation"].error
    assert found["magnetisation"].error < 0.1
    for name in MOMENTS:
        assert abs(found[name].value - known(VALUES[0])[name]) < MAX_Z * found[name].error, name
    assert chains[seed].series("round_trips").mean() > 0.01


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.2])
def test_oscillators_swap_as_often_as_their_energies_overlap(ratio):
    """D = (w_a - w_b) (sum phi_b^2 - sum phi_a^2) / 2 of n independent sites.

    In equilibrium <min(1, e^-D)> = 2 P(D < 0), and D < 0 where the ratio of two chi^2 of n degrees
    of freedom is below w_b / w_a: twice the distribution function of F(n, n).
    """
    shape = (2, 3)
    sampler = ReplicaExchange(
        Phi4(h=0.0, a=1.0, b=0.0), 1.6, 4, 0.4, coupling="a", ladder=(ratio, ratio**2)
    )
    counts = {"n_chains": 256, "n_configs": 200, "n_thermalise": 50}
    chains = run(jax.random.key(1), sampler, Lattice(shape), **counts)
    expected = 2 * stats.f(6, 6).cdf(ratio)
    for name in ("swap_0", "swap_1"):
        found = estimate(chains.series(name))
        assert abs(found.value - expected) < MAX_Z * found.error, name
        assert found.error < 0.02


@partial(jax.jit, static_argnames=("layout", "n"))
def walk(sampler, keys, state, layout, n):
    """Headings, round trips and fields of the replicas after every update."""

    def update(state, number):
        draws = sampler.draw(keys, number)
        new, info = sampler.update(layout, keys, number, draws, state)
        return new, (jnp.concatenate([new.phi[None], new.others]), info.round_trips)

    return lax.scan(update, state, jnp.arange(n, dtype=jnp.uint32))[1]


def test_round_trips_are_those_of_the_fields_themselves():
    """Fields that do not move are their own labels: whoever swaps can be followed."""
    n_chains, n = 16, 400
    layout = single((2, 2), n_chains)
    keys = randomness.chain_keys(jax.random.key(1), n_chains)
    resting = {"n_steps": 1, "step_size": 1e-30, "trajectory_length": 1e-30, "sign_flip": False}
    sampler = ReplicaExchange(at(0.2), coupling=KAPPA, ladder=(0.19, 0.18, 0.17), **resting)
    labels = jnp.arange(4.0)[:, None, None, None] * jnp.ones((2, 2, n_chains)) / 10
    start = sampler.start(labels[0])._replace(others=labels[1:])
    start = start._replace(heading=jnp.tile(start.heading, n_chains))
    fields, trips = walk(sampler, keys, start, layout, n)
    walkers = np.rint(10 * np.asarray(fields)[:, :, 0, 0]).astype(int)  # (n, R, n_chains)
    for chain in range(n_chains):
        path = [[0, 1, 2, 3], *walkers[:, :, chain].tolist()]
        count = 0
        for walker in range(4):
            places = [row.index(walker) for row in path]
            ends = [place for place in places if place in (0, 3)]
            ends = [e for i, e in enumerate(ends) if not i or ends[i - 1] != e]
            ends = ends[ends.index(0) :] if 0 in ends else []
            count += max(0, (len(ends) - 1) // 2)
        assert count == trips[:, chain].sum() > 0
