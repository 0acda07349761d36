"""A trained and fine-tuned model gives the exact partition function, with its own error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references import CASES

from lattice_ml import HMC, Lattice, action, run
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.diffusion.flow import Flow, draw_prior
from lattice_ml.models.diffusion.networks import Shallow
from lattice_ml.models.measured import measure_theory
from lattice_ml.statistics import reweight

DENOISE = fitting.Settings(total=300)
FINE_TUNE = fitting.Settings(
    total=80, batch_size=64, b2=0.99, average=0.95, learning_rate=2e-3, flow=Flow(8)
)


@partial(jax.jit, static_argnums=0)
def log_weights(graph, weights, theory, n_steps):
    """Of samples of the flow in so many steps, `(8192,)`."""
    u, log_q = draw_prior(theory, jax.random.key(5), 8192)
    x, log_prob = Flow(n_steps).transport(nnx.merge(graph, weights), theory, u, log_q)
    return -theory.action(x) - log_prob


@pytest.mark.slow
@pytest.mark.parametrize(("kappa", "lam"), [(0.2, 0.022), (0.3, 0.5)])
def test_log_z_is_exact_after_fine_tuning_and_its_integration_error_is_smaller(kappa, lam):
    phi4 = action("kappa", 2, kappa=kappa, lam=lam)
    chains = run(
        jax.random.key(2), HMC(phi4), Lattice((4, 4)), n_chains=64, n_configs=40, n_thermalise=100
    )
    cfgs = np.asarray(chains.cfgs[:], np.float32)
    theory = measure_theory(phi4, [(cfgs, None)]).astype(jnp.float32)
    network, theories = Shallow(rngs=nnx.Rngs(0)), fitting.stack([theory])
    graph = nnx.graphdef(network)
    state, _ = fitting.denoise(
        graph,
        fitting.start(network, DENOISE),
        theories,
        jnp.asarray(cfgs)[None],
        jax.random.key(3),
        n=DENOISE.total,
        settings=DENOISE,
    )
    network = fitting.averaged(network, state)
    state, _ = fitting.fine_tune(
        graph,
        fitting.start(network, FINE_TUNE),
        theories,
        jax.random.key(4),
        n=FINE_TUNE.total,
        settings=FINE_TUNE,
    )
    how = graph, state.average, theory
    few, many = (np.asarray(log_weights(*how, n_steps)) for n_steps in (16, 32))
    found = reweight(few)
    exact = CASES[f"torus4x4_kappa_k={kappa}_l={lam}"]["values"]["lnZ"][0]
    assert abs(found.log_z - exact) < 3 * found.log_z_error
    assert abs(np.mean(many - few)) < found.log_z_error
    assert found.ess > 0.8
    assert found.pareto_k < 0.7
