"""Training of the Markov field: exact in its family, else with the errors that it predicts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markov_fields import N_CHAINS, N_CONFIGS, normal, random_field, sample, series
from rows import each

from lattice_ml import HMC, Lattice, run, statistics
from lattice_ml._pytree import pytree
from lattice_ml.actions import Phi4
from lattice_ml.models.markov_field import COUPLINGS, MarkovField, kl_divergence, log_weights
from lattice_ml.models.markov_fit import fit_action, fit_data

PHI4 = Phi4(0.4, 0.956, 0.022)
LETTER = [
    "........",
    ".######.",
    ".######.",
    "...##...",
    "...##...",
    "...##...",
    "...##...",
    "........",
]


def noise(key, field, start):
    """Configurations of no field in particular: enough where the regression is exact."""
    return np.asarray(jax.random.normal(key, (512, *field.shape)))


# Closed forms: a target of the family is found by regression, whatever is sampled.


@pytest.mark.parametrize("tied", [True, False], ids=["homogeneous", "every coupling"])
def test_an_action_of_the_family_is_found_exactly(tied):
    shape = (4, 4)
    target = PHI4 if tied else random_field(shape)
    expected = MarkovField.homogeneous(*PHI4.couplings(), shape) if tied else target
    start = MarkovField.homogeneous(0.2, 1, 0.1, shape)
    names = COUPLINGS[: 3 if tied else 4]
    fit = fit_action(
        *(jax.random.key(1), target, noise, start), train=names, homogeneous=tied, n_iterations=2
    )
    for name in COUPLINGS:
        found = getattr(fit.field, name)
        np.testing.assert_allclose(found, getattr(expected, name), rtol=0, atol=1e-12)
    assert fit.kl[0] > 0.1
    assert abs(fit.kl[-1]) < 1e-12
    assert fit.field.z2 == tied


def test_of_two_links_between_the_same_pair_the_sum_is_found():
    target = random_field((2, 3))
    start = MarkovField.homogeneous(0.2, 1, 0.1, (2, 3))
    fit = fit_action(*(jax.random.key(1), target, noise, start), train=COUPLINGS, n_iterations=2)
    h, exact = fit.field.h, target.h
    np.testing.assert_allclose(h[0].sum(axis=0), exact[0].sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(h[0, 0], h[0, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(h[1], exact[1], rtol=1e-9)


def test_chains_go_on_from_the_latest_configurations_and_at_first_from_the_data():
    data, starts, made = normal((512, 2, 3), seed=7), [], []

    def record(key, field, start):
        starts.append(start)
        made.append(noise(key, field, start))
        return made[-1]

    field = MarkovField.homogeneous(0.2, 1, 0.1, (2, 3))
    fit = fit_data(jax.random.key(1), data, record, field, homogeneous=True, n_iterations=2)
    assert np.array_equal(starts[0], data)
    for start, before in zip(starts[1:], made, strict=False):
        assert np.array_equal(start, before[::-1])
    assert np.array_equal(fit.cfgs, made[-1][::-1])
    assert len(fit.kl) == len(made) >= 3


# Statistics with predicted errors.


def off(fit, truth, names):
    """Fit minus truth, flat; in units of the errors; and the errors."""
    parts = [[np.ravel(getattr(x, name)) for name in names] for x in (fit.field, truth, fit.error)]
    found, exact, error = (np.concatenate(part) for part in parts)
    return found - exact, (found - exact) / error, error


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_coupling_of_an_inhomogeneous_field_is_recovered_from_data(seed):
    truth = random_field((4, 4), seed)
    keys = jax.random.split(jax.random.key(seed), 3)
    data = np.concatenate([sample(key, truth, "hot", n_thermalise=200) for key in keys[:2]])
    start = MarkovField.homogeneous(0.0, 1.0, 0.2, truth.shape)
    fit = fit_data(keys[2], data, sample, start, train=COUPLINGS, n_iterations=8)
    change, z, error = off(fit, truth, COUPLINGS)
    assert np.abs(z).max() < 4.5
    chi2 = change @ fit.fisher @ change / (1 / len(data) + 1 / (8 * N_CHAINS * N_CONFIGS))
    assert abs(chi2 - 80) < 4.5 * np.sqrt(2 * 80), "80 couplings, errors by the Fisher matrix"
    assert 0 < error.max() < 0.2
    noise = 80 / (2 * N_CHAINS * N_CONFIGS)
    assert fit.kl[0] > 100 * noise
    assert 0.7 * noise < np.mean(fit.kl[-4:]) < 1.6 * noise, "all that is left"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_three_couplings_are_recovered_from_data(seed):
    truth = MarkovField.homogeneous(*PHI4.couplings(), (8, 8))
    key, other = jax.random.split(jax.random.key(seed))
    data = sample(key, truth, "hot", n_thermalise=200)
    start = MarkovField.homogeneous(0.0, 1.0, 0.2, truth.shape)
    fit = fit_data(other, data, sample, start, homogeneous=True, n_iterations=6)
    _, z, error = off(fit, truth, "hab")
    assert np.abs(z).max() < 4.5
    assert 0 < error.max() < 0.02
    change = [getattr(fit.field, n).flat[0] - getattr(truth, n).flat[0] for n in "hab"]
    chi2 = change @ fit.fisher @ change / (1 / len(data) + 1 / (6 * N_CHAINS * N_CONFIGS))
    assert chi2 < 25, "3 degrees of freedom: 4.2 sigma"
    assert all(np.ptp(getattr(fit.field, name)) == 0 for name in COUPLINGS)
    assert not fit.error.r.any() and not fit.field.r.any()
    assert fit.field.z2


def pixels(letter):
    return np.array([[1.0 if c == "#" else -1.0 for c in row] for row in letter])


@pytest.mark.slow
def test_the_mean_field_of_a_model_of_noisy_images_is_the_image():
    image = pixels(LETTER)
    rng = np.random.default_rng(0)
    flips = np.where(rng.uniform(size=(4096, *image.shape)) < 0.1, -1, 1)
    data = image * flips + 0.5 * rng.normal(size=flips.shape)
    start = MarkovField.homogeneous(0.0, 1.0, 0.2, image.shape)
    fit = fit_data(*(jax.random.key(2), data, sample, start), train=("a", "b", "r"), n_iterations=4)
    assert np.array_equal(np.sign(fit.field.r), -image)
    assert (fit.field.a < 0).all(), "two wells at every site"
    cfgs = sample(jax.random.key(3), fit.field, fit.cfgs)
    drawn = cfgs.reshape(N_CONFIGS, N_CHAINS, *image.shape)
    spread = drawn.mean(axis=0).std(axis=0) / np.sqrt(N_CHAINS)
    error = np.hypot(spread, data.std(axis=0) / np.sqrt(len(data)))
    assert np.abs((drawn.mean(axis=(0, 1)) - 0.8 * image) / error).max() < 4.5
    assert error.max() < 0.05


@pytest.mark.slow
def test_data_with_heavy_tails_leave_b_on_its_floor_and_a_gaussian():
    data = np.random.default_rng(4).laplace(size=(20_000, 4, 4))
    start = MarkovField.homogeneous(0.0, 1.0, 0.2, (4, 4))

    def fresh(key, field, _):  # HMC rejects every step from an outlier of the data
        return sample(key, field, "hot", n_thermalise=100)

    fit = fit_data(
        *(jax.random.key(5), data, fresh, start), homogeneous=True, n_iterations=2, floor=2e-3
    )
    assert (fit.field.b == 2e-3).all()
    variance = np.mean(data**2)
    a = 0.5 / variance - 6 * 2e-3 * variance  # to first order in b, where h = 0
    assert fit.field.a[0, 0] == pytest.approx(a, abs=0.005)
    assert abs(fit.field.h[0, 0, 0]) < 0.01


@pytree
class Diagonal:
    """Phi4 with g phi_x phi_y for all diagonal neighbours y: no Markov field of the links."""

    phi4: Phi4
    g: float

    def __call__(self, phi):
        ahead = jnp.roll(phi, -1, 0)
        diagonal = jnp.roll(ahead, -1, 1) + jnp.roll(ahead, 1, 1)
        return self.phi4(phi) + self.g * jnp.sum(phi * diagonal)


@pytest.mark.slow
def test_an_action_outside_the_family_is_approached_to_the_least_divergence():
    shape, target, n_iterations = (4, 4), Diagonal(PHI4, -0.1), 8
    start = MarkovField.homogeneous(0.2, 1, 0.1, shape)
    fit = fit_action(
        *(jax.random.key(6), target, sample, start), homogeneous=True, n_iterations=n_iterations
    )
    assert fit.kl[0] > 4 * fit.kl[-1] > 0
    assert fit.field.h.flat[0] > PHI4.h + 0.05, "what couples diagonally goes to the links"
    cfgs = sample(jax.random.key(7), fit.field, fit.cfgs).astype(np.float64)
    log_w = log_weights(fit.field, target, cfgs)
    assert kl_divergence(log_w) == pytest.approx(np.mean(fit.kl[-n_iterations:]), rel=0.1)
    # At the optimum S_target - S is uncorrelated with the statistics of the family.
    parts = MarkovField.statistics(cfgs)
    for name in "hab":
        t = parts[name].reshape(len(cfgs), -1).sum(axis=1)
        found = statistics.estimate(series((t - t.mean()) * (log_w - log_w.mean())))
        assert abs(found.value) < 4.5 * np.sqrt(1 + 1 / n_iterations) * found.error
        assert found.error < 0.1 * np.std(t) * np.std(log_w)
    # Weighted averages are those of the target.
    sampler, size = HMC(target, n_steps=5), {"n_chains": N_CHAINS, "n_configs": N_CONFIGS}
    direct = run(jax.random.key(8), sampler, Lattice(shape), thin=6, **size)
    exact = statistics.estimate(direct.series("phi2"))
    phi2 = series(np.mean(cfgs**2, axis=(1, 2)))
    found = statistics.estimate(phi2, log_weights=series(log_w))
    error = np.hypot(exact.error, found.error)
    assert abs(found.value - exact.value) < 4.5 * error < 0.15


# Errors.


GOOD = MarkovField.homogeneous(0.2, 1, 0.1, (2, 3))
CFGS = normal((100, 2, 3))


@each(
    "change, message",
    [
        (
            {"train": ("h", "kappa")},
            r"train must name some of h, a, b, r, once each, got \('h', 'kappa'\)",
        ),
        ({"train": ("h", "h")}, "once each"),
        ({"train": ()}, "train must name some"),
        ({"n_iterations": 1}, "n_iterations must be at least 2, got 1"),
        ({"floor": 0.2}, "at most the smallest b of the start, 0.1, got 0.2"),
        ({"floor": 0.0}, "floor must be positive"),
        ({"start": replace(GOOD, b=-GOOD.b)}, "not bounded below"),
        (
            {"data": CFGS[:, 0]},
            r"data must be at least 1 configurations \(n, 2, 3\), got \(100, 3\)",
        ),
        ({"data": np.full((9, 2, 3), np.nan)}, "data must be finite, but 54 numbers are not"),
        (
            {"sample": lambda *_: CFGS[:48]},
            r"what sample gives must be at least 49 .* got \(48, 2, 3\)",
        ),
    ],
)
def test_a_fit_that_makes_no_sense_is_refused(change, message):
    given = {"data": CFGS, "sample": lambda *_: CFGS, "start": GOOD} | change
    first = (jax.random.key(0), given.pop("data"), given.pop("sample"), given.pop("start"))
    with pytest.raises(ValueError, match=message):
        fit_data(*first, **given)


def test_a_search_that_does_not_arrive_says_what_to_do():
    stuck = normal((200, 2, 3), seed=4)
    with pytest.raises(RuntimeError, match=r"no fit after 200 steps, KL = .*begin nearer"):
        fit_data(jax.random.key(0), 2 * CFGS, lambda *_: stuck, GOOD, homogeneous=True)
