"""The multiscale flow: its density, its inverse and its symmetries, to machine precision."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import CASES
from scipy.optimize import brentq
from scipy.stats import norm
from theories import critical_theory, free_theory

from lattice_ml.actions import conventions
from lattice_ml.models.flow.base import base_theory
from lattice_ml.models.flow.grids import even, merge, neighbours, odd, split
from lattice_ml.models.flow.multiscale import draw, invert, log_weight
from lattice_ml.models.flow.sections import FlowModelSection
from lattice_ml.models.flow.tables import coarsest, make_tables
from lattice_ml.models.flow.weights import grown, initial_weights
from lattice_ml.observables import measure_configurations

pytestmark = pytest.mark.unoptimised

SMALL = FlowModelSection(
    hidden=(3,), couplings=(1, 2), coupling_hidden=(3,), base_couplings=2, base_hidden=3
)
SHAPES = [(16,), (4, 4), (16, 16), (4, 4, 4)]  # extents of 16 have two levels
N = 6

drawn, inverted = jax.jit(draw), jax.jit(invert)


def start(shape, spread=0.0):
    """Initial weights, or random ones that far from them."""
    random = np.random.default_rng(len(shape))
    weights = initial_weights(random, len(shape), coarsest(shape)[1], SMALL)

    def moved(leaf):
        leaf = np.asarray(leaf, np.float64)
        return leaf + spread * random.normal(size=leaf.shape)

    return jax.tree.map(moved, weights)


def noise(shape, n=N, seed=1):
    return np.random.default_rng(seed).normal(size=(int(np.prod(shape)), n))


def gaussian_theory(shape, mass_squared=0.3):
    """A free field whose zero mode is Gaussian too."""
    theory = free_theory(shape, mass_squared)
    quantiles = norm.ppf(0.5 + (np.arange(1024) + 0.5) / 2048) / np.sqrt(mass_squared)
    return theory.of(shape, theory.numbers | {"quantiles": quantiles})


@cache
def an_interacting_flow(shape):
    """Random weights, tables with a quartic term, noise, and the fields and densities of it."""
    weights, tables = start(shape, 0.1), make_tables(interacting(shape))
    z = noise(shape)
    return weights, tables, z, *drawn(weights, tables, z)


def interacting(shape):
    if len(shape) == 2:
        return critical_theory(shape, jnp.float64)
    return gaussian_theory(shape).of(shape, gaussian_theory(shape).numbers | {"b": 0.05})


@pytest.mark.parametrize("shape", SHAPES)
def test_the_density_is_that_of_the_numerical_jacobian(shape):
    weights, tables, z, _, log_q = an_interacting_flow(shape)

    @jax.jit
    def jacobian(z):
        return jax.jacfwd(lambda z: draw(weights, tables, z[:, None])[0].reshape(-1))(z)

    for i in range(2):
        sign, log_det = np.linalg.slogdet(np.asarray(jacobian(z[:, i])))
        exact = norm.logpdf(z[:, i]).sum() - log_det
        assert sign != 0 and log_q[i] == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_fields_lead_back_to_their_noise_with_the_same_density(shape):
    weights, tables, z, phi, log_q = an_interacting_flow(shape)
    found, again = inverted(weights, tables, phi)
    np.testing.assert_allclose(found, z, atol=1e-8)
    np.testing.assert_allclose(again, log_q, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_is_odd_and_the_density_even(shape):
    weights, tables, z, phi, log_q = an_interacting_flow(shape)
    mirrored, same = drawn(weights, tables, -z)
    np.testing.assert_allclose(mirrored, -phi, atol=1e-10)
    np.testing.assert_allclose(same, log_q, atol=1e-10)
    np.testing.assert_allclose(inverted(weights, tables, -phi)[1], log_q, atol=1e-8)


@pytest.mark.parametrize("shape", [(8,), (4, 6), (4, 4, 6)])
def test_grids_are_taken_apart_put_together_and_know_their_neighbours(shape):
    phi = np.random.default_rng(0).normal(size=(*shape, 2))
    evens, odds = split(jnp.asarray(phi))
    np.testing.assert_array_equal(merge(evens, odds), phi)
    checkerboard = np.indices(shape).sum(axis=0) % 2
    assert np.all(np.isin(evens, phi[checkerboard == 0]))
    assert np.all(np.isin(odds, phi[checkerboard == 1]))
    ndim = len(shape)
    hops = product(range(ndim), (1, -1))
    mean = np.mean([np.roll(phi, step, axis) for axis, step in hops], axis=0)
    found = neighbours(evens, even(ndim), odd(ndim))
    np.testing.assert_allclose(found, split(jnp.asarray(mean))[1], rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_untrained_flow_of_a_free_field_is_the_free_field(shape):
    theory = gaussian_theory(shape)
    phi, log_q = drawn(start(shape), make_tables(theory), noise(shape))
    c = np.asarray(theory.propagator)
    x = np.asarray(theory.modes.forward(jnp.moveaxis(phi, -1, 0)))
    exact = -0.5 * np.sum((x**2 / c + np.log(2 * np.pi * c)).reshape(N, -1), axis=1)
    np.testing.assert_allclose(log_q, exact, atol=5e-3)


def phi4_theory(case):
    """Of an exact case, with a Gaussian part of its <phi^2> and susceptibility."""
    given, values = CASES[case]["parameters"], CASES[case]["values"]
    couplings = {"kappa": given["kappa"], "lam": given["lambda"]}
    asked = conventions.action("kappa", 2, **couplings)
    chi, phi_squared = values["chi2"][0], values["phi2"][0]
    theory = gaussian_theory((4, 4), 1 / chi)
    p_squared = theory.modes.p_hat_squared

    def propagator(slope):
        return 1 / (1 / chi + slope * p_squared)

    slope = brentq(lambda slope: propagator(slope).mean() - phi_squared, 0.01, 10)
    numbers = dict(zip("hab", asked.couplings(), strict=True)) | {"propagator": propagator(slope)}
    return asked, theory.of((4, 4), theory.numbers | numbers)


@pytest.mark.parametrize("case", ["torus4x4_kappa_k=0.2_l=0.022"])
def test_samples_of_an_untrained_flow_have_the_exact_partition_function(case):
    asked, theory = phi4_theory(case)
    tables, weights = make_tables(theory), start((4, 4))
    z = noise((4, 4), n=4096)
    phi, log_q = drawn(weights, tables, z)
    log_w = -measure_configurations(asked, np.moveaxis(phi, -1, 0))["action"] - log_q
    # the odd sites integrated out: the same partition function
    even_w = np.asarray(jax.jit(log_weight)(weights, tables, z[:8]))
    exact = CASES[case]["values"]["lnZ"][0]
    for logs in (log_w, even_w):
        assert np.std(logs) < 0.7
        found, error = np.log(np.mean(np.exp(logs - exact))), np.std(np.exp(logs - exact)) / 64
        assert abs(found) < 3 * error < 0.05


def test_a_new_coarse_level_begins_as_the_one_below_it():
    """8 x 8 has one level, 16 x 16 two and 32 x 32 three."""
    assert [coarsest((n, n))[1] for n in (4, 8, 16, 32, 64)] == [1, 1, 2, 3, 4]
    random = np.random.default_rng(0)
    two, three, four = (initial_weights(random, 2, n, SMALL) for n in (2, 3, 4))
    larger = grown(two, four)
    assert [len(level) for level in larger.levels] == [1, 2, 2, 2]
    same = jax.tree.map(np.array_equal, larger.levels[2], larger.levels[1])
    assert all(jax.tree.leaves(same))
    assert grown(larger, three).levels[0] is two.levels[0]
    assert len(grown(larger, three).levels) == 3


@pytest.mark.parametrize(("mean", "narrow"), [(0.0, False), (8.0, True)])
def test_a_zero_mode_of_one_well_keeps_no_narrow_widths(mean, narrow):
    """They would bend log q near zero; two deep wells are a step of the widths 1e-6 to 1e-4."""
    places = (np.arange(1024) + 0.5) / 1024
    quantiles = mean + 0.7 * norm.ppf(places if mean else 0.5 + places / 2)
    parts = base_theory(np.ones((4, 4)), quantiles).zero / quantiles.mean()
    assert np.all(parts[:3] > 1e-4) if narrow else np.all(parts[:7] < 2e-6)
    assert parts[-2] > 1e-4, "wide ones can be learned"


REFUSED = [
    ((4, 5), {}, r"even extents, got lattice\.shape = \[4, 5\]"),
    ((4, 4, 4, 4), {}, r"1 to 3 dimensions .* got lattice\.shape = \[4, 4, 4, 4\]"),
    ((4, 4), {"h": -0.5}, r"needs neighbours that align, h >= 0, got h = -0\.5"),
]


@pytest.mark.parametrize(("shape", "changes", "message"), REFUSED)
def test_what_no_flow_is_made_for_is_refused(shape, changes, message):
    theory = free_theory(shape)
    with pytest.raises(ValueError, match=message):
        make_tables(theory.of(shape, theory.numbers | changes))
