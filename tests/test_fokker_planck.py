"""The Fokker-Planck equation against closed forms, and Langevin samples against it."""

import json

import jax
import numpy as np
import pytest
from numpy.polynomial import Polynomial
from numpy.testing import assert_allclose
from references import CASES
from rows import each
from scipy.integrate import quad
from scipy.stats import norm

from lattice_ml import FreeField, Langevin, Lattice, Phi4, run
from lattice_ml.analysis.dynamics.fokker_planck import (
    equilibrium,
    evolve,
    measured_action,
    relaxation_rates,
    site_potential,
)

REFERENCE = CASES["wang_toy_mu2=-1_g=0.4"]
TOY = Phi4(h=0.0, a=-0.5, b=0.4 / 24)  # arXiv:2309.17082: mu^2 = -1, g = 0.4
WELL = site_potential(TOY)
MOMENTS = [REFERENCE["values"][name][0] for name in ("m2", "m4", "m6", "m8")]
SKEW = Polynomial([0, 0.3, -1.0, 0.5, 0.7])  # two wells of unequal depth


def oscillator(w):
    return Polynomial([0, 0, w / 2])


def ornstein_uhlenbeck(w, times, width, mean, alpha):
    """Mean and standard deviation from a Gaussian start."""
    fall = np.exp(-w * np.asarray(times))
    return mean * fall, np.sqrt(alpha / w + (width**2 - alpha / w) * fall**2)


# ---------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    ("w", "width", "mean", "alpha"),
    [(1.0, 2.5, 0.0, 1.0), (1.0, 0.2, 1.5, 1.0), (3.0, 0.5, -1.0, 0.4)],
)
def test_an_oscillator_stays_the_gaussian_that_is_known(w, width, mean, alpha):
    times = np.array([0.0, 0.03, 0.4, 2.0, 60.0])
    found = evolve(oscillator(w), times, width=width, means=mean, temperature=alpha)
    centre, spread = ornstein_uhlenbeck(w, times, width, mean, alpha)
    gaussian = norm(centre[:, None], spread[:, None])
    phi, edges = np.linspace(-3, 3, 50), np.linspace(-2, 3, 8)
    assert_allclose(found.at(phi), gaussian.pdf(phi), atol=1e-12)
    assert_allclose(found.probabilities(edges), np.diff(gaussian.cdf(edges)), atol=1e-12)
    second, fourth = spread**2 + centre**2, 3 * spread**4 + 6 * spread**2 * centre**2 + centre**4
    exact = np.stack([np.ones(5), centre, second, fourth], axis=1)
    assert_allclose(found.moments([0, 1, 2]), exact[:, :3], rtol=1e-10, atol=1e-10)
    assert_allclose(found.moments([4])[:, 0], exact[:, 3], rtol=1e-8)  # rounding at the ends
    near = centre[:, None] + spread[:, None] * np.linspace(-5, 5, 9)
    for i, row in enumerate(near):
        assert_allclose(found.effective_action(row)[i], -norm(centre[i], spread[i]).logpdf(row))


def test_two_centres_are_the_mean_of_both():
    both, left, right = (
        evolve(WELL, [0.3, 4.0], width=0.5, means=means).at(np.linspace(-6, 6, 30))
        for means in ([-2.0, 3.0], -2.0, 3.0)
    )
    assert_allclose(both, (left + right) / 2, atol=1e-12)


@pytest.mark.parametrize(
    ("potential", "width", "alpha"), [(WELL, 1.0, 1.0), (WELL, 2.0, 1.0), (SKEW, 0.3, 0.8)]
)
def test_every_start_ends_in_equilibrium_and_loses_nothing(potential, width, alpha):
    end = equilibrium(potential, alpha)
    assert end.times == [np.inf]
    rate = relaxation_rates(potential, 2, alpha)[1]
    found = evolve(potential, [0.1, 30 / rate], width=width, temperature=alpha)
    phi = np.linspace(-6, 6, 61)
    assert_allclose(found.at(phi)[1], end.at(phi)[0], atol=1e-10)
    assert_allclose(found.moments([0]), 1, atol=1e-10)
    assert found.values.min() > -1e-12
    weight = [quad(lambda x: np.exp(-potential(x) / alpha), a, b)[0] for a, b in [(-9, 9), (0, 1)]]
    assert_allclose(end.probabilities([0, 1])[0], weight[1] / weight[0], rtol=1e-9)
    assert_allclose(end.at([0.5])[0], np.exp(-potential(0.5) / alpha) / weight[0], rtol=1e-9)


