"""Couplings found in configurations are those that they were sampled with."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import each

import lattice_ml
from lattice_ml import HMC, FreeField, Langevin, Lattice, Phi4, action, infer_couplings
from lattice_ml.analysis import couplings, probes, terms
from lattice_ml.analysis.certificates import evidence
from lattice_ml.analysis.normal_equations import solve, split
from lattice_ml.analysis.terms import TERMS
from lattice_ml.chains.run import Chains

EXTENDED = ("link", "square", "quartic", "sextic", "diagonal", "distance_2")
PHI4 = action("kappa", 2, kappa=0.25, lam=0.022)


def chains(fields, theory=None, log_weight=None, **settings):
    """An ensemble of fields `(n_configs, n_chains, *L)`."""
    n_configs, n_chains, *shape = fields.shape
    histories = {"any": np.zeros((n_chains, n_configs))}
    cfgs = fields.reshape(-1, *shape)
    settings["log_weight"] = log_weight
    return Chains(theory, tuple(shape), 1, cfgs, histories, {}, **settings)


def noise(shape=(6, 6), n_chains=16, n_configs=8):
    """Chains of numbers that follow no action of ours."""
    return chains(np.random.default_rng(1).uniform(-2, 2, (n_configs, n_chains, *shape)))


def free_fields(seed, theory, shape, n_configs, n_chains, rho=0.0):
    """Free fields in equilibrium, phi' = rho phi + (1 - rho^2)^(1/2) eta."""
    white = np.random.default_rng(seed).standard_normal((n_configs, n_chains, *shape))
    modes = np.fft.fftn(white, axes=(-2, -1)) * np.sqrt(theory.propagator(Lattice(shape)))
    fields = np.fft.ifftn(modes, axes=(-2, -1)).real
    for t in range(1, n_configs):
        fields[t] = rho * fields[t - 1] + math.sqrt(1 - rho**2) * fields[t]
    return fields


def phi4_run(seed, theory=PHI4, shape=(8, 8), n_chains=32, n_configs=100, **settings):
    counts = {"n_chains": n_chains, "n_configs": n_configs, "n_thermalise": 100} | settings
    return lattice_ml.run(jax.random.key(seed), HMC(theory), Lattice(shape), **counts)


# ----------------------------------------------------------------------------- the terms


def totals(names, phi):
    """S_k of one configuration, by their definitions: `(n_terms,)`."""
    unit, axes = np.eye(phi.ndim, dtype=int), range(phi.ndim)
    diagonals = [m + s * n for m, n in itertools.combinations(unit, 2) for s in (1, -1)]
    pairs = {"link": unit, "distance_2": 2 * unit, "diagonal": diagonals}
    powers = {"source": 1, "square": 2, "quartic": 4, "sextic": 6}
    return jnp.stack(
        [
            jnp.sum(phi ** powers[name])
            if name in powers
            else -sum(jnp.sum(phi * jnp.roll(phi, -r, axes)) for r in pairs[name])
            for name in names
        ]
    )


@pytest.mark.parametrize("shape", [(5,), (2,), (2, 3), (2, 2), (4, 3, 2), (3, 2, 2, 2)], ids=str)
def test_gradients_and_laplacians_are_those_of_the_terms(shape):
    names = [name for name in TERMS if name != "diagonal" or len(shape) > 1]
    fields = np.random.default_rng(1).standard_normal((2, *shape))
    flat = fields.reshape(2, -1)
    slope = jax.jacrev(lambda x: totals(names, x.reshape(shape)))
    exact = jax.jit(jax.vmap(slope))(flat)
    np.testing.assert_allclose(terms.gradients(names, fields), exact, rtol=1e-12, atol=1e-12)
    curvature = jax.jit(jax.vmap(jax.jacfwd(slope)))(flat)  # (2, n_terms, V, V)
    exact = np.trace(curvature, axis1=2, axis2=3)
    np.testing.assert_allclose(terms.laplacians(names, fields), exact, rtol=1e-12, atol=1e-12)


def test_phi4_terms_make_its_force_on_double_links_too():
    fields = np.random.default_rng(1).standard_normal((3, 2, 4))
    found = np.einsum("k,nkx->nx", PHI4.couplings(), terms.gradients(couplings.PHI4, fields))
    exact = -jax.vmap(PHI4.force)(fields)
    np.testing.assert_allclose(found, exact.reshape(3, -1), rtol=1e-12)


# ------------------------------------------------------------------ the couplings, exactly


