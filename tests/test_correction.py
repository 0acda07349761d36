"""Reweighting, Metropolis, refinement and missed modes against closed forms."""

import math

import jax
import numpy as np
import pytest

from lattice_ml import HMC, FreeField, Lattice
from lattice_ml.jobs.correction import metropolis, refine
from lattice_ml.statistics import doubt, estimate, forward_ess, missed_mode, reweight

MODES = 6


def gaussian_log_weights(x, variance):
    """log w of p = exp(-x^2/2) and a normalised q of another variance; x `(MODES, ...)`."""
    log_q = -0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance)
    return np.sum(-0.5 * x**2 - log_q, axis=0)


def model_draws(seed, variance, shape):
    x = math.sqrt(variance) * np.random.default_rng(seed).normal(size=(MODES, *shape))
    return gaussian_log_weights(x, variance)


def reference_draws(seed, variance, shape):
    return gaussian_log_weights(np.random.default_rng(seed).normal(size=(MODES, *shape)), variance)


def exact_ess(variance):
    """1 / integral(p^2 / q)."""
    return (math.sqrt(2 * variance - 1) / variance) ** MODES


# ---------------------------------------------------------------------------- reweighting


@pytest.mark.parametrize("variance", [0.8, 1.0, 1.5])
@pytest.mark.parametrize("seed", [1, 2])
def test_gaussians_have_their_exact_ess_and_log_z(variance, seed):
    n = 40_000
    found = reweight(model_draws(seed, variance, (n,)))
    ess, log_z = exact_ess(variance), 0.5 * MODES * math.log(2 * math.pi)
    error = math.sqrt((1 / ess - 1) / n)
    assert found.ess == pytest.approx(ess, abs=0.01)
    assert abs(found.log_z - log_z) <= 4.5 * error + 1e-12
    assert found.log_z_error == pytest.approx(error, rel=0.1, abs=1e-12)
    assert found.n == n and found.warning is None
    assert str(found).startswith(f"ESS/n {found.ess:.4f}, Pareto k ")


def test_a_model_too_narrow_is_reported_as_unreliable():
    found = reweight(model_draws(3, 0.2, (4000,)))
    assert found.pareto_k > 0.7
    assert "\n" not in str(found)
    assert str(found).endswith(f"; warning: {found.warning}")
    assert f"Pareto k = {found.pareto_k:.2f}, allowed is k < 0.7" in found.warning


def test_an_error_of_log_z_without_a_variance_is_doubted_and_nothing_else():
    """One of four narrow Gaussians has weights of k = 1 - variance."""
    narrow = reweight(model_draws(4, 0.55, (40_000,)))
    assert 0.5 < narrow.pareto_k < 0.7
    assert "the error of log Z is too small, and log Z rather too low" in narrow.warning
    assert str(narrow).endswith(f"has Pareto k = {narrow.pareto_k:.2f}, and a variance for k < 0.5")
    assert doubt(narrow.n, narrow.n * narrow.ess, narrow.pareto_k) is None


def test_too_few_samples_are_reported():
    assert "24 samples are too few" in reweight(np.linspace(0, 1, 24)).warning
    assert reweight(np.zeros(24)).warning is None  # equal weights have no tail to judge


# ---------------------------------------------------------------------------- Metropolis

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])


def toy(seed, n, p=P, q=Q):
    """Proposals from q and their log weights, up to a constant."""
    states = np.random.default_rng(seed).choice(len(p), size=n, p=q)
    return states, np.log(7 * p / q)[states]


@pytest.mark.parametrize("n_chains", [1, 40])
def test_a_toy_distribution_has_its_exact_probabilities(n_chains):
    states, log_w = toy(4, 200_000)
    chains = states[metropolis(5, log_w, n_chains).indices]
    found = [estimate(chains == state) for state in range(3)]
    assert all(abs(f.value - p) < 4.5 * f.error for f, p in zip(found, P, strict=True))
    assert max(f.error for f in found) < 0.005


def test_the_toy_moves_with_the_exact_transition_probabilities():
    states, log_w = toy(6, 200_000)
    result = metropolis(7, log_w)
    chain = states[result.indices[0]]
    accept = np.minimum(1, (P / Q) / (P / Q)[:, None])  # [from, to]
    assert result.acceptance == pytest.approx(P @ accept @ Q, abs=4.5 * 0.5 / math.sqrt(len(chain)))
    for start in range(3):
        following = chain[1:][chain[:-1] == start]
        for end in set(range(3)) - {start}:
            exact = Q[end] * accept[start, end]
            error = math.sqrt(exact * (1 - exact) / len(following))
            assert abs(np.mean(following == end) - exact) < 4.5 * error


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_two_states_have_their_exact_autocorrelation_time(p):
    q = np.array([0.3, 0.7])
    states, log_w = toy(8, 100_000, np.array([p, 1 - p]), q)
    result = metropolis(9, log_w)
    exact = p / q[0] - 0.5  # the second eigenvalue is 1 - <w>/w_max
    assert abs(result.tau_int - exact) < 4.5 * result.tau_int_error
    assert result.tau_int_error < 0.1 * exact
    same = metropolis(9, log_w, observable=states)
    assert same.tau_int == pytest.approx(result.tau_int, rel=1e-9)


