"""Learning as dynamics: the flow against ODE solvers and matrices, repulsion against real SGD."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from rows import each
from scipy import integrate, stats

from lattice_ml.analysis.dynamics.learning import (
    degenerate_pairs,
    gradient_flow,
    learning_time,
    relaxation_rate,
    splitting_scale,
    splittings,
    wigner_cdf,
)

MU_SQUARED, SIGMA = 9.0, 0.7
# Learned, critical and nearly so, above the regulator; starts below, above and on the fixed point.
MODES = [
    (0.5, 1e-6),
    (0.5, 8.99),
    (4.0, 0.3),
    (4.0, 5.0),
    (MU_SQUARED * (1 - 1e-9), 2.0),
    (MU_SQUARED, 2.0),
    (MU_SQUARED * (1 + 1e-9), 2.0),
    (14.0, 6.0),
]
KAPPA, Y0 = (np.array(values) for values in zip(*MODES, strict=True))
TIMES = np.array([0.0, 0.01, 0.3, 2.0, 11.0, 80.0])


def flow(t, kappa=KAPPA, y0=Y0):
    return gradient_flow(kappa, MU_SQUARED, y0, t, SIGMA)


def chain(n, mass_squared=4.0):
    """Kernel of the free field on a ring: m^2 + 4 sin^2(p/2), twice for most p."""
    hop = np.roll(np.eye(n), 1, axis=0)
    return (mass_squared + 2) * np.eye(n) - hop - hop.T


# ------------------------------------------------------------------------------------- identities


def test_the_flow_starts_at_y0_continues_itself_and_rests_at_its_fixed_points():
    assert flow(0.0) == pytest.approx(MU_SQUARED - Y0, abs=1e-14)
    there = flow(0.4)
    assert flow(1.7) == pytest.approx(flow(1.3, y0=MU_SQUARED - there), abs=1e-13)
    late = flow(1e6)
    assert late[:4] == pytest.approx(KAPPA[:4], abs=1e-13)
    assert late[-1] == MU_SQUARED, "above the regulator"
    assert flow(1e6, y0=0.0) == pytest.approx(MU_SQUARED), "no weight, no gradient"


def test_times_come_before_modes():
    t = TIMES.reshape(2, 3)
    grid = flow(t, KAPPA.reshape(4, 2), Y0.reshape(4, 2))
    assert grid.shape == (2, 3, 4, 2)
    assert grid[1, 2, 3, 0] == pytest.approx(float(flow(TIMES[5], KAPPA[6], Y0[6])), rel=1e-15)


def test_sigma_only_sets_the_unit_of_time():
    assert flow(TIMES) == pytest.approx(gradient_flow(KAPPA, MU_SQUARED, Y0, SIGMA**2 * TIMES))


# ----------------------------------------------------------------------------- the flow of a mode


def test_the_flow_solves_the_equation_of_a_mode():
    def slope(_, y):
        return 2 * SIGMA**2 * y * (1 / KAPPA - 1 / (MU_SQUARED - y))

    y = [Y0]
    for interval in pairwise(TIMES):  # solve_ivp interpolates less accurately than it steps
        found = integrate.solve_ivp(slope, interval, y[-1], "DOP853", rtol=1e-13, atol=1e-14)
        y.append(found.y[:, -1])
    assert np.max(np.abs(flow(TIMES) - (MU_SQUARED - np.array(y)))) < 1e-10


def test_the_flow_obeys_the_separated_equation():
    """kappa [(mu^2/a) ln y - (kappa/a) ln|a - y|] - 2 sigma^2 t is constant; its limit at a = 0."""
    t = np.linspace(0, 1.5, 7)[:, None]
    kappa, y0 = np.array([0.5, 4.0, 14.0]), np.array([1e-2, 5.5, 6.0])
    y, a = MU_SQUARED - flow(t[:, 0], kappa, y0), MU_SQUARED - kappa
    left = kappa * (MU_SQUARED / a * np.log(y) - kappa / a * np.log(np.abs(a - y)))
    assert np.ptp(left - 2 * SIGMA**2 * t, axis=0) == pytest.approx(0, abs=1e-11)
    y = MU_SQUARED - flow(t, MU_SQUARED, 5.0)
    left = MU_SQUARED * (MU_SQUARED / y + np.log(y))
    assert np.ptp(left - 2 * SIGMA**2 * t) == pytest.approx(0, abs=1e-11)


def test_early_growth_late_approach_and_critical_decay_have_the_predicted_rates():
    kappa, y0, step = 4.0, 1e-5, 0.1
    early = MU_SQUARED - flow(np.array([0, step]), kappa, y0)
    growth = 2 * SIGMA**2 * (1 / kappa - 1 / MU_SQUARED)
    assert np.log(early[1] / early[0]) == pytest.approx(growth * step, rel=1e-4)
    late = flow(np.array([60, 60 + step]), kappa, 1.0) - kappa
    rate = relaxation_rate(kappa, MU_SQUARED, 1.0, SIGMA)
    assert np.log(late[0] / late[1]) == pytest.approx(rate * step, rel=1e-4)
    t = 1e8
    critical = MU_SQUARED - flow(t, MU_SQUARED, 1.0)
    assert critical * 2 * SIGMA**2 * t == pytest.approx(MU_SQUARED**2, rel=1e-5)


def test_a_mode_is_learned_after_its_learning_time_and_infrared_modes_come_first():
    kappa = np.linspace(0.3, 8.5, 40)
    for fraction in (0.1, 0.5, 0.99):
        t = learning_time(kappa, MU_SQUARED, 1e-3, fraction, SIGMA)
        y = MU_SQUARED - np.diag(flow(t, kappa, 1e-3))
        assert y == pytest.approx(fraction * (MU_SQUARED - kappa), abs=1e-12)
        assert np.all(np.diff(t) > 0)
    start, a = 1e-200, MU_SQUARED - kappa
    leading = kappa * MU_SQUARED / (2 * SIGMA**2 * a) * -np.log(start)
    assert learning_time(kappa, MU_SQUARED, start, 0.5, SIGMA) == pytest.approx(leading, rel=0.02)


# ----------------------------------------------------------------- the flow of the whole matrix


def ascend(w, covariance, step_size, n_steps):
    """Full-batch gradient ascent of the log-likelihood."""
    one = np.eye(len(w))
    for _ in range(n_steps):
        kernel = MU_SQUARED * one - SIGMA**2 * w @ w.T
        w = w + step_size * SIGMA**2 * (covariance - np.linalg.inv(kernel)) @ w
    return np.linalg.eigvalsh(MU_SQUARED * one - SIGMA**2 * w @ w.T)


def test_gradient_ascent_of_the_matrix_follows_the_flow_to_first_order():
    kernel, t, scale = chain(10), 3.0, 0.8
    w = scale * stats.ortho_group.rvs(10, random_state=3)
    exact = flow(t, np.linalg.eigvalsh(kernel), SIGMA**2 * scale**2)
    covariance = np.linalg.inv(kernel)
    errors = [ascend(w, covariance, t / n, n) - np.sort(exact) for n in (400, 800)]
    assert np.max(np.abs(errors[1])) < 2e-3
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.02)
    assert 2 * errors[1] - errors[0] == pytest.approx(0, abs=2e-6), "extrapolated to step size 0"
    assert np.all(np.diff(exact[[0, 1, 3, 5, 7, 9]]) > 0), "infrared modes are ahead"


# ----------------------------------------------------------------------------------------- spacings


def test_wigner_surmise_is_a_density_with_mean_one_whose_integral_is_the_cdf():
    def wigner_surmise(s):
        return np.pi / 2 * s * np.exp(-np.pi / 4 * s**2)

    moments = [integrate.quad(lambda s, n=n: s**n * wigner_surmise(s), 0, 12)[0] for n in (0, 1, 2)]
    assert moments == pytest.approx([1, 1, 4 / np.pi], abs=1e-10)
    for s in (0.2, 1.0, 2.5):
        assert integrate.quad(wigner_surmise, 0, s)[0] == pytest.approx(wigner_cdf(s), abs=1e-12)
    assert wigner_cdf([-1, 0]).tolist() == [0, 0]


def test_degenerate_pairs_of_chains_leave_single_levels_and_larger_multiplets_out():
    kappa = np.linalg.eigvalsh(chain(6))
    assert degenerate_pairs(kappa).tolist() == [[1, 2], [3, 4]]
    assert degenerate_pairs([3.0, 1.0, 3.0]).tolist() == [[1, 2]], "positions in ascending order"
    assert degenerate_pairs([1.0, 2.0, 2.0, 2.0]).shape == (0, 2)
    assert degenerate_pairs([1.0, 1.01, 2.0], rtol=0.1).tolist() == [[0, 1]]


def test_splittings_are_spacings_over_the_mean_of_each_pair():
    history = np.array([[[1.0, 2.0, 5.0, 9.0]], [[1.0, 4.0, 5.0, 6.0]]])
    s = splittings(history, [(0, 1), (3, 2)])
    assert s.shape == (2, 1, 2)
    assert s[:, 0].tolist() == [[0.5, 1.6], [1.5, 0.4]]


@pytest.mark.parametrize(("learning_rate", "kappa"), [(0.01, 4.0), (0.9, 4.0), (0.3, 1.0)])
def test_splitting_scale_is_that_of_the_linearised_step(learning_rate, kappa):
    """The variance of Y_12 from the response of one real step to Y_12 and to C_12."""
    mu_squared, sigma, batch_size, h = 3 + kappa, 0.8, 50, 1e-5
    flip = np.array([[0, 1], [1, 0]])

    def step(y, covariance):
        gradient = covariance - np.linalg.inv(mu_squared * np.eye(2) - y)
        factor = np.eye(2) + learning_rate * sigma**2 * gradient
        return (factor @ y @ factor.T)[0, 1]

    y, c = 3 * np.eye(2), np.eye(2) / kappa
    memory = (step(y + h * flip, c) - step(y - h * flip, c)) / (2 * h)
    response = (step(y, c + h * flip) - step(y, c - h * flip)) / (2 * h)
    assert memory == pytest.approx(1 - relaxation_rate(kappa, mu_squared, learning_rate, sigma))
    variance = response**2 / (kappa**2 * batch_size) / (1 - memory**2)
    expected = np.sqrt(2 * np.pi * variance)
    found = splitting_scale(kappa, mu_squared, learning_rate, batch_size, sigma)
    assert found == pytest.approx(expected, rel=1e-6)


def test_splitting_scale_depends_on_learning_rate_over_batch_size_where_steps_are_small():
    small = splitting_scale(4.0, MU_SQUARED, 1e-4, 100)
    assert splitting_scale(4.0, MU_SQUARED, 2e-4, 200) == pytest.approx(small, rel=1e-4)
    assert splitting_scale(4.0, MU_SQUARED, 2e-4, 100) == pytest.approx(
        np.sqrt(2) * small, rel=1e-4
    )
    assert small == pytest.approx(np.sqrt(2 * np.pi * 1e-4 * (MU_SQUARED - 4) / 100), rel=1e-4)


# ---------------------------------------------------------------------------------- real training

TARGET, REGULATOR = chain(6), 16.0
LEVELS, VECTORS = np.linalg.eigh(TARGET)
PAIRS = degenerate_pairs(LEVELS)
N_REPLICAS = 160
SETTINGS = {  # (learning rate, batch size) -> steps between snapshots, 2.7/r or more
    (0.15, 512): 100,
    (0.3, 1024): 50,
    (0.3, 512): 50,
    (2.5, 1024): 6,
}
FIELD_BY_FIELD = (2.5, 1024)
RUNS = [(setting, seed) for setting in SETTINGS for seed in (1, 2)]


@lru_cache
def trained(setting, seed, n_snapshots=3):
    """Kernels of replicas under SGD on fresh minibatches, from the fixed point on."""
    (learning_rate, batch_size), spacing = setting, SETTINGS[setting]
    rng = np.random.default_rng([seed, *map(int, (100 * learning_rate, batch_size))])
    w = np.tile(VECTORS * np.sqrt(REGULATOR - LEVELS) / SIGMA, (N_REPLICAS, 1, 1))
    snapshots = []
    for step in range((n_snapshots + 1) * spacing):
        covariance = minibatches(rng, batch_size, setting == FIELD_BY_FIELD)
        kernel = REGULATOR * np.eye(6) - SIGMA**2 * w @ w.swapaxes(1, 2)
        w = w + learning_rate * SIGMA**2 * (covariance - np.linalg.inv(kernel)) @ w
        if step % spacing == spacing - 1 and step > spacing:
            snapshots.append(REGULATOR * np.eye(6) - SIGMA**2 * w @ w.swapaxes(1, 2))
    return np.array(snapshots)


def minibatches(rng, batch_size, field_by_field):
    """Second moments of a batch per replica: of fields, or at once from their distribution."""
    if not field_by_field:
        wishart = stats.wishart(batch_size, np.linalg.inv(TARGET) / batch_size)
        return wishart.rvs(N_REPLICAS, random_state=rng)
    colour = (VECTORS / np.sqrt(LEVELS)).T
    phi = (rng.normal(size=(N_REPLICAS * batch_size, 6)) @ colour).reshape(N_REPLICAS, -1, 6)
    return phi.swapaxes(1, 2) @ phi / batch_size


def gaps(setting, seed):
    """Spacings of the pairs, `(n, n_pairs)`, and what is predicted for their means."""
    spectra = np.linalg.eigvalsh(trained(setting, seed)).reshape(-1, 6)
    predicted = splitting_scale(LEVELS[PAIRS[:, 0]], REGULATOR, *setting, SIGMA)
    return spectra[:, PAIRS[:, 1]] - spectra[:, PAIRS[:, 0]], predicted


@pytest.mark.parametrize(("setting", "seed"), RUNS)
def test_mean_splitting_of_sgd_is_the_predicted_one(setting, seed):
    found, predicted = gaps(setting, seed)
    error = predicted * np.sqrt((4 / np.pi - 1) / len(found))  # of a Rayleigh distribution
    assert np.max(np.abs(found.mean(axis=0) - predicted) / error) < 4.5
    assert np.all(error < 0.025 * predicted)


@pytest.mark.parametrize(("setting", "seed"), RUNS)
def test_splittings_of_sgd_follow_the_wigner_surmise_and_independent_levels_do_not(setting, seed):
    found, predicted = gaps(setting, seed)
    assert stats.kstest((found / predicted).ravel(), wigner_cdf).pvalue > 1e-3, "nothing fitted"
    kernels = trained(setting, seed).reshape(-1, 6, 6)
    s = splittings(np.linalg.eigvalsh(kernels), PAIRS).ravel()
    assert stats.kstest(s, wigner_cdf).pvalue > 1e-3

    diagonal = np.einsum("ia,nij,ja->na", VECTORS, kernels, VECTORS)  # without level repulsion
    independent = splittings(diagonal, PAIRS).ravel()
    assert stats.kstest(independent, wigner_cdf).pvalue < 1e-8
    poisson = np.random.default_rng(seed).exponential(size=s.shape)
    assert stats.kstest(poisson, wigner_cdf).pvalue < 1e-8


def test_splitting_of_sgd_scales_with_learning_rate_over_batch_size():
    runs = [np.concatenate([gaps(setting, seed)[0] for seed in (1, 2)]) for setting in SETTINGS]
    base, both, faster = (run.mean() for run in runs[:3])
    error = np.sqrt(2 * (4 / np.pi - 1) / runs[0].size)  # relative, of a ratio of two means
    assert abs(both / base - 1) < 4.5 * error
    assert abs(faster / base - np.sqrt(2)) < 4.5 * np.sqrt(2) * error
    assert error < 0.025


# ----------------------------------------------------------------------------------------- errors


@each(
    ("call", "message"),
    [
        (lambda: gradient_flow(-1.0, 2.0, 0.1, 1.0), "kappa must be positive and finite, got -1"),
        (lambda: gradient_flow(1.0, np.inf, 0.1, 1.0), "mu_squared must be positive and finite"),
        (
            lambda: gradient_flow(1.0, 2.0, 0.1, 1.0, 0.0),
            "sigma must be positive and finite, got 0",
        ),
        (lambda: gradient_flow(1.0, 2.0, [0.1, 2.0], 1.0), "y0 must be in .*, got 2"),
        (lambda: gradient_flow(1.0, 2.0, 0.1, [0.0, -0.5]), "t must be .*, got -0.5"),
        (lambda: learning_time([1.0, 2.0], 2.0, 0.1), "only modes with kappa below .*, got 2"),
        (lambda: learning_time(1.0, 2.0, 0.6), "y0 must be in .*, got 0.6"),
        (lambda: learning_time(1.0, 2.0, 0.1, 1.0), "fraction must be between 0 and 1, got 1"),
        (lambda: relaxation_rate(1.0, 2.0, 0.0), "learning_rate must be positive, got 0"),
        (lambda: relaxation_rate(3.0, 2.0, 0.1), "only modes with kappa below .*, got 3"),
        (lambda: splitting_scale(1.0, 2.0, 0.1, 0), "batch_size must be positive, got 0"),
        (lambda: splitting_scale(1.0, 2.0, 1.0, 10), "steps diverge: .*, got 2"),
        (lambda: splittings([1.0, 2.0], [(0, 1)]), "at least two spectra, got spectra.shape=.2,."),
        (lambda: splittings(np.ones((2, 3)), [0, 1]), "got chosen.shape=.2,."),
        (lambda: splittings(np.ones((2, 3)), [(0.0, 1.0)]), "pairs must be integers"),
        (lambda: splittings(np.ones((2, 3)), [(1, 3)]), "positions in 0 ... 2, got"),
        (lambda: splittings(np.ones((2, 3)), [(0, 1)]), "mean spacing of every pair .*, got 0"),
    ],
)
def test_refuses_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=message):
        call()
