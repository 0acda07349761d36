"""Noise schedules against the closed forms of their papers, and against their own process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import each

from lattice_ml.models.diffusion.noise import (
    KINDS,
    Geometric,
    PowerLaw,
    VarianceExploding,
    VariancePreserving,
)

S = jnp.linspace(0.0, 1.0, 9)


@pytest.fixture(params=sorted(KINDS))
def schedule(request):
    return KINDS[request.param]()


def test_the_exploding_schedule_is_the_one_of_the_paper():
    """arXiv:2309.17082: g = sigma^s, and the variance at s = 1 of the reference table."""
    schedule = VarianceExploding(base=25.0)
    np.testing.assert_allclose(schedule.diffusion(S), 25.0**S, rtol=1e-12)
    np.testing.assert_allclose(schedule.variance(S), (25.0 ** (2 * S) - 1) / (2 * np.log(25)))
    np.testing.assert_allclose(schedule.variance(1.0), 96.9282497913, rtol=1e-11)


def test_the_geometric_schedule_is_the_one_of_the_paper():
    """arXiv:2011.13456 eq. 30: g = sigma sqrt(2 log(sigma_max / sigma_min))."""
    schedule = Geometric(sigma_min=0.02, sigma_max=30.0)
    sigma = 0.02 * (30.0 / 0.02) ** S
    np.testing.assert_allclose(schedule.sigma(S), sigma, rtol=1e-12)
    np.testing.assert_allclose(schedule.diffusion(S), sigma * np.sqrt(2 * np.log(30.0 / 0.02)))


def test_the_power_law_is_the_one_of_the_paper():
    """arXiv:2206.00364 eq. 5 with N levels: i = 0, ..., N - 1 from sigma_max down."""
    n, rho, low, high = 9, 7, 0.002, 80.0
    levels = (
        high ** (1 / rho) + np.arange(n) / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))
    ) ** rho
    np.testing.assert_allclose(PowerLaw(low, high, rho).sigma(S)[::-1], levels, rtol=1e-12)
    np.testing.assert_allclose(PowerLaw(low, high, 1).sigma(S), low + S * (high - low))


def test_the_preserving_schedule_is_the_one_of_the_paper():
    """arXiv:2011.13456 eqs. 32-33: drift -beta/2, diffusion sqrt(beta), and the mean's factor."""
    schedule = VariancePreserving(beta_min=0.1, beta_max=20.0)
    beta = 0.1 + S * 19.9
    np.testing.assert_allclose(schedule.drift(S), -beta / 2, rtol=1e-10)
    np.testing.assert_allclose(schedule.diffusion(S), np.sqrt(beta), rtol=1e-10)
    np.testing.assert_allclose(schedule.scale(S), np.exp(-0.25 * S**2 * 19.9 - 0.5 * S * 0.1))


def test_the_preserving_schedule_keeps_unit_variance():
    schedule = VariancePreserving()
    total = schedule.scale(S) ** 2 * (1 + schedule.variance(S))
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@each("data_variance", [0.0, 1.7])
def test_the_forward_process_has_the_schedules_variance(schedule, data_variance):
    """dv/ds = 2 f v + g^2 of dx = f x ds + g dW, ends at scale^2 (v_0 + sigma^2)."""

    def slope(s, v):
        return 2 * schedule.drift(s) * v + schedule.diffusion(s) ** 2

    def step(v, s):
        a = slope(s, v)
        b = slope(s + h / 2, v + h / 2 * a)
        c = slope(s + h / 2, v + h / 2 * b)
        d = slope(s + h, v + h * c)
        return v + h / 6 * (a + 2 * b + 2 * c + d), None

    def marginal(s):
        return schedule.scale(s) ** 2 * (data_variance + schedule.variance(s))

    n = 2000
    h = 1 / n
    v, _ = jax.jit(lambda v: jax.lax.scan(step, v, jnp.arange(n) * h))(marginal(0.0))
    np.testing.assert_allclose(v, marginal(1.0), rtol=1e-8)


def test_single_precision_stays_single(schedule):
    s = jnp.float32(0.5)
    for method in ("scale", "variance", "sigma", "drift", "diffusion"):
        assert getattr(schedule, method)(s).dtype == jnp.float32


def test_new_parameters_do_not_retrace():
    traced = []

    @jax.jit
    def sigma(schedule, s):
        traced.append(1)
        return schedule.sigma(s)

    sigma(VarianceExploding(25.0), S)
    sigma(VarianceExploding(10.0), S)
    assert len(traced) == 1


@pytest.mark.parametrize(
    "schedule",
    [
        VarianceExploding(base=1.0),
        Geometric(sigma_min=2.0, sigma_max=1.0),
        PowerLaw(sigma_min=-1.0),
        VariancePreserving(beta_min=-3.0, beta_max=1.0),
        VariancePreserving(beta_min=0.1, beta_max=float("inf")),
    ],
    ids=str,
)
def test_noise_that_does_not_grow_is_refused(schedule):
    with pytest.raises(ValueError, match=r"needs 0 <= sigma\(0\) < sigma\(1\) < infinity, got"):
        schedule.check()


def test_every_default_schedule_is_allowed(schedule):
    schedule.check()


@pytest.mark.parametrize("name", KINDS)
def test_a_schedule_of_any_kind_ends_where_it_is_asked_to(name):
    schedule = KINDS[name].between(jnp.array(0.01), jnp.array(7.5))
    assert float(schedule.sigma(jnp.array(1.0))) == pytest.approx(7.5, rel=1e-5)
    assert float(schedule.sigma(jnp.array(0.0))) <= 0.0101
    schedule.check()