@pytest.mark.parametrize("variance", [0.5, 2.0])
def test_the_acceptance_between_gaussians_is_exact(variance):
    n = 100_000
    x = math.sqrt(variance) * np.random.default_rng(10).normal(size=(1, n))
    result = metropolis(11, gaussian_log_weights(x, variance))
    ratio = math.sqrt(min(variance, 1 / variance))
    error = math.sqrt(2 * result.tau_int * 0.25 / n)
    assert abs(result.acceptance - 4 / math.pi * math.atan(ratio)) < 4.5 * error


def test_equal_weights_are_all_accepted():
    result = metropolis(12, np.zeros(12), n_chains=3)
    np.testing.assert_array_equal(result.indices, np.arange(12).reshape(3, 4))
    assert (result.acceptance, result.longest_stay, result.tau_int) == (1, 1, 0.5)


def test_one_heavy_proposal_holds_its_chain_to_the_end():
    log_w = np.zeros(20)
    log_w[3] = 1000
    result = metropolis(13, log_w, n_chains=2)
    np.testing.assert_array_equal(result.indices[0], [0, 1, 2, *[3] * 7])
    np.testing.assert_array_equal(result.indices[1], np.arange(10, 20))
    assert result.longest_stay == 7
    assert result.acceptance == pytest.approx(12 / 18)
    assert str(result).startswith("acceptance 0.667, longest stay 7 of 10 steps, tau_int ")


def test_the_chain_is_fixed_by_its_seed():
    _, log_w = toy(14, 100)
    first, again, other = (metropolis(seed, log_w).indices for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize("n_chains", [0, 3, 5])
def test_chains_that_would_drop_or_lack_proposals_are_refused(n_chains):
    with pytest.raises(ValueError, match=rf"n_chains = {n_chains} >= 1 .* got \(16,\)"):
        metropolis(1, np.zeros(16), n_chains)


def test_metropolis_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"shape \(n,\), .* got \(4, 4\)"):
        metropolis(1, np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"observable have their shape \(16,\); got \(8,\)"):
        metropolis(1, np.zeros(16), observable=np.zeros(8))
    with pytest.raises(ValueError, match="1 weights not finite"):
        metropolis(1, [0.0, 0.0, 0.0, math.inf])


# ---------------------------------------------------------------------------- missed modes


@pytest.mark.parametrize("variance", [0.8, 1.5])
@pytest.mark.parametrize("shape", [(40, 500), (3, 6000), (1, 20_000)])
def test_forward_ess_of_gaussians_is_exact(variance, shape):
    found = forward_ess(reference_draws(15, variance, shape) - 1e4)
    assert abs(found.value - exact_ess(variance)) < 4.5 * found.error
    assert found.error < 0.01


def test_the_error_of_forward_ess_is_its_spread():
    found = [forward_ess(reference_draws(seed, 1.5, (20, 50))) for seed in range(200)]
    spread = np.std([f.value for f in found])
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)


def test_forward_ess_uses_every_configuration():
    log_w = np.random.default_rng(16).normal(size=(3, 37))
    expected = 1 / (np.mean(np.exp(log_w)) * np.mean(np.exp(-log_w)))
    assert forward_ess(log_w).value == pytest.approx(expected, rel=1e-12)
    assert forward_ess(np.zeros((4, 10))) == pytest.approx((1, 0), abs=1e-12)


def wells(seed, shape, centres):
    """Draws of exp(-x^2/2) wells at +-4 as `centres` says, and the log density of both."""
    x = np.random.default_rng(seed).normal(size=shape) + centres
    return x, np.logaddexp(-0.5 * (x - 4) ** 2, -0.5 * (x + 4) ** 2)


def both(seed, shape):
    return np.random.default_rng(seed).choice([-4, 4], size=shape)


def one_well_log_q(x):
    return -0.5 * (x - 4) ** 2 / 1.21 - 0.5 * math.log(2 * math.pi * 1.21)


def test_a_missed_well_shows_in_the_forward_ess_only():
    rng = np.random.default_rng(17)
    x = 4 + 1.1 * rng.normal(size=4096)
    model = np.logaddexp(-0.5 * (x - 4) ** 2, -0.5 * (x + 4) ** 2) - one_well_log_q(x)
    y, log_p = wells(18, (8, 100), both(19, (8, 100)))
    reference = log_p - one_well_log_q(y)

    found = reweight(model)
    assert found.ess > 0.97 and found.warning is None
    assert found.log_z == pytest.approx(0.5 * math.log(2 * math.pi), abs=0.02), "log 2 is missing"
    assert forward_ess(reference).value < 1e-6
    verdict = missed_mode(model, reference)
    assert verdict.startswith("the model misses a part of the distribution: ESS/n is ")
    share = 100 * np.mean(y < 0)
    assert f"{share:.1f} % of the reference have a larger weight than any of 4096" in verdict

    one_sided = reference[:, :10] * 0 + model[:80].reshape(8, 10)
    assert missed_mode(model, one_sided) is None, "data from one well cannot tell"


