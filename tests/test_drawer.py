"""`sample` knows of a model's drawer its contract alone: any kind of model will do."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from lattice_ml.jobs import config
from lattice_ml.jobs import sample as sampling
from lattice_ml.models.drawer import Drawer, Drawn
from lattice_ml.statistics import reweight

pytestmark = pytest.mark.unoptimised

FREE = {"kind": "FreeField", "mass_squared": 2.0}
WORDS = ["--action.kind", "FreeField", "--action.mass-squared", "2.0", "--lattice.shape", "4", "4"]


class Normals(Drawer):
    """Independent normals of variance 1/4 on 4 x 4, not far from a heavy free field."""

    shape = (4, 4)
    batch_size, most, work = 16, 8, 1e3
    density, unweighted = True, ""
    settings = MappingProxyType({"method": "direct", "n_steps": 1, "batch_size": 16})

    def draw(self, first, count):
        draws = [np.random.default_rng(first + i).normal(size=(16, 4, 4)) for i in range(count)]
        fields = np.concatenate(draws).astype(np.float32) / 2
        return Drawn(fields, self.log_prob(fields), None)

    def log_prob(self, fields):
        return -2 * np.sum(np.float64(fields) ** 2, axis=(1, 2)) - 8 * np.log(2 * np.pi / 4)


class Blind(Normals):
    """The same without a density."""

    density, unweighted = False, "normals of a blind drawer have no density"

    def draw(self, first, count):
        return super().draw(first, count)._replace(log_prob=None)


def sample(drawer, out, **settings):
    stage = SimpleNamespace(shape=(4, 4), actions=(FREE,))
    model = SimpleNamespace(
        config={"model": {"kind": "Normals"}},
        stages=(stage,),
        hash="0" * 64,
        directory="memory",
        drawer=lambda *asked: drawer,
    )
    job = config.parse_sampling(WORDS, kind="GaussianRBM")
    return sampling.sample(job, model, out, **{"n_samples": 2000, **settings})


def test_any_drawer_with_a_density_is_reweighted_to_the_exact_log_z(tmp_path):
    made = sample(Normals(), tmp_path, correct="reweight")
    eigenvalues = 2 + sum(np.meshgrid(*[4 * np.sin(np.pi * np.arange(4) / 4) ** 2] * 2))
    exact = 0.5 * np.sum(np.log(2 * np.pi / eigenvalues))
    worth = reweight(made.log_weight)
    assert worth.warning is None and abs(worth.log_z - exact) < 4.5 * worth.log_z_error
    assert worth.log_z_error < 0.1
    assert made.manifest["tuned"] == {} and not (tmp_path / "film.html").exists()
    assert made.config["sampler"] == {"kind": "Normals"}


def test_a_complete_run_without_steps_is_left_alone(tmp_path):
    sample(Normals(), tmp_path)
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    sample(Normals(), tmp_path)
    assert before == (tmp_path / "manifest.json").stat().st_mtime_ns


def test_a_drawer_says_why_its_samples_cannot_be_corrected(tmp_path):
    with pytest.raises(ValueError, match="by metropolis: normals of a blind drawer have no dens"):
        sample(Blind(), tmp_path, correct="metropolis")
    made = sample(Blind(), tmp_path)
    assert made.log_prob is None and made.log_weight is None
