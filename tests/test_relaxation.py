"""Relaxation: exact where the field is free, and measured as it should be."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from lattice_ml import FreeField, Langevin, Lattice, Phi4, open_ensemble, run
from lattice_ml.analysis.dynamics.finite_step import SCHEMES
from lattice_ml.analysis.dynamics.relaxation import (
    Curve,
    Equilibrium,
    quadratic_form,
    relaxation,
    relaxation_of_frames,
    relaxed_power,
    stepped_power,
)
from lattice_ml.chains.run import Chains

W = np.array([[0.3, 1.0], [2.0, 4.0]])
KERNEL = np.array([[3.0, 1.5], [1.2, 1.0]])
SIZES = {"temperature": 0.7, "kernel": KERNEL}


# ------------------------------------------------------------------------------ the free field


def by_hand(scheme, v, n, eps, alpha=0.7):
    """<q^2> and <q R> of one mode, step by step, from the update rules themselves."""
    rows = []
    for w, c in zip(W.ravel(), KERNEL.ravel(), strict=True):
        q, s = v, np.sqrt(2 * alpha * eps * c)
        cross = 0.0  # <q R>, R the last noise
        for k in range(n):
            drift = eps * c * w
            if scheme == "euler":
                q = (1 - drift) ** 2 * q + s**2
            elif scheme == "heun":
                # q -> q - drift/2 (q + q') + s R with q' = q - drift q + s R
                on_q, on_noise = 1 - drift / 2 * (2 - drift), s - drift / 2 * s
                q = on_q**2 * q + on_noise**2
            else:
                cross = s / 2 if k else 0.0
                q = (1 - drift) ** 2 * q + (1 - drift) * s * cross + s**2 / 2
        rows.append(q)
    return np.reshape(rows, W.shape)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("start", [0.0, 2.5])
def test_powers_after_steps_are_those_of_the_update_rule(scheme, start):
    steps = [0, 1, 2, 3, 17]
    found = stepped_power(scheme, W, start, steps, 0.3, **SIZES)
    assert_allclose(found, [by_hand(scheme, start, n, 0.3) for n in steps], rtol=1e-13)


@pytest.mark.parametrize(("scheme", "order"), [(SCHEMES[0], 1), (SCHEMES[1], 2), (SCHEMES[2], 1)])
def test_steps_tend_to_continuous_time_with_their_order(scheme, order):
    exact = relaxed_power(W, 2.5, [0.8], **SIZES)
    coarse, fine = (
        stepped_power(scheme, W, 2.5, [n], 0.8 / n, **SIZES) - exact for n in (4000, 8000)
    )
    assert_allclose(coarse / fine, 2**order, rtol=0.01)


def test_every_scheme_ends_where_its_bias_puts_it():
    x, plain = 0.3 * W * KERNEL, 0.7 / W
    ends = (
        plain / (1 - x / 2),
        plain * (1 - x / 2) / (1 - x / 2 + x**2 / 4),
        plain,
    )
    for scheme, end in zip(SCHEMES, ends, strict=True):
        assert_allclose(stepped_power(scheme, W, 1.0, [2000], 0.3, **SIZES)[0], end)
    assert_allclose(relaxed_power(W, 1.0, [600.0], **SIZES)[0], plain)


def test_continuous_time_obeys_its_equation():
    """dv/dtau = 2 C (alpha - w v)."""
    step = 1e-4
    before, now, after = relaxed_power(W, 2.5, [0.4 - step, 0.4, 0.4 + step], **SIZES)
    assert_allclose((after - before) / (2 * step), 2 * KERNEL * (0.7 - W * now), rtol=1e-6)
    assert_allclose(relaxed_power(W, KERNEL, [0.0]), KERNEL[None])


def test_the_quadratic_form_is_the_actions():
    free, lattice = FreeField(0.5, 2), Lattice((4, 3))
    form = quadratic_form(free, lattice)
    assert_allclose(form, 1 / free.propagator(lattice))
    hopping = quadratic_form(Phi4(h=0.4, a=1.0, b=0.0), lattice)
    assert_allclose(hopping, 2 - 1.6 + 0.4 * lattice.p_hat_squared)


@pytest.mark.parametrize("action", [Phi4(h=0.4, a=1.0, b=0.1), Phi4(h=1.0, a=2.0, b=0.0)])
def test_what_is_not_free_or_not_bound_has_no_exact_relaxation(action):
    with pytest.raises(ValueError, match=r"positive eigenvalues, got b = .* a least eigenvalue of"):
        quadratic_form(action, Lattice((4, 4)))


@pytest.mark.parametrize(
    ("scheme", "eps", "message"),
    [
        ("rk4", 0.1, "scheme must be one of euler, heun, leimkuhler_matthews, got 'rk4'"),
        ("kramers", 0.1, "must be one of euler, heun, leimkuhler_matthews, got 'kramers'"),
        ("euler", 0.5, "euler is stable for 0 < x < 2, got x from 0.4"),
        ("heun", -0.1, "0 < x < 2"),
    ],
)
def test_steps_that_make_no_sense_are_refused(scheme, eps, message):
    with pytest.raises(ValueError, match=message):
        stepped_power(scheme, W, 0.0, [1], eps, **SIZES)


SAMPLED = {
    "euler": {"fourier_mass_squared": 0.4, "temperature": 0.7},
    "heun": {"fourier_mass_squared": 0.4},
    "leimkuhler_matthews": {"temperature": 0.7},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_chains_relax_as_predicted_at_a_coarse_step(scheme):
    """<phi^2> and G(p) from cold and hot starts: every time and shell, errors predicted too."""
    free, lattice, n, n_configs, eps = FreeField(0.5, 2), Lattice((4, 3)), 512, 8, 0.12
    settings = SAMPLED[scheme]
    sampler = Langevin(free, eps, trajectory_length=2 * eps, scheme=scheme, **settings)
    form, p2 = quadratic_form(free, lattice), lattice.p_hat_squared
    mass = settings.get("fourier_mass_squared", np.inf)
    exact = {
        "temperature": settings.get("temperature", 1.0),
        "kernel": (p2.max() + mass) / (p2 + mass) if np.isfinite(mass) else 1.0,
    }
    steps = 2 * np.arange(1, n_configs + 1)
    white = np.random.default_rng(3).normal(size=(n, 4, 3))
    shells, sizes = lattice.shells[1].ravel(), np.bincount(lattice.shells[1].ravel())
    seen = []
    for seed, width in ((1, 0.0), (2, 1.5)):
        chains = run(
            jax.random.key(seed),
            sampler,
            lattice,
            n_chains=n,
            n_configs=n_configs,
            n_thermalise=0,
            start=width * white,
        )
        found = relaxation(chains, eps * steps)
        power = stepped_power(scheme, form, width**2, steps, eps, **exact).reshape(n_configs, -1)
        squares = np.stack([np.bincount(shells, row**2) / sizes**2 for row in power])
        error = np.sqrt(2 * squares / n)
        expected = np.stack([np.bincount(shells, row) / sizes for row in power])
        assert np.abs((found.propagator.value - expected) / error).max() < 4.5
        assert_allclose(found.propagator.error, error, rtol=0.35)
        total = np.sqrt(2 * np.sum(power**2, axis=1) / n) / 12
        assert np.abs((found.phi2.value - power.mean(axis=1)) / total).max() < 4.5
        continuous = relaxed_power(form, width**2, eps * steps, **exact).mean(axis=(1, 2))
        seen.append(np.abs((found.phi2.value - continuous) / total).max())
    assert max(seen) > 8, "the steps are seen"


# ---------------------------------------------------------------------------------- measurement


class Pieces(Chains):
    """Chains that are read in blocks which end anywhere."""

    def blocks(self):
        yield from ((i, self.cfgs[i : i + 5]) for i in range(0, len(self.cfgs), 5))


def chains_of(fields, kind=Chains, **weights):
    """Chains of fields `(n_configs, n_chains, *L)`."""
    n_configs, n_chains, *shape = fields.shape
    history = {"action": np.zeros((n_chains, n_configs))}
    return kind(None, tuple(shape), 1, fields.reshape(-1, *shape), history, {}, **weights)


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 4)])
def test_relaxation_is_the_mean_over_chains_with_its_spread(shape):
    fields = np.random.default_rng(4).normal(size=(3, 7, *shape)) * np.linspace(1, 2, 7).reshape(
        -1, *[1] * len(shape)
    )
    lattice, times = Lattice(shape), [0.5, 1.0, 4.0]
    found = relaxation(chains_of(fields, Pieces), times)
    sites = tuple(range(2, fields.ndim))
    m = fields.mean(axis=sites)
    power = np.abs(np.fft.fftn(fields, axes=sites)) ** 2 / lattice.volume
    for name, values in (("phi2", (fields**2).mean(axis=sites)), ("m2", m**2)):
        assert_allclose(getattr(found, name).value, values.mean(axis=1))
        assert_allclose(getattr(found, name).error, values.std(axis=1, ddof=1) / np.sqrt(7))
    for k in range(len(lattice.shells[0])):
        shell = power[:, :, lattice.shells[1] == k].mean(axis=-1)
        assert_allclose(found.propagator.value[:, k], shell.mean(axis=1))
        assert_allclose(found.propagator.error[:, k], shell.std(axis=1, ddof=1) / np.sqrt(7))

    def binder(m):
        return 1 - np.mean(m**4, axis=1) / (3 * np.mean(m**2, axis=1) ** 2)

    left_out = np.stack([binder(np.delete(m, c, axis=1)) for c in range(7)])
    assert_allclose(found.binder.value, binder(m))
    assert_allclose(found.binder.error, np.sqrt(6 * left_out.var(axis=0)))
    assert_allclose(found.p_hat_squared, lattice.shells[0])
    assert found.n_chains == 7 and found.times.tolist() == times
    whole, frames = relaxation(chains_of(fields), times), relaxation_of_frames(fields, times)
    for name in ("phi2", "m2", "binder", "propagator"):
        for other in (whole, frames):
            assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-12)


def test_an_ensemble_on_disk_is_read_too(finished_run):
    ensemble = open_ensemble(finished_run)
    times = np.arange(1, ensemble.n_configs + 1)
    found = relaxation(ensemble, times)
    fields = np.asarray(ensemble.cfgs[:]).reshape(-1, ensemble.n_chains, *ensemble.shape)
    expected = relaxation_of_frames(fields, times)
    for name in ("phi2", "m2", "binder", "propagator"):
        assert_allclose(getattr(found, name), getattr(expected, name))


def test_noise_is_taken_off_and_put_on_alike():
    """Exactly so in the moments, and fields under drawn noise agree within errors."""
    rng, n, t = np.random.default_rng(5), 4000, np.array([2.0, 0.3, 0.0])
    signs = rng.choice([-1.0, 1.0], (n, 1, 1))
    fields = signs + 0.5 * rng.normal(size=(n, 4, 4))
    noised = fields + np.sqrt(t).reshape(-1, 1, 1, 1) * rng.normal(size=(3, n, 4, 4))
    raw = relaxation_of_frames(noised, t)
    own = relaxation_of_frames(noised, t, noise=t)
    s = 0.25 / 16  # the variance of M in a well
    m2, m4 = 1 + s, 1 + 6 * s + 3 * s**2
    g = np.full(len(raw.p_hat_squared), 0.25)
    g[0] += 16
    exact = Equilibrium(
        16,
        Curve(np.array(m2), np.array(0)),
        Curve(np.array(1 - m4 / (3 * m2**2)), np.array(0)),
        Curve(g, np.zeros_like(g)),
    )
    for course, variances in ((raw, t), (own, np.zeros(3))):
        for name, values in zip(
            ("m2", "binder", "propagator"), exact.noised(variances), strict=True
        ):
            curve = getattr(course, name)
            assert np.abs((curve.value - values) / curve.error).max() < 4.5, name
    assert_allclose(raw.phi2.value - own.phi2.value, t)
    taken = Equilibrium(
        16, *(Curve(c.value[0], c.error[0]) for c in (own.m2, own.binder, own.propagator))
    )
    for name, values in zip(("m2", "binder", "propagator"), taken.noised(t[:1]), strict=True):
        assert_allclose(getattr(raw, name).value[:1], values)
    assert own.binder.error[0] > 1.5 * own.binder.error[2]


def test_json_holds_everything_and_no_nan():
    fields = np.random.default_rng(6).normal(size=(2, 3, 4, 4))
    found = relaxation_of_frames(fields, [1.0, 0.0], noise=[1.0, 0.0])
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert kept["n_chains"] == 3 and kept["times"] == [1.0, 0.0]
    assert_allclose(kept["propagator"]["value"], found.propagator.value)
    assert_allclose(kept["binder"]["error"], found.binder.error)
    cold = relaxation_of_frames(np.zeros((1, 3, 4, 4)), [0.0])
    assert cold.to_json()["binder"]["value"] == [None]


@pytest.mark.parametrize(
    ("frames", "times", "message"),
    [
        (np.ones((2, 4)), [0, 1], r"\(n_frames, n, \*L\), got shape \(2, 4\)"),
        (np.ones((2, 3, 4)), [0.0], r"one time per configuration, \(2,\), got shape \(1,\)"),
        (np.ones((2, 1, 4)), [0, 1], "spread over chains need at least two, got 1"),
    ],
)
def test_what_has_no_relaxation_is_refused(frames, times, message):
    with pytest.raises(ValueError, match=message):
        relaxation_of_frames(frames, times)


def test_weighted_samples_are_refused():
    with pytest.raises(ValueError, match="unweighted chains, got an ensemble with log_weight"):
        relaxation(chains_of(np.ones((2, 3, 4)), log_weight=np.zeros((3, 2))), [0.0, 1.0])