def test_the_double_well_has_the_moments_of_the_reference():
    assert_allclose(equilibrium(WELL).moments([2, 4, 6, 8])[0], MOMENTS, rtol=1e-11)
    found = evolve(WELL, [3000.0], width=0.5, means=np.sqrt(15.0)).moments([1, 2, 4, 6, 8])[0]
    assert_allclose(found, [0, *MOMENTS], rtol=1e-10, atol=1e-8)


def test_moments_move_as_the_equation_says():
    """d<phi^k>/dtau = <alpha k (k-1) phi^(k-2) - k phi^(k-1) S'>: from a wide start too."""
    alpha, step = 0.7, 1e-3
    for potential, width in ((SKEW, 0.4), (WELL, 3.7)):
        times = 0.2 + step * np.arange(-2, 3)
        found = evolve(potential, times, width=width, temperature=alpha)
        for k in (1, 2, 3):
            moment = found.moments([k])[:, 0]
            slope = (moment[0] - 8 * moment[1] + 8 * moment[3] - moment[4]) / (12 * step)
            powers = Polynomial([0] * k + [1])
            change = alpha * powers.deriv(2) - powers.deriv() * potential.deriv()
            mean = found.spacing * found.values[2] @ change(found.phi)
            assert_allclose(slope, mean, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("w", "alpha"), [(1.0, 1.0), (2.5, 0.3)])
def test_an_oscillator_has_the_rates_n_w(w, alpha):
    assert_allclose(relaxation_rates(oscillator(w), 12, alpha), w * np.arange(12), rtol=1e-11)


def test_tunnelling_is_as_slow_as_kramers_says_however_slow():
    """sqrt(S''_min |S''_max|)/pi exp(-barrier/alpha), with corrections of order alpha."""
    off = []
    for alpha in (0.2, 0.1):  # rates of 10^-9 and 10^-17, below the rounding of a matrix
        kramers = np.sqrt(2) / np.pi * np.exp(-3.75 / alpha)
        off.append(relaxation_rates(WELL, 2, alpha)[1] / kramers - 1)
    assert -0.03 < off[0] < off[1] < 0
    assert_allclose(off[0] / off[1], 2, rtol=0.1)


def test_the_mean_of_one_well_leaks_at_the_tunnelling_rate():
    rate = relaxation_rates(WELL, 2)[1]
    mean = evolve(WELL, [100.0, 400.0], width=0.5, means=3.0).moments([1])[:, 0]
    assert_allclose(np.log(mean[0] / mean[1]) / 300, rate, rtol=1e-8)
    assert_allclose(1 / rate, 104.876, rtol=1e-5)


def test_densities_that_are_rounding_have_no_action():
    found = evolve(oscillator(1.0), [0.0], width=1.0).effective_action([0.0, 5.0, 9.0])[0]
    assert np.isfinite(found[:2]).all() and np.isnan(found[2])


def test_a_histogram_gives_an_action_with_its_error():
    samples = np.repeat([0.25, 0.75, 2.5], [10, 30, 60])
    value, error = measured_action(samples.reshape(10, 10), [0, 0.5, 1.0, 2.0, 4.0])
    assert_allclose(value[[0, 1, 3]], -np.log([0.1 / 0.5, 0.3 / 0.5, 0.6 / 2]))
    assert_allclose(error[[0, 1, 3]], np.sqrt(np.array([9, 7 / 3, 2 / 3]) / 100))
    assert np.isnan([value[2], error[2]]).all()


# ------------------------------------------------------------------------- the sampler beside it


def sites(scheme, start, seed, times, eps=0.05):
    """Fields of independent sites at the times, `(n_times, n)`."""
    sampler = Langevin(TOY, eps, trajectory_length=0.5, scheme=scheme, sign_flip=False)
    n = round(2 * times[-1])
    chains = run(
        jax.random.key(seed),
        sampler,
        Lattice((16, 16)),
        n_chains=128,
        n_configs=n,
        n_thermalise=0,
        start=start,
    )
    fields = chains.cfgs.reshape(n, -1).astype(np.float64)
    return fields[[round(2 * tau) - 1 for tau in times]]


