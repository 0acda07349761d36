"""The exact conditional of single sites, and the zero mode, of flows: against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theories import free_theory

from lattice_ml.models.flow.base import Base, base_theory, draw_base, invert_base
from lattice_ml.models.flow.heat_bath import (
    draw_sites,
    fit_heat_bath,
    log_partition,
    solve_sites,
)
from lattice_ml.models.flow.site import tabulate
from lattice_ml.models.flow.tables import make_tables

# a, b, where fields are likely and how much they vary; variance of log w allowed per site
SITES = {
    "symmetric": (0.956, 0.022, [0.0], 0.9, 1e-8),
    "critical": (0.956, 0.022, [0.3, 1.5, 2.6], 1.2, 1e-8),
    "broken": (0.956, 0.022, [19.5], 1.8, 1e-6),
    "strong": (0.0, 0.5, [0.0, 0.6, 1.8], 1.2, 1e-6),
    "two wells": (-0.8, 0.9, [0.0, 0.8, 2.4], 1.5, 1e-5),
    "two deep wells": (-3.0, 2.0, [0.0, 0.8, 2.4], 1.5, 1e-3),
}


@pytest.fixture(scope="module", params=SITES)
def case(request):
    a, b, means, width, allowed = SITES[request.param]
    means = np.array(means)
    return fit_heat_bath(a, b, means, width), a, b, means, width, allowed


def likely(means, width, n=60):
    """Fields of a site, equally likely."""
    rng = np.random.default_rng(0)
    return np.sort(np.abs(rng.choice(means, n) + width * rng.normal(size=n)))


def test_the_density_of_a_site_is_exact(case):
    bath, a, b, means, width, allowed = case
    fields = likely(means, width)[:, None]
    x = np.linspace(-1, 1, 4001) * np.sqrt(60 / max(a, 0.3) + np.abs(fields.max()) ** 2)
    log_p = -a * x**2 - b * x**4 + fields * x
    largest = log_p.max(axis=1)
    integral = largest + np.log(np.sum(np.exp(log_p - largest[:, None]), axis=1) * (x[1] - x[0]))
    z = np.linspace(-4.5, 4.5, 181)
    sites, slope = map(np.asarray, draw_sites(bath, jnp.asarray(fields), jnp.asarray(z)))
    log_q = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(slope)
    log_w = -a * sites**2 - b * sites**4 + fields * sites - integral[:, None] - log_q
    share = np.exp(-0.5 * z**2) / np.sum(np.exp(-0.5 * z**2))
    assert np.mean(log_w**2 @ share) < allowed
    assert np.mean(np.exp(log_w) @ share) == pytest.approx(1, abs=1e-4)  # normalised
    error = np.asarray(log_partition(bath, jnp.asarray(fields[:, 0]))) - integral
    assert np.std(error) < (1e-4 if allowed > 1e-4 else 1e-6)


def test_the_slope_is_the_derivative_of_an_odd_map_and_positive_everywhere(case):
    bath = case[0]
    fields = jnp.linspace(-2.5, 2.5, 41)[:, None] * bath.largest
    z = jnp.linspace(-8, 8, 301)
    x, slope = draw_sites(bath, fields, z)
    found, change = jax.jvp(lambda z: draw_sites(bath, fields, z)[0], (z,), (jnp.ones_like(z),))
    assert np.all(slope > 0) and np.all(np.isfinite(x))
    np.testing.assert_allclose(slope, change, rtol=1e-9)
    np.testing.assert_allclose(draw_sites(bath, -fields, -z)[0], -found, rtol=1e-12)
    # log of the integral is convex in the field
    curvature = np.diff(log_partition(bath, fields[:, 0]), 2)
    assert np.all(curvature > -1e-9)


@pytest.mark.parametrize(("dtype", "off"), [("float64", 1e-9), ("float32", 2e-3)])
def test_sites_lead_back_to_their_normals(case, dtype, off):
    bath, _, _, means, width, _ = case
    bath = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), bath)
    farthest = 3 * bath.largest if dtype == "float64" else means.max()
    fields = jnp.asarray(np.append(likely(means, width), farthest), dtype)[:, None]
    z = jnp.linspace(-5, 5, 101, dtype=dtype)
    x, slope = draw_sites(bath, fields, z)
    found, again = solve_sites(bath, fields, x)
    np.testing.assert_allclose(found, np.broadcast_to(z, x.shape), atol=off)
    np.testing.assert_allclose(again, slope, rtol=10 * off)
    assert np.all(np.isfinite(solve_sites(bath, fields, jnp.asarray([-1e3, 1e3], dtype))[0]))


def test_fits_of_all_theories_have_one_shape(case):
    def shapes(bath):
        return jax.tree.map(np.shape, bath)

    assert shapes(case[0]) == shapes(fit_heat_bath(1.0, 0.0, np.array([1.0]), 1.0))


def test_wells_too_narrow_for_a_map_are_refused():
    with pytest.raises(ValueError, match=r"exp\(12 x\^2 - 4 x\^4\) given .* too narrow"):
        fit_heat_bath(-12.0, 4.0, np.array([2.0, 4.0]), 1.0)


def test_tabulated_sites_are_those_of_a_gaussian():
    fields, normals = np.linspace(0, 3, 5), np.linspace(-6, 6, 25)
    site = tabulate(0.5, 0.0, fields, normals)
    np.testing.assert_allclose(site.x, fields[:, None] + normals, atol=1e-5)
    np.testing.assert_allclose(site.slope, 1, atol=5e-5)
    np.testing.assert_allclose(site.log_integral, fields**2 / 2 + np.log(2 * np.pi) / 2, atol=1e-9)
    np.testing.assert_allclose(site.centres, -fields, atol=1e-5)
    assert site.largest_mean == pytest.approx(3, abs=1e-9)


def test_the_heat_bath_covers_the_fields_of_its_lattice():
    tables = make_tables(free_theory((8, 8)))
    assert float(tables.heat_bath.largest) > 4 * np.sqrt(float(tables.h))


@pytest.mark.parametrize(("mean", "allowed"), [(0, 1e-6), (1.5, 1e-4), (3, 1e-3), (10, 5e-3)])
def test_the_zero_mode_has_the_density_of_its_quantiles(mean, allowed):
    from scipy.stats import norm

    x = np.linspace(0, mean + 7, 40001)
    below = norm.cdf(x - mean) + norm.cdf(x + mean) - 1
    quantiles = np.interp((np.arange(1024) + 0.5) / 1024, below, x)
    theory = base_theory(np.array([mean**2 + 1.0]), quantiles)
    weights = Base.start(np.random.default_rng(0), 1, 2)
    z = np.geomspace(1e-6, 5, 2001)
    x0, log_slope = draw_base(weights, theory, jnp.asarray(z)[None])
    log_p = np.logaddexp(norm.logpdf(x0[0], mean), norm.logpdf(x0[0], -mean)) - np.log(2)
    log_w = log_p - norm.logpdf(z) + log_slope
    share = np.exp(-0.5 * z**2) * np.gradient(z)
    assert np.average((log_w - np.average(log_w, weights=share)) ** 2, weights=share) < allowed
    np.testing.assert_allclose(invert_base(weights, theory, x0)[0][0], z, rtol=1e-6, atol=1e-12)
