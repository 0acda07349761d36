"""Inverses of the flow's maps: to rounding, whatever a network says, and in compiled programs."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.models.flow.coupling import Coupling, couple, uncouple
from lattice_ml.models.flow.gaussian import Scales
from lattice_ml.models.flow.grids import steps
from lattice_ml.models.flow.pointwise import bend, solve_bend

GRIDS = steps(2, finest=True)[0]
SCALES = Scales(size=1.0, spread=1.0, pull=0.8, width=1.0)


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-14), ("float32", 2e-6)])
def test_a_bend_is_undone_whatever_its_shape(dtype, error):
    shapes = (0, 0.1, 0.3, 1, 1e3, -0.1, -0.3, -1, -1e3)
    x = jnp.asarray(np.concatenate([np.linspace(-8, 8, 401), np.linspace(-200, 200, 81)]), dtype)
    undone = jax.jit(lambda x, *shape: solve_bend(bend(x, *shape)[0], *shape))
    for skew, flatten in product(shapes, shapes):
        found = undone(x, skew, flatten)
        assert np.max(np.abs(found - x) / (1 + np.abs(x))) < error


def test_no_site_is_left_by_its_last_step():
    """A step by one ulp out of its bracket once went half of the way to the other end."""
    random = np.random.default_rng(0)
    start = Coupling.start(random, 4, 8)
    weights = jax.tree.map(lambda x: np.asarray(x) + 0.1 * random.normal(size=x.shape), start)
    there, back = (jax.jit(partial(f, scales=SCALES, grids=GRIDS)) for f in (couple, uncouple))
    for n_samples in (7, 8):
        for _ in range(50):
            fields = random.normal(size=(2, 4, 4, n_samples))
            mapped, _ = there(weights, fields=fields)
            found, _ = back(weights, fields=mapped)
            np.testing.assert_allclose(found, fields, atol=1e-12)
