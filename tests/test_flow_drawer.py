"""Samples of a flow: their density by the inverse and by a Jacobian, exact log Z, free fields."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flows import flow_model, kappa
from references import CASES
from scipy.stats import norm
from theories import free_theory

from lattice_ml import HMC, FreeField, Lattice, run
from lattice_ml.models.flow.sections import FlowSamplingSection
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.model import Probing
from lattice_ml.observables import measure_configurations
from lattice_ml.statistics import log_weights, reweight

pytestmark = pytest.mark.unoptimised

SHAPES = [(4, 4), (16, 16), (4, 4, 4), (16,)]  # extents of 16 have two levels


def drawer_of(model, shape, phi4, dtype="float32", key=3, **sampling):
    return model.drawer(shape, phi4, FlowSamplingSection(**sampling), jax.random.key(key), dtype)


def near(ndim):
    """Couplings near the transition of two dimensions, and in others the same per neighbour."""
    return kappa(0.5 / ndim, 0.1, ndim)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-4), ("float64", 1e-9)])
def test_the_density_of_samples_is_that_of_their_fields(shape, dtype, allowed):
    phi4 = near(len(shape))
    drawer = drawer_of(flow_model(shape, phi4), shape, phi4, dtype, batch_size=16)
    drawn = drawer.draw(0, 1)
    assert drawn.fields.shape == (16, *shape) and drawn.fields.dtype == dtype
    assert np.std(drawn.log_prob) > 0.5
    some = drawn.fields[:13]  # no whole batch
    assert np.abs(drawer.log_prob(some) - drawn.log_prob[:13]).max() < allowed


def test_samples_depend_on_the_number_of_their_batch_alone(monkeypatch):
    phi4 = near(2)
    drawer = drawer_of(flow_model((4, 4), phi4), (4, 4), phi4, batch_size=4)
    whole = drawer.draw(0, 5)
    assert len(jax.devices()) == 2 and len(np.unique(whole.log_prob)) == 20
    parts = [drawer.draw(0, 2), drawer.draw(2, 3)]
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    parts.append(drawer.draw(0, 5))
    for drawn, rows in zip(parts, (slice(8), slice(8, 20), slice(20)), strict=True):
        assert np.array_equal(drawn.fields, whole.fields[rows])
        assert np.array_equal(drawn.log_prob, whole.log_prob[rows])


def test_what_no_flow_draws_or_judges_is_refused():
    phi4 = near(2)
    model = flow_model((4, 4), phi4)
    for shape in ((4.5, 4), (0, 4), (-4, 4)):
        with pytest.raises(ValueError, match=r"lattice\.shape must be 1 to 4 whole extents"):
            drawer_of(model, shape, phi4)
    with pytest.raises(ValueError, match=r"batch_size must be a whole number .* 1, got 2\.5"):
        drawer_of(model, (4, 4), phi4, batch_size=2.5)
    settings, key = FlowSamplingSection(), jax.random.key(0)
    for wrong, sentence in (
        ({"sampling": None}, "sampling must be a FlowSamplingSection, got None"),
        ({"key": 0}, r"key must be one of jax\.random\.key\(seed\), got 0"),
        ({"key": jnp.zeros(2, jnp.int32)}, "key must be one of"),
        ({"dtype": "int32"}, "dtype must be float32 or float64, got 'int32'"),
    ):
        given = {"sampling": settings, "key": key} | wrong
        with pytest.raises((TypeError, ValueError), match=sentence):
            model.drawer((4, 4), phi4, **given)
    drawer = drawer_of(model, (4, 4), phi4, batch_size=4)
    for count in (1.5, 0, -1):
        with pytest.raises(ValueError, match=rf"count of batches must be .* got {count}"):
            drawer.draw(0, count)
    for wrong in ((4, 4), (3, 2, 8), (3, 4, 5)):
        with pytest.raises(ValueError, match=r"shape \(n, 4, 4\), got \("):
            drawer.log_prob(np.zeros(wrong))


def worth(drawer, phi4, n=8192, wrong=0.0):
    """`reweight` of samples whose log density is too large by `wrong` times its deviation."""
    drawn = drawer.draw(0, -(-n // drawer.batch_size))
    log_q = drawn.log_prob + wrong * (drawn.log_prob - np.mean(drawn.log_prob))
    series = measure_configurations(phi4, drawn.fields)
    return reweight(log_weights(series["action"], log_q))


@pytest.mark.parametrize(("value", "lam"), [(0.2, 0.022), (0.3, 0.5)])
def test_weights_of_an_untrained_flow_average_to_the_exact_log_z(value, lam):
    phi4 = kappa(value, lam)
    n = {"n_chains": 64, "n_configs": 32, "n_thermalise": 100}
    chains = run(jax.random.key(2), HMC(phi4), Lattice((4, 4)), **n)
    # its own theory: that of narrower fields makes weights of a tail whose error cannot be told
    theory = measure_theory(phi4, [(np.asarray(chains.cfgs[:], np.float32), None)])
    drawer = drawer_of(flow_model((4, 4), phi4, theory, size=0.01), (4, 4), phi4)
    exact = CASES[f"torus4x4_kappa_k={value}_l={lam}"]["values"]["lnZ"][0]
    found = worth(drawer, phi4)
    assert found.pareto_k < 0.5 and found.log_z_error < 0.03
    assert abs(found.log_z - exact) < 3 * found.log_z_error
    planted = worth(drawer, phi4, wrong=0.2)
    assert abs(planted.log_z - exact) > 5 * planted.log_z_error


def free_model(shape, mass_squared=0.5):
    """A flow of the exact theory of a free field, as training begins."""
    theory = free_theory(shape, mass_squared)
    n = len(theory.quantiles)
    normal = norm.ppf(0.5 + (np.arange(n) + 0.5) / (2 * n)) / math.sqrt(mass_squared)
    free = FreeField(mass_squared, len(shape))
    return flow_model(shape, free, replace(theory, quantiles=normal), size=0)


def test_the_learned_kernel_of_a_free_field_is_its_quadratic_form():
    table = free_model((4, 4)).spectrum(Probing(n_fields=8))
    learned, exact = np.array(table["eigenvalues"]), np.array(table["exact"])
    np.testing.assert_allclose(exact, 0.5 + Lattice((4, 4)).shells[0], rtol=1e-12)
    np.testing.assert_allclose(learned[1:-1], exact[1:-1], rtol=5e-4)
    # (0, 0) and (pi, pi) are the zero mode of every second site, a normal but for a fit
    np.testing.assert_allclose(learned, exact, rtol=0.01)
    assert table["median_deviation"] < 1e-3
