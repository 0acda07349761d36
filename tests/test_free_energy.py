"""log Z by thermodynamic integration on exact tori, by weights, and what an error of it costs."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from references import CASES

from lattice_ml.actions import conventions
from lattice_ml.analysis.exact import exact
from lattice_ml.benches import free_energy, plans, thermodynamic
from lattice_ml.benches.free_energy import Found, cheaper_below, pulls
from lattice_ml.benches.record import Number
from lattice_ml.benches.thermodynamic import best_spread, gauss_legendre, integrate
from lattice_ml.benches.timing import Samples
from lattice_ml.fields.lattice import Lattice

pytestmark = pytest.mark.unoptimised


def theory(kappa, lam, ndim=2):
    return conventions.action("kappa", ndim, kappa=kappa, lam=lam)


# Thermodynamic integration


def test_nodes_on_pieces_integrate_polynomials_exactly():
    nodes, weights = gauss_legendre([0.0, 0.3, 0.5], 3)
    assert np.all(np.diff(nodes) > 0) and len(nodes) == len(weights) == 6
    for power in range(6):
        assert np.sum(weights * nodes**power) == pytest.approx(0.5 ** (power + 1) / (power + 1))


@pytest.mark.parametrize(
    ("case", "kappa", "lam", "cuts"),
    [
        ("torus4x4_kappa_k=0.2_l=0.022", 0.2, 0.022, []),
        ("torus4x4_kappa_k=0.3_l=0.5", 0.3, 0.5, [0.3]),
    ],
)
def test_chains_integrate_to_the_exact_log_z_of_a_torus(case, kappa, lam, cuts):
    counts = {"n_chains": 64, "n_configs": 400, "n_thermalise": 40}
    place = jax.random.key(5), theory(kappa, lam), Lattice((4, 4))
    found = integrate(*place, n_nodes=6, cuts=cuts, **counts)
    (known, _), log_z = CASES[case]["values"]["lnZ"], found.log_z
    assert abs(log_z.value - known) < 4.5 * log_z.error < 4.5 * 0.015
    assert found.warm_up > 0 and found.cost.error < 0.1 * found.cost.value


def test_values_errors_and_costs_are_those_of_the_nodes(monkeypatch):
    """A chain of 8 sites, exact at every node; white noise, which gets louder along the way."""
    action, lattice, starts = theory(0.3, 0.1, 1), Lattice((8,)), []
    n_chains, n_configs, rate = 16, 500, 2000.0

    def chains(key, sampler, lattice, *, start, n_chains, n_configs, n_thermalise):
        starts.append(start)
        h = float(sampler.action.h)
        noise = np.random.default_rng(len(starts)).normal(size=(n_chains, n_configs))
        noise = (noise - noise.mean()) / noise.std()  # so that all errors are the same
        link_sum = exact(sampler.action, (8,)).values["link_sum"] + (1 + h) * noise
        return Samples(lattice, {"link_sum": link_sum}, Number(rate), fields=np.array([h]))

    monkeypatch.setattr(thermodynamic, "timed_chains", chains)
    counts = {"n_chains": n_chains, "n_configs": n_configs, "n_thermalise": 50}
    found = integrate(jax.random.key(1), action, lattice, n_nodes=8, **counts)
    assert found.log_z.value == pytest.approx(exact(action, (8,)).log_z, abs=1e-6)
    nodes, weights = gauss_legendre([0.0, 0.6], 8)
    scatter = 8 * weights * (1 + nodes)  # of one configuration
    error = math.sqrt(np.sum(scatter**2) / (n_chains * n_configs))
    assert found.log_z.error == pytest.approx(error, rel=0.1)
    assert found.cost.value == pytest.approx(np.sum(scatter) ** 2 / rate, rel=0.1)
    assert found.cost.value < found.log_z.error**2 * 8 * n_chains * n_configs / rate
    assert found.warm_up == pytest.approx(8 * 50 * n_chains / rate)
    assert starts[0] == "cold" and np.array(starts[1:]).ravel() == pytest.approx(nodes[:0:-1])


def test_seconds_are_spread_over_the_nodes_in_the_best_way():
    roots = np.array([0.2, 1.0, 0.5])
    found = best_spread([Number(root, 0.1 * root) for root in roots])
    random = np.random.default_rng(1).dirichlet([2.0, 2.0, 2.0], 20000)  # of one second
    assert found.value <= np.sum(roots**2 / random, axis=1).min() < 1.01 * found.value
    draws = roots * (1 + 0.1 * np.random.default_rng(2).normal(size=(20000, 3)))
    assert found.error == pytest.approx(np.std(np.sum(draws, axis=1) ** 2), rel=0.05)


def test_an_integral_is_refined_by_more_nodes_on_the_same_pieces(monkeypatch):
    asked = []

    def integral(key, action, lattice, *, n_nodes, cuts, **counts):
        asked.append((cuts, counts))
        log_z = Number(7.0 + n_nodes, 0.1 * n_nodes)
        return thermodynamic.Integral(log_z, Number(n_nodes), 2.0)

    monkeypatch.setattr(thermodynamic, "integrate", integral)
    settings = plans.load("free_energy", "toy").settings
    settings = type(settings)(**vars(settings) | {"cuts": (0.1, 0.2), "n_nodes": 3})
    task = free_energy.Task(None, None, jax.random.key(1), settings, None)
    found = free_energy.METHODS["thermodynamic"](task)
    assert found.log_z == pytest.approx((10.0, 0.3)) and found.cost.value == 3
    assert found.before == 2.0 and found.doubt is None
    assert found.refined == pytest.approx((3.0, math.hypot(0.3, 0.6)))
    counts = {"n_chains": 16, "n_configs": 200, "n_thermalise": 20}
    assert asked == 2 * [([0.2, 0.4], counts)]


# Weighted models


def test_weights_have_a_log_z_and_a_cost_with_the_error_of_independent_draws():
    """Log-normal weights: log <w> = mean + s^2/2 and n error^2 = exp(s^2) - 1."""
    rng, n, s, rate = np.random.default_rng(3), 20000, 0.3, 500.0
    samples = Samples(
        Lattice((4, 4)), {}, Number(rate), log_weights=7.0 + s * rng.normal(size=(1, n))
    )
    change = 0.01 + 0.02 * rng.normal(size=64)
    asked = []

    class Maker:
        def make(self, name, recipe):
            asked.append((name, recipe.n_samples))
            return SimpleNamespace(samples=samples, training_seconds=9.0, log_w_change=change)

    settings = plans.load("free_energy", "toy").settings
    task = free_energy.Task(theory(0.2, 0.022), Lattice((4, 4)), None, settings, Maker())
    found = free_energy.METHODS["diffusion_shallow"](task)
    variance = math.expm1(s * s)
    assert asked == [("diffusion_shallow", settings.n_samples)]
    assert abs(found.log_z.value - 7 - s * s / 2) < 4.5 * found.log_z.error
    assert found.log_z.error == pytest.approx(math.sqrt(variance / n), rel=0.05)
    assert found.cost.value == pytest.approx(variance / rate, rel=0.1)
    assert found.cost.error < 0.1 * found.cost.value
    assert found.before == 9.0 and found.doubt is None
    assert found.refined == pytest.approx((change.mean(), change.std(ddof=1) / 8))


# What is said of them


def test_a_value_is_judged_by_the_mean_of_the_others():
    (first, second, _) = pulls([Number(1.0, 0.3), Number(2.0, 0.4), Number(2.0, 0.4)])
    assert first == pytest.approx(-1 / math.hypot(0.3, 0.4 / math.sqrt(2)))
    mean = (1 / 0.09 + 2 / 0.16) / (1 / 0.09 + 1 / 0.16)
    assert second == pytest.approx((2 - mean) / math.sqrt(0.16 + 1 / (1 / 0.09 + 1 / 0.16)))
    assert pulls([Number(1.0, 0.1)]) == [None]
    errors = np.array([0.1, 1.0, 0.3])
    draws = 5 + errors * np.random.default_rng(4).normal(size=(4000, 3))
    z = [pulls([Number(*one) for one in zip(x, errors, strict=True)]) for x in draws]
    assert np.std(z, axis=0) == pytest.approx([1.0] * 3, abs=4.5 / math.sqrt(8000))


def test_a_training_pays_below_the_error_at_which_both_ways_cost_the_same():
    def method(before, cost):
        return Found(Number(0.0, 0.1), before, Number(cost), None)

    rival = method(1.0, 0.09)
    error = cheaper_below(method(5.0, 0.01), rival)
    assert 5.0 + 0.01 / error**2 == pytest.approx(1.0 + 0.09 / error**2)
    assert cheaper_below(method(5.0, 0.09), rival) == "never"
    assert cheaper_below(method(0.5, 0.01), rival) == "any"
    assert cheaper_below(rival, None) is None


def test_a_run_has_a_row_for_every_method_and_a_figure_for_every_lattice(monkeypatch):
    plan = plans.load("free_energy", "toy")
    made = {
        "thermodynamic": Found(Number(9.0, 0.3), 1.0, Number(0.09), Number(0.1, 0.2)),
        "flow": Found(Number(8.5, 0.4), 5.0, Number(0.01, 0.001), None, "too few"),
    }
    monkeypatch.setattr(
        free_energy, "METHODS", {n: lambda task, n=n: made[n] for n in (*made, "absent")}
    )
    settings = type(plan.settings)(**vars(plan.settings) | {"methods": tuple(made)})
    result = plan.module.run(settings, 1)
    assert [(row["extent"], row["method"]) for row in result.rows] == [(4, n) for n in made]
    integral, flow = result.rows
    assert flow["seconds"] == pytest.approx((100.0, 10.0)) and flow["before"] == 5.0
    assert integral["z"] == -flow["z"] == pytest.approx(1.0)
    assert integral["break_even"] is None
    assert flow["break_even"] == pytest.approx(math.sqrt(0.08 / 4))
    assert result.notes[-1] == "L = 4, flow: too few"
    pytest.importorskip("matplotlib")
    assert [name for name, _, _ in plan.module.draw(result)] == ["free_energy_4"]
