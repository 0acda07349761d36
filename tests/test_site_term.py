"""The weight of a single site: draws by inversion, and the barrier between its wells."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from lattice_ml import FreeField, Phi4
from lattice_ml.actions.site_term import from_normals
from lattice_ml.models.markov_field import MarkovField

NORMALS = np.array([1e-6, 1e-3, 0.1, 0.7, 1.5, 3.0, 4.5, 5.8])
SITES = [
    (0.956, 0.022),
    (3.0, 1e-9),
    (0.0, 2.0),
    (-1.0, 1.0),
    (-5.0, 1.0),
    (-199.0, 100.0),
    (-1, 1e-3),
]


@pytest.mark.parametrize(("a", "b"), SITES, ids=str)
def test_draws_have_the_probabilities_of_the_normals_they_come_from(a, b):
    well = max(0.0, -a / (2 * b))
    top = np.sqrt(well + np.sqrt(50 / b)) if well else np.sqrt(100 / (a + np.sqrt(a * a + 200 * b)))

    def weight(x):
        return np.exp(-(x * x - well) * (a + b * (x * x + well)))

    def integral(low, high):
        points = [np.sqrt(well)] if low < np.sqrt(well) < high else None
        return quad(weight, low, high, points=points, epsabs=0, epsrel=1e-12, limit=500)[0]

    whole = integral(0, top)
    for normal, found in zip(NORMALS, from_normals(NORMALS, a, b), strict=True):
        below, beyond = integral(0, found) / whole, integral(found, top) / whole
        error = 2 * ndtr(-normal) - beyond if normal > 1 else below - (1 - 2 * ndtr(-normal))
        assert abs(error) * whole / weight(found) < 1e-6 * found
    assert np.array_equal(from_normals(-NORMALS, a, b), -from_normals(NORMALS, a, b))


def test_draws_rise_with_the_normals_in_any_shape_and_type():
    normals = np.sort(np.random.default_rng(1).normal(size=(3, 1000, 700)).astype(np.float32), None)
    found = from_normals(normals.reshape(3, 1000, 700), -19.0, 10.0)
    assert found.shape == (3, 1000, 700) and found.dtype == np.float32
    assert np.all(np.diff(found.ravel()) >= 0)
    assert abs(np.mean(found.astype(float) ** 2) - 0.9206626) < 7e-4


def test_a_hot_free_field_is_gaussian_as_ever():
    normals = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
    free = FreeField(0.5, 2)
    assert np.array_equal(free.hot(normals), free.site_width() * normals)


def test_a_markov_field_starts_from_its_mean_site():
    field = MarkovField.homogeneous(0.3, -2.0, 1.0, (4, 4))
    assert np.array_equal(field.hot(NORMALS), from_normals(NORMALS, -2.0, 1.0))


def test_the_barrier_is_the_height_between_two_wells():
    well = np.linspace(0, 3, 100001)
    found = Phi4(0.3, -5.0, 1.0).barrier
    assert found == pytest.approx(-np.min(-5 * well**2 + well**4), rel=1e-8) and found == 6.25
    assert [Phi4(0.3, a, b).barrier for a, b in ((5.0, 1.0), (0.0, 1.0), (-1.0, 0.0))] == [0, 0, 0]
    assert FreeField(1.0, 2).barrier == 0