def test_equations_of_a_free_field_have_its_couplings_as_their_solution():
    """The averages are exact: one plane wave a configuration, with its variance times V."""
    lattice = Lattice((4, 6))
    waves, shell = probes.plane_waves(lattice)
    variances = lattice.volume / (0.5 + lattice.shells[0][shell])
    fields = (waves * np.sqrt(variances)[:, None]).reshape(-1, *lattice.shape)
    names = ("link", "square", "diagonal", "distance_2")
    mean = couplings._equations(names, fields).mean(axis=0)
    np.testing.assert_allclose(solve(mean, np.ones(4, bool)), [1, 2.25, 0, 0], atol=1e-12)


def test_least_squares_solves_the_equations_of_all_configurations():
    ensemble = noise()
    mean = couplings._equations(EXTENDED, ensemble.cfgs).mean(axis=0)
    found = infer_couplings(ensemble, terms=EXTENDED)
    np.testing.assert_allclose(found.values, np.linalg.solve(*split(mean)), rtol=1e-9)


# ------------------------------------------------------------------ pulls and their errors


@pytest.mark.parametrize(
    ("theory", "shape"),
    [
        (PHI4, (8, 8)),
        (action("kappa", 2, kappa=0.27, lam=0.022), (8, 8)),
        (action("kappa", 1, kappa=0.4, lam=1.0), (12,)),
        (action("standard", 3, mass_squared=-0.5, g=0.5), (2, 4, 3)),
    ],
    ids=["symmetric", "near criticality", "chain", "3d with an extent of 2"],
)
def test_couplings_of_phi4_are_found_within_errors(theory, shape):
    ensembles = [phi4_run(seed, theory, shape, n_configs=200) for seed in (1, 2)]
    for found in map(infer_couplings, ensembles):
        np.testing.assert_allclose(found.expected, theory.couplings())
        assert np.all(np.abs(found.values - found.expected) < 4.5 * found.errors)
        assert found.agreement().p_value > 1e-5
        assert found.errors[0] < 0.03 * found.values[0]


@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_errors_are_those_of_replicas(rho):
    """Two couplings in 150 replicas of 8 chains: with rho = 0.95 they have tau_int = 9.8."""
    theory = FreeField(0.5, 2)
    fields = free_fields(1, theory, (4, 4), 300, 1200, rho)
    found = [
        infer_couplings(chains(fields[:, 8 * i : 8 * i + 8], theory), terms=("link", "square"))
        for i in range(150)
    ]
    pulls = np.array([(f.values - f.expected) / f.errors for f in found])
    assert np.all(np.abs(pulls.mean(axis=0)) < 4.5 / math.sqrt(150))
    assert np.all(np.abs(pulls.var(axis=0) - 1) < 4.5 * math.sqrt(2 / 150))
    p_values = [f.agreement().p_value for f in found]
    assert abs(np.mean(p_values) - 0.5) < 4.5 / math.sqrt(12 * 150)


def test_weights_lead_to_the_couplings_of_the_target():
    """From m^2 = 0.5 to 0.6: log w = -0.05 sum phi^2."""
    old, new = FreeField(0.5, 2), FreeField(0.6, 2)
    fields = free_fields(2, old, (4, 4), 400, 32)
    log_weight = 1000 - 0.05 * np.sum(fields**2, axis=(2, 3)).T
    ensemble = chains(fields, new, log_weight)
    found = infer_couplings(ensemble, terms=("link", "square"))
    assert np.all(np.abs(found.values - [1, 2.3]) < 4.5 * found.errors)
    assert found.agreement().p_value > 1e-5
    plain = infer_couplings(ensemble, terms=("link", "square"), weights=False)
    assert np.all(np.abs(plain.values - [1, 2.25]) < 4.5 * plain.errors)
    assert plain.agreement().p_value < 1e-5


def test_a_temperature_divides_the_couplings():
    fields = free_fields(3, FreeField(0.5, 2), (4, 4), 100, 32) * math.sqrt(0.5)
    told = chains(fields, FreeField(0.5, 2), temperature=0.5)
    found = infer_couplings(told, terms=("link", "square"))
    np.testing.assert_allclose(found.expected, [2, 4.5])
    assert np.all(np.abs(found.values - found.expected) < 4.5 * found.errors)
    untold = infer_couplings(replace(told, temperature=1.0), terms=("link", "square"))
    assert untold.agreement().p_value < 1e-9


def test_langevin_at_a_finite_step_has_the_couplings_of_its_own_action():
    """Euler samples a free kernel w as w - eps w^2 / 2: diagonals and pairs two steps apart."""
    free, eps = FreeField(0.5, 2), 0.1
    sampler = Langevin(free, step_size=eps, trajectory_length=2.0, scheme="euler")
    settings = {"n_chains": 32, "n_configs": 200, "n_thermalise": 40, "dtype": "float64"}
    ensemble = lattice_ml.run(jax.random.key(1), sampler, Lattice((8, 8)), **settings)
    found = infer_couplings(ensemble, terms=("link", "square", "diagonal", "distance_2"))
    exact = [1 - 4.5 * eps, 2.25 - (4.5**2 + 4) * eps / 4, eps, eps / 2]
    assert np.all(np.abs(found.values - exact) < 4.5 * found.errors)
    assert np.all(found.values[2:] > 10 * found.errors[2:])
    assert found.agreement().p_value < 1e-9  # it is not what the action says


