"""HMC: what one update does, detailed balance, symmetry, other people's actions, refusals."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from phi4_by_hand import advance, draw
from references import CASES
from rows import each
from users_actions import SineGordon

from lattice_ml import HMC, FreeField, Lattice, Phi4, actions, estimate, run
from lattice_ml._pytree import pytree
from lattice_ml.actions.conventions import action
from lattice_ml.fields import randomness
from lattice_ml.fields.layout import single
from lattice_ml.samplers import integrators
from lattice_ml.samplers.sampler import FieldState

LATTICE = Lattice((4, 4))
PHI4 = action("kappa", 2, kappa=0.2, lam=0.022)
PHI2 = CASES["torus4x4_kappa_k=0.2_l=0.022"]["values"]["phi2"][0]
COARSE = {"n_steps": 3, "step_size": 0.65}  # acceptance about 0.75
N_THERMALISE = 50  # of the configurations that `series` leaves out


@pytree
class AlwaysAccept(HMC):
    """HMC that forgets its accept step."""

    def draw(self, keys, trajectory):
        draws = super().draw(keys, trajectory)
        return draws._replace(threshold=jnp.full_like(draws.threshold, jnp.inf))


@pytree
class WithDensity:
    """Phi4 without its hand-written force."""

    phi4: Phi4

    def __call__(self, phi):
        return self.phi4(phi)

    def density(self, phi, hop):
        return self.phi4.density(phi, hop)


@pytree
class TotalOnly:
    """Phi4 as a black box."""

    phi4: Phi4

    def __call__(self, phi):
        return self.phi4(phi)


def sample(sampler, seed=1, **settings):
    """Run from a hot start without warm-up."""
    settings = {"n_chains": 256, "n_configs": 200, "n_thermalise": 0} | settings
    return run(jax.random.key(seed), sampler, LATTICE, **settings)


def z_score(series, exact):
    found = estimate(series[:, N_THERMALISE:])
    return (found.value - exact) / found.error


def keys_and_phi(n_chains, dtype="float64"):
    """Keys and a plausible group of configurations `(4, 4, n_chains)`."""
    keys = randomness.chain_keys(jax.random.key(5), n_chains)
    phi = np.random.default_rng(5).normal(0, 0.8, (*LATTICE.shape, n_chains))
    return keys, phi.astype(dtype)


def step(sampler, keys, phi, trajectory=3, **replaced):
    """One update: the new state, the info, and the draws it used."""
    number = np.uint32(trajectory)
    draws = draw(sampler, keys, number)._replace(**replaced)
    layout = single(LATTICE.shape, phi.shape[-1])
    found = advance(sampler, layout, keys, number, draws, sampler.start(phi))
    return *jax.tree.map(np.asarray, found), draws


def untuned_draw(sampler, keys, trajectories):
    """The draws of a sampler with settings that are "auto", in NumPy."""
    return jax.tree.map(np.asarray, jax.jit(sampler.draw)(keys, trajectories))


# One update


def test_an_update_accepts_where_dh_is_below_the_threshold():
    sampler = HMC(PHI4, trajectory_length=1.0, **COARSE)
    keys, phi = keys_and_phi(64)
    state, info, draws = step(sampler, keys, phi)
    assert isinstance(state, FieldState) and state.phi.shape == phi.shape
    assert {x.shape for x in (*info, *draws)} == {(64,)}
    moved = np.any(state.phi != phi * draws.sign, axis=(0, 1))
    assert np.array_equal(moved, info.dh < draws.threshold) and 0 < moved.sum() < 64
    assert np.allclose(info.acceptance, np.minimum(1, np.exp(-info.dh)))
    assert np.array_equal(info.dh_negative, info.dh < 0)


def test_draws_have_their_distributions():
    sampler = HMC(PHI4, jitter=0.3)
    keys, _ = keys_and_phi(64)
    stretch, threshold, sign = untuned_draw(sampler, keys, np.arange(1000))
    n = stretch.size
    assert stretch.shape == (1000, 64) and abs(stretch - 1).max() <= 0.3
    assert abs(np.mean((stretch - 1) ** 2) - 0.03) < 4.5 * np.sqrt(0.09**2 * 4 / 45 / n)
    assert abs(np.mean(threshold) - 1) < 4.5 / np.sqrt(n)
    assert set(np.unique(sign)) == {-1, 1} and abs(np.mean(sign)) < 4.5 / np.sqrt(n)


def test_momenta_and_small_draws_are_uncorrelated():
    keys, _ = keys_and_phi(64)
    trajectories = np.arange(1000, dtype=np.uint32)
    layout = single(LATTICE.shape, 64)
    normals = jax.jit(partial(jax.lax.map, lambda t: layout.normals(keys, t)))
    pi = np.moveaxis(np.asarray(normals(trajectories)), -1, 1).reshape(64_000, LATTICE.volume)
    stretch, threshold, sign = untuned_draw(HMC(PHI4), keys, trajectories)
    drawn = np.stack([x.ravel() for x in (stretch, threshold, np.exp(-threshold), sign)], axis=1)
    for power in (1, 2):
        correlation = np.corrcoef(pi**power, drawn, rowvar=False)[LATTICE.volume :, :16]
        assert abs(correlation).max() < 5 / np.sqrt(len(pi))


def test_the_stretch_multiplies_the_step_size():
    keys, phi = keys_and_phi(8)
    half = np.full(8, 0.5, np.float32)
    long, _, _ = step(HMC(PHI4, 0.4, 4, 0.1), keys, phi, stretch=half)
    short, _, _ = step(HMC(PHI4, 0.2, 4, 0.05, jitter=0.0), keys, phi)
    assert np.allclose(long.phi, short.phi, rtol=0, atol=1e-13)


def test_a_chain_that_overflows_stays_where_it_is():
    keys, phi = keys_and_phi(8, "float32")
    sampler = HMC(PHI4, 1.0, 4, 0.25, sign_flip=False)
    others = np.arange(8) != 3
    state, info, _ = step(sampler, keys, phi, stretch=np.where(others, 1.0, 1e20))
    assert np.array_equal(state.phi[..., 3], phi[..., 3])
    assert info.dh[3] == np.inf and info.acceptance[3] == 0 and info.divergent[3] == 1
    assert np.all(np.isfinite(info.dh[others])) and np.all(info.divergent[others] == 0)


def test_a_trajectory_runs_backwards():
    _, phi = keys_and_phi(8)
    layout = single(LATTICE.shape, 8)
    pi = np.random.default_rng(6).normal(size=phi.shape)
    step_size = np.linspace(0.05, 0.2, 8)

    @jax.jit
    def forth(phi, pi):
        return integrators.integrate(
            lambda x: actions.force(PHI4, x, layout), phi, pi, step_size, 20
        )

    there_phi, there_pi = forth(phi, pi)
    back_phi, back_pi = forth(there_phi, -np.asarray(there_pi))
    assert np.allclose(back_phi, phi, rtol=0, atol=1e-12)
    assert np.allclose(back_pi, -pi, rtol=0, atol=1e-12)


# Symmetry


@each(
    ("acting", "setting", "flips"),
    [
        (PHI4, "auto", True),
        (FreeField(1.0, 2), "auto", True),
        (SineGordon(), "auto", False),
        (PHI4, False, False),
        (SineGordon(), True, True),
    ],
)
def test_the_sign_flips_where_the_action_allows_it(acting, setting, flips):
    keys, _ = keys_and_phi(64)
    sign = untuned_draw(HMC(acting, sign_flip=setting), keys, np.arange(10)).sign
    assert set(np.unique(sign)) == ({-1, 1} if flips else {1})


def test_a_flip_changes_the_sign_of_the_whole_configuration():
    keys, phi = keys_and_phi(8)
    sign = np.where(np.arange(8) % 2, -1, 1)
    state, _, _ = step(HMC(PHI4, 1.0, 4, 0.25), keys, phi, sign=sign, threshold=np.full(8, -1e9))
    assert np.array_equal(state.phi, phi * sign)


# Detailed balance


@pytest.mark.parametrize(
    ("integrator", "step_size"), [("leapfrog", 0.65), ("omelyan2", 1.0), ("omelyan4", 1.5)]
)
def test_energy_violations_obey_detailed_balance(integrator, step_size):
    chains = sample(HMC(PHI4, n_steps=3, step_size=step_size, integrator=integrator))
    assert abs(z_score(chains.series("exp_minus_dh"), 1)) < 4.5
    excess = chains.series("acceptance") - 2 * chains.series("dh_negative")
    assert abs(z_score(excess, 0)) < 4.5


@pytest.mark.parametrize("seed", [1, 2])
def test_the_accept_step_removes_the_bias_of_coarse_steps(seed):
    right, wrong = (sample(kind(PHI4, **COARSE), seed) for kind in (HMC, AlwaysAccept))
    assert 0.6 < right.series("acceptance").mean() < 0.85
    assert abs(z_score(right.series("phi2"), PHI2)) < 4.5
    assert abs(z_score(wrong.series("phi2"), PHI2)) > 10


@pytest.mark.parametrize("name", ["hmc_gauss_om=1.0_eps=0.5_n=4", "hmc_gauss_om=1.0_eps=1.0_n=3"])
def test_independent_oscillators_have_their_exact_energy_violation(name):
    case = CASES[name]
    n_steps, step_size = (case["parameters"][key] for key in ("nsteps", "eps"))
    oscillators = Phi4(h=0.0, a=0.5, b=0.0)  # a hot start is their equilibrium
    chains = sample(HMC(oscillators, n_steps=n_steps, step_size=step_size, jitter=0.0))
    found, exact = estimate(chains.series("dh")), LATTICE.volume * case["values"]["dH"][0]
    assert abs(found.value - exact) < 4.5 * found.error + 1e-6
    assert found.error < 0.1 * exact or exact == 0


# Actions of the user


def test_forces_by_hand_and_by_differentiation_give_the_same_trajectories():
    keys, phi = keys_and_phi(8)
    forms = (PHI4, WithDensity(PHI4), TotalOnly(PHI4))
    by_hand, *differentiated = (step(HMC(form, 1.0, 10, 0.1), keys, phi)[:2] for form in forms)
    for state, info in differentiated:
        assert np.allclose(abs(state.phi), abs(by_hand[0].phi), rtol=0, atol=1e-12)
        assert np.allclose(info.dh, by_hand[1].dh, rtol=0, atol=1e-12)


def test_a_sine_gordon_field_of_two_sites_is_exact():
    acting = SineGordon(mass_squared=0.3, strength=2.0, phase=0.7)
    chains = run(
        jax.random.key(3),
        HMC(acting),
        Lattice((2,)),
        n_chains=256,
        n_thermalise=100,
        n_configs=200,
    )
    x = np.linspace(-15, 15, 601)
    left, right = np.meshgrid(x, x)
    fields = np.stack([left.ravel(), right.ravel()], axis=1)
    energy = np.asarray(jax.jit(jax.vmap(acting))(fields))
    weight = np.exp(-energy) / np.exp(-energy).sum()
    exact = {
        "magnetisation": weight @ left.ravel(),
        "phi2": weight @ left.ravel() ** 2,
        "link_sum": weight @ (left * right).ravel(),
        "action": weight @ energy,
    }
    assert exact["magnetisation"] > 0.4  # a sign flip would be seen
    for name, value in exact.items():
        found = estimate(chains.series(name))
        assert abs(found.value - value) < 4.5 * found.error, name
        assert found.error < 0.03 * value


@pytree
class CountedHMC(HMC):
    """Not what an earlier test has compiled."""


def test_couplings_and_step_sizes_do_not_compile_anew(caplog):
    def scan(kappa, **settings):
        sample(CountedHMC(action("kappa", 2, kappa=kappa, lam=0.1), **settings), n_configs=20)

    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        scan(0.17, n_steps=3, step_size=0.2)
        assert any("_advance" in record.getMessage() for record in caplog.records)
        caplog.clear()
        for kappa in (0.18, 0.2, 0.25):
            scan(kappa, n_steps=10, trajectory_length=kappa, jitter=0.3, target_acceptance=0.7)
        assert [record.getMessage() for record in caplog.records] == []


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"integrator": "euler"}, "integrator must be one of leapfrog, omelyan2, omelyan4, got"),
        ({"jitter": 1.0}, r"sampler.jitter must be in \[0, 1\), got 1.0"),
        ({"jitter": -0.1}, r"sampler.jitter must be in \[0, 1\), got -0.1"),
        ({"target_acceptance": 0.0}, r"target_acceptance must be in \(0, 1\), got 0.0"),
        ({"target_acceptance": 1.0}, r"target_acceptance must be in \(0, 1\), got 1.0"),
        ({"sign_flip": "yes"}, "sampler.sign_flip must be true, false or auto, got yes"),
        ({"trajectory_length": -1.0}, "trajectory_length must be auto or positive and finite"),
        ({"n_steps": 0}, "sampler.n_steps must be auto or positive and finite, got 0"),
        ({"step_size": np.inf}, "sampler.step_size must be auto or positive and finite, got inf"),
        ({"step_size": np.nan}, "sampler.step_size must be auto or positive and finite, got nan"),
        (
            {"trajectory_length": 1.0, "n_steps": 4, "step_size": 0.2},
            "trajectory_length = 1.0 is not n_steps x step_size = 4 x 0.2; leave one of the three",
        ),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HMC(PHI4, **settings).check()
