"""Fourier-accelerated HMC: its kernel, an update by hand, exactness, equal speeds."""

import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from free_modes import agree, fields, independent_modes, pulls
from numpy.testing import assert_allclose
from phi4_by_hand import LATTICE, PHI4, advance, assert_exact, drift, total

from lattice_ml import HMC, FourierHMC, FreeField, Lattice, estimate, measure, run
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import action
from lattice_ml.fields import fourier, randomness
from lattice_ml.fields.layout import Layout, single
from lattice_ml.samplers import integrators

accelerate = jax.jit(fourier.accelerate, static_argnums=2)
slow_down = jax.jit(fourier.slow_down, static_argnums=2)
colour = jax.jit(fourier.colour, static_argnums=2)
draw = jax.jit(FourierHMC.draw)

M2 = 0.3
SHAPES = [(6,), (2,), (4, 4), (8, 5), (4, 2, 3), (2, 3, 4, 2)]
SQUARE = Lattice((8, 6))


def kernel(lattice, mass_squared=M2):
    """C in FFT order."""
    return (lattice.p_hat_squared.max() + mass_squared) / (lattice.p_hat_squared + mass_squared)


def by_fft(phi, diagonal):
    """An operator that is diagonal in momentum space, on fields `(*L, group)`."""
    axes = range(phi.ndim - 1)
    return np.fft.ifftn(np.fft.fftn(phi, axes=axes) * diagonal[..., None], axes=axes).real


def sampler_of(acting=PHI4, **settings):
    settings = {"step_size": 0.3, "n_steps": 3, "mass_squared": M2, "sign_flip": False} | settings
    return numbers(FourierHMC(acting, **settings))


def numbers(sampler):
    """The sampler with all three lengths, as `step` needs them."""
    return replace(sampler, trajectory_length=sampler.n_steps * sampler.step_size)


def noise(shape, seed=5):
    return np.random.default_rng(seed).normal(size=shape)


# The kernel


