"""An action of one's own in a config: a class and a row of `conventions.KINDS`, nothing else."""

import json

import jax
import numpy as np
import pytest

from lattice_ml import (
    HMC,
    Action,
    Lattice,
    check,
    cli,
    convert_ensemble,
    open_ensemble,
    pytree,
    run,
    train,
    verdict,
)
from lattice_ml.actions import conventions
from lattice_ml.jobs import config


@pytree
class Sextic(Action):
    """S = sum_x [ 1/2 (d phi)^2 + 1/2 m^2 phi^2 + g phi^6 ] in any dimension, but for g < 0."""

    mass_squared: float
    g: float = 0.1
    z2 = True

    def density(self, phi, hop):
        ndim = 1
        square = phi * phi
        return (ndim + self.mass_squared / 2) * square - phi * hop(phi) / 2 + self.g * square**3

    def check(self, ndim):
        super().check(ndim)
        if self.g < 0:
            raise ValueError(f"g must not be negative, got {self.g}")


def words(**changes):
    chain = {"chain.n_chains": 8, "chain.n_configs": 40, "chain.n_thermalise": 40}
    values = {"lattice.shape": 6, "action.kind": "Sextic", "action.mass_squared": 1.0, **chain}
    return [word for key, value in (values | changes).items() for word in (f"--{key}", str(value))]


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setitem(conventions.KINDS, "Sextic", conventions.Kind(Sextic))


def test_its_fields_are_the_keys_of_a_config(known):
    job = config.parse(words())
    assert job.sampler.action == Sextic(1.0, g=0.1)
    assert job.config["action"] == {"kind": "Sextic", "mass_squared": 1.0, "g": 0.1}
    with pytest.raises(config.ConfigError, match=r"g must not be negative, got -0\.5"):
        config.parse(words(**{"action.g": -0.5}))
    with pytest.raises(config.ConfigError, match=r"action\.kappa"):
        config.parse(words(**{"action.kappa": 0.2}))


def test_every_verb_for_an_ensemble_takes_it(known, tmp_path, capsys):
    made, table = tmp_path / "made", tmp_path / "measured.json"
    (tmp_path / "config.toml").write_text("")
    file = str(tmp_path / "config.toml")
    assert cli.main(["generate", file, *words(), "--out", str(made)]) == 0
    assert cli.main(["info", str(made)]) == 0
    assert "kind = Sextic, mass_squared = 1.0, g = 0.1\n" in capsys.readouterr().out
    assert cli.main(["measure", str(made), "--json", str(table)]) == 0
    (found,) = json.loads(table.read_text()).values()
    pull = (found["schwinger_dyson"]["value"] - 1) / found["schwinger_dyson"]["error"]
    assert abs(pull) < 4.5
    ensemble = open_ensemble(made)
    assert ensemble.action == Sextic(1.0, g=0.1)
    assert verdict(check(ensemble)) != "fail"
    phi = ensemble.cfgs[:].astype(np.float64)
    by_hand = (1.5 * phi**2 - phi * np.roll(phi, 1, 1) + 0.1 * phi**6).sum(axis=1)
    np.testing.assert_allclose(ensemble.series("action").T.ravel(), by_hand, rtol=1e-5)
    with pytest.raises(ValueError, match=r"conversions are of actions in \(h, a, b\), got Sextic"):
        convert_ensemble(ensemble, tmp_path / "converted", "kappa")
    learned = config.parse_training(["--model.kind", "Diffusion"])
    with pytest.raises(ValueError, match=r"a diffusion model needs .* has action.kind = Sextic"):
        train(learned, tmp_path / "model", data=[made])


def test_chains_of_an_action_that_no_config_names_are_not_learned():
    n = {"n_chains": 2, "n_configs": 4, "n_thermalise": 40}
    chains = run(jax.random.key(0), HMC(Sextic(1.0)), Lattice((6,)), **n)
    asked = config.parse_training(["--model.kind", "GaussianRBM"])
    said = r"the ensemble in memory cannot be learned: .* actions Phi4, FreeField.* got Sextic"
    with pytest.raises(ValueError, match=said):
        train(asked, data=[chains])
