"""Primaries against NumPy, one configuration at a time, and what is derived from their means."""

import logging

import jax
import numpy as np
import pytest
from rows import each
from users_actions import SineGordon

from lattice_ml.actions import FreeField, Phi4
from lattice_ml.fields.lattice import Lattice
from lattice_ml.fields.layout import Layout, single
from lattice_ml.observables import DERIVED, PRIMARIES, measure_configurations, primaries, scalar

PHI4 = Phi4(0.54, 0.956, 0.022)
FREE = FreeField(0.3, 3)


def configurations(n, shape, dtype=np.float64):
    return np.random.default_rng(1).normal(0.3, 1, size=(n, *shape)).astype(dtype)


def links(phi):
    """Mean over sites of sum_mu phi(x) phi(x + mu)."""
    return sum(np.mean(phi * np.roll(phi, -1, mu)) for mu in range(phi.ndim))


def smallest_modes(phi):
    """|phi(p)|^2 / V at p = 2 pi / L, averaged over the longest axes."""
    longest = [mu for mu, extent in enumerate(phi.shape) if extent == max(phi.shape)]
    first = [np.fft.fftn(phi)[tuple(int(nu == mu) for nu in range(phi.ndim))] for mu in longest]
    return np.mean(np.abs(first) ** 2) / phi.size


def by_hand(phi, h, a, b):
    phi2, phi4, link_sum = np.mean(phi**2), np.mean(phi**4), links(phi)
    return {
        "action": phi.size * (a * phi2 + b * phi4 - h * link_sum),
        "magnetisation": np.mean(phi),
        "phi2": phi2,
        "phi4": phi4,
        "link_sum": link_sum,
        "two_point_min": smallest_modes(phi),
        "schwinger_dyson": 2 * a * phi2 + 4 * b * phi4 - 2 * h * link_sum,
    }


def assert_equal(measured, cfgs, action, rtol):
    expected = [by_hand(phi, *action.couplings()) for phi in cfgs]
    assert set(measured) == set(PRIMARIES) == set(expected[0])
    for name, values in measured.items():
        exact = [one[name] for one in expected]
        np.testing.assert_allclose(values, exact, rtol=rtol, atol=rtol, err_msg=name)


@each(
    "action, shape",
    [(PHI4, (2,)), (PHI4, (5, 5)), (PHI4, (4, 6)), (FREE, (3, 4, 4)), (PHI4, (2, 3, 2, 3))],
)
def test_primaries_are_what_their_names_say(action, shape):
    cfgs = configurations(3, shape)
    assert_equal(measure_configurations(action, cfgs), cfgs, action, rtol=1e-12)


def test_an_action_that_does_not_know_its_means_is_summed_over_sites():
    class Local:
        density, force = Phi4.density, Phi4.force

        def couplings(self):
            return PHI4.couplings()

    cfgs = configurations(3, (3, 4))
    layout = single((3, 4), 3)
    measured = primaries(Local(), layout.pack(cfgs)[0], layout)
    assert_equal(measured, cfgs, PHI4, rtol=1e-12)


def test_primaries_of_an_action_that_is_only_a_function():
    beta, cfgs = 1.3, configurations(3, (3, 4))
    measured = measure_configurations(SineGordon(beta), cfgs)
    for i, phi in enumerate(cfgs):
        kinetic = 2 * np.mean(phi**2) - links(phi)
        action = kinetic + np.mean(1 - np.cos(beta * phi))
        assert measured["action"][i] == pytest.approx(12 * action, rel=1e-12)
        response = 2 * kinetic + np.mean(beta * phi * np.sin(beta * phi))
        assert measured["schwinger_dyson"][i] == pytest.approx(response, rel=1e-12)


