"""The U-Net: preconditioning by the papers' formulas, and boundaries that are not seen."""

import importlib.util
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from theories import to_modes, to_sites

from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.equivariance import violations
from lattice_ml.models.diffusion.networks.unet import Convolution, UNet
from lattice_ml.models.theory import Theory

pytestmark = pytest.mark.unoptimised
KEY = jax.random.key(8)
T = np.array([0.01, 0.5, 30.0])
PHI_SQUARED = 0.9


def theory(shape, dtype="float64"):
    modes = Modes(shape)
    propagator = 1 / (0.4 + 0.5 * modes.p_hat_squared)
    mixture = np.array([[0.5, 0.5], [1.0, -1.0], [1.5, 1.5]])
    numbers = 0.5, 0.9, 0.02, propagator, mixture, PHI_SQUARED, 0.05, np.zeros(1)
    return Theory(*numbers, modes=modes).astype(dtype)


@cache
def build(ndim=2, **settings):
    """A network with weights from NumPy, which has nothing to compile for each shape."""
    make = partial(UNet, ndim=ndim, **{"channels": (4, 8)} | settings)
    graph, weights = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(lambda leaf: normal(leaf.shape, leaf.dtype, 0.3), weights))


def normal(shape, dtype="float64", scale=1.0):
    return (scale * np.random.default_rng(5).normal(size=shape)).astype(dtype)


@nnx.jit
def compiled_denoise(network, theory, x, t):
    return network.denoise(theory, x, t)


def denoised(*args):
    return np.asarray(compiled_denoise(*args))


@nnx.jit
def loss(network, theory, phi, noise):
    return network.loss(theory, phi, noise, T)


@pytest.fixture(scope="module")
def batch():
    """Theory, configurations, noise, and the noised fields at the variances T."""
    on = theory((4, 4))
    phi, noise = normal((2, 3, 4, 4))
    return on, phi, noise, phi + np.sqrt(T)[:, None, None] * noise


def squares(x):
    return np.sum(x**2, (1, 2))


def test_score_matching_is_the_loss_of_the_papers(batch):
    on, phi, noise, x = batch
    network = build(preconditioning="score")
    score = (denoised(network, on, x, T) - x) / T[:, None, None]
    expected = squares(np.sqrt(T)[:, None, None] * score + noise)
    np.testing.assert_allclose(loss(network, on, phi, noise), expected, rtol=1e-5)


def test_edm_weights_the_error_of_the_denoiser_by_sigma(batch):
    on, phi, noise, x = batch
    network = build(preconditioning="edm")
    weight = (T + PHI_SQUARED) / (T * PHI_SQUARED)  # arXiv:2206.00364, table 1
    expected = weight * squares(denoised(network, on, x, T) - phi)
    np.testing.assert_allclose(loss(network, on, phi, noise), expected, rtol=1e-5)


@pytest.mark.parametrize("preconditioning", ["edm", "score"])
def test_a_network_that_says_nothing_leaves_the_skip_connection(batch, preconditioning):
    on, _, _, x = batch
    graph, weights = nnx.split(build(preconditioning=preconditioning))
    network = nnx.merge(graph, jax.tree.map(np.zeros_like, weights))
    skip = PHI_SQUARED / (T + PHI_SQUARED) if preconditioning == "edm" else np.ones(3)
    np.testing.assert_allclose(denoised(network, on, x, T), skip[:, None, None] * x)


def test_its_force_gives_its_denoiser_back(batch):
    on, _, _, x = batch
    again = nnx.jit(Denoiser.denoise)(build(), on, x, T)
    np.testing.assert_allclose(again, denoised(build(), on, x, T), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(16,), (8, 16), (4, 4, 8)])
