"""Spectra of scores, ensembles and matrices: identities, closed forms, unbiased probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rows import each
from theories import critical_theory

from lattice_ml.actions import FreeField, Phi4
from lattice_ml.analysis.probes import (
    kernel_by_probes,
    plane_waves,
    projection,
    regression,
    without_noise,
)
from lattice_ml.analysis.spectrum import (
    bare_form,
    couplings,
    fit_line,
    inverse_propagator,
)
from lattice_ml.analysis.two_point import TwoPoint
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.diffusion.networks import Shallow, UNet
from lattice_ml.models.diffusion.spectrum import score_of
from lattice_ml.models.rbm.spectrum import (
    data_kernel,
    largest_deviation,
    machine,
    regulated,
    shell_sets,
)
from lattice_ml.report import spectrum_figures as spectrum

pytestmark = pytest.mark.unoptimised

SHAPES = [(5,), (4,), (6, 4), (2, 3), (4, 2, 3)]


def fields(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def symmetric(volume, seed=1):
    matrix = fields(volume, volume, seed=seed)
    return matrix + matrix.T


def linear(matrix):
    """The score -K phi of a kernel that need not be symmetric."""
    return lambda x: -(x.reshape(len(x), -1) @ matrix.T).reshape(x.shape)


# ---------------------------------------------------------------------------- identities


@each("shape", SHAPES)
def test_plane_waves_are_orthonormal_and_diagonalise_the_laplacian(shape):
    lattice = Lattice(shape)
    waves, shell = plane_waves(lattice)
    np.testing.assert_allclose(waves @ waves.T, np.eye(lattice.volume), atol=1e-12)
    w = waves.reshape(-1, *shape)
    axes = range(1, w.ndim)
    minus_laplacian = sum(2 * w - np.roll(w, 1, mu) - np.roll(w, -1, mu) for mu in axes)
    wanted = lattice.shells[0][shell].reshape(-1, *[1] * len(shape)) * w
    np.testing.assert_allclose(minus_laplacian, wanted, atol=1e-9)
    assert list(np.bincount(shell)) == list(lattice.shell_sizes)


@pytest.mark.parametrize("shape", [(5,), (4, 4), (2, 3)])
def test_all_probes_of_a_linear_score_give_its_kernel(shape):
    lattice = Lattice(shape)
    matrix = fields(lattice.volume, lattice.volume, seed=4)
    found = kernel_by_probes(linear(matrix), fields(3, *shape), n_probes=None, batch_size=2)
    waves, _ = plane_waves(lattice)
    diagonal = np.diagonal(waves @ matrix @ waves.T)
    exact = lattice.shell_means(diagonal.reshape(shape))
    np.testing.assert_allclose(found.values, np.tile(exact, (3, 1)), rtol=1e-9)
    even, odd = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    norm = np.linalg.norm(matrix)
    np.testing.assert_allclose(found.asymmetry, np.linalg.norm(odd) / norm, rtol=1e-9)
    off = 1 - np.sum(lattice.shell_sizes * exact**2) / np.linalg.norm(even) ** 2
    np.testing.assert_allclose(found.off_diagonal, np.sqrt(off), rtol=1e-9)


def test_random_probes_have_the_shells_mean_as_their_expectation():
    lattice, n = Lattice((4, 6)), 6000
    matrix = fields(24, 24, seed=6)
    every = kernel_by_probes(linear(matrix), fields(1, 4, 6), n_probes=None)
    some = kernel_by_probes(linear(matrix), np.zeros((n, 4, 6)), batch_size=n, n_probes=2)
    mean, error = some.mean()
    single = lattice.shell_sizes == 1
    np.testing.assert_allclose(mean[single], every.values[0][single])
    z = (mean - every.values[0])[~single] / error[~single]
    assert np.all(np.abs(z) < 4.5) and np.all(error[~single] < 0.1)
    np.testing.assert_allclose(some.asymmetry, every.asymmetry, rtol=0.03)


def test_the_regression_of_an_exact_linear_score_is_its_kernel():
    lattice = Lattice((6, 4))
    waves, shell = plane_waves(lattice)
    kernel = (waves.T * (1 + lattice.shells[0][shell])) @ waves
    phi = fields(20, 6, 4)
    value, error = regression(linear(kernel)(phi), phi)
    np.testing.assert_allclose(value, 1 + lattice.shells[0], rtol=1e-10)
    np.testing.assert_allclose(error, 0, atol=1e-10)


@pytest.mark.parametrize("network", ["shallow", "unet"])
def test_probes_agree_with_the_jacobian_of_a_network(network):
    theory = critical_theory((8, 8), jnp.float64)
    kinds = {
        "shallow": lambda: Shallow(n_hidden=4, rngs=nnx.Rngs(2)),
        "unet": lambda: UNet(channels=(2, 3), rngs=nnx.Rngs(2)),
    }
    score, t = score_of(kinds[network](), theory), np.full(1, 0.05)
    x = np.random.default_rng(3).normal(size=(1, 8, 8))
    found = kernel_by_probes(score, x, t, n_probes=None)
    jacobian = -jax.jit(jax.jacfwd(lambda y: score(y[None], t)[0]))(jnp.asarray(x[0]))
    jacobian = np.asarray(jacobian).reshape(64, 64)
    waves, _ = plane_waves(Lattice((8, 8)))
    turned = waves @ jacobian @ waves.T
    exact = Lattice((8, 8)).shell_means(np.diagonal(turned).reshape(8, 8))
    np.testing.assert_allclose(found.values[0], exact, rtol=1e-4)
    odd = (jacobian - jacobian.T) / 2
    asymmetry = np.linalg.norm(odd) / np.linalg.norm(jacobian)
    np.testing.assert_allclose(found.asymmetry, asymmetry, rtol=1e-4)
    assert asymmetry > 1e-3  # a random network is no gradient


# ---------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("n_probes", [1, None])
def test_a_free_action_has_its_dispersion_and_no_curl(n_probes):
    free = FreeField(0.3, 2)
    given = {"n_probes": n_probes, "is_gradient": n_probes is None}
    found = kernel_by_probes(jax.vmap(free.force), fields(3, 6, 4), **given)
    np.testing.assert_allclose(found.values, np.tile(0.3 + Lattice((6, 4)).shells[0], (3, 1)))
    assert found.asymmetry < 1e-12 and found.off_diagonal < 1e-6


def test_noise_of_a_gaussian_is_undone():
    kernel, t = np.array([0.1, 2.0, 9.0, -0.2]), 0.3
    noised = 1 / (1 / kernel + t)
    value, error = without_noise(noised, 1e-6 * noised, t)
    np.testing.assert_allclose(value, kernel)
    moved, _ = without_noise(noised * (1 + 1e-6), 0, t)
    np.testing.assert_allclose(error, moved - value, rtol=1e-4)


def test_the_couplings_of_an_exact_score_are_read_off():
    action, lattice = Phi4(h=0.54, a=0.95, b=0.1), Lattice((6, 6))
    phi = fields(12, 6, 6) * np.linspace(0.5, 1.5, 12)[:, None, None]
    values = kernel_by_probes(jax.vmap(action.force), phi, n_probes=None).values
    squares = np.mean(phi**2, axis=(1, 2))
    exact = bare_form(0.54, 0.95, lattice) + 12 * 0.1 * squares[:, None]
    np.testing.assert_allclose(values, exact)
    read = couplings(lattice, values.mean(axis=0), values, squares)
    for name, true in (("h", 0.54), ("a", 0.95), ("b", 0.1), ("bare_mass_squared", -0.26)):
        np.testing.assert_allclose(read[name], [true, 0], atol=1e-7)
    zero = couplings(lattice, bare_form(0.54, 0.95, lattice))
    np.testing.assert_allclose(zero["a"], [0.95, 0], atol=1e-7)
    assert set(zero) == {"h", "a", "bare_mass_squared"}


@pytest.mark.parametrize("shape", [(6, 6), (2, 3), (5,)])
def test_an_exact_force_is_projected_onto_its_couplings(shape):
    action, phi = Phi4(h=0.54, a=0.95, b=0.1), fields(12, *shape)
    read = projection(jax.vmap(action.force)(phi), phi, phi)
    mass = 2 * 0.95 - 2 * len(shape) * 0.54
    for name, true in (("h", 0.54), ("a", 0.95), ("b", 0.1), ("bare_mass_squared", mass)):
        np.testing.assert_allclose(read[name], [true, 0], atol=1e-7)


def test_a_projection_needs_no_small_noise():
    """One site per line: E[phi | x] of phi ~ N(0, 1/k) is x/(1 + k t), the score -k E[phi | x]."""
    k, t, n = 1.9, 0.8, 4000
    phi = fields(n, 8) / np.sqrt(k)
    x = phi + np.sqrt(t) * fields(n, 8, seed=3)
    read = projection(-k * x / (1 + k * t), x, phi)
    for name, true in (("h", 0.0), ("a", k / 2), ("b", 0.0), ("bare_mass_squared", k)):
        assert abs(read[name][0] - true) < 4.5 * read[name][1] < 0.3


def test_errors_of_a_line_come_from_its_residuals():
    x = np.arange(400.0)
    noise = 0.5 * fields(400, seed=8)
    line = fit_line(x, 2 + 3 * x + noise, np.ones(400))
    expected = 0.5 / np.sqrt(np.sum((x - x.mean()) ** 2))
    np.testing.assert_allclose(np.sqrt(line.covariance[1, 1]), expected, rtol=0.1)
    assert abs(line.slope - 3) < 4.5 * expected
    np.testing.assert_allclose(line.residual, 0.5, rtol=0.1)
    smooth = fit_line(x, 2 + 3 * x + noise, np.ones(400), correlated=True)
    np.testing.assert_allclose(smooth.covariance, 398 * line.covariance)


def test_a_kernel_is_regulated_from_the_ultraviolet():
    exact = np.array([0.5, 2.0, 3.0, np.inf])
    np.testing.assert_allclose(regulated(exact, 2.5, 4), [0.5, 2, 2.5, 2.5])
    np.testing.assert_allclose(regulated(exact, 2.5, 1), [0.5, 2.5, 2.5, 2.5])
    assert largest_deviation([0.55, 2, 9, 9], [0.5, 2, 2.5, 2.5], exact, 2.5) == pytest.approx(0.1)
    assert largest_deviation(exact, exact, exact, 0.5) is None


def test_the_kernel_of_data_is_infinite_where_nothing_varies():
    turn = np.linalg.qr(fields(4, 4))[0]
    second = turn @ np.diag([4.0, 0.5, 2.0, 0.0]) @ turn.T
    np.testing.assert_allclose(data_kernel(second), [0.25, 0.5, 2.0, np.inf])


def test_sets_of_a_shell_show_how_far_a_degeneracy_is_split():
    lattice = Lattice((4,))
    waves, shell = plane_waves(lattice)
    kernel = (waves.T * np.array([1.0, 2.9, 5.0, 3.1])) @ waves  # momenta 0, 1, 2, -1
    found = shell_sets(kernel, lattice)
    assert list(np.bincount(shell)) == [1, 2, 1]
    for values, exact in zip(found, ([1.0], [2.9, 3.1], [5.0]), strict=True):
        np.testing.assert_allclose(values, exact)


def test_a_machine_with_masses_of_its_own_per_site_has_no_closed_form():
    w = 0.1 * fields(4, 3)
    found = machine(w, np.full(4, 2.0), 1.0, np.eye(4), np.zeros(4))
    scalar = machine(w, 2.0, 1.0, np.eye(4), np.zeros(4))
    np.testing.assert_allclose(found["eigenvalues"], scalar["eigenvalues"])
    assert np.all(np.isnan(found["regulated"])) and found["deviation"] is None
    np.testing.assert_allclose(found["singular_values"], np.linalg.svd(w)[1])
    np.testing.assert_allclose(scalar["regulated"], [1, 1, 1, 2])


def test_the_renormalised_mass_of_an_exact_propagator_is_the_mass():
    lattice = Lattice((8, 8))
    g = 1.7 / (0.3 + lattice.p_hat_squared)
    found = inverse_propagator(TwoPoint(lattice, np.stack([g, 2 * g, g]), np.array([1.0, 2, 1])))
    np.testing.assert_allclose(found.value, (0.3 + lattice.shells[0]) / 1.7)
    np.testing.assert_allclose(found.mass_squared, [0.3, 0], atol=1e-8)
    np.testing.assert_allclose(found.z, [1.7, 0], atol=1e-8)
    assert found.n_fitted == 3
    tiny = inverse_propagator(TwoPoint(Lattice((2,)), np.ones((3, 2)), np.ones(3)))
    assert tiny.n_fitted == 0 and np.isnan(tiny.z[0])


# ---------------------------------------------------------------------------- figures


def test_figures_show_ratio_and_regulator():
    x, ones = np.arange(4.0), np.ones(4)
    figure = spectrum.kernel(
        x, 2 + x, 0.1 * ones, 2 * (2 + x), name="K", target_name="T", ceiling=7.0
    )
    top, bottom = figure.axes
    assert top.get_title(loc="left") == "K against T"
    assert any(np.allclose(line.get_ydata(), 7.0) for line in top.lines)
    np.testing.assert_allclose(bottom.containers[0].lines[0].get_ydata(), 0.5)
    figure = spectrum.kernel(x, x, np.nan * x, x - 1, name="K", target_name="T", difference=True)
    np.testing.assert_allclose(figure.axes[1].containers[0].lines[0].get_ydata(), 1.0)
    lines = spectrum.along_training([0, 1, 100], np.ones((3, 4)), ones).axes[0].lines
    assert len(lines) == 5  # four eigenvalues and their targets


# ---------------------------------------------------------------------------- errors


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ValueError, match=r"at least one field, .* n_probes=0"):
        kernel_by_probes(lambda x: -x, fields(2, 4), n_probes=0)
    with pytest.raises(ValueError, match=r"at least one field, .* got 0 fields"):
        kernel_by_probes(lambda x: -x, np.zeros((0, 4)))
    with pytest.raises(ValueError, match=r"must have their shape, got \(2,\)"):
        kernel_by_probes(lambda x: jnp.sum(x, axis=1), fields(2, 4))
    with pytest.raises(ValueError, match="derivative of the score is not finite"):
        kernel_by_probes(lambda x: jnp.sqrt(x), np.zeros((1, 4)))
