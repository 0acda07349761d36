"""Training: the same bits however it is cut, better weights after it, symmetries of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from theories import CRITICAL, critical_theory, two_well_fields

from lattice_ml.models.augmentation import transform
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.diffusion.fitting import Settings
from lattice_ml.models.diffusion.flow import Flow
from lattice_ml.models.diffusion.networks.shallow import Shallow

SHAPE = (4, 4)
SETTINGS = Settings(total=120, batch_size=32, flow=Flow(4))
FINE = Settings(total=40, batch_size=32, b2=0.99, average=0.9, learning_rate=2e-3, flow=Flow(4))


@pytest.fixture(scope="module")
def theories():
    return fitting.stack([critical_theory(SHAPE)])


@pytest.fixture(scope="module")
def pool():
    return jnp.asarray(two_well_fields(SHAPE, 512))[None]


def network(seed=0):
    return Shallow(rngs=nnx.Rngs(seed))


def advance(kind, state, theories, pool, n, graph):
    if kind == "denoise":
        key = jax.random.key(4)
        return fitting.denoise(graph, state, theories, pool, key, n=n, settings=SETTINGS)
    return fitting.fine_tune(graph, state, theories, jax.random.key(4), n=n, settings=FINE)


def spread_of_log_w(network, theories):
    theory = jax.tree.map(lambda leaf: leaf[0], theories)
    x, log_q = jax.jit(lambda key: Flow(8).sample(network, theory, key, 256))(jax.random.key(9))
    return float(jnp.var(-theory.action(x) - log_q))


@pytest.mark.parametrize("kind", ["denoise", "fine_tune"])
def test_training_lowers_its_loss_and_gives_the_same_bits_in_one_run_or_several(
    kind, theories, pool
):
    start = network()
    graph = nnx.graphdef(start)
    settings = SETTINGS if kind == "denoise" else FINE
    halves = fitting.start(start, settings)
    losses = []
    for _ in range(2):
        halves, found = advance(kind, halves, theories, pool, settings.total // 2, graph)
        losses.append(np.asarray(found))
    whole, found = advance(
        kind, fitting.start(start, settings), theories, pool, settings.total, graph
    )
    np.testing.assert_array_equal(np.concatenate(losses), found)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(whole.step) == settings.total
    third = settings.total // 3
    if kind == "fine_tune":
        assert np.mean(found[-third:]) < 0.7 * np.mean(found[:third])
        before, after = (
            spread_of_log_w(net, theories) for net in (start, fitting.averaged(start, whole))
        )
        assert after < 0.7 * before
    else:
        assert np.mean(found[-third:]) < 0.97 * np.mean(found[:third])


def test_the_average_of_the_weights_lags_behind_them(theories, pool):
    start = network()
    state, _ = advance(
        "denoise", fitting.start(start, SETTINGS), theories, pool, 60, nnx.graphdef(start)
    )
    first, average, last = (
        np.asarray(jax.tree.leaves(tree)[0])
        for tree in (nnx.state(start), state.average, state.weights)
    )
    assert 0 < np.linalg.norm(average - first) < np.linalg.norm(last - first)
    kept = jax.tree.leaves(nnx.state(fitting.averaged(start, state)))[0]
    assert np.array_equal(kept, average), "the model keeps the average"


def test_the_importance_of_noise_levels_leaves_the_loss_unbiased(theories, pool):
    """Whatever the bins say, the weighted loss has the mean of log-uniform variances."""
    theory = jax.tree.map(lambda leaf: leaf[0], theories)
    net = network()

    @jax.jit
    def estimate(bins):
        def one(key):
            settings = Settings(total=1, target="action")
            rows = jax.random.randint(key, (64,), 0, 512)
            piece = (jnp.zeros((), jnp.int32), 1)
            return fitting._regression(net, theory, pool[0, rows], key, bins, piece, settings)[0]

        losses = jax.lax.map(one, jax.random.split(jax.random.key(1), 200))
        return jnp.mean(losses), jnp.std(losses) / jnp.sqrt(200)

    flat, flat_error = estimate(jnp.ones(12, jnp.float32))
    uneven, uneven_error = estimate(jnp.geomspace(0.01, 10, 12, dtype=jnp.float32))
    assert abs(flat - uneven) < 4 * np.hypot(flat_error, uneven_error)
    assert flat_error < 0.05 * flat


def test_random_symmetries_leave_the_action_alone_and_reach_all_images():
    phi = jnp.asarray(two_well_fields((3, 3), 2))
    draw = jax.jit(lambda i: transform(jax.random.key(i), phi, (3, 3)))
    images = [np.asarray(draw(i)) for i in range(600)]
    actions = np.array([[CRITICAL(one) for one in image] for image in images[:20]])
    np.testing.assert_allclose(actions, np.broadcast_to(actions[0], actions.shape), rtol=1e-5)
    assert len({image[0].tobytes() for image in images}) > 0.95 * (2 * 9 * 8)


def test_axes_of_different_extent_are_not_exchanged():
    phi = jnp.asarray(two_well_fields((2, 4), 2))
    assert transform(jax.random.key(3), phi, (2, 4)).shape == phi.shape


def test_validation_repeats_itself_and_knows_a_better_network(theories, pool):
    theory = jax.tree.map(lambda leaf: leaf[0], theories)
    start = network()
    state, _ = advance(
        "denoise", fitting.start(start, SETTINGS), theories, pool, 120, nnx.graphdef(start)
    )
    better = fitting.averaged(start, state)

    @jax.jit
    def loss(network):
        return fitting.validation_loss(network, theory, pool[0], jax.random.key(0), "action")

    assert loss(better) == loss(better)
    assert loss(better) < 0.98 * loss(start)