def test_the_boundary_is_not_seen_but_the_blocks_of_the_levels_are(shape):
    on, t = theory(shape), np.full(1, 0.3)
    x = normal((3, *on.propagator.shape))
    network = build(len(shape), channels=(4, 4, 4))

    def moved(by):
        def move(field):
            sites = np.asarray(to_sites(field, on.modes))
            return np.asarray(to_modes(np.roll(sites, by, -1), on.modes))

        difference = denoised(network, on, move(x), t) - move(denoised(network, on, x, t))
        return np.linalg.norm(difference) / np.linalg.norm(x)

    assert moved(4) < 1e-9
    assert moved(1) > 1e-5


def test_a_convolution_reaches_the_nearest_sites_around_the_lattice_and_may_skip_sites():
    convolution = Convolution(2, 1, 1, rngs=nnx.Rngs(0))
    x = np.zeros((1, 1, 4, 6))
    x[0, 0, 0, 5] = 1.0
    all_sites, some = jax.jit(lambda x: (convolution(x), convolution(x, 2)))(x)
    reached = np.argwhere(np.asarray(all_sites)[0, 0])
    assert {(i, j) for i, j in reached} == {(i, j) for i in (3, 0, 1) for j in (4, 5, 0)}
    np.testing.assert_allclose(some, np.asarray(all_sites)[..., ::2, ::2])


def test_no_symmetry_is_built_in():
    found = violations(build(), theory((4, 4)), KEY, of="denoise", n_variances=2)
    assert min(found.values()) > 1e-3
    assert not build().equivariant


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_variance_for_all_is_the_same_as_one_for_each(dtype):
    on, t = theory((4, 4), dtype), np.full(3, 0.3, dtype)
    x = normal((3, *on.propagator.shape), on.dtype)
    network = build()
    shared, each = denoised(network, on, x, t[:1]), denoised(network, on, x, t)
    assert shared.dtype == each.dtype == dtype
    np.testing.assert_allclose(shared, each, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ndim": 4}, "1, 2 or 3 dimensions, got ndim = 4"),
        ({"channels": ()}, r"at least one channel on each level, got channels=\(\)"),
        ({"preconditioning": "vp"}, "must be 'edm' or 'score', got 'vp'"),
    ],
)
def test_impossible_networks_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build(**settings)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 12), r"3 levels needs extents divisible by 4, got \(6, 12\); at most 2 levels fit"),
        ((8,), r"built with ndim = 2, the lattice is \(8,\); build it with ndim = 1"),
    ],
)
def test_lattices_that_do_not_fit_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        build(channels=(4, 4, 4)).denoise(theory(shape), np.zeros((1, *shape)), np.ones(1))


def test_it_refuses_to_learn_from_the_action(batch):
    on, phi, noise, _ = batch
    with pytest.raises(ValueError, match="target must be 'data', got 'action'"):
        build().loss(on, phi, noise, T, "action")


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "unet_sampling.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_benchmark_runs_and_refuses_what_was_hardly_trained(benchmark, capsys):
    assert benchmark.main(["--size", "toy", "--kappa", "0.5"]) == 1
    table = capsys.readouterr().out
    assert all(f"| 0.5 | {name} |" in table for name in (*benchmark.JUDGED, "share of M > 0"))


@pytest.mark.slow
def test_the_benchmark_accepts_equilibrium_and_nothing_else(benchmark):
    chains = benchmark.equilibrium(0.5, benchmark.SIZES["toy"])

    def judged(samples):
        rows = benchmark.compare(0.5, chains, samples)
        return {row.observable: row.good for row in rows if row.good is not None}

    assert all(judged(chains.cfgs).values())
    assert not any(judged(1.2 * np.abs(chains.cfgs)).values())


def test_the_noise_of_the_benchmark_exceeds_the_distance_between_the_wells(benchmark):
    on = theory((4, 4))
    quantiles = np.array([1.0, 60.0])
    schedule = benchmark.noise_schedule(Theory(**vars(on) | {"quantiles": quantiles}))
    assert schedule.sigma(np.ones(())) == pytest.approx(120, rel=1e-6)