@pytest.mark.parametrize("merged", [False, True], ids=["lanes", "merged"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_the_one_in_momentum_space(shape, merged, monkeypatch):
    layout, lattice = Layout(shape, 3, merged), Lattice(shape)
    x = noise((*shape, 3))
    expected = by_fft(x, kernel(lattice)).reshape(layout.field_shape)
    x = x.reshape(layout.field_shape)
    assert_allclose(accelerate(x, M2, layout), expected, rtol=1e-12, atol=1e-12)
    assert_allclose(slow_down(expected, M2, layout), x, rtol=0, atol=1e-12)
    for rows in (fourier._ROWS, 0):
        monkeypatch.setattr(fourier, "_ROWS", rows)
        prepared = jax.jit(lambda x: fourier.accelerator(M2, layout, x.dtype)(x))
        assert_allclose(prepared(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_first_kinetic_energy_is_that_of_the_noise(shape):
    layout = single(shape, 3)
    white = noise(layout.field_shape)
    v = np.asarray(colour(white, M2, layout))
    sites = tuple(range(len(shape)))
    twice = np.sum(v * np.asarray(slow_down(v, M2, layout)), axis=sites)
    assert_allclose(twice, np.sum(white**2, axis=sites), rtol=1e-12)


# One update


def test_an_update_is_the_algorithm_written_by_hand():
    n_chains, number = 64, np.uint32(4)
    sampler = sampler_of(integrator="leapfrog", step_size=0.37, sign_flip=True)
    keys = randomness.chain_keys(jax.random.key(5), n_chains)
    layout = single(LATTICE.shape, n_chains)
    start = 0.8 * noise(layout.field_shape)
    draws = draw(sampler, keys, number)
    state, info = advance(sampler, layout, keys, number, draws, sampler.start(start))

    c, phi = kernel(LATTICE), start
    white = np.asarray(jax.jit(layout.normals)(keys, number), np.float64)
    v = np.asarray(colour(white, M2, layout))
    step = 0.37 * np.asarray(draws.stretch, np.float64)
    before = total(phi) + np.sum(v * by_fft(v, 1 / c), axis=(0, 1)) / 2
    for _ in range(3):
        half = v + step / 2 * by_fft(drift(phi), c)
        phi = phi + step * half
        v = half + step / 2 * by_fft(drift(phi), c)
    dh = total(phi) + np.sum(v * by_fft(v, 1 / c), axis=(0, 1)) / 2 - before
    accepted = dh < np.asarray(draws.threshold)
    assert 5 < accepted.sum() < 60, "both branches were taken"
    assert_allclose(info.dh, dh, rtol=1e-5, atol=1e-6)  # the step size is single precision
    expected = np.where(accepted, phi, start) * np.asarray(draws.sign)
    assert_allclose(state.phi, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheme", ["leapfrog", "omelyan2", "omelyan4"])
def test_a_trajectory_runs_backwards(scheme):
    layout = single(SQUARE.shape, 4)
    phi, white = noise((2, *layout.field_shape))
    acceleration = sampler_of()._acceleration(PHI4, layout, phi.dtype)
    v = colour(white, M2, layout)
    go = jax.jit(partial(integrators.integrate, acceleration, scheme=getattr(integrators, scheme)))
    there_phi, there_v = go(phi, v, 0.1, 20)
    back_phi, back_v = go(there_phi, -there_v, 0.1, 20)
    assert_allclose(back_phi, phi, rtol=0, atol=1e-12)
    assert_allclose(back_v, -v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (8, 8, 8)], ids=str)
def test_energy_changes_are_accurate_in_float32(shape):
    """Against float64 dynamics from the same noise: rounding of trajectory and sum together."""
    acting = action("kappa", len(shape), kappa=0.5 / len(shape), lam=0.022)
    sampler = sampler_of(acting, step_size=0.35, mass_squared=0.1)
    layout, keys = single(shape, 8), randomness.chain_keys(jax.random.key(2), 8)
    number = np.uint32(0)
    start = 0.8 * noise(layout.field_shape).astype("float32")
    draws = draw(sampler, keys, number)
    single_, double = (
        advance(sampler, layout, keys, number, draws, sampler.start(start.astype(dtype)))[1].dh
        for dtype in ("float32", "float64")
    )
    assert np.abs(double).max() > 0.1
    assert_allclose(single_, double, rtol=0, atol=5e-3)


def test_momenta_of_a_large_mass_are_those_of_plain_hmc():
    """C = 1 for all modes: velocities rotate among the modes, the dynamics is that of HMC."""
    layout = single(SQUARE.shape, 4)
    phi = noise(layout.field_shape)
    plain, heavy = (
        jax.jit(sampler._acceleration(PHI4, layout, phi.dtype))(phi)
        for sampler in (HMC(PHI4), sampler_of(mass_squared=1e9))
    )
    assert_allclose(heavy, plain, rtol=0, atol=1e-6)


# Exactness


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"mass_squared": 0.3}, {"integrator": "leapfrog"}])
def test_it_is_exact_on_a_small_lattice(seed, settings):
    chains = run(
        jax.random.key(seed),
        FourierHMC(PHI4, **settings),
        LATTICE,
        n_chains=256,
        n_configs=150,
        n_thermalise=100,
    )
    assert_exact(measure(chains))
    weights = estimate(chains.series("exp_minus_dh"))
    assert abs(weights.value - 1) < 4.5 * weights.error
    excess = estimate(chains.series("acceptance") - 2 * chains.series("dh_negative"))
    assert abs(excess.value) < 4.5 * excess.error
    assert 0.75 < chains.series("acceptance").mean() < 0.999


@pytree
class WhiteVelocities(FourierHMC):
    """Velocities without their mass matrix."""

    def _velocities(self, white, layout):
        return white


@pytree
class PlainKinetic(FourierHMC):
    """A kinetic energy without mass matrix."""

    def _momenta(self, velocities, layout):
        return velocities


@pytree
class OtherMass(FourierHMC):
    """A force with the kernel of another mass than the kinetic energy."""

    def _acceleration(self, action, layout, dtype):
        return replace(self, mass_squared=2 * self.mass_squared)._plain(action, layout, dtype)

    def _plain(self, action, layout, dtype):
        return super()._acceleration(action, layout, dtype)


@pytest.mark.parametrize(
    ("kind", "right"),
    [(FourierHMC, True), (WhiteVelocities, False), (PlainKinetic, False), (OtherMass, True)],
)
def test_modes_of_a_free_field_find_a_wrong_mass_matrix(kind, right):
    """Reversible dynamics that preserves volume is exact whatever its force: only slower."""
    sampler = numbers(kind(FreeField(0.5, 2), mass_squared=0.2, n_steps=2, step_size=0.4))
    cfgs = fields(sampler, SQUARE, 120)[40:]
    assert agree(pulls(cfgs, SQUARE, 1 / (0.5 + SQUARE.p_hat_squared))) is right


# Speed


def autocorrelation_times(sampler, lattice, n=300):
    """tau_int of |phi(p)|^2, one for each independent mode, pooled over chains."""
    cfgs = fields(sampler, lattice, n + 20)[20:]
    power = np.abs(np.fft.fftn(cfgs, axes=(2, 3))) ** 2
    flat = power.reshape(*power.shape[:2], -1)[..., independent_modes(lattice)]
    return [estimate(series) for series in np.moveaxis(flat, 0, -1).swapaxes(0, 1)]


def test_with_its_mass_all_modes_of_a_free_field_are_new_after_a_quarter_period():
    free = FreeField(0.05, 2)
    quarter = math.pi / 2 / math.sqrt(SQUARE.p_hat_squared.max() + free.mass_squared)
    settings = {"step_size": quarter / 8, "n_steps": 8}
    found = autocorrelation_times(numbers(FourierHMC(free, mass_squared=0.05, **settings)), SQUARE)
    assert len(found) == 26
    # Jitter j leaves <cos^2> = (pi j/2)^2/3 = 0.033 of every square.
    for one in found:
        assert abs(one.tau_int - 0.534) < 4.5 * one.tau_int_error + 0.03
    slow = autocorrelation_times(numbers(HMC(free, **settings)), SQUARE)
    assert slow[0].tau_int > 10, "the zero mode of plain HMC with trajectories of that length"
