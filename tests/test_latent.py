"""Chains that propose samples of a flow: exact values, resume, what is refused."""

from dataclasses import dataclass

import numpy as np
import pytest
from flows import flow_model, kappa
from references import CASES

from lattice_ml import measure
from lattice_ml.jobs import latent
from lattice_ml.jobs.job import SamplingJob
from lattice_ml.jobs.sample import sample, summary
from lattice_ml.models.drawer import Drawer
from lattice_ml.models.flow.drawer import FlowDrawer
from lattice_ml.models.flow.sections import FlowSamplingSection
from lattice_ml.runtime.session import Interrupted

EXACT = ("phi2", "phi4", "m2", "m4")
BATCH = 64


def chains(model, out, n_steps, batch_size=BATCH, n_updates=1, **options):
    job = SamplingJob.of(model, FlowSamplingSection(batch_size, n_updates))
    n = n_steps * batch_size
    return sample(job, model, out, n_samples=n, correct="latent", **options)


def pulls(ensemble, value, lam):
    """How many errors the means are off."""
    exact, found = CASES[f"torus4x4_kappa_k={value}_l={lam}"]["values"], measure(ensemble)
    wanted = [exact[{"m2": "M2", "m4": "M4"}.get(name, name)][0] for name in EXACT]
    each = zip(EXACT, wanted, strict=True)
    return np.array([(found[name].value - value) / found[name].error for name, value in each])


@pytest.mark.parametrize(("value", "lam"), [(0.2, 0.022), (0.3, 0.5)])
def test_a_bad_flow_gives_the_exact_values(value, lam, tmp_path):
    model = flow_model((4, 4), kappa(value, lam))
    ensemble = chains(model, tmp_path / "chains", 500)
    assert (ensemble.n_chains, ensemble.n_configs) == (BATCH, 500)
    assert ensemble.log_weight is None
    assert 0.05 < ensemble.series("acceptance").mean() < 0.5  # bad, but proposals count
    assert np.abs(pulls(ensemble, value, lam)).max() < 4
    assert "tau_int of M^2" in summary(ensemble)[0]


@dataclass(frozen=True)
class Wrong:
    """A program whose log density is wrong by a factor."""

    program: object
    factor: float

    def __call__(self, given, key):
        drawn = self.program(given, key)
        return drawn._replace(log_prob=self.factor * drawn.log_prob)

    def log_prob(self, given, fields):
        return self.factor * self.program.log_prob(given, fields)


def test_a_wrong_density_is_found(monkeypatch, tmp_path):
    own = FlowDrawer.program.fget
    monkeypatch.setattr(
        FlowDrawer, "program", property(lambda drawer: (Wrong(own(drawer)[0], 1.3), own(drawer)[1]))
    )
    model = flow_model((4, 4), kappa(0.3, 0.5))
    assert np.abs(pulls(chains(model, tmp_path / "chains", 500), 0.3, 0.5)).max() > 6


def test_chains_go_on_with_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setattr(latent.LatentUnits, "per_shard", 1)
    model = flow_model((4, 4), kappa(0.3, 0.5))
    whole = chains(model, tmp_path / "whole", 3)
    with pytest.raises(Interrupted):
        chains(model, tmp_path / "part", 3, time_limit=1e-9)
    chains(model, tmp_path / "longer", 2)
    for name in ("part", "longer"):
        again = chains(model, tmp_path / name, 3)
        assert again.tuned == whole.tuned
        assert np.array_equal(again.cfgs[:], whole.cfgs[:])
        assert all(np.array_equal(again.series(h), whole.series(h)) for h in whole.history)


def test_a_single_walker_is_a_chain(tmp_path):
    model = flow_model((4, 4), kappa(0.2, 0.022))
    ensemble = chains(model, tmp_path / "chain", 3, batch_size=1)
    assert (ensemble.n_chains, ensemble.n_configs) == (1, 3)


def test_start_tuning_and_steps_share_no_numbers():
    pool = set(range(latent._START_STREAM - latent._POOL, latent._START_STREAM))
    assert latent._TUNING_STREAM not in pool and min(pool) > 2**31
    assert max(*pool, latent._START_STREAM, latent._TUNING_STREAM) < 2**32 - 2


def test_drawers_without_a_cheap_density_of_fields_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(FlowDrawer, "program", Drawer.program)
    with pytest.raises(ValueError, match="cannot correct by latent: chains need the density"):
        chains(flow_model((4, 4), kappa(0.2, 0.022)), tmp_path / "none", 1)


def test_one_dimension_moves_by_hmc_alone(tmp_path):
    exact = CASES["chain_kappa_k=0.5_l=0.5_N=10"]["values"]["phi2"][0]
    model = flow_model((10,), kappa(0.5, 0.5, 1))
    found = measure(chains(model, tmp_path / "chain", 300))["phi2"]
    assert abs(found.value - exact) < 4 * found.error
