"""Langevin: what one update does, noise across updates, adaptive steps, acceleration, refusals."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_blocks import blocks
from free_modes import fields
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4, advance, drift
from rows import each
from scipy import integrate

from lattice_ml import FreeField, Langevin, Lattice, Phi4, check, estimate, measure, run
from lattice_ml.chains.failures import RunError
from lattice_ml.fields import fourier
from lattice_ml.fields import randomness as rnd
from lattice_ml.fields.layout import Layout, single
from lattice_ml.jobs.config import ConfigError, parse
from lattice_ml.jobs.generate import generate
from lattice_ml.jobs.training_data import check_agreement

SITE = Phi4(h=0.0, a=0.5, b=0.1)
N_CHAINS = 6
SCHEMES = ("euler", "heun", "leimkuhler_matthews")
EPS, ALPHA = 0.1, 1.5


def sampler_of(scheme="euler", action=PHI4, **settings):
    settings = {"step_size": EPS, "trajectory_length": 3 * EPS, "sign_flip": False} | settings
    return Langevin(action, scheme=scheme, **settings)


def keys_and_phi(dtype="float64"):
    keys = rnd.chain_keys(jax.random.key(5), N_CHAINS)
    phi = np.random.default_rng(5).normal(0, 0.8, (*LATTICE.shape, N_CHAINS))
    return keys, jnp.asarray(phi, dtype)


def updates(sampler, phi, keys, numbers, layout=None):
    """Fields after each of the updates, and what they report."""
    layout = layout or single(LATTICE.shape, N_CHAINS)
    state, found = sampler.start(phi), []
    for number in jnp.asarray(numbers, jnp.uint32):
        draws = sampler.draw(keys, number)
        state, info = advance(sampler, layout, keys, number, draws, state)
        found.append((np.asarray(state.phi), info, np.asarray(draws)))
    return found


def white(keys, update, step):
    """The noise of a step, `(*L, N_CHAINS)` in float64."""
    inner = rnd.step_keys(keys, jnp.uint32(update), jnp.uint32(step))
    eta = rnd.normals(inner, jnp.uint32(0), LATTICE.volume)
    return np.asarray(eta, np.float64).reshape(*LATTICE.shape, -1)


def by_hand(scheme, phi, keys, update):
    """Three steps of size EPS at temperature ALPHA, as docs/langevin.md writes them."""
    width = np.sqrt(2 * ALPHA * EPS)
    for j in range(3):
        eta = width * white(keys, update, j)
        if scheme == "euler":
            phi = phi + EPS * drift(phi) + eta
        elif scheme == "heun":
            trial = phi + EPS * drift(phi) + eta
            phi = phi + EPS * (drift(phi) + drift(trial)) / 2 + eta
        else:
            following = (update, j + 1) if j < 2 else (update + 1, 0)
            phi = phi + EPS * drift(phi) + (eta + width * white(keys, *following)) / 2
    return phi


# One update


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_update_is_the_scheme_written_by_hand(scheme):
    keys, phi = keys_and_phi()
    first, second = updates(sampler_of(scheme, temperature=ALPHA), phi, keys, [7, 8])
    expected = by_hand(scheme, np.asarray(phi), keys, 7)
    assert_allclose(first[0], expected, rtol=1e-12)
    assert_allclose(second[0], by_hand(scheme, expected, keys, 8), rtol=1e-11)
    assert np.all(first[1].n_steps == 3)


@pytest.mark.parametrize("scheme", ["euler", "heun"])
def test_a_sign_flip_comes_before_the_steps(scheme):
    keys, phi = keys_and_phi()
    flipping = sampler_of(scheme, sign_flip=True, temperature=ALPHA)
    found, _, sign = updates(flipping, phi, keys, [1])[0]
    assert set(sign) == {-1, 1}
    assert_allclose(found, by_hand(scheme, sign * np.asarray(phi), keys, 1), rtol=1e-11)


def test_noise_of_leimkuhler_matthews_is_shared_across_a_flip():
    """Without a drift the field is minus or plus a sum of noises, each shared by two steps."""
    keys, _ = keys_and_phi()
    idle = Phi4(h=0.0, a=0.0, b=0.0)
    sampler = sampler_of("leimkuhler_matthews", idle, sign_flip=True, trajectory_length=EPS)
    found = updates(sampler, jnp.zeros((*LATTICE.shape, N_CHAINS)), keys, [0, 1])
    noises = [np.sqrt(2 * EPS) * white(keys, n, 0) for n in range(3)]
    s0, s1 = found[0][2], found[1][2]
    assert len({*zip(s0.tolist(), s1.tolist(), strict=True)}) > 1
    expected = s1 * (s0 * noises[0] + noises[1]) / 2 + (s1 * noises[1] + noises[2]) / 2
    assert_allclose(found[1][0], expected, rtol=1e-6, atol=1e-6)


def test_chains_do_not_depend_on_their_layout():
    keys, phi = keys_and_phi()
    merged = Layout(LATTICE.shape, N_CHAINS, merged=True)
    for settings in ({}, {"fourier_mass_squared": 0.5}, {"drift_limit": 0.1}):
        sampler = sampler_of("heun", **settings)
        one = updates(sampler, phi, keys, [0])[0][0]
        other = updates(sampler, phi.reshape(merged.field_shape), keys, [0], merged)[0][0]
        assert_allclose(other.reshape(one.shape), one, rtol=1e-12)


@pytest.mark.parametrize(("length", "steps"), [(0.01, 1), (0.24, 2), (0.26, 3), (1.0, 10)])
def test_an_update_takes_the_nearest_number_of_steps(length, steps):
    keys, phi = keys_and_phi()
    sampler = sampler_of(trajectory_length=length)
    assert np.all(updates(sampler, phi, keys, [0])[0][1].n_steps == steps)
    assert sampler.forces == steps and replace(sampler, scheme="heun").forces == 2 * steps


# Adaptive steps


def test_where_the_drift_is_small_adaptive_steps_are_the_equal_ones():
    keys, phi = keys_and_phi()
    equal = updates(sampler_of(), phi, keys, [0])[0]
    adaptive = updates(sampler_of(drift_limit=100.0), phi, keys, [0])[0]
    assert_allclose(adaptive[0], equal[0], rtol=1e-12)
    assert np.all(adaptive[1].n_steps == 3)
    assert_allclose(adaptive[1].max_drift, largest_drift(phi, keys), rtol=1e-12)


def largest_drift(phi, keys):
    found, phi = [], np.asarray(phi)
    for j in range(3):
        found.append(np.abs(drift(phi)).max(axis=(0, 1)))
        phi = phi + EPS * drift(phi) + np.sqrt(2 * EPS) * white(keys, 0, j)
    return np.max(found, axis=0)


def test_no_step_moves_a_site_further_than_the_limit_and_all_time_is_used():
    """Without noise (temperature 0) and for K = -phi, (1 - eps)^n is known at every step."""
    keys, phi = keys_and_phi()
    gaussian, limit = Phi4(h=0.0, a=0.5, b=0.0), 0.02
    sampler = sampler_of(action=gaussian, drift_limit=limit, temperature=0.0)
    found, info, _ = updates(sampler, phi, keys, [0])[0]
    for chain_number in range(N_CHAINS):
        largest, left, n_steps = np.abs(phi[..., chain_number]).max(), 3 * EPS, 0
        factor = 1.0
        while left > 0:
            eps = min(EPS, limit / (factor * largest))
            eps = left if left < 1.001 * eps else eps
            factor, left, n_steps = factor * (1 - eps), left - eps, n_steps + 1
        assert_allclose(found[..., chain_number], factor * phi[..., chain_number], rtol=1e-9)
        assert info.n_steps[chain_number] == n_steps > 3


def test_fields_of_adaptive_steps_count_for_equal_times():
    """Counted per step they would follow exp(-S)/eps: steps are short where the drift is large."""
    cfgs = fields(
        sampler_of("heun", SITE, step_size=0.2, trajectory_length=1.0, drift_limit=0.1),
        Lattice((2, 2)),
        160,
        n_chains=512,
    )[10:]
    weight = [lambda x, n=n: x**n * np.exp(-0.5 * x**2 - 0.1 * x**4) for n in (0, 2)]
    one, square = (integrate.quad(w, -8, 8)[0] for w in weight)
    found = estimate(np.mean(cfgs**2, axis=(2, 3)).T)
    assert abs(found.value - square / one) < 4.5 * found.error + 0.004 * square / one
    assert found.error < 0.004 * square / one


# Fourier acceleration


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 2)], ids=str)
def test_the_kernel_multiplies_every_momentum_by_its_factor(shape):
    layout, lattice = single(shape, 3), Lattice(shape)
    phi = np.random.default_rng(1).normal(size=(*shape, 3))
    kernel = (lattice.p_hat_squared.max() + 0.3) / (lattice.p_hat_squared + 0.3)
    axes = range(len(shape))
    expected = np.fft.ifftn(kernel[..., None] * np.fft.fftn(phi, axes=axes), axes=axes).real
    found = jax.jit(partial(fourier.accelerate, mass_squared=0.3, layout=layout))(phi)
    assert_allclose(found, expected, atol=1e-12)


def test_the_covariance_of_the_noise_is_the_kernel():
    layout = single((4, 3), 12)
    unit = jnp.eye(12).reshape(4, 3, 12)
    root = np.asarray(fourier.colour(unit, 0.3, layout)).reshape(12, 12)
    kernel = np.asarray(fourier.accelerate(unit, 0.3, layout)).reshape(12, 12)
    assert_allclose(root @ root.T, kernel, atol=1e-12)
    assert kernel[0, 0] > 1.5


def test_all_modes_of_a_free_field_relax_at_the_rate_of_the_fastest():
    """Two fields under one noise approach each other by 1 - eps w_max a step, mode by mode."""
    keys, phi = keys_and_phi()
    free = FreeField(0.5, 2)
    sampler = sampler_of(action=free, fourier_mass_squared=0.5)
    one, two = (updates(sampler, start, keys, [0])[0][0] for start in (phi, 0 * phi))
    assert_allclose(one - two, (1 - EPS * 8.5) ** 3 * np.asarray(phi), atol=1e-12)


# Through the rest of the house


def test_temperature_is_known_to_check_and_refused_by_training(tmp_path):
    words = ["--lattice.shape", "4", "4", "--action.kind", "FreeField", "--sampler.kind"]
    words += ["Langevin", "--sampler.temperature", "2.0", "--sampler.scheme"]
    words += ["leimkuhler_matthews", "--sampler.step-size", "0.1", "--action.mass-squared", "1.0"]
    words += ["--chain.n-chains", "32", "--chain.n-configs", "150", "--chain.n-thermalise", "20"]
    ensemble = generate(parse(words), tmp_path / "hot")
    by_name = {certificate.name: certificate for certificate in check(ensemble)}
    assert all(c.verdict != "fail" for c in by_name.values())
    assert by_name["schwinger_dyson"].verdict == "pass"
    assert by_name["exp_minus_dh"].verdict == "not applicable"
    found = measure(ensemble)
    assert abs(found["schwinger_dyson"].value - 2) < 4.5 * found["schwinger_dyson"].error
    assert found["acceptance"] is None
    assert "drift_limit" not in (tmp_path / "hot" / "config.toml").read_text()
    with pytest.raises(ValueError, match=r"sampler.temperature = 2\.0 and follows"):
        check_agreement({}, [ensemble])


@pytest.mark.parametrize("settings", [{"scheme": "leimkuhler_matthews"}, {"drift_limit": 0.05}])
def test_a_resumed_run_is_the_uninterrupted_one(settings):
    sampler = sampler_of(**({"sign_flip": "auto"} | settings))
    ask = partial(blocks, sampler, LATTICE, n_chains=4, n_thermalise=3, thin=2)
    (whole,) = ask(n_configs=8)
    first, second = ask(n_configs=8, block_configs=4)
    resumed = list(ask(n_configs=8, resume=(4, first.state, first.tuned)))
    assert np.array_equal(np.concatenate([first.cfgs, second.cfgs]), whole.cfgs)
    assert np.array_equal(resumed[0].cfgs, second.cfgs)


def test_another_step_size_or_temperature_does_not_compile_again(caplog):
    def once(**settings):
        counts = {"n_chains": 4, "n_configs": 3, "n_thermalise": 3}
        run(jax.random.key(1), sampler_of(**settings), LATTICE, **counts)

    once()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        once(step_size=0.05, trajectory_length=0.4, temperature=1.2)
    assert not [r for r in caplog.records if "Finished XLA compilation" in r.message]


def test_the_shipped_config_is_this_sampler():
    file = Path(__file__).parents[1] / "configs" / "langevin.toml"
    from lattice_ml.jobs.config import read_arguments

    sampler = parse(read_arguments(file)).sampler
    assert isinstance(sampler, Langevin) and sampler.order == 2
    assert sampler.drift_limit is None and sampler.fourier_mass_squared > 0
    assert replace(sampler, scheme="euler").order == 1
    json.dumps(parse(read_arguments(file)).config)


# Refusals


def test_a_runaway_names_its_remedy():
    wild = sampler_of(step_size=1.5, trajectory_length=15.0)
    with pytest.raises(RunError, match=r"step_size smaller than 1.5, or set sampler.drift_l"):
        run(jax.random.key(1), wild, LATTICE, n_chains=4, n_configs=20, n_thermalise=10)


def test_a_chain_that_is_not_finite_does_not_keep_the_adaptive_loop_going():
    keys, phi = keys_and_phi()
    found, _, _ = updates(sampler_of(drift_limit=0.1), phi.at[0, 0, 0].set(jnp.nan), keys, [0])[0]
    assert np.isnan(found[..., 0]).any() and np.isfinite(found[..., 1:]).all()


@each(
    ("words", "message"),
    [
        ("--sampler.scheme milstein", "sampler.scheme must be"),
        ("--sampler.step-size 0", "sampler.step_size must be positive and finite, got 0"),
        ("--sampler.step-size auto", "sampler.step_size must be a number, got auto"),
        ("--sampler.trajectory-length -1", "sampler.trajectory_length must be positive"),
        ("--sampler.temperature 0", "sampler.temperature must be positive and finite, got 0"),
        ("--sampler.drift-limit 0", "sampler.drift_limit must be positive and finite, got 0"),
        ("--sampler.fourier-mass-squared -1", "sampler.fourier_mass_squared must be positive"),
        ("--sampler.sign-flip maybe", "sampler.sign_flip must be true or false or auto"),
        (
            "--sampler.drift-limit 1 --sampler.scheme leimkuhler_matthews",
            "sampler.drift_limit cannot be used with scheme = leimkuhler_matthews",
        ),
        ("--sampler.n-steps 3", "unknown key on the command line: sampler.n_steps"),
    ],
)
def test_bad_settings_are_refused(words, message):
    base = "--lattice.shape 4 4 --action.kappa 0.2 --action.lam 0.02 --sampler.kind Langevin"
    with pytest.raises(ConfigError, match=message):
        parse([*base.split(), *words.split()])


def test_a_scheme_that_does_not_exist_is_refused_in_python_too():
    with pytest.raises(ValueError, match=r"sampler.scheme must be one of euler, heun, leim"):
        sampler_of("milstein").check()
