"""A sampler of one's own in a config: a class and a row of `samplers.kinds.KINDS`, nothing else."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml import cli, open_ensemble, pytree
from lattice_ml.actions import Action, difference
from lattice_ml.fields import randomness
from lattice_ml.jobs import config
from lattice_ml.samplers import kinds
from lattice_ml.samplers.sampler import FieldState, Sampler


class Info(NamedTuple):
    acceptance: jax.Array


@pytree
class Stretch(Sampler):
    """Metropolis with a proposal of the whole lattice: on 2 sites that is all one needs."""

    action: Action
    width: float = 1.0
    forces = 1

    def draw(self, keys, trajectory):
        return randomness.uniforms(keys, trajectory, 1)[0]

    def update(self, layout, keys, trajectory, draws, state):
        new = state.phi + self.width * layout.normals(keys, trajectory).astype(state.phi.dtype)
        change = layout.site_sum(difference(self.action, new, state.phi, layout))
        weight = jnp.minimum(1, jnp.exp(-change))
        return FieldState(jnp.where(layout.spread(draws < weight), new, state.phi)), Info(weight)

    def check(self):
        if self.width <= 0:
            raise ValueError(f"sampler.width must be positive, got {self.width}")


def words(**changes):
    chain = {"chain.n_chains": 16, "chain.n_configs": 60, "chain.n_thermalise": 40, "chain.thin": 4}
    free = {"lattice.shape": 2, "action.kind": "FreeField", "action.mass_squared": 1.0}
    values = {**free, **chain, "sampler.kind": "Stretch", "sampler.width": 0.8, **changes}
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(kinds.KINDS, "Stretch", Stretch)


def test_its_fields_are_the_keys_of_a_config():
    job = config.parse(words())
    assert job.sampler == Stretch(job.sampler.action, width=0.8)
    assert job.config["sampler"] == {"kind": "Stretch", "width": 0.8}
    with pytest.raises(config.ConfigError, match=r"sampler\.width must be positive, got -1\.0"):
        config.parse(words(**{"sampler.width": -1}))
    with pytest.raises(config.ConfigError, match=r"sampler\.n_steps"):
        config.parse(words(**{"sampler.n_steps": 3}))


def test_it_is_run_resumed_and_measured(tmp_path):
    file, made, whole = (tmp_path / name for name in ("config.toml", "made", "whole"))
    file.write_text("")
    generate = ["generate", str(file)]
    assert cli.main([*generate, *words(), "--out", str(whole)]) == 0
    assert cli.main([*generate, *words(**{"chain.n_configs": 20}), "--out", str(made)]) == 0
    assert cli.main([*generate, *words(), "--out", str(made)]) == 0  # goes on
    ensemble = open_ensemble(made)
    np.testing.assert_array_equal(ensemble.cfgs[:], open_ensemble(whole).cfgs[:])
    assert ensemble.kind == "Stretch"
    table = tmp_path / "measured.json"
    assert cli.main(["measure", str(made), "--json", str(table)]) == 0
    (found,) = json.loads(table.read_text()).values()
    exact = {"schwinger_dyson": 1, "phi2": (1 / 1 + 1 / 5) / 2}  # of 1/(m^2 + p_hat^2)
    for name, value in exact.items():
        assert abs(found[name]["value"] - value) < 4.5 * found[name]["error"]
        assert found[name]["error"] < 0.1 * value
    assert 0.1 < found["acceptance"]["value"] < 0.9
