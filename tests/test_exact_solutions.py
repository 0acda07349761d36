"""Exact solutions against independent ones: the reference file, dense integrals, linear algebra."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from references import CASES
from rows import each
from scipy import special

from lattice_ml import FreeField, Lattice, Phi4, action
from lattice_ml.analysis.exact import exact
from lattice_ml.analysis.transfer_matrix import SmallLattice
from lattice_ml.observables import DERIVED

NAMES = {"phi2": "phi2", "phi4": "phi4", "M2": "m2", "M4": "m4", "absM": "abs_magnetisation"}
NAMES |= {"U_L": "binder", "S_per_site": "action_density", "chi2": "chi2"}
CHAINS = {
    "chain_std_m2=1_g=0.5_N=8": ("standard", {"mass_squared": 1.0, "g": 0.5}, (8,)),
    "chain_std_m2=1_g=0.1_N=32": ("standard", {"mass_squared": 1.0, "g": 0.1}, (32,)),
    "chain_std_m2=4_g=0_N=10": ("standard", {"mass_squared": 4.0, "g": 0.0}, (10,)),
    "chain_kappa_k=0.3_l=0.1_N=16": ("kappa", {"kappa": 0.3, "lam": 0.1}, (16,)),
    "chain_kappa_k=0.5_l=0.5_N=10": ("kappa", {"kappa": 0.5, "lam": 0.5}, (10,)),
    "twosite_kappa_k=0.2_l=0.022_N=2": ("kappa", {"kappa": 0.2, "lam": 0.022}, (2,)),
    "torus2x2_kappa_k=0.2_l=0.022": ("kappa", {"kappa": 0.2, "lam": 0.022}, (2, 2)),
    "torus2x2_std_m2=-1_g=0.5": ("standard", {"mass_squared": -1.0, "g": 0.5}, (2, 2)),
}


@each("name", CHAINS)
def test_small_lattices_of_the_reference_file(name):
    convention, couplings, shape = CHAINS[name]
    found, known = exact(action(convention, len(shape), **couplings), shape), CASES[name]["values"]
    for theirs, ours in NAMES.items():
        if theirs in known:
            value, error = known[theirs]
            tolerance = error + found.errors[ours] + 1e-8 * max(1, abs(value))
            assert abs(found.values[ours] - value) < tolerance, ours
    assert found.log_z == pytest.approx(known["lnZ"][0], abs=1e-9)
    assert found.values["schwinger_dyson"] == pytest.approx(1, abs=1e-8)
    if "G" in known:  # as a function of the distance
        distances = np.fft.ifft(found.two_point).real[: len(known["G"][0])]
        assert_allclose(distances, known["G"][0], atol=1e-8)


@pytest.mark.slow
def test_four_by_four_within_its_own_error():
    found = exact(action("kappa", 2, kappa=0.2, lam=0.022), (4, 4))
    known = CASES["torus4x4_kappa_k=0.2_l=0.022"]["values"]
    for theirs, ours in NAMES.items():
        if theirs in known:
            value, error = known[theirs]
            assert abs(found.values[ours] - value) < 4 * (error + found.errors[ours]), ours
            assert found.errors[ours] < 1e-6, ours
    assert found.log_z == pytest.approx(known["lnZ"][0], abs=1e-8)


def law_by_summation(shape, phi4, n=27, end=3.4):
    """x and P(M = x) by the trapezoid rule over all sites; exact to many digits for a phi^4."""
    sites, axes = int(np.prod(shape)), tuple(range(len(shape)))
    steps = np.indices((n,) * sites).reshape(*shape, -1) - n // 2
    spacing = end / (n // 2)
    fields = spacing * steps
    h, a, b = (float(c) for c in phi4.couplings())
    links = sum(fields * np.roll(fields, 1, axis) for axis in axes)
    weight = np.exp(-np.sum(-h * links + a * fields**2 + b * fields**4, axis=axes))
    law = np.bincount(steps.sum(axis=axes) + sites * (n // 2), weight / weight.sum())
    return spacing / sites * (np.arange(len(law)) - sites * (n // 2)), law


def law_on_a_chain(extent, phi4, n=61, end=4.2):
    """The same on a long chain: Tr (T exp(i theta phi))^L at all frequencies of the sums."""
    x = np.linspace(-end, end, n)
    h, a, b = (float(c) for c in phi4.couplings())
    matrix = np.exp(h * np.outer(x, x) - (a * x**2 + b * x**4))
    matrix /= np.linalg.norm(matrix)
    count = extent * (n - 1) + 1
    phases = np.exp(-2j * np.pi / count * np.outer(np.arange(count), np.arange(n)))
    powers = np.linalg.matrix_power(matrix * phases[:, None, :], extent)
    law = np.fft.ifft(np.trace(powers, axis1=1, axis2=2)).real
    return np.linspace(-end, end, count), law / law.sum()


def assert_the_law(found, x, law):
    """Compare with P(M = x) on a grid through M = 0, with Euler-Maclaurin terms where sums end."""
    spacing, middle, bend = x[1] - x[0], len(x) // 2, np.gradient(np.gradient(law))
    absolute = np.sum(law * np.abs(x)) + spacing * (law[middle] / 6 - bend[middle] / 120)
    assert found.values["abs_magnetisation"] == pytest.approx(absolute, rel=3e-6)
    assert abs(found.values["m4"] - np.sum(law * x**4)) < 2 * found.errors["m4"]
    grid, cdf = found.magnetisation
    halfway = np.cumsum(law) - law / 2 - np.gradient(law) / 12
    assert_allclose(np.interp(x, grid, cdf, 0, 1), halfway, atol=6e-5)
    assert cdf[0] == pytest.approx(0, abs=1e-9) and cdf[-1] == pytest.approx(1, abs=1e-9)
    assert np.all(np.diff(cdf) > -1e-9)
    assert_allclose(cdf + cdf[::-1], 1, atol=1e-9)


@pytest.mark.parametrize(
    ("kappa", "lam", "shape"),
    [(0.35, 0.2, (3,)), (0.35, 0.2, (2, 2)), (-0.2, 0.1, (2, 2)), (0.2, 0.1, (2, 2))],
)
def test_the_law_of_the_magnetisation(kappa, lam, shape):
    phi4 = action("kappa", len(shape), kappa=kappa, lam=lam)
    assert_the_law(exact(phi4, shape), *law_by_summation(shape, phi4))


@pytest.mark.parametrize(("kappa", "extent"), [(0.3, 9), (1.0, 12)])
def test_the_law_on_chains_with_one_well_and_two(kappa, extent):
    phi4 = action("kappa", 1, kappa=kappa, lam=0.1)
    found = exact(phi4, (extent,))
    assert (found.values["binder"] > 0.65) == (kappa == 1)
    assert_the_law(found, *law_on_a_chain(extent, phi4))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 2)])
def test_independent_sites(shape):
    x = np.linspace(-5, 5, 401)
    weight = np.exp(-0.8 * x**2 - 0.1 * x**4)
    phi2, phi4 = (np.sum(weight * x**n) / weight.sum() for n in (2, 4))
    found, volume = exact(action("kappa", len(shape), kappa=0.0, lam=0.1), shape), np.prod(shape)
    assert_allclose(found.two_point, phi2, rtol=1e-10)
    m4 = (phi4 + 3 * (volume - 1) * phi2**2) / volume**3
    expected = {"phi2": phi2, "phi4": phi4, "m2": phi2 / volume, "m4": m4, "link_sum": 0}
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=1e-9), name
    assert found.log_z == pytest.approx(volume * np.log(weight.sum() * (x[1] - x[0])))


@pytest.mark.parametrize("shape", [(7,), (2, 3)])
def test_neighbours_at_weak_coupling(shape):
    found = exact(action("kappa", len(shape), kappa=1e-7, lam=0.1), shape).values
    # <phi_x phi_y> = n h <phi^2>^2 for n links between x and y
    links = {(7,): 1, (2, 3): 2 + 1}[shape]
    assert found["link_sum"] == pytest.approx(links * 2e-7 * found["phi2"] ** 2, rel=1e-4)


@pytest.mark.parametrize("kappa", [1e-7, 1e-3, 0.05, -0.3])
@pytest.mark.parametrize("shape", [(2,), (7,), (2, 2)])
def test_schwinger_dyson_at_weak_and_negative_couplings(kappa, shape):
    found = exact(action("kappa", len(shape), kappa=kappa, lam=0.1), shape)
    assert found.values["schwinger_dyson"] == pytest.approx(1, abs=1e-10)
    assert np.all(found.two_point > 0)


def test_the_long_axis_may_be_any():
    phi4 = action("standard", 2, mass_squared=-0.5, g=0.4)
    one, other = exact(phi4, (2, 5)), exact(phi4, (5, 2))
    assert_allclose(one.two_point, other.two_point.T, rtol=1e-9)
    for name, value in one.values.items():
        assert other.values[name] == pytest.approx(value, rel=1e-7)
    sites = one.two_point.mean()
    assert sites == pytest.approx(one.values["phi2"])


@pytest.mark.parametrize("shape", [(10,), (4, 6), (2, 3, 4), (2, 2, 2, 3)])
def test_free_fields_by_linear_algebra(shape):
    field = FreeField(0.7, len(shape))
    volume = int(np.prod(shape))
    matrix = np.zeros((volume, volume))
    h, a, _ = (float(c) for c in field.couplings())
    index = np.arange(volume).reshape(shape)
    for axis in range(len(shape)):
        np.add.at(matrix, (index.ravel(), np.roll(index, 1, axis).ravel()), -h)
        np.add.at(matrix, (np.roll(index, 1, axis).ravel(), index.ravel()), -h)
    matrix += 2 * a * np.eye(volume)
    covariance = np.linalg.inv(matrix)
    found = exact(field, shape)
    phi2 = covariance[0, 0]
    m2 = covariance.mean()
    expected = {"phi2": phi2, "phi4": 3 * phi2**2, "m2": m2, "m4": 3 * m2**2, "binder": 0}
    expected |= {"abs_magnetisation": np.sqrt(2 * m2 / np.pi), "action_density": 0.5}
    expected |= {"chi2": volume * m2, "susceptibility": volume * m2 * (1 - 2 / np.pi)}
    expected |= {"link_sum": (a * phi2 - 0.5) / h, "schwinger_dyson": 1}
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=1e-12), name
    determinant = np.linalg.slogdet(matrix)[1]
    assert found.log_z == pytest.approx(0.5 * (volume * np.log(2 * np.pi) - determinant))
    assert set(found.values) <= set(DERIVED)
    x, cdf = found.magnetisation
    assert_allclose(cdf, special.ndtr(x / np.sqrt(m2)), atol=1e-9)


def test_the_correlation_length_of_a_free_field_is_exact():
    found = exact(FreeField(0.25, 2), (16, 16))
    assert found.values["correlation_length"] == pytest.approx(2.0)
    assert "correlation_length_conn" not in found.values  # the square of an imaginary one


@pytest.mark.parametrize(("centre", "width"), [(0.0, 0.3), (0.8, 0.2)])
def test_moments_by_fourier_series(centre, width):
    """A sum of two Gaussians about +-centre has known moments."""
    reach = 7 * np.hypot(centre, width)
    k = np.arange(1, 200) * np.pi / reach
    law = SmallLattice(
        0, 0.0, np.zeros(1), 0.0, reach, np.cos(k * centre) * np.exp(-((k * width) ** 2) / 2)
    )
    m2 = centre**2 + width**2
    m4 = centre**4 + 6 * centre**2 * width**2 + 3 * width**4
    assert law.fourth_moment(m2) == pytest.approx(m4, rel=1e-8)
    folded = width * np.sqrt(2 / np.pi) * np.exp(-((centre / width) ** 2) / 2)
    folded += centre * special.erf(centre / width / np.sqrt(2))
    assert law.absolute_moment() == pytest.approx(folded, rel=1e-5)


class Unknown:
    """An action that is not quartic."""


@each(
    ("solved", "shape", "match"),
    [
        (action("kappa", 2, kappa=0.2, lam=0.1), (5, 5), "at most 4 sites together.*got 5 x 5"),
        (action("kappa", 2, kappa=1.0, lam=0.001), (2, 2), "18 quadrature nodes a site do not"),
        (FreeField(1.0, 2), (8,), "ndim = 2 cannot live in 1 dimensions"),
        (Phi4(h=0.6, a=1.0, b=0.0), (4, 4), "cannot be normalised in 2 dimensions"),
        (Unknown(), (4, 4), "in \\(h, a, b\\), got Unknown"),
    ],
)
def test_what_has_no_exact_solution_is_refused(solved, shape, match):
    with pytest.raises(ValueError, match=match):
        exact(solved, shape)


def test_lattices_are_checked():
    with pytest.raises(ValueError, match=r"lattice\.shape"):
        exact(FreeField(1.0, 1), Lattice((1,)).shape)