def test_reading_in_small_pieces_changes_nothing(monkeypatch):
    ensemble = noise()
    whole = infer_couplings(ensemble)
    monkeypatch.setattr(evidence, "_PIECE_BYTES", 5 * 8 * 36)
    np.testing.assert_allclose(infer_couplings(ensemble).left_out, whole.left_out, rtol=1e-12)


# ----------------------------------------------------------------------- ridge and lasso


def test_ridge_has_its_closed_form_and_ends_at_least_squares():
    ensemble = noise()
    matrix, vector = split(couplings._equations(EXTENDED, ensemble.cfgs).mean(axis=0))
    found = infer_couplings(ensemble, terms=EXTENDED, method="ridge", penalty=0.3)
    exact = np.linalg.solve(matrix + 0.3 * np.diag(np.diag(matrix)), vector)
    np.testing.assert_allclose(found.values, exact, rtol=1e-9)
    plain = infer_couplings(ensemble, terms=EXTENDED)
    shift = [
        infer_couplings(ensemble, terms=EXTENDED, method="ridge", penalty=p).values - plain.values
        for p in (1e-6, 1e-7, 0)
    ]
    np.testing.assert_allclose(shift[0], 10 * shift[1], rtol=1e-3)
    np.testing.assert_allclose(shift[2], 0, atol=1e-12)


def test_ridge_shares_a_coupling_among_terms_that_are_one():
    """Along extents of 3 two steps are one step back: distance_2 and link are the same."""
    ensemble = chains(free_fields(5, FreeField(0.5, 2), (3, 3), 100, 32))
    found = infer_couplings(ensemble, terms=("link", "square", "distance_2"), method="ridge")
    assert 0 < found.penalty < 1e-2
    assert found["link"] == pytest.approx(found["distance_2"])
    assert abs(found["link"][0] - 0.5) < 4.5 * found["link"][1]


@pytest.mark.parametrize("seed", [1, 2])
def test_lasso_finds_which_terms_an_action_has(seed):
    ensemble = phi4_run(seed, n_configs=200)
    found = infer_couplings(ensemble, terms=EXTENDED, method="lasso")
    assert found.terms == couplings.PHI4
    assert found.penalty > 0
    refit = infer_couplings(ensemble)
    np.testing.assert_allclose(found.values, refit.values, atol=1e-3 * refit.errors[0])
    assert found.agreement().p_value > 1e-5
    given = infer_couplings(ensemble, terms=EXTENDED, method="lasso", penalty=found.penalty)
    np.testing.assert_array_equal(given.values, found.values)


def test_lasso_finds_a_term_that_an_action_did_not_name():
    """A free field with diagonal links of its own, S = phi (m^2 + p_hat^2 + ...) phi / 2."""
    random = np.random.default_rng(4)
    p, q = Lattice((6, 6)).momenta()
    kernel = 4.5 - 2 * (np.cos(p) + np.cos(q)) - 4 * 0.1 * np.cos(p) * np.cos(q)
    white = random.standard_normal((200, 32, 6, 6))
    fields = np.fft.ifft2(np.fft.fft2(white) / np.sqrt(kernel)).real
    found = infer_couplings(chains(fields), terms=EXTENDED, method="lasso")
    assert found.terms == ("link", "square", "diagonal")
    assert np.all(np.abs(found.values - [1, 2.25, 0.1]) < 4.5 * found.errors)


# ---------------------------------------------------------------- conventions, table, refusals


def synthetic(values, expected=None, names=couplings.PHI4, n=40):
    """Couplings with the errors 0.001 (h), 0.002 (a), 0.0005 (b), and some correlation."""
    random = np.random.default_rng(1)
    change = random.standard_normal((n, 3)) @ [[1.0, 0.5, 0], [0, 1, 0.3], [0, 0, 1]]
    left_out = values + change * [0.001, 0.002, 0.0005] / n
    return couplings.Couplings(names, np.asarray(values), left_out, expected, 2)