def test_a_model_of_both_wells_is_accepted():
    def log_weights(x, log_p):
        return log_p - np.logaddexp(one_well_log_q(x), one_well_log_q(-x)) + math.log(2)

    x, _ = wells(20, 4096, both(21, 4096))
    x = np.sign(x) * 4 + 1.1 * (x - np.sign(x) * 4)
    log_p = np.logaddexp(-0.5 * (x - 4) ** 2, -0.5 * (x + 4) ** 2)
    reference = log_weights(*wells(22, (8, 100), both(23, (8, 100))))
    assert missed_mode(log_weights(x, log_p), reference) is None
    assert forward_ess(reference).value == pytest.approx(math.sqrt(1.42) / 1.21, abs=0.02)


@pytest.mark.parametrize("width", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("shape", [(1, 100), (6, 50), (64, 32)])
def test_poor_but_honest_models_are_not_refused(width, shape):
    rng = np.random.default_rng(24)
    for _ in range(10):
        model = width * rng.normal(size=1000)
        reference = width * rng.normal(size=shape) + width**2
        assert missed_mode(model, reference) is None
        missed = reference + 30 * (rng.random(shape) < 0.5)
        assert missed_mode(model, missed) is not None


@pytest.mark.parametrize("bad", [np.zeros(100), np.zeros((3, 5)), np.full((4, 8), math.nan)])
def test_forward_ess_refuses_what_has_no_chains_or_no_numbers(bad):
    with pytest.raises(ValueError, match=r"\(n_chains, n_configs\) with at least 16 in all, got"):
        forward_ess(bad)


# ---------------------------------------------------------------------------- refinement

LATTICE = Lattice((4, 4))
FREE = FreeField(mass_squared=0.5, ndim=2)
VARIANCE = FREE.propagator(LATTICE)


def too_wide(seed, n, excess=1.25):
    """Free fields with `excess` times their variance in every mode, and log weights."""
    white = np.random.default_rng(seed).normal(size=(n, *LATTICE.shape))
    power = np.sqrt(excess * VARIANCE) * np.fft.fftn(white, axes=(1, 2))
    log_w = -0.5 * (excess - 1) * np.sum(white**2, axis=(1, 2))
    return np.fft.ifftn(power, axes=(1, 2)).real, log_w


def pulls(cfgs, log_weights):
    """(found - exact) / error of the variance of every independent mode."""
    power = np.abs(np.fft.fftn(np.asarray(cfgs, np.float64), axes=(1, 2))) ** 2 / LATTICE.volume
    half = [(i, j) for i in range(4) for j in range(3) if j == 1 or i <= 2]
    found = [estimate(power[:, i, j][None], log_weights=log_weights) for i, j in half]
    return np.array([(f.value - VARIANCE[k]) / f.error for f, k in zip(found, half, strict=True)])


def mala(step_size):
    return HMC(FREE, n_steps=1, step_size=step_size, trajectory_length=step_size)


def test_weights_carried_along_keep_the_refined_variances_exact():
    cfgs, log_w = too_wide(25, 4096)
    moved = refine(jax.random.key(26), mala(0.3), LATTICE, cfgs, 3)
    assert moved.cfgs.shape == cfgs.shape and moved.cfgs.dtype == np.float32
    assert np.mean(np.any(moved.cfgs != cfgs.astype("float32"), axis=(1, 2))) > 0.95
    assert np.abs(pulls(moved.cfgs, log_w[None])).max() < 4.5
    assert np.abs(pulls(moved.cfgs, None)).max() > 8, "three updates alone do not make it exact"


def test_many_updates_need_no_weights():
    cfgs, _ = too_wide(27, 2048)
    moved = refine(jax.random.key(28), HMC(FREE), LATTICE, cfgs, 30, dtype="float64")
    assert moved.cfgs.dtype == np.float64
    assert np.abs(pulls(moved.cfgs, None)).max() < 4.5
    assert moved.series("acceptance").mean() > 0.6
    slowest = (1 - 2 / math.pi) / FREE.mass_squared  # the variance of |M|, times V
    quarter_period = 0.5 * math.pi * math.sqrt(slowest)
    assert moved.tuned["trajectory_length"] == pytest.approx(quarter_period, rel=0.15), "tuned"


def test_refinement_keeps_the_order_and_is_fixed_by_its_key():
    cfgs, _ = too_wide(29, 4096)
    first, again, other = (
        refine(jax.random.key(seed), mala(1e-3), LATTICE, cfgs, 3).cfgs for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(np.abs(first), np.abs(cfgs), atol=0.02)  # the sign may flip
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize(
    ("shape", "n_updates"), [((5, 4, 3), 1), ((0, 4, 4), 1), ((4, 4), 1), ((5, 4, 4), 0)]
)
def test_refinement_refuses_other_shapes_and_no_updates(shape, n_updates):
    with pytest.raises(ValueError, match=r"refine takes configurations .* got"):
        refine(jax.random.key(1), HMC(FREE), LATTICE, np.zeros(shape), n_updates)