def test_primaries_do_not_depend_on_the_layout():
    cfgs = configurations(3, (3, 4, 4), np.float32)
    measure = jax.jit(primaries, static_argnums=2)
    lanes, merged = (
        measure(PHI4, layout.pack(cfgs)[0], layout)
        for layout in (Layout((3, 4, 4), 3), Layout((3, 4, 4), 3, merged=True))
    )
    assert_equal(lanes, cfgs.astype(np.float64), PHI4, rtol=1e-5)
    for name, values in lanes.items():
        np.testing.assert_allclose(values, merged[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n", [0, 1, 64, 65, 130])
def test_any_number_of_configurations_can_be_measured(n, monkeypatch):
    monkeypatch.setattr(scalar, "_ROOM_SITES", 2 * 64 * 8)  # two groups in a call
    cfgs = configurations(n, (4, 2), np.float32)
    measured = measure_configurations(PHI4, cfgs)
    assert all(v.dtype == np.float64 and v.shape == (n,) for v in measured.values())
    if n:
        assert_equal(measured, cfgs.astype(np.float64), PHI4, rtol=2e-5)


def test_another_number_of_configurations_compiles_nothing(caplog):
    measure_configurations(PHI4, configurations(5, (4, 3)))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        for n in (1, 70, 5000):
            measure_configurations(PHI4, configurations(n, (4, 3)))
    assert [record.getMessage() for record in caplog.records] == []


# What is derived from means.

LATTICE = Lattice((4, 8, 8))


@pytest.fixture(scope="module")
def series():
    """Stored histories, `(n_chains, n_configs)`, with <M^2> well above <|M|>^2."""
    rng = np.random.default_rng(2)
    names = ("action", "phi2", "phi4", "link_sum", "schwinger_dyson", "acceptance")
    return {name: rng.uniform(1, 2, size=(2, 50)) for name in names} | {
        "magnetisation": rng.normal(size=(2, 50)),
        "two_point_min": rng.uniform(1, 2, size=(2, 50)),
    }


def derive(name, series):
    observable = DERIVED[name]
    return float(observable.function(LATTICE, *(of(series).mean() for of in observable.of)))


def test_derived_quantities_follow_their_definitions(series):
    mean = {name: values.mean() for name, values in series.items()}
    magnetisation, volume = series["magnetisation"], 256
    absolute = np.mean(np.abs(magnetisation))
    m2, m4 = np.mean(magnetisation**2), np.mean(magnetisation**4)
    chi2, susceptibility = volume * m2, volume * (m2 - absolute**2)
    p_hat = 2 * np.sin(np.pi / 8)
    expected = {
        "magnetisation": mean["magnetisation"],
        "abs_magnetisation": absolute,
        "phi2": mean["phi2"],
        "phi4": mean["phi4"],
        "m2": m2,
        "m4": m4,
        "action_density": mean["action"] / volume,
        "link_sum": mean["link_sum"],
        "chi2": chi2,
        "susceptibility": susceptibility,
        "binder": 1 - m4 / (3 * m2**2),
        "correlation_length": np.sqrt(chi2 / mean["two_point_min"] - 1) / p_hat,
        "correlation_length_conn": np.sqrt(susceptibility / mean["two_point_min"] - 1) / p_hat,
        "schwinger_dyson": mean["schwinger_dyson"],
        "acceptance": mean["acceptance"],
    }
    assert {name: derive(name, series) for name in DERIVED} == pytest.approx(expected, rel=1e-12)


def test_the_correlation_length_of_the_free_field_is_the_inverse_mass(series):
    """G(p) = 1/(m^2 + p_hat^2) makes the second-moment length exactly 1/m on any lattice."""
    propagator = FREE.propagator(LATTICE)
    exact = series | {
        "magnetisation": np.full((2, 50), np.sqrt(propagator[0, 0, 0] / 256)),
        "two_point_min": np.full((2, 50), propagator[0, 0, 1]),
    }
    assert derive("correlation_length", exact) == pytest.approx(0.3**-0.5, rel=1e-12)


def test_the_correlation_length_is_not_defined_where_the_zero_mode_is_smaller(series):
    small = series | {"magnetisation": 0.01 * series["magnetisation"]}
    assert np.isnan(derive("correlation_length", small))
    assert np.isnan(derive("correlation_length_conn", small))
