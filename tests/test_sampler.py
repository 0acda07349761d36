"""What all samplers share: one update of one chain, under the transformations of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lattice_ml import (
    HMC,
    MALA,
    Cycle,
    FourierHMC,
    FreeField,
    Kramers,
    Langevin,
    Lattice,
    ReplicaExchange,
    SwendsenWang,
    Wolff,
    tune,
)
from lattice_ml.samplers.kinds import KINDS

LATTICE = Lattice((4, 4))
LENGTHS = {"n_steps": 4, "step_size": 0.3}
N_CHAINS, N_UPDATES, DROPPED = 64, 250, 50


def free(mass_squared=0.5):
    return FreeField(mass_squared=mass_squared, ndim=2)


def samplers(action):
    hmc = HMC(action, **LENGTHS)
    ladder = {"coupling": "mass_squared", "ladder": (1.0, 2.0)}
    return [
        FourierHMC(action, mass_squared=0.5, **LENGTHS),
        ReplicaExchange(action, **ladder, **LENGTHS),
        Langevin(action, step_size=0.01, scheme="heun"),
        MALA(action, step_size=0.1),
        Kramers(action, step_size=0.4, trajectory_length=2.0),
        Cycle((hmc, Wolff(action))),
        Cycle((hmc, SwendsenWang(action))),
    ]


def loop(trace):
    """<phi^2> of each chain after every update; `trace` is called while it is traced."""

    def chain(sampler, key):
        first, rest = jax.random.split(key)

        def one(state, key):
            state, _ = sampler.step(key, state)
            return state, jnp.mean(state.phi**2)

        start = sampler.init(first, LATTICE)
        return lax.scan(one, start, jax.random.split(rest, N_UPDATES))[1]

    @jax.jit
    def chains(sampler, key):
        trace(sampler)
        return jax.vmap(chain, (None, 0))(sampler, jax.random.split(key, N_CHAINS))

    return chains


def assert_free(found, mass_squared):
    """<phi^2> is that of the free field; errors are those of independent chains."""
    means = np.asarray(found, np.float64)[:, DROPPED:].mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    exact = free(mass_squared).propagator(LATTICE).mean()
    assert abs(means.mean() - exact) < 4.5 * error
    assert error < 0.03 * exact


def test_every_sampler_runs_in_the_loop_of_a_user():
    known = samplers(free())
    assert {kind for sampler in known for kind in sampler.kinds} == set(KINDS)
    for sampler in known:
        assert_free(loop(lambda sampler: None)(sampler.settled(), jax.random.key(1)), 0.5)


def test_couplings_and_settings_of_such_a_loop_are_traced():
    traced = []
    chains = loop(traced.append)
    for mass_squared, step_size in ((0.5, 0.3), (1.5, 0.2)):
        sampler = HMC(free(mass_squared), n_steps=4, step_size=step_size).settled()
        assert_free(chains(sampler, jax.random.key(2)), mass_squared)
    assert len(traced) == 1


def test_a_state_is_one_chain_and_what_is_reported_are_numbers():
    sampler = ReplicaExchange(free(), coupling="mass_squared", ladder=(1.0, 2.0), **LENGTHS)
    start = sampler.init(jax.random.key(1), LATTICE, np.ones((4, 4)), "float64")
    assert start.phi.dtype == jnp.float64 and np.all(np.asarray(start.phi) == 1)
    state, info = jax.jit(sampler.step)(jax.random.key(2), start)
    assert state.phi.shape == (4, 4) and state.others.shape == (2, 4, 4)
    assert state.heading.shape == (3,) and {np.shape(x) for x in info} == {()}
    with pytest.raises(ValueError, match=r"init takes fields of shape \(4, 4\), got \(3, 4\)"):
        sampler.init(jax.random.key(1), LATTICE, np.ones((3, 4)))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (HMC(free()), r"trajectory_length of HMC is auto and needs a warm-up: tune\(key, sampler"),
        (FourierHMC(free(), **LENGTHS), "mass_squared of FourierHMC is auto"),
        (MALA(free()), "step_size of MALA is auto"),
        (Cycle((HMC(free(), **LENGTHS), MALA(free()))), "step_size of MALA is auto"),
        (
            Langevin(free(), scheme="leimkuhler_matthews"),
            r"scheme cannot be leimkuhler_matthews in step\(key, state\), because it goes on with",
        ),
    ],
    ids=lambda value: "+".join(getattr(value, "kinds", [])),
)
def test_what_a_single_step_cannot_know_is_named(sampler, message):
    state = sampler.init(jax.random.key(1), LATTICE)
    with pytest.raises(ValueError, match=rf"sampler\.{message}"):
        sampler.step(jax.random.key(2), state)


def test_tune_gives_a_sampler_of_numbers():
    sampler = tune(jax.random.key(1), HMC(free()), LATTICE, n_chains=8, n_thermalise=40)
    assert sampler.unsettled == [] and 0.1 < sampler.step_size < 2
    found = loop(lambda sampler: None)(sampler, jax.random.key(3))
    assert_free(found, 0.5)


def test_lengths_that_follow_from_each_other_need_no_warm_up():
    assert HMC(free(), trajectory_length=1.2, n_steps=4).settled().step_size == 0.3
    assert HMC(free(), trajectory_length=1.2, step_size=0.3).settled().n_steps == 4
