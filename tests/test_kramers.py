"""Kramers dynamics: a step written out, momenta that persist or turn around, exact values."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_blocks import blocks
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4, advance, assert_exact, drift, total

from lattice_ml import Kramers, measure, run
from lattice_ml.chains.failures import RunError
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single
from lattice_ml.jobs.config import ConfigError, parse

N_CHAINS = 64
DELTA, GAMMA = 0.6, 0.7


def sampler_of(**settings):
    settings = {"step_size": DELTA, "friction": GAMMA, "trajectory_length": 2 * DELTA} | settings
    return Kramers(PHI4, **({"sign_flip": False} | settings))


def update(sampler, number, keys, state):
    at = jnp.uint32(number)
    layout = single(LATTICE.shape, N_CHAINS)
    return advance(sampler, layout, keys, at, sampler.draw(keys, at), state)


def keys_and_state(sampler):
    keys = randomness.chain_keys(jax.random.key(5), N_CHAINS)
    rng = np.random.default_rng(5)
    phi, pi = rng.normal(0, 0.8, (2, *LATTICE.shape, N_CHAINS))
    return keys, sampler.start(jnp.asarray(phi))._replace(pi=jnp.asarray(pi))


def energy(phi, pi):
    return total(phi) + np.sum(pi**2, axis=(0, 1)) / 2


def by_hand(phi, pi, keys, number, accept):
    """Two steps, and what dH they had."""
    changes, rejections = [], 0
    for j in range(2):
        inner = randomness.step_keys(keys, jnp.uint32(number), jnp.uint32(j))
        eta = np.asarray(randomness.normals(inner, jnp.uint32(0), 16), np.float64)
        u = np.asarray(randomness.uniforms(inner, jnp.uint32(0), 1)[0], np.float64)
        c = 0 if number == j == 0 else np.exp(-GAMMA * DELTA)
        pi = c * pi + np.sqrt(1 - c**2) * eta.reshape(pi.shape)
        half = pi + DELTA / 2 * drift(phi)
        new_phi = phi + DELTA * half
        new_pi = half + DELTA / 2 * drift(new_phi)
        dh = energy(new_phi, new_pi) - energy(phi, pi)
        changes.append(dh)
        good = np.log(u) < -dh if accept else np.full(N_CHAINS, True)
        rejections += np.sum(~good)
        phi, pi = np.where(good, new_phi, phi), np.where(good, new_pi, -pi)
    return phi, pi, np.array(changes), rejections


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("accept", [True, False])
def test_an_update_is_the_algorithm_written_by_hand(accept, number):
    sampler = sampler_of(accept=accept)
    keys, state = keys_and_state(sampler)
    phi, pi, changes, rejections = by_hand(*map(np.asarray, state), keys, number, accept)
    found, info = update(sampler, number, keys, state)
    assert_allclose(found.phi, phi, rtol=1e-10, atol=1e-10)
    assert_allclose(found.pi, pi, rtol=1e-10, atol=1e-10)
    assert_allclose(info.dh, changes.mean(axis=0), atol=1e-10)
    assert_allclose(info.max_abs_dh, np.abs(changes).max(axis=0), atol=1e-10)
    if accept:
        assert rejections > 5, "both branches were taken"
        acceptance = np.minimum(1, np.exp(-changes)).mean(axis=0)
        assert_allclose(info.acceptance, acceptance, rtol=1e-9)


def test_phi_and_pi_change_sign_together():
    sampler = sampler_of(sign_flip=True)
    keys, state = keys_and_state(sampler)
    signs = np.asarray(sampler.draw(keys, jnp.uint32(4)))
    found, _ = update(sampler, 4, keys, state)
    phi, pi, _, _ = by_hand(*(signs * np.asarray(x) for x in state), keys, 4, True)
    assert set(signs) == {-1, 1}
    assert_allclose(found.phi, phi, rtol=1e-10, atol=1e-10)
    assert_allclose(found.pi, pi, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_exact_on_a_small_lattice(seed):
    chains = run(
        jax.random.key(seed), Kramers(PHI4), LATTICE, n_chains=256, n_configs=100, n_thermalise=100
    )
    found = measure(chains)
    assert_exact(found)
    assert abs(np.mean(chains.series("exp_minus_dh")) - 1) < 0.01
    assert abs(found["acceptance"].value - 0.95) < 0.02
    assert set(chains.tuned) == {"step_size"}


def test_at_infinite_friction_nothing_of_the_momenta_is_kept():

    sampler = sampler_of(friction=1e6, trajectory_length=DELTA)
    keys, state = keys_and_state(sampler)
    one = update(sampler, 4, keys, state)[0]
    other = update(sampler, 4, keys, state._replace(pi=0 * state.pi))[0]
    assert_allclose(one.phi, other.phi, rtol=1e-12)


def test_a_resumed_run_keeps_its_momenta():
    ask = partial(blocks, sampler_of(), LATTICE, n_chains=4, n_thermalise=3, thin=2)
    (whole,) = ask(n_configs=8)
    first, second = ask(n_configs=8, block_configs=4)
    assert set(first.state) == {"phi", "pi"}
    resumed = list(ask(n_configs=8, resume=(4, first.state, first.tuned)))
    assert np.array_equal(np.concatenate([first.cfgs, second.cfgs]), whole.cfgs)
    assert np.array_equal(resumed[0].cfgs, second.cfgs)


def test_without_accept_step_there_is_no_acceptance():
    counts = {"n_chains": 4, "n_configs": 20, "n_thermalise": 3}
    chains = run(jax.random.key(1), sampler_of(accept=False), LATTICE, **counts)
    assert "acceptance" not in chains.history and "max_abs_dh" in chains.history
    assert measure(chains)["acceptance"] is None
    assert sampler_of(accept=False).order == 2 and sampler_of().order is None
    assert sampler_of().forces == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sampler.step-size 0", "sampler.step_size must be auto or positive and finite, got 0"),
        ("--sampler.friction 0", "sampler.friction must be positive and finite, got 0"),
        ("--sampler.trajectory-length 0", "sampler.trajectory_length must be positive"),
        ("--sampler.accept false", "sampler.step_size must be a number where sampler.accept is fa"),
    ],
)
def test_bad_settings_are_refused(words, message):
    base = "--lattice.shape 4 4 --action.kappa 0.2 --action.lam 0.02 --sampler.kind Kramers"
    with pytest.raises(ConfigError, match=message):
        parse([*base.split(), *words.split()])


def test_an_unstable_step_is_named():
    wild = sampler_of(step_size=3.0, trajectory_length=9.0)
    with pytest.raises(RunError, match=r"1000 \(allowed: 1 %\) at step_size = 3; make samp"):
        run(jax.random.key(1), wild, LATTICE, n_chains=4, n_configs=20, n_thermalise=10)
    with pytest.raises(RunError, match=r"make sampler\.step_size smaller"):
        unadjusted = replace(wild, accept=False)
        run(jax.random.key(1), unadjusted, LATTICE, n_chains=4, n_configs=20, n_thermalise=10)
