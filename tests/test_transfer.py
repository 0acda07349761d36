"""Theories where nothing was measured: between couplings, and on other lattices."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from theories import critical_theory, free_theory

from lattice_ml.actions import FreeField, Phi4
from lattice_ml.models.transfer import theory_at

MASSES = (0.3, 0.5, 0.8, 1.2)


def free(mass_squared, shape=(6, 4)):
    theory = free_theory(shape, mass_squared)
    c_0 = float(theory.zero_propagator)
    levels = (np.arange(1024) + 0.5) / 1024
    from scipy import stats

    return replace(theory, quantiles=np.sqrt(c_0) * stats.norm.ppf(0.5 + levels / 2))


def test_what_was_measured_is_returned_as_it_is():
    theories = [free(m) for m in MASSES]
    assert theory_at(theories, FreeField(0.8, 2), (6, 4)) is theories[2]


def test_between_couplings_the_propagator_is_interpolated():
    found = theory_at([free(m) for m in MASSES], FreeField(0.65, 2), (6, 4))
    exact = free(0.65)
    np.testing.assert_allclose(found.propagator, exact.propagator, rtol=0.02)
    np.testing.assert_allclose(found.phi_squared, exact.phi_squared, rtol=0.01)
    weights, means, variances = found.mixture
    second = np.sum(weights * (means**2 + variances))
    assert second == pytest.approx(float(exact.zero_propagator), rel=0.03)
    assert (found.h, found.b) == (1.0, 0.0)


def test_two_couplings_at_once_are_interpolated_too():
    theories = []
    for a in (1.0, 1.2):
        for b in (0.1, 0.2):
            theory = replace(critical_theory((4, 4), jnp.float64), a=a, b=b)
            theories.append(replace(theory, propagator=theory.propagator * np.exp(a + 2 * b)))
    h = float(theories[0].h)
    found = theory_at(theories, Phi4(h, 1.1, 0.15), (4, 4))
    middle = critical_theory((4, 4), jnp.float64).propagator * np.exp(1.1 + 0.3)
    np.testing.assert_allclose(found.propagator, middle, rtol=1e-3)


def test_one_coupling_alone_moves_with_the_quadratic_form():
    found = theory_at([free(0.5)], FreeField(0.6, 2), (6, 4))
    np.testing.assert_allclose(found.propagator, free(0.6).propagator, rtol=1e-10)


def test_another_volume_keeps_the_curve_of_the_inverse_propagator():
    found = theory_at([free(0.5, (8, 8))], FreeField(0.5, 2), (12, 6))
    exact = np.asarray(free(0.5, (12, 6)).propagator)
    moving = np.asarray(found.fluctuating) > 0
    np.testing.assert_allclose(np.asarray(found.propagator)[moving], exact[moving], rtol=1e-8)
    assert float(found.zero_propagator) == pytest.approx(exact[0, 0], rel=0.02)


def test_a_well_moves_out_with_the_root_of_the_volume():
    theory = critical_theory((4, 4), jnp.float64)
    sharp = replace(
        theory,
        mixture=np.array([[0.5, 0.5], [6.0, -6.0], [0.1, 0.1]]),
        quantiles=np.full(1024, 6.0),
    )
    found = theory_at([sharp], Phi4(theory.h, theory.a, theory.b), (8, 8))
    np.testing.assert_allclose(found.mixture[1], [12, -12])


def test_the_dimension_cannot_change():
    with pytest.raises(ValueError, match=r"trained in 2 dimensions .* lattice.shape = \[4\]"):
        theory_at([free(0.5)], FreeField(0.5, 2), (4,))