@each("convention", ["kappa", "beta", "standard", "standard24", "nohalf"])
def test_parameters_of_a_convention_have_propagated_errors(convention):
    found = synthetic([0.9, 1.7, 0.3])
    read = found.named(convention)

    def parameters(values):
        scaled, _ = lattice_ml.convert(Phi4(*map(float, values)), convention, 2)
        return list(lattice_ml.actions.conventions.parameters(scaled, convention, 2).values())

    centre = parameters(found.values)
    step = 1e-6 * np.eye(3)
    pairs = [(parameters(found.values + e), parameters(found.values - e)) for e in step]
    jacobian = np.array([(np.array(up) - down) / 2e-6 for up, down in pairs])
    errors = np.sqrt(np.diag(jacobian.T @ found.covariance @ jacobian))
    np.testing.assert_allclose([value for value, _ in read.values()], centre, rtol=1e-12)
    np.testing.assert_allclose([error for _, error in read.values()], errors, rtol=1e-3)


def test_kappa_and_lam_of_a_standard_theory():
    """kappa = h s^2 / 2 and lam = b s^4 with s^2 = (sqrt(a^2 + 8 b) - a) / (4 b)."""
    s = (math.sqrt(1.7**2 + 8 * 0.3) - 1.7) / (4 * 0.3)
    read = synthetic([0.9, 1.7, 0.3]).named()
    assert read["kappa"][0] == pytest.approx(0.9 * s / 2)
    assert read["lam"][0] == pytest.approx(0.3 * s**2)


def test_agreement_is_that_of_the_covariance():
    found = synthetic(np.array([0.501, 0.951, 0.02]), np.array([0.5, 0.95, 0.02]))
    away = found.values - found.expected
    assert found.agreement().chi2 == pytest.approx(away @ np.linalg.solve(found.covariance, away))


def test_the_table_shows_the_couplings_of_the_action():
    found = synthetic(np.array([0.5, 0.95, 0.02]), np.array([0.5, 0.95, 0.02]))
    lines = str(found).splitlines()
    assert lines[0].split() == ["term", "coupling", "error", "action", "pull"]
    assert lines[1].split()[::2] == ["link", f"{found.errors[0]:.2g}", "0.0"]
    assert lines[1].split()[1] == lines[1].split()[3] == "0.5"
    assert lines[4] == "against the action: chi2 = 0.0 of 3 (p = 1)"
    unknown = str(replace(found, expected=None)).splitlines()
    assert len(unknown) == 4
    assert unknown[0].split() == ["term", "coupling", "error"]
    assert replace(found, expected=None).agreement() is None


def test_what_makes_no_sense_is_refused():
    ensemble = noise()
    with pytest.raises(ValueError, match="unknown term: quadratic; did you mean quartic"):
        infer_couplings(ensemble, terms=("link", "quadratic"))
    with pytest.raises(ValueError, match=r"once each, got \('link', 'link'\)"):
        infer_couplings(ensemble, terms=("link", "link"))
    with pytest.raises(ValueError, match=r"name some of link, .* got \(\)"):
        infer_couplings(ensemble, terms=())
    with pytest.raises(ValueError, match="unknown method: laso; did you mean lasso"):
        infer_couplings(ensemble, method="laso")
    for method, penalty in (("least_squares", 0.1), ("lasso", -1.0), ("ridge", math.nan)):
        with pytest.raises(ValueError, match="a penalty >= 0 belongs to ridge or lasso"):
            infer_couplings(ensemble, method=method, penalty=penalty)
    with pytest.raises(ValueError, match="no term is left at a penalty of 1e"):
        infer_couplings(ensemble, method="lasso", penalty=1e9)


def test_ensembles_that_do_not_suffice_are_refused():
    with pytest.raises(ValueError, match=r"3 couplings need 8 independent stretches .* got 5"):
        infer_couplings(noise(n_chains=5))
    with pytest.raises(ValueError, match=r"6 couplings need 13 independent stretches .* got 8"):
        infer_couplings(noise(n_chains=8), terms=EXTENDED)
    small = noise((3, 3))
    with pytest.raises(ValueError, match="linearly dependent: link, distance_2; leave one out"):
        infer_couplings(small, terms=EXTENDED)
    chain = noise((6,))
    with pytest.raises(ValueError, match=r"diagonal is zero on a lattice of shape \(6,\)"):
        infer_couplings(chain, terms=("link", "square", "diagonal"))
    small.cfgs[5 * 16 + 7, 2, 1] = math.nan
    with pytest.raises(ValueError, match="configuration 5 of chain 7 is not finite"):
        infer_couplings(small)


def test_what_a_convention_cannot_say_is_refused():
    with pytest.raises(ValueError, match="square, quartic only, but there is sextic too"):
        synthetic([0.5, 1.0, 0.1], names=("link", "square", "sextic")).named()
    with pytest.raises(ValueError, match="'kappa' needs b > 0, or a > 0"):
        synthetic([0.5, 1.0, -0.2]).named()
    with pytest.raises(ValueError, match="positive hopping term"):
        synthetic([-0.5, 1.0, 0.2]).named("standard")
