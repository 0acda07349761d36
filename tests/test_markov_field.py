"""The phi^4 Markov field: an action, a product of link potentials, and what training finds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markov_fields import normal, random_field, sample, series
from references import CASES
from rows import each

from lattice_ml import HMC, Lattice, actions, run, statistics
from lattice_ml.actions import FreeField, Phi4
from lattice_ml.fields.layout import Layout
from lattice_ml.models.markov_field import COUPLINGS, MarkovField, kl_divergence, log_weights
from lattice_ml.statistics import reweight

SHAPES = [(5,), (4, 2), (3, 2, 4)]  # an extent of 2 has two links between the same pair
PHI4 = Phi4(0.4, 0.956, 0.022)  # torus4x4_kappa_k=0.2_l=0.022 of the reference file


log_potentials = jax.jit(MarkovField.link_log_potentials)
conditional = jax.jit(MarkovField.conditional_log_prob, static_argnums=2)


@jax.jit
def evaluate(action, phi):
    return action(phi), action.density(phi), action.force(phi)


# Identities: the action.


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_couplings_are_phi4(shape):
    phi = jnp.asarray(normal(shape))
    for action in (PHI4, FreeField(0.3, len(shape))):
        same = MarkovField.homogeneous(*action.couplings(), shape)
        for found, expected in zip(evaluate(same, phi), evaluate(action, phi), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def action_by_loops(field, phi):
    total = sum(
        phi[x] * (field.r[x] + phi[x] * (field.a[x] + field.b[x] * phi[x] ** 2))
        for x in np.ndindex(phi.shape)
    )
    for x in np.ndindex(phi.shape):
        for mu, extent in enumerate(phi.shape):
            y = (*x[:mu], (x[mu] + 1) % extent, *x[mu + 1 :])
            total -= field.h[(mu, *x)] * phi[x] * phi[y]
    return total


@pytest.mark.parametrize("merged", [False, True], ids=["lanes", "merged"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_group_of_chains_has_the_actions_of_a_loop_and_their_finite_differences(shape, merged):
    field, layout = random_field(shape), Layout(shape, 3, merged)
    phi, other = normal((3, *shape)), normal((3, *shape), seed=2)

    @jax.jit
    def measure(field, phi, other):
        change = layout.site_sum(actions.difference(field, other, phi, layout))
        return actions.force(field, phi, layout), actions.total(field, phi, layout), change

    force, total, change = measure(field, layout.pack(phi)[0], layout.pack(other)[0])

    exact = np.array([action_by_loops(field, x) for x in phi])
    np.testing.assert_allclose(total, exact, rtol=1e-12)
    after = np.array([action_by_loops(field, x) for x in other])
    np.testing.assert_allclose(change, after - exact, rtol=1e-11)
    x, eps = tuple(extent - 1 for extent in shape), 1e-5
    step = np.zeros(shape)
    step[x] = eps
    for chain, fields in enumerate(phi):
        ends = [action_by_loops(field, fields + sign * step) for sign in (-1, 1)]
        slope = (ends[0] - ends[1]) / (2 * eps)
        assert layout.unpack(np.asarray(force)[None])[(chain, *x)] == pytest.approx(slope, rel=1e-7)


def test_couplings_do_not_compile_again():
    traces = []

    @jax.jit
    def force(field, phi):
        traces.append(field)
        return field.force(phi)

    found = [force(random_field((4, 4), seed), jnp.ones((4, 4)))[0, 0] for seed in (1, 2)]
    assert found[0] != found[1]
    assert len(traces) == 1


def test_sign_flips_are_declared_where_they_are_a_symmetry():
    phi = jnp.asarray(normal((4, 3)))
    for r in (0, 0.5):
        field = random_field((4, 3), r=r)
        field.check(2)
        assert field.z2 == bool(field(-phi) == field(phi)) == (r == 0)
    assert MarkovField.homogeneous(0.4, 1, 0.1, (4, 3)).z2
    assert not MarkovField.homogeneous(0.4, 1, 0.1, (4, 3), r=0.1).z2


@pytest.mark.parametrize("shape", SHAPES)
def test_the_statistics_are_the_derivatives_of_the_action_by_its_couplings(shape):
    field, phi = random_field(shape), normal(shape)
    slopes = jax.jit(jax.grad(lambda field: field(phi)))(field)
    found = MarkovField.statistics(phi[None])
    for name in COUPLINGS:
        np.testing.assert_allclose(found[name][0], getattr(slopes, name), rtol=0, atol=1e-13)


# Identities: the Markov field.


@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_of_the_link_potentials_is_the_weight(shape):
    field, phi = random_field(shape), normal(shape)
    potentials = log_potentials(field, phi)
    assert potentials.shape == (len(shape), *shape)
    assert float(jnp.sum(potentials)) == pytest.approx(-action_by_loops(field, phi), rel=1e-12)


def test_a_link_potential_depends_on_the_two_ends_of_the_link():
    field, phi = random_field((4, 5)), normal((4, 5))
    moved = phi.copy()
    moved[1, 2] += 1
    changed = np.asarray(log_potentials(field, moved) != log_potentials(field, phi))
    assert sorted(map(tuple, np.argwhere(changed))) == [(0, 0, 2), (0, 1, 2), (1, 1, 1), (1, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_conditional_is_the_ratio_of_joint_densities(shape):
    field, phi, x = random_field(shape), normal(shape), (1,) * len(shape)
    values = np.array([-1.3, 0.2, 2.1])
    joint = []
    for value in values:
        phi[x] = value
        joint.append(-action_by_loops(field, phi))
    found = np.asarray(conditional(field, phi, x, values))
    np.testing.assert_allclose(np.diff(found), np.diff(joint), rtol=1e-11)


def test_a_site_depends_on_its_neighbours_and_on_nothing_else():
    field, phi, values = random_field((4, 5)), normal((4, 5)), np.array([-1.0, 0.5, 2.0])
    before = np.asarray(conditional(field, phi, (0, 2), values))
    felt = set()
    for y in np.ndindex(phi.shape):
        other = phi.copy()
        other[y] += 1
        if not np.array_equal(conditional(field, other, (0, 2), values), before):
            felt.add(y)
    assert felt == {(1, 2), (3, 2), (0, 1), (0, 3)}


# Closed forms.


def modes(action, shape):
    """Eigenvalues of S'' of a free field."""
    h, a, _ = action.couplings()
    return 2 * a - 2 * len(shape) * h + h * Lattice(shape).p_hat_squared


def test_weights_between_free_fields_have_the_exact_divergence_and_partition_function():
    shape, (old, new) = (4, 6), (FreeField(0.5, 2), FreeField(0.6, 2))
    noise = np.fft.fftn(normal((20_000, *shape)), axes=(1, 2))
    cfgs = np.fft.ifftn(noise / np.sqrt(modes(old, shape)), axes=(1, 2)).real
    field = MarkovField.homogeneous(*old.couplings(), shape)
    log_w = log_weights(field, new, cfgs)
    ratio = modes(new, shape) / modes(old, shape)
    judged = reweight(log_w)
    assert abs(judged.log_z + 0.5 * np.log(ratio).sum()) < 4.5 * judged.log_z_error
    exact = 0.5 * np.sum(ratio - 1 - np.log(ratio))
    error = np.std(np.exp(log_w - judged.log_z) - log_w) / np.sqrt(len(log_w))
    assert abs(kl_divergence(log_w) - exact) < 4.5 * error
    assert 0 < 4.5 * error < 0.2 * exact


# Statistics with predicted errors.


def test_hmc_samples_two_sites_with_all_couplings_as_quadrature_does():
    field = MarkovField(
        *(np.array([[0.3, 0.2]]), np.array([0.4, 0.9]), np.array([0.1, 0.2])), np.array([-0.5, 0.3])
    )
    x = np.linspace(-7, 7, 701)
    weight = np.exp(-field.density(jnp.stack(jnp.meshgrid(x, x, indexing="ij"))).sum(axis=0))
    chains = run(
        *(jax.random.key(5), HMC(field), Lattice((2,))),
        n_chains=64,
        n_configs=1000,
        dtype="float64",
    )
    assert field.z2 is False
    cfgs = chains.cfgs.reshape(1000, 64, 2)
    observables = {
        "left": (cfgs[..., 0], x[:, None]),
        "right": (cfgs[..., 1], x[None]),
        "link": (cfgs[..., 0] * cfgs[..., 1], x[:, None] * x[None]),
        "square": (cfgs[..., 0] ** 2, x[:, None] ** 2),
    }
    for measured, values in observables.values():
        exact = float(np.sum(values * weight) / np.sum(weight))
        found = statistics.estimate(measured.T)
        assert abs(found.value - exact) < 4.5 * found.error < 0.25
    for name in ("exp_minus_dh", "schwinger_dyson"):
        found = statistics.estimate(chains.series(name))
        assert abs(found.value - 1) < 4.5 * found.error < 0.2


@pytest.mark.parametrize("seed", [1, 2])
def test_reweighting_to_a_neighbouring_action_gives_its_exact_values(seed):
    shape, exact = (4, 4), CASES["torus4x4_kappa_k=0.2_l=0.022"]["values"]
    field = MarkovField.homogeneous(0.36, 0.95, 0.03, shape)
    cfgs = sample(jax.random.key(seed), field, "hot", n_thermalise=200).astype(np.float64)
    log_w = log_weights(field, PHI4, cfgs)
    judged = reweight(log_w)
    assert judged.ess > 0.5 and judged.warning is None
    of = {
        "phi2": np.mean(cfgs**2, axis=(1, 2)),
        "phi4": np.mean(cfgs**4, axis=(1, 2)),
        "link": np.mean(cfgs * np.roll(cfgs, 1, 1), axis=(1, 2)),
        "M2": np.mean(cfgs, axis=(1, 2)) ** 2,
    }
    for name, values in of.items():
        found = statistics.estimate(series(values), log_weights=series(log_w))
        assert abs(found.value - exact[name][0]) < 4.5 * found.error
        assert found.error < 0.06 * exact[name][0]
    off = statistics.estimate(series(of["phi2"]))
    assert abs(off.value - exact["phi2"][0]) > 4.5 * off.error, "without weights it is another one"


# Errors.


def changed(name, x, value):
    field = random_field((4, 3), r=0)
    part = np.array(getattr(field, name))
    part[x] = value
    return replace(field, **{name: part})


@each(
    "field, message",
    [
        (random_field((4,)), r"in 2 dimensions needs h of shape \(2, \*L\) .* got {'h': \(1, 4\)"),
        (
            replace(random_field((4, 3)), r=np.zeros(3)),
            r"a, b and r of shape \(\*L\), got .*'r': \(3,\)",
        ),
        (changed("h", (1, 2, 0), np.inf), r"must be finite, got h\[1, 2, 0\] = inf"),
        (changed("b", (3, 1), -0.5), r"not bounded below: b must be >= 0, got b\[3, 1\] = -0.5"),
        (changed("r", (0, 1), 0.25), r"z2 = True needs r = 0 everywhere, got r\[0, 1\] = 0.25"),
        (
            MarkovField.homogeneous(-0.5, 1, 0, (4, 4)),
            r"where b = 0, a must be .*, 1, got a\[0, 0\] = 1",
        ),
    ],
)
def test_couplings_that_define_no_field_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        field.check(2)


def test_couplings_that_define_a_field_are_accepted():
    random_field((4, 3)).check(2)
    MarkovField.homogeneous(-0.5, 1.01, 0, (4, 4)).check(2)
