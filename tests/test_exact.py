"""Exact solutions against independent ones: the reference file, dense integrals, linear algebra."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lattice_ml import FreeField, Lattice, action
from lattice_ml.analysis.exact import exact
from lattice_ml.analysis.transfer_matrix import SmallLattice
from lattice_ml.observables import DERIVED

CASES = json.loads((Path(__file__).parent / "data" / "phi4_reference.json").read_text())["cases"]
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


@pytest.mark.parametrize("name", CHAINS)
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


def test_four_by_four_within_its_own_error():
    found = exact(action("kappa", 2, kappa=0.2, lam=0.022), (4, 4))
    known = CASES["torus4x4_kappa_k=0.2_l=0.022"]["values"]
    for theirs, ours in NAMES.items():
        if theirs in known:
            value, error = known[theirs]
            assert abs(found.values[ours] - value) < 4 * (error + found.errors[ours]), ours
            assert found.errors[ours] < 1e-6, ours
    assert found.log_z == pytest.approx(known["lnZ"][0], abs=1e-8)


def integral(shape, phi4, functions, n=26, end=3.4):
    """Expectation values by the trapezoid rule over all sites; exact to many digits for a phi^4."""
    x = np.linspace(-end, end, n)
    fields = np.stack(np.meshgrid(*[x] * int(np.prod(shape)), indexing="ij"))
    fields = fields.reshape(*shape, -1)
    h, a, b = (float(c) for c in phi4.couplings())
    sites = tuple(range(len(shape)))
    links = sum(fields * np.roll(fields, 1, axis) for axis in sites)
    weight = np.exp(-np.sum(-h * links + a * fields**2 + b * fields**4, axis=sites))
    weight /= weight.sum()
    return [float(np.sum(weight * function(fields.mean(axis=sites)))) for function in functions]


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_the_law_of_the_magnetisation(shape):
    phi4 = action("kappa", len(shape), kappa=0.35, lam=0.2)
    found = exact(phi4, shape)
    x, cdf = found.magnetisation
    points = x[[300, 480, 512, 700]]
    functions = [np.abs, lambda m: m**4, lambda m: np.exp(-(m**2)), np.cos]
    direct = integral(shape, phi4, functions)
    assert found.values["abs_magnetisation"] == pytest.approx(direct[0], rel=2e-3)  # a kink
    assert found.values["m4"] == pytest.approx(direct[1], rel=1e-6)
    for function, value in zip(functions[2:], direct[2:], strict=True):
        assert np.sum(np.diff(cdf) * function((x[1:] + x[:-1]) / 2)) == pytest.approx(value, 1e-4)
    assert cdf[0] == pytest.approx(0, abs=1e-9) and cdf[-1] == pytest.approx(1, abs=1e-9)
    assert np.all(np.diff(cdf) > -1e-9)
    assert_allclose(np.interp(points, x, cdf) + np.interp(-points, x, cdf), 1, atol=1e-9)


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
    expected |= {"link_sum": (a * phi2 - 0.5) / h, "schwinger_dyson": 1}
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=1e-12), name
    determinant = np.linalg.slogdet(matrix)[1]
    assert found.log_z == pytest.approx(0.5 * (volume * np.log(2 * np.pi) - determinant))
    assert set(found.values) <= set(DERIVED)
    x, cdf = found.magnetisation
    from scipy import stats

    assert_allclose(cdf, stats.norm.cdf(x / np.sqrt(m2)), atol=1e-9)


def test_the_correlation_length_of_a_free_field_is_exact():
    found = exact(FreeField(0.25, 2), (16, 16))
    assert found.values["correlation_length"] == pytest.approx(2.0)


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
    from scipy import stats

    folded = stats.foldnorm(centre / width, scale=width)
    assert law.absolute_moment() == pytest.approx(folded.mean(), rel=1e-5)


class Unknown:
    """An action that is not quartic."""


@pytest.mark.parametrize(
    ("solved", "shape", "match"),
    [
        (action("kappa", 2, kappa=0.2, lam=0.1), (5, 5), "at most 4 sites together.*got 5 x 5"),
        (action("kappa", 2, kappa=1.0, lam=0.001), (3, 3), "10 quadrature nodes a site do not"),
        (Unknown(), (4, 4), "in \\(h, a, b\\), got Unknown"),
    ],
)
def test_what_has_no_exact_solution_is_refused(solved, shape, match):
    with pytest.raises(ValueError, match=match):
        exact(solved, shape)


def test_lattices_are_checked():
    with pytest.raises(ValueError, match=r"lattice\.shape"):
        exact(FreeField(1.0, 1), Lattice((1,)).shape)
