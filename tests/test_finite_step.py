"""The bias of every scheme is known: closed forms, the order of each, and the samplers have it."""

import numpy as np
import pytest
from free_modes import fields
from numpy.testing import assert_allclose
from references import CASES

from lattice_ml import Kramers, Langevin, Lattice, Phi4, estimate
from lattice_ml.analysis.dynamics.finite_step import (
    SCHEMES,
    gaussian_variance,
    site_moments,
)

A, B = 0.5, 0.05
SITE = Phi4(h=0.0, a=A, b=B)
ORDERS = {"euler": 1, "heun": 2, "leimkuhler_matthews": 2}


def action(phi):
    return A * phi**2 + B * phi**4


def drift(phi):
    return -2 * A * phi - 4 * B * phi**3


def curvature(phi):
    return 2 * A + 12 * B * phi**2


def exact_moments(powers=(2, 4)):
    phi = np.linspace(-8, 8, 8001)
    weight = np.exp(-action(phi))
    return np.array([np.sum(phi**n * weight) / np.sum(weight) for n in powers])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_gaussian_site_has_the_variance_in_closed_form(scheme):
    second, fourth = site_moments(scheme, lambda phi: -2 * phi, 0.2, radius=7.0)
    variance = gaussian_variance(scheme, 0.2, 2.0)
    assert_allclose([second, fourth], [variance, 3 * variance**2], rtol=1e-8)


@pytest.mark.parametrize("name", ["k=1.0_eps=0.1", "k=4.0_eps=0.05"])
def test_euler_steps_of_a_gaussian_have_the_reference_value(name):
    case = CASES[f"euler_langevin_gauss_{name}"]
    k, eps = case["parameters"]["k"], case["parameters"]["eps"]
    assert_allclose(gaussian_variance("euler", eps, k), case["values"]["value"][0], rtol=1e-10)
    assert_allclose(gaussian_variance("euler", eps, k, 2.0), 2 * case["values"]["value"][0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_of_a_scheme_on_the_quartic_site(scheme):
    """Halving the step leaves 2^-order of the bias, up to the next order."""
    bias = [site_moments(scheme, drift, eps, radius=6.0) - exact_moments() for eps in (0.02, 0.01)]
    assert_allclose(np.log2(bias[0] / bias[1]), ORDERS[scheme], atol=0.08)
    assert np.abs(bias[1]).min() > 1e-6, "there is a bias"


def euler_slope(powers=(2, 4)):
    """d<phi^n>/d eps at eps = 0: -(1/4) times the connected <phi^n [2 S'' - S'^2]>.

    To first order Euler steps sample exp(-S - eps/4 sum [2 S'' - (S')^2]) (G. G. Batrouni et al.,
    Phys. Rev. D 32 (1985) 2736).
    """
    phi = np.linspace(-6, 6, 4001)
    weight = np.exp(-(action(phi) - action(phi).min()))
    weight /= weight.sum()
    change = (2 * curvature(phi) - drift(phi) ** 2) / 4
    change -= weight @ change
    return np.array([-(weight @ (phi**n * change)) for n in powers])


def test_the_slope_of_eulers_bias_is_that_of_its_effective_action():
    bias = site_moments("euler", drift, 1e-3, radius=6.0) - exact_moments()
    assert_allclose(bias / 1e-3, euler_slope(), rtol=0.003)


def measured(sampler, n_updates=60):
    """<phi^2> and <phi^4> of 1,024 chains x 16 independent sites, at independent times."""
    cfgs = fields(sampler, Lattice((4, 4)), n_updates, n_chains=1024)[10:]
    return [estimate(np.mean(cfgs**n, axis=(2, 3)).T) for n in (2, 4)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_sampler_has_the_bias_of_its_scheme_at_a_large_step(scheme):
    found = measured(Langevin(SITE, step_size=0.12, trajectory_length=1.2, scheme=scheme))
    for ours, biased, exact in zip(
        found, site_moments(scheme, drift, 0.12, radius=6.0), exact_moments(), strict=True
    ):
        assert abs(ours.value - biased) < 4.5 * ours.error
        assert ours.error < 0.005 * exact
        if scheme != "leimkuhler_matthews":
            assert abs(ours.value - exact) > 8 * ours.error


def test_kramers_at_large_friction_is_langevin_with_half_its_squared_step():
    """phi' = phi + delta^2/2 K + delta eta: Euler's bias at eps = delta^2/2."""
    delta = 0.24**0.5
    settings = {"step_size": delta, "friction": 1e4, "trajectory_length": 10 * delta}
    found = measured(Kramers(SITE, accept=False, **settings))
    for ours, biased in zip(found, site_moments("euler", drift, 0.12, radius=6.0), strict=True):
        assert abs(ours.value - biased) < 4.5 * ours.error


@pytest.mark.parametrize("friction", [0.5, 2.0])
def test_kramers_has_a_bias_of_second_order_at_any_friction(friction):
    bias = {}
    for delta in (0.3, 0.6):
        settings = {"step_size": delta, "friction": friction, "trajectory_length": 6.0}
        bias[delta] = measured(Kramers(SITE, accept=False, **settings))[0].value
    exact = exact_moments()[0]
    ratio = (bias[0.6] - exact) / (bias[0.3] - exact)
    assert 3.5 < ratio < 6.5, "4 and a part of the next order"


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="euler is stable for 0 < x < 2, got x from"):
        gaussian_variance("euler", 0.5, 5.0)
    with pytest.raises(ValueError, match="scheme must be one of euler, heun, leimkuhler_matthews"):
        gaussian_variance("milstein", 0.5, 1.0)
    with pytest.raises(ValueError, match="got 'kramers'"):
        site_moments("kramers", drift, 0.1)
