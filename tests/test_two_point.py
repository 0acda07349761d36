"""The two-point function: against NumPy on any data, and against free fields drawn mode by mode."""

from dataclasses import dataclass

import numpy as np
import pytest

from lattice_ml.actions import FreeField
from lattice_ml.analysis.two_point import two_point
from lattice_ml.chains.run import Chains
from lattice_ml.fields.lattice import Lattice

LATTICE = Lattice((8, 6))
MASS_SQUARED = 0.5
EXACT = FreeField(MASS_SQUARED, 2).propagator(LATTICE)


@dataclass(frozen=True)
class Ensemble(Chains):
    """Fields in memory, read seven at a time."""

    def blocks(self):
        for start in range(0, len(self.cfgs), 7):
            yield start, self.cfgs[start : start + 7]


def ensemble(fields, log_weight=None):
    """Of fields `(n_chains, n_configs, *L)`."""
    shape = fields.shape[2:]
    cfgs = fields.swapaxes(0, 1).reshape(-1, *shape)
    histories = {"action": np.zeros(fields.shape[:2])}
    return Ensemble(None, shape, 1, cfgs, histories, {}, log_weight=log_weight)


def powers(fields):
    """|phi(p)|^2 / V of every configuration."""
    axes = (2, 3)
    return np.abs(np.fft.fftn(fields, axes=axes)) ** 2 / fields[0, 0].size


def free_fields(rng, n_chains, n_configs, lattice=LATTICE, mass_squared=MASS_SQUARED):
    """Independent fields with exp(-S): white noise times the square root of the propagator."""
    amplitude = np.sqrt(FreeField(mass_squared, lattice.ndim).propagator(lattice))
    modes = np.fft.fft2(rng.normal(size=(n_chains, n_configs, *lattice.shape)))
    return np.fft.ifft2(amplitude * modes).real


def predicted_error(n):
    """Of G(p) from n independent free fields: modes that are their own conjugate are real."""
    real = np.outer(*(np.isin(np.arange(extent), (0, extent / 2)) for extent in LATTICE.shape))
    return EXACT * np.sqrt(np.where(real, 2, 1) / n)


# Definitions, on any data.


@pytest.mark.parametrize("n_chains, n_configs", [(1, 100), (3, 25), (80, 1)])
def test_g_is_the_average_over_configurations_of_the_squared_modes(n_chains, n_configs):
    fields = np.random.default_rng(1).normal(size=(n_chains, n_configs, 4, 3)).astype(np.float32)
    mean, error = two_point(ensemble(fields)).momentum()
    assert mean.shape == error.shape == (4, 3)
    np.testing.assert_allclose(mean, powers(fields).mean(axis=(0, 1)), rtol=1e-6)


def test_bins_of_one_configuration_give_the_plain_error_of_a_mean():
    fields = np.random.default_rng(2).normal(size=(2, 20, 4, 3))
    _, error = two_point(ensemble(fields), n_bins=40).momentum()
    expected = powers(fields).reshape(40, 4, 3).std(axis=0, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(error, expected, rtol=1e-12)


def test_shells_average_over_momenta_of_equal_p_hat_squared():
    fields = np.random.default_rng(3).normal(size=(2, 20, 4, 4))
    measured = two_point(ensemble(fields))
    values, mean, error = measured.shells()
    assert values.tolist() == [0, 2, 4, 6, 8] and (error > 0).all()
    _, index = measured.lattice.shells
    everywhere, _ = measured.momentum()
    np.testing.assert_allclose(mean, [everywhere[index == i].mean() for i in range(5)], rtol=1e-12)


def test_time_slices_correlate_fields_averaged_over_the_other_axes():
    fields = np.random.default_rng(4).normal(size=(2, 20, 5, 3))
    correlator, _ = two_point(ensemble(fields)).time_slices()
    slices = fields.mean(axis=3)
    direct = [3 * np.mean(slices * np.roll(slices, -t, axis=2)) for t in range(5)]
    np.testing.assert_allclose(correlator, direct, rtol=1e-12, atol=1e-14)


# Free fields: the exact propagator, and errors of the exact size.


@pytest.mark.parametrize("seed", [1, 2])
def test_free_fields_have_the_free_propagator(seed):
    fields = free_fields(np.random.default_rng(seed), 4, 500)
    measured = two_point(ensemble(fields))
    mean, error = measured.momentum()
    assert np.abs((mean - EXACT) / error).max() < 4.5
    ratio = error / predicted_error(2000)  # each known to 1/sqrt(2 * 63)
    assert np.abs(ratio - 1).max() < 0.4 and ratio.mean() == pytest.approx(1, abs=0.1)

    correlator, error = measured.time_slices()
    exact = np.fft.ifft(EXACT[:, 0]).real
    assert np.abs((correlator - exact) / error).max() < 4.5


def test_errors_include_the_autocorrelation_within_chains():
    rng, a, n_configs = np.random.default_rng(5), 0.8, 800
    noise = free_fields(rng, 8, n_configs)
    fields = noise.copy()
    for i in range(1, n_configs):
        fields[:, i] = a * fields[:, i - 1] + np.sqrt(1 - a * a) * noise[:, i]
    _, error = two_point(ensemble(fields)).momentum()
    two_tau = (1 + a**2) / (1 - a**2)  # squared modes decay with a^2
    ratio = error / (predicted_error(8 * n_configs) * np.sqrt(two_tau))
    assert ratio.mean() == pytest.approx(1, abs=0.12)


def test_the_cosh_mass_of_a_free_field_is_the_pole_of_its_propagator():
    lattice, mass = Lattice((16, 4)), 0.6
    fields = free_fields(np.random.default_rng(6), 4, 500, lattice, mass**2)
    value, error = two_point(ensemble(fields)).correlation_length()
    exact = 1 / (2 * np.arcsinh(mass / 2))
    assert abs(value - exact) < 4.5 * error and error < 0.05 * exact


def test_there_is_no_correlation_length_where_no_correlation_is_known():
    noise = np.random.default_rng(7).normal(size=(4, 20, 8, 6))
    assert np.isnan(two_point(ensemble(noise)).correlation_length()).all()


# Weighted ensembles.


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_lead_to_another_action(seed):
    target = 0.6
    fields = free_fields(np.random.default_rng(seed), 4, 1000)
    log_weight = 300 - (target - MASS_SQUARED) / 2 * np.sum(fields**2, axis=(2, 3))
    weighted = ensemble(fields, log_weight)
    mean, error = two_point(weighted).momentum()
    exact = FreeField(target, 2).propagator(LATTICE)
    assert np.abs((mean - exact) / error).max() < 4.5

    weight = np.exp(log_weight - log_weight.max())[..., None, None]
    deviations = weight * (powers(fields) - exact) / weight.mean()
    ratio = error / np.sqrt(np.mean(deviations**2, axis=(0, 1)) / 4000)
    assert ratio.mean() == pytest.approx(1, abs=0.1)

    plain, _ = two_point(ensemble(fields)).momentum()
    np.testing.assert_array_equal(two_point(weighted, weights=False).momentum()[0], plain)


def test_weights_do_not_give_a_constant_an_error():
    rng = np.random.default_rng(8)
    fields, log_weight = np.ones((4, 50, 4, 3)), rng.normal(size=(4, 50))
    mean, error = two_point(ensemble(fields, log_weight)).momentum()
    assert mean[0, 0] == pytest.approx(12) and error[0, 0] < 1e-12


def test_a_single_bin_is_refused():
    with pytest.raises(ValueError, match=r"at least two bins, got 1 chains x 1 config"):
        two_point(ensemble(np.ones((1, 1, 4, 3))))