def pulls(fields, solution, edges):
    """z of the counts of all bins that are not nearly empty, and of two moments."""
    n, p = fields.shape[1], solution.probabilities(edges)
    counts = np.array([np.histogram(values, edges)[0] for values in fields])
    full = n * p > 30
    z = (counts - n * p)[full] / np.sqrt(n * p * (1 - p))[full]
    m1, m2, m4 = solution.moments([1, 2, 4]).T
    first = (fields.mean(axis=1) - m1) / np.sqrt((m2 - m1**2) / n)
    second = ((fields**2).mean(axis=1) - m2) / np.sqrt((m4 - m2**2) / n)
    return np.concatenate([z, first, second])


TIMES = (0.5, 1.0, 2.0, 8.0)
EDGES = np.linspace(-7, 7, 29)
STARTS = {"hot": (1.0, 0.0), "cold": (0.2, np.sqrt(15.0))}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", STARTS)
def test_langevin_sites_follow_the_fokker_planck_equation(name, seed):
    width, mean = STARTS[name]
    start = mean + width * np.random.default_rng(seed).normal(size=(128, 16, 16))
    solution = evolve(WELL, TIMES, width=width, means=mean)
    fields = sites("heun", start, seed, TIMES)
    assert np.abs(pulls(fields, solution, EDGES)).max() < 4.5
    for values, p in zip(fields, solution.probabilities(EDGES), strict=True):
        action = measured_action(values, EDGES)
        sure = action.error < 0.1
        exact = -np.log(p[sure] / np.diff(EDGES)[sure])
        assert sure.sum() > 4
        assert np.abs((action.value[sure] - exact) / action.error[sure]).max() < 4.5


def test_first_order_steps_are_seen_to_be_off():
    """Euler always, and Leimkuhler-Matthews on the way, whose equilibrium is of second order."""
    start = np.random.default_rng(1).normal(size=(128, 16, 16))
    solution = evolve(WELL, TIMES, width=1.0)
    for scheme, at_end in (("euler", True), ("leimkuhler_matthews", False)):
        fields = sites(scheme, start, 1, TIMES, eps=0.125)
        m2, m4 = solution.moments([2, 4]).T
        z = ((fields**2).mean(axis=1) - m2) / np.sqrt((m4 - m2**2) / fields.shape[1])
        assert z[0] < -4.5
        assert (abs(z[-1]) > 4.5) == at_end


# --------------------------------------------------------------------------------------- refused


def test_coupled_sites_have_no_potential_of_their_own():
    assert_allclose(WELL.coef, [0, 0, -0.5, 0, 0.4 / 24])
    with pytest.raises(ValueError, match="coupling h between them is 0, got h = 1"):
        site_potential(FreeField(0.5, 2))


@pytest.mark.parametrize("coefficients", [[0, 1], [0, 0, 0, 1], [0, 0, -1.0], [1.0]])
def test_a_potential_must_be_bounded_below(coefficients):
    calls = (
        lambda s: evolve(s, [1.0], width=1.0),
        equilibrium,
        lambda s: relaxation_rates(s, 1),
    )
    for call in calls:
        with pytest.raises(ValueError, match="even degree with a positive leading coefficient"):
            call(Polynomial(coefficients))


@each(
    ("settings", "message"),
    [
        ({"width": 0.0}, r"a positive width, got means = \[0.0\] and width = 0"),
        ({"width": np.inf}, "a positive width"),
        ({"width": 1.0, "means": [0.0, np.nan]}, "finite means"),
        ({"width": 1.0, "times": [-1.0]}, r"not negative, got \[-1.0\]"),
        ({"width": 1.0, "times": [np.inf]}, "must be finite"),
        ({"width": 1.0, "temperature": 0.0}, "temperature must be positive, got 0"),
        ({"width": 1e-4}, r"needs \d+ grid points, more than 3000"),
    ],
)
def test_what_cannot_be_solved_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evolve(oscillator(1.0), **{"times": [1.0], **settings})


@pytest.mark.parametrize("n", [0, 10_000])
def test_rates_beyond_the_grid_are_refused(n):
    with pytest.raises(ValueError, match=rf"1 to \d+ rates, got n = {n}"):
        relaxation_rates(WELL, n)


def test_curves_become_json():
    curve = measured_action([0.5, 0.5], [0.0, 1.0, 2.0])
    assert json.loads(json.dumps(curve.to_json(), allow_nan=False)) == {
        "value": [0.0, None],
        "error": [0.0, None],
    }
