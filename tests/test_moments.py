"""Moments of data: blocks, weights, symmetries, and what has none."""

import numpy as np
import pytest

from lattice_ml.models.rbm.moments import measure_moments


def test_moments_of_blocks_are_those_of_all_fields_with_weights():
    rng = np.random.default_rng(0)
    fields, weights = rng.normal(size=(50, 2, 3)), rng.uniform(size=50)
    moments = measure_moments([(fields[:20], weights[:20]), (fields[20:], weights[20:])])
    flat = fields.reshape(50, 6)
    np.testing.assert_allclose(moments.mean, np.average(flat, axis=0, weights=weights))
    second = np.einsum("n,ni,nj->ij", weights / weights.sum(), flat, flat)
    np.testing.assert_allclose(moments.second, second)
    assert float(moments.n) == pytest.approx(weights.sum() ** 2 / np.sum(weights**2))
    centred = moments.about(moments.mean)
    np.testing.assert_allclose(centred.mean, 0, atol=1e-15)
    np.testing.assert_allclose(centred.second, np.cov(flat.T, aweights=weights, ddof=0))


def test_symmetrised_moments_are_the_average_over_all_images():
    shape = (3, 3)
    fields = np.random.default_rng(0).normal(size=(5, *shape)) + 1
    images = [
        sign * np.roll(flipped, (i, j), (1, 2))
        for sign in (1, -1)
        for exchanged in (fields, fields.swapaxes(1, 2))
        for axes in ((), (1,), (2,), (1, 2))
        for flipped in (np.flip(exchanged, axes) if axes else exchanged,)
        for i in range(3)
        for j in range(3)
    ]
    expected = measure_moments([(image, None) for image in images])
    found = measure_moments([(fields, None)]).symmetrised(shape)
    np.testing.assert_allclose(found.second, expected.second, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-12)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], r"no fields"),
        ([(np.full((3, 2), np.inf), None)], r"not finite"),
        ([(np.zeros((1, 65, 65)), None)], r"at most 4096 sites, got 4225"),
    ],
)
def test_fields_without_moments_are_refused(blocks, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        measure_moments(blocks)
