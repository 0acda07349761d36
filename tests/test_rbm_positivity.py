"""No setting of the training of a Gaussian RBM leaves what can be normalised."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rbms import WIDE, begin, exact_moments, fit, kernel

from lattice_ml.models.rbm.fit import RBMSettings, initial, log_likelihood
from lattice_ml.models.rbm.moments import measure_moments

pytestmark = pytest.mark.unoptimised

VARIANTS = [  # method, natural, train_mu, n_hidden, a mass for every site, batch size
    ("exact", True, True, 6, True, 1),
    ("exact", False, False, 9, False, 1),
    ("cd", True, True, 3, False, 16),
    ("cd", False, True, 6, True, 1),
    ("pcd", True, False, 6, False, 1),
    ("pcd", False, True, 9, True, 16),
]
N_CASES = 17  # of each


def hostile_fields(case, rng):
    """Fields `(200, 6)` that break a naive training."""
    fields = rng.normal(size=(200, 6)) * 10 ** rng.uniform(-2, 2, 6)
    kind = case % 5
    if kind == 1:  # rank one
        fields = fields[:, :1] * np.linspace(0.1, 2, 6)
    elif kind == 2:  # constant pixels, zero and not
        fields[:, :3] = 0, 0, 3
    elif kind == 3:  # a single field
        fields[:] = fields[0]
    elif kind == 4:
        fields += 30
    return fields.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_exp_minus_s_stays_normalisable_in_hostile_settings(variant):
    method, natural, train_mu, n_hidden, per_site, batch_size = VARIANTS[variant]
    settings = RBMSettings(method, natural, batch_size=batch_size, train_mu=train_mu)
    exact = method == "exact"
    dtype = jnp.float64 if exact else jnp.float32
    likelihood = jax.jit(log_likelihood)
    for case in range(N_CASES):
        rng = np.random.default_rng([variant, case])
        fields = hostile_fields(case, rng)
        mu_squared = 10 ** rng.uniform(-3, 3)  # far below the data's largest eigenvalue, or above
        mass = np.full(6, mu_squared) if per_site else mu_squared
        scale, rate = rng.uniform(0.01, 0.99), rng.choice([0.1, 10.0])
        moments = measure_moments([(fields, None)])
        data = moments if exact else jnp.asarray(fields)
        state = begin(settings, 6, n_hidden, mass, scale=scale, dtype=dtype)
        values = [float(likelihood(state.rbm, moments))]
        for n in (1, 2, 17, 200):
            state = fit(settings, state, data, n, rate=rate)
            state.rbm.check()
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.rbm))
            values.append(float(likelihood(state.rbm, moments)))
        assert np.all(np.isfinite(values)), f"{case=}"
        assert not exact or np.all(np.diff(values) > -1e-9 * abs(values[0])), f"{case=}"


def test_a_mass_without_variance_in_the_data_stops_at_its_bound():
    fields = np.random.default_rng(0).normal(size=(50, 6))
    fields[:, 0] = 0
    settings = RBMSettings(batch_size=1, train_mu=True)  # the first of the variants
    state = begin(settings, 6, 2, np.ones(6), mu_range=(1e-3, 1e3), n_columns=6)
    state = fit(settings, state, measure_moments([(fields, None)]), 100)
    mass = np.asarray(state.rbm.mu_squared)
    assert mass[0] == pytest.approx(1e3) and np.all(mass[1:] < 100)
    state.rbm.check()


def test_a_step_that_is_far_too_long_is_halved():
    data = exact_moments(100 * np.linalg.inv(kernel((10,), 4.0)))
    plain = replace(WIDE, natural=False)
    state = fit(plain, begin(plain, 10, 10, 9.0), data, 1, rate=1e3)
    assert 5 < int(state.halvings) < 40
    state.rbm.check()


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_a_first_scale_outside_the_unit_interval_is_refused(scale):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        initial(jax.random.key(0), jnp.zeros(4), 4, 1.0, 1.0, scale, WIDE)
