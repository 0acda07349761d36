"""Signs of clusters: closed forms, equilibrium, and domain walls that no other test sees."""

from dataclasses import replace

import numpy as np
import pytest

import lattice_ml
from lattice_ml import FreeField
from lattice_ml.analysis.certificates import check, cluster_signs
from lattice_ml.chains.run import Chains

RNG = np.random.default_rng(5)


def chains(action, cfgs):
    """An ensemble of configurations `(n_configs, n_chains, *L)`."""
    magnetisation = cfgs.reshape(*cfgs.shape[:2], -1).mean(axis=2).T
    flat = cfgs.reshape(-1, *cfgs.shape[2:])
    return Chains(action, cfgs.shape[2:], 1, flat, {"magnetisation": magnetisation}, {})


def phi4(kappa, ndim=2):
    return lattice_ml.action("kappa", ndim, kappa=kappa, lam=0.022)


def difference(coupling, fields):
    return cluster_signs._differences(fields, coupling, np.random.default_rng(1))


def certificate(ensemble, name="cluster_signs"):
    return next(c for c in check(ensemble) if c.name == name)


def test_without_bonds_every_site_is_a_cluster():
    fields = RNG.standard_normal((5, 4, 3, 2))
    alone = np.mean(fields, axis=(1, 2, 3)) ** 2 - np.sum(fields**2, axis=(1, 2, 3)) / 24**2
    np.testing.assert_allclose(difference(0.0, fields), alone, rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_with_all_bonds_every_domain_is_a_cluster_around_the_boundary_too(axis):
    """Of stripes of 2 and 4 rows, the wider goes around the boundary."""
    stripes = np.where(np.isin(np.arange(6), (2, 3)), -2.0, 3.0)[:, None] * np.ones((6, 6))
    fields = np.moveaxis(stripes, 0, axis)[None]
    m = fields.mean()
    np.testing.assert_allclose(difference(1e9, fields), m**2 - 2.0**2 - (2 / 3) ** 2)
    np.testing.assert_allclose(difference(-1e9, fields), difference(-1e9, -fields))


def test_an_antiferromagnet_is_seen_as_well_as_the_ferromagnet_that_it_maps_to():
    fields = RNG.standard_normal((20, 4, 6)) + 1
    turned = fields * (1 - 2 * (np.indices((4, 6)).sum(axis=0) % 2))
    np.testing.assert_allclose(difference(-0.7, turned), difference(0.7, fields), rtol=1e-12)


def test_the_mean_over_bonds_and_signs_is_zero_on_two_sites():
    """All signs of two fixed |phi|, weighted as exp(-S) weighs them: two links join the sites."""
    size, coupling = np.array([1.0, 0.7]), 0.8
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    weights = np.exp(coupling * np.prod(signs * size, axis=1))  # h phi phi' of both links
    fields = np.repeat(signs * size, 20000, axis=0)
    found = difference(coupling, fields).reshape(4, -1).mean(axis=1)
    assert abs(np.sum(weights * found) / weights.sum()) < 4.5 * 0.35 / np.sqrt(80000)
    assert np.sum(weights * found * [1, 0, 0, 1]) > 0.1, "it is not zero term by term"


def test_stripes_in_every_chain_are_seen_where_nothing_else_sees_them():
    """One chain suffices: single sites have local equilibrium, and nothing drifts."""
    stripe = np.where(np.arange(16) < 8, 4.8, -4.8)[:, None] * np.ones((16, 16))
    for n_chains, n_configs in ((1, 200), (32, 20)):
        noise = RNG.normal(0, 0.4, (n_configs, n_chains, 16, 16))
        walls = chains(phi4(0.5), stripe + noise)
        assert certificate(walls).verdict == "fail"
        assert certificate(chains(phi4(0.5), 4.8 + noise)).verdict == "pass"


def test_some_configurations_of_a_long_run_are_looked_at(monkeypatch):
    cfgs = RNG.standard_normal((50, 16, 8, 8))
    ensemble = chains(FreeField(0.1, 2), cfgs)
    whole = cluster_signs.measure(ensemble, 1.0)
    assert whole.difference.shape == (16, 50)
    monkeypatch.setattr(cluster_signs, "_SITES", 16 * 64 * 8)
    some = cluster_signs.measure(ensemble, 1.0)
    assert some.difference.shape == (16, 8)
    assert (some.configs[0], some.configs[-1]) == (0, 49)
    means = cfgs[some.configs].mean(axis=(2, 3)).T
    assert np.all(some.difference < means**2)
    monkeypatch.setattr(cluster_signs, "_MOST_SITES", 64)
    assert cluster_signs.measure(ensemble, 1.0) is None, "too large"


def test_temperature_and_weights_count():
    ensemble = chains(phi4(0.3), RNG.standard_normal((40, 8, 4, 4)))
    cold, hot = (cluster_signs.measure(ensemble, t).difference.mean() for t in (0.1, 10.0))
    assert cold < hot - 0.01
    log_weight = np.where(np.arange(40) % 2, 0.0, -50.0) * np.ones((8, 1))
    mean = float(certificate(replace(ensemble, log_weight=log_weight)).value.split()[2])
    bonds = cluster_signs.measure(ensemble, 1.0).difference[:, 1::2].mean()
    assert mean == pytest.approx(bonds, rel=1e-4)


def test_a_single_chain_of_a_large_lattice_is_judged(monkeypatch):
    """As many configurations as a chain needs to be judged, though it takes more sites."""
    cfgs = RNG.standard_normal((400, 1, 8, 8))
    monkeypatch.setattr(cluster_signs, "_SITES", 10 * 64)
    assert certificate(chains(phi4(0.0), cfgs)).verdict != "undecided"
