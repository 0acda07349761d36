"""Cumulants: exact for quadratures as weighted series, errors those of Hermite polynomials."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from references import CASES
from synthetic import ar1

from lattice_ml.statistics.cumulants import cumulants

EVEN = (2, 4, 6, 8)


def values(series, orders=EVEN, **options):
    found = cumulants(np.asarray(series)[None], orders, **options)
    return [found[order].value for order in orders]


def test_of_two_deltas():
    series = np.tile([1.0, -1.0], 10)
    assert_allclose(values(series), [1, -2, 16, -272], rtol=1e-12)
    assert_allclose(values(3 * series), [9, -2 * 3**4, 16 * 3**6, -272 * 3**8], rtol=1e-12)


def test_odd_moments_are_zero_where_the_distribution_is_known_to_be_even():
    assert_allclose(values([1.0, 2.0, 3.0, 4.0], (2, 4)), [7.5, 88.5 - 3 * 7.5**2], rtol=1e-12)


def test_of_the_exponential_distribution_with_and_without_an_offset():
    """kappa_n = (n - 1)!, by Gauss-Laguerre; an offset moves kappa_1 alone."""
    nodes, weights = np.polynomial.laguerre.laggauss(16)
    orders = (1, 2, 3, 4, 8)
    exact = np.array([math.factorial(n - 1) for n in orders], float)
    options = {"symmetric": False, "log_weights": np.log(weights)[None]}
    assert_allclose(values(nodes, orders, **options), exact, rtol=1e-9)
    exact[0] += 1e3
    assert_allclose(values(nodes + 1e3, orders, **options), exact, rtol=1e-7)


def test_of_one_site_of_phi4():
    """The reference case whose wells are far apart, by the trapezoidal rule."""
    case = CASES["wang_toy_mu2=-1_g=0.4"]
    x = np.linspace(-9, 9, 400)
    action = case["parameters"]["mu2"] * x**2 / 2 + case["parameters"]["g"] * x**4 / 24
    found = values(x, log_weights=-action[None])
    exact = [case["values"][name][0] for name in ("m2", "cumulant4", "cumulant6", "cumulant8")]
    assert_allclose(found, exact, rtol=1e-9)
    assert_allclose(values(x, symmetric=False, log_weights=-action[None]), exact, rtol=1e-9)


@pytest.mark.parametrize("a", [0.0, 0.6])
def test_errors_are_those_of_hermite_polynomials(a):
    """error^2 = n! / N (1 + a^n) / (1 - a^n) where the distribution is Gaussian."""
    series = ar1(11, (20, 20_000), a)
    found = cumulants(series, (2, 4, 6), thin=3)
    for n, one in found.items():
        exact = math.sqrt(math.factorial(n) / series.size * (1 + a**n) / (1 - a**n))
        assert abs(one.value - (n == 2)) < 4.5 * exact
        assert one.error == pytest.approx(exact, rel=0.02 * n)
        assert one.thin == 3 and one.n_chains == 20


def test_an_odd_cumulant_has_the_error_of_its_own_polynomial():
    series = ar1(12, (20, 5_000), 0.0)
    found = cumulants(series, (1, 3), symmetric=False)
    for n, one in found.items():
        exact = math.sqrt(math.factorial(n) / series.size)
        assert abs(one.value) < 4.5 * exact and one.error == pytest.approx(exact, rel=0.05)


def test_what_never_varies_has_no_cumulants():
    constant = np.zeros((2, 8))
    assert all(x.value == 0 == x.error for x in cumulants(constant, (2, 4)).values())
    found = cumulants(constant + 5, (1, 2), symmetric=False)
    assert (found[1].value, found[2].value) == (5, 0)


@pytest.mark.parametrize(
    ("orders", "symmetric", "match"),
    [
        ((2, 3), True, r"of a symmetric distribution have even orders from 2 up, got orders=\(2"),
        ((0,), True, "even orders from 2 up"),
        ((), True, "even orders from 2 up"),
        ((0, 1), False, r"of a not symmetric distribution have orders from 1 up, got orders=\(0"),
    ],
)
def test_orders_that_do_not_exist(orders, symmetric, match):
    with pytest.raises(ValueError, match=match):
        cumulants(np.ones((1, 8)), orders, symmetric=symmetric)


def test_series_that_are_no_series():
    with pytest.raises(ValueError, match=r"shape \(n_chains, n_configs\), got \(8,\)"):
        cumulants(np.ones(8))
    for symmetric in (True, False):
        with pytest.raises(ValueError, match="must be finite, got inf in chain 0, configuration 2"):
            cumulants([[1.0, 2.0, math.inf, 3.0]], (2,), symmetric=symmetric)


@pytest.mark.parametrize("unit", [1e-100, 1e100])
def test_cumulants_of_huge_and_tiny_numbers_are_right_or_refused(unit):
    x = ar1(5, (4, 500), 0.0)
    found, expected = (cumulants(y, (2,))[2] for y in (unit * x, x))
    assert found.value / unit**2 == pytest.approx(expected.value)
    assert found.error / unit**2 == pytest.approx(expected.error)
    mean = cumulants(unit * (3 + x), (1,), symmetric=False)[1]
    assert mean.value / unit == pytest.approx(3 + x.mean())
    with pytest.raises(ValueError, match=r"order 4 of numbers of size .*is beyond the range"):
        cumulants(unit * x, (2, 4))
