"""The probability flow: closed forms without a network, order of the schemes, exact log Z."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from references import CASES
from test_shallow import rough
from theories import critical_theory, free_theory

from lattice_ml import HMC, Lattice, action, run
from lattice_ml.models.diffusion.denoiser import Zero
from lattice_ml.models.diffusion.flow import SCHEMES, Flow, draw_prior
from lattice_ml.models.diffusion.networks.shallow import Shallow
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.theory import Theory
from lattice_ml.statistics import log_mean

pytestmark = pytest.mark.unoptimised


prior = jax.jit(draw_prior, static_argnums=2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_density_of_a_gaussian_is_the_closed_form(scheme):
    theory = free_theory((4, 6), dtype=np.float32)
    x, log_q = jax.jit(lambda key: Flow(3, scheme).sample(Zero(), theory, key, 500))(
        jax.random.key(0)
    )
    c = np.asarray(theory.propagator, np.float64)
    exact = -0.5 * np.sum(np.asarray(x) ** 2 / c + np.log(2 * np.pi * c), axis=(1, 2))
    np.testing.assert_allclose(log_q, exact, atol=1e-4)
    pull = (np.mean(np.asarray(x) ** 2, axis=0) / c - 1) / np.sqrt(2 / 500)
    assert np.abs(pull).max() < 4.5


def zero_density(theory, x):
    """Exact log density of Gaussian modes and the mixture."""
    c = np.asarray(theory.propagator)
    moving = np.asarray(theory.fluctuating)
    gaussian = -0.5 * np.sum(moving * (x**2 / c + np.log(2 * np.pi * c)), axis=(1, 2))
    at_zero = jax.jit(Theory.zero_log_prob)(theory, x[theory.modes.zero], np.zeros(len(x)))
    return gaussian + np.asarray(at_zero)


@pytest.mark.parametrize(("scheme", "order"), [("heun", 2), ("rk3", 3)])
def test_the_error_falls_with_the_order_of_the_scheme(scheme, order):
    theory = critical_theory((4, 4), np.float64)
    u, log_q = prior(theory, jax.random.key(3), 64)
    transport = jax.jit(lambda n: Flow(n, scheme).transport(Zero(), theory, u, log_q))
    errors = []
    for n_steps in (8, 16, 32):
        x, found = map(np.asarray, transport(n_steps))
        errors.append(np.sqrt(np.mean((found - zero_density(theory, x)) ** 2)))
    slopes = -np.diff(np.log2(errors))
    assert slopes[-1] == pytest.approx(order, abs=0.35), (errors, slopes)


def test_samples_lead_back_to_where_they_came_from():
    theory, network = critical_theory((4, 4)), rough()
    x, log_q = jax.jit(lambda key: Flow(24).sample(network, theory, key, 32))(jax.random.key(1))
    again = jax.jit(lambda x: Flow(24).log_prob(network, theory, x))(x)
    np.testing.assert_allclose(again, log_q, atol=5e-3)
    assert np.std(np.asarray(log_q)) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("kappa", "lam"), [(0.2, 0.022), (0.3, 0.5)])
def test_weights_average_to_the_exact_partition_function(kappa, lam):
    phi4 = action("kappa", 2, kappa=kappa, lam=lam)
    chains = run(
        jax.random.key(2), HMC(phi4), Lattice((4, 4)), n_chains=64, n_configs=32, n_thermalise=100
    )
    cfgs = np.asarray(chains.cfgs[:], np.float32)
    theory = measure_theory(phi4, [(cfgs, None)]).astype(np.float32)
    network = Shallow(rngs=nnx.Rngs(0))  # never trained: the weights make up for it

    @jax.jit
    def draw(key):
        x, log_q = Flow(16).sample(network, theory, key, 4096)
        return -theory.action(x) - log_q

    found = log_mean(np.asarray(draw(jax.random.key(5))))
    exact = CASES[f"torus4x4_kappa_k={kappa}_l={lam}"]["values"]["lnZ"][0]
    assert abs(found.value - exact) < 3 * found.error
    assert found.error < 0.1


def test_probes_give_the_same_fields_and_on_average_the_same_density():
    theory, network = critical_theory((2, 3), np.float64), rough()
    u, log_q = prior(theory, jax.random.key(0), 8)
    x, exact = jax.jit(partial(Flow(4).transport, network, theory))(u, log_q)
    estimate = jax.jit(partial(Flow(4, n_probes=256).transport, network, theory))(
        u, log_q, jax.random.key(7)
    )
    np.testing.assert_allclose(estimate[0], x, rtol=1e-10)
    difference = np.asarray(estimate[1]) - np.asarray(exact)
    assert 1e-6 < np.abs(difference).max() < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "euler"}, "scheme must be one of heun, rk3, got 'euler'"),
        ({"n_steps": 0}, "n_steps >= 1, got 0"),
    ],
)
def test_a_flow_that_does_not_exist_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Flow(**settings)


def test_probes_need_a_key():
    with pytest.raises(ValueError, match="n_probes = 2 needs a key"):
        Flow(n_probes=2).transport(Zero(), free_theory((4,)), np.zeros((2, 4)), np.zeros(2))
