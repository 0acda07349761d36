"""`spectrum` opens ensembles and models, and finds what is known of each."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from theories import CRITICAL, critical_theory, free_theory
from trained_models import make_ensemble

from lattice_ml import HMC, FreeField, Lattice, run
from lattice_ml.analysis.probes import plane_waves
from lattice_ml.analysis.spectrum import per_shell
from lattice_ml.commands import spectrum as command
from lattice_ml.jobs import spectrum
from lattice_ml.models.diffusion import fitting
from lattice_ml.models.diffusion.networks import Shallow, UNet, Zero
from lattice_ml.models.diffusion.spectrum import of_diffusion, score_of
from lattice_ml.models.measured import measure_theory
from lattice_ml.models.model import Probing
from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm.moments import Moments
from lattice_ml.models.rbm.spectrum import of_rbm
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised
FREE = {"kind": "FreeField", "mass_squared": 0.5}
KAPPA = {"kind": "Phi4", "convention": "kappa", "kappa": 0.2705, "lam": 0.022}
CONTRACT = ("eigenvalues", "errors", "exact", "multiplicity")


def diffusion(network, theory, section):
    stage = SimpleNamespace(shape=theory.modes.shape, actions=(section,), theories=(theory,))
    return SimpleNamespace(network=network, stages=(stage,))


def machine(shape=(4, 4), n_hidden=16, section=FREE, mu_squared=6.0, seed=0):
    """An RBM at its fixed point for a free field, with a history of two entries."""
    lattice = Lattice(shape)
    waves, shell = plane_waves(lattice)
    kappa = (0.5 + lattice.shells[0])[shell]
    kept = np.argsort(kappa, kind="stable")[:n_hidden]
    singular = np.sqrt(np.maximum(mu_squared - kappa[kept], 0))
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(n_hidden, n_hidden)))[0]
    w = (waves[kept].T * singular) @ turn
    second = (waves.T / kappa) @ waves
    start = np.full(len(kappa), mu_squared)
    end = np.sort(np.linalg.eigvalsh(mu_squared * np.eye(len(kappa)) - w @ w.T))
    stage = SimpleNamespace(
        shape=shape, actions=(section,), theories=(Moments(np.zeros(len(kappa)), second, 1000.0),)
    )
    return SimpleNamespace(
        config={"model": {"kind": "GaussianRBM"}},
        network=GaussianRBM.of(w, mu_squared),
        stages=(stage,),
        history={
            "step": np.array([0, 5]),
            "eigenvalues": np.array([start, end]),
            "log_likelihood": np.array([-2.0, np.nan]),
        },
        report={"eigenvalue_errors": (0.01 * end).tolist()},
    )


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    couplings = {f"action.{key}": value for key, value in FREE.items()}
    folder = tmp_path_factory.mktemp("free") / "run"
    return make_ensemble(folder, (6, 4), 64, 200, couplings, chain_thin=2)


@pytest.fixture(scope="module")
def interacting(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("phi4") / "run", (4, 4), 16, 40)


def is_page(folder):
    table = json.loads((folder / "spectrum.json").read_text(), parse_constant=pytest.fail)
    assert (folder / "index.html").read_text().count("<svg") == len(list(folder.glob("*.png"))) > 0
    return table


# ---------------------------------------------------------------------------- identities


def test_the_score_of_a_network_is_its_own_in_both_forms():
    theory = critical_theory((4, 4), jnp.float64)
    network = Shallow(n_hidden=4, rngs=nnx.Rngs(1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4)))
    t = jnp.array([0.1, 0.2, 0.5])

    @jax.jit
    def direct(x, t):
        return theory.modes.inverse(network.score(theory, theory.modes.forward(x), t))

    found = jax.jit(score_of(network, theory))(x, t)
    np.testing.assert_allclose(found, direct(x, t), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------- closed forms


def test_a_free_score_has_the_exact_kernel_at_every_level_of_noise():
    found = of_diffusion(diffusion(Zero(), free_theory((8, 4)), FREE), Probing(n_fields=8))
    exact = 0.5 + Lattice((8, 4)).shells[0]
    for part in (found, found["zero_field"], *found["noise"]):
        np.testing.assert_allclose(part["eigenvalues"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["regression"]["eigenvalues"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["regression"]["exact"], exact, rtol=1e-5)
    np.testing.assert_allclose(found["exact"], exact)
    assert found["asymmetry"] < 1e-10
    for read in (found["curvature_couplings"], found["zero_field"]["couplings"]):
        assert read["h"]["true"] == 1
        for name in ("h", "a", "bare_mass_squared"):
            np.testing.assert_allclose(read[name]["value"], read[name]["true"], rtol=1e-5)
    assert not found["zero_field"]["out_of_distribution"]


def test_a_machine_at_its_fixed_point_has_the_regulated_spectrum():
    found = of_rbm(machine())
    exact = np.sort(np.repeat(0.5 + Lattice((4, 4)).shells[0], [1, 4, 6, 4, 1]))
    np.testing.assert_allclose(found["exact"], exact)
    np.testing.assert_allclose(found["regulated"], np.minimum(exact, 6.0))
    np.testing.assert_allclose(found["eigenvalues"], found["regulated"])
    np.testing.assert_allclose(found["singular_values"], found["singular_values_exact"], atol=1e-7)
    assert found["deviation"] < 1e-10
    shells = found["shells"]
    np.testing.assert_allclose(shells["learned"], [0.5, 2.5, 4.5, 6.0, 6.0])
    np.testing.assert_allclose(shells["ratio"], 1)
    np.testing.assert_allclose(shells["spread"], 0, atol=1e-10)
    # 1 % errors of independent modes, averaged over the shell
    expected = 0.01 * shells["learned"] / np.sqrt([1, 4, 6, 4, 1])
    np.testing.assert_allclose(shells["error"][:3], expected[:3])  # those at mu^2 are mixed


def test_hidden_fields_lower_as_many_modes_as_there_are_of_them():
    found = of_rbm(machine(n_hidden=3))
    np.testing.assert_allclose(found["regulated"], [0.5, 2.5, 2.5, *[6.0] * 13])
    np.testing.assert_allclose(found["eigenvalues"], found["regulated"])
    np.testing.assert_allclose(found["shells"]["regulated"][:3], [0.5, (2 * 2.5 + 2 * 6) / 4, 6.0])
    assert len(found["singular_values"]) == len(found["singular_values_exact"]) == 3


def test_images_have_the_spectrum_of_their_second_moment():
    model = machine(section={"kind": "none"})
    moments = model.stages[0].theories[0]
    found = of_rbm(model)
    np.testing.assert_allclose(found["exact"], 1 / np.linalg.eigvalsh(moments.second)[::-1])
    assert found["shells"] is None
    assert np.any(np.isclose(found["exact"], 8.5))  # the highest mode of the data, above mu^2
    moved = Moments(np.full(16, 2.0), moments.second + 4.0, 1000.0)
    model.stages[0].theories = (moved,)  # the raw second moment, where the centre is 0
    lifted = 1 / np.linalg.eigvalsh(moved.second)[::-1]
    np.testing.assert_allclose(of_rbm(model)["exact"], lifted)
    shifted = Moments(np.full(16, 2.0), moments.second + 4.0, 1000.0)
    model.stages[0].theories = (shifted,)
    model.network = GaussianRBM.of(model.network.w, 6.0, centre=np.full(16, 2.0))
    np.testing.assert_allclose(of_rbm(model)["exact"], found["exact"])


def test_data_of_an_interacting_theory_are_their_own_target():
    found = of_rbm(machine(section=KAPPA))
    np.testing.assert_allclose(found["shells"]["exact"], 0.5 + Lattice((4, 4)).shells[0])


# ---------------------------------------------------------------------------- statistics


def test_a_free_ensemble_has_the_exact_inverse_propagator(free, tmp_path):
    found = spectrum.spectrum(free, tmp_path)
    values, errors, exact = (np.array(found[key]) for key in CONTRACT[:3])
    np.testing.assert_allclose(exact, 0.5 + Lattice((6, 4)).shells[0])
    assert np.all(np.abs(values - exact) < 4.5 * errors)
    assert np.all(errors < 0.05 * exact)
    for name, true in (("mass_squared", 0.5), ("z", 1.0)):
        read = found["renormalised"][name]
        assert abs(read["value"] - true) < 4.5 * read["error"] < 0.5
    assert is_page(tmp_path) == found


def test_the_couplings_of_a_free_score_are_projected_out():
    found = of_diffusion(diffusion(Zero(), free_theory((8, 4)), FREE), Probing(None, 256, (0.1,)))
    for name in ("h", "a", "b", "bare_mass_squared"):
        read = found["couplings"][name]
        assert abs(read["value"] - read["true"]) < 4.5 * read["error"]
        assert read["error"] < 0.05


def test_weights_of_an_ensemble_are_used():
    """Fields of mass^2 1, weighted to mass^2 1.2."""
    lattice, n = Lattice((4, 4)), 20000
    waves, shell = plane_waves(lattice)
    random = np.random.default_rng(5)
    modes = random.normal(size=(n, 16)) / np.sqrt(1 + lattice.shells[0][shell])
    fields = (modes @ waves).reshape(n, 4, 4)
    made = SimpleNamespace(
        shape=(4, 4),
        n_chains=100,
        n_configs=n // 100,
        action=FreeField(mass_squared=1.2, ndim=2),
        config={"action": {"kind": "FreeField", "mass_squared": 1.2}},
        log_weight=(-0.1 * np.sum(modes**2, axis=1)).reshape(n // 100, 100).T,
        blocks=lambda: [(0, fields)],
    )
    found = spectrum.of_ensemble(made)
    z = (found["eigenvalues"] - found["exact"]) / found["errors"]
    assert found["weighted"] and np.all(np.abs(z) < 4.5)
    plain = spectrum.of_ensemble(made, weights=False)
    assert np.all(np.abs(plain["eigenvalues"] - found["exact"] + 0.2) < 4.5 * plain["errors"])


@pytest.mark.slow
def test_a_trained_network_has_learned_the_action():
    """kappa within 1 %, and <J> within 1 % of <S''> at the median momentum."""
    lattice = Lattice((16, 16))
    chains = run(jax.random.key(1), HMC(CRITICAL), lattice, n_chains=64, n_configs=40)
    fields = np.concatenate([part for _, part in chains.blocks()])
    theory = measure_theory(CRITICAL, [(fields, None)])
    network = Shallow(rngs=nnx.Rngs(0))
    settings = fitting.Settings(total=500, batch_size=32, learning_rate=5e-3)
    state, _ = fitting.denoise(
        nnx.graphdef(network),
        fitting.start(network, settings),
        fitting.stack([theory.astype(jnp.float32)]),
        jnp.asarray(fields, jnp.float32)[None],
        jax.random.key(2),
        n=settings.total,
        settings=settings,
    )
    model = diffusion(fitting.averaged(network, state), theory, KAPPA)
    source = SimpleNamespace(shape=lattice.shape, cfgs=fields, log_weight=None, label="memory")
    found = of_diffusion(model, Probing(source, 512, noise=(0.03,)))
    kappa = found["couplings"]["kappa"]
    assert abs(kappa["value"] / 0.2705 - 1) < 0.01
    assert kappa["error"] < 0.003 * 0.2705
    assert abs(found["curvature_couplings"]["kappa"]["value"] / 0.2705 - 1) < 0.02
    assert found["median_deviation"] < 0.01
    assert abs(found["zero_field"]["couplings"]["kappa"]["value"] / 0.2705 - 1) < 0.05
    assert found["asymmetry"] < 0.05


# ---------------------------------------------------------------------------- the table


class Dear(Zero):
    """A free score whose density is not affordable."""

    exact_trace = False


def test_a_network_without_a_density_is_probed_at_its_own_samples():
    found = of_diffusion(diffusion(Dear(), free_theory((4, 4)), FREE), Probing(None, 6, (0.1,)))
    assert found["n_fields"] == 6 and found["fields"] == "the model's own samples"
    np.testing.assert_allclose(found["eigenvalues"], found["exact"], rtol=1e-5)


def test_a_unet_is_analysed_like_any_other_at_the_fields_of_an_ensemble(interacting, tmp_path):
    section = {"kind": "Phi4", "convention": "standard", "mass_squared": 0.5, "g": 0.0}
    model = diffusion(UNet(channels=(2, 3), rngs=nnx.Rngs(0)), free_theory((4, 4)), section)
    source = spectrum.open_ensemble(interacting)
    found = of_diffusion(model, Probing(source, 5, noise=(0.1, 0.3)))
    found = spectrum.write({"source": "a/unet"} | found, tmp_path)
    assert is_page(tmp_path) == found
    assert found["fields"] == str(interacting) and found["n_fields"] == 5
    assert found["asymmetry"] > 1e-3
    assert len(found["noise"]) == 2
    assert {"mass_squared", "g"} <= set(found["couplings"])
    assert "g" not in found["zero_field"]["couplings"]
    assert "antisymmetric part" in "\n".join(command.lines(found))


@pytest.mark.parametrize("make", ["ensemble", "machine", "images", "per_site"])
def test_the_json_has_lists_of_equal_length_and_no_nan(make, interacting, tmp_path):
    models = {
        "ensemble": lambda: spectrum.of_ensemble(spectrum.open_ensemble(interacting)),
        "machine": lambda: of_rbm(machine()),
        "images": lambda: of_rbm(_singular()),
        "per_site": lambda: of_rbm(_per_site()),
    }
    found = spectrum.write({"source": f"runs/{make}"} | models[make](), tmp_path)
    assert is_page(tmp_path) == found
    assert len({len(found[key]) for key in CONTRACT}) == 1
    if shells := found["shells"]:
        assert len({len(column) for column in shells.values()}) == 1
    assert all(len(e["eigenvalues"]) == len(found["eigenvalues"]) for e in found["history"])
    text = "\n".join(command.lines(found))
    assert f"runs/{make}" in text and "nan" not in text
    if make == "ensemble":
        assert found["exact"] == [None] * len(found["eigenvalues"])
        assert "lowest 3 shells" in text
    if make == "machine":
        assert [e["step"] for e in found["history"]] == [0, 5]
        assert found["history"][1]["log_likelihood"] is None
        assert "largest deviation" in text
    if make == "images":
        assert found["exact"][-1] is None and found["regulated"][-1] == 6.0
    if make == "per_site":
        assert found["deviation"] is None and set(found["regulated"]) == {None}


def test_a_kind_with_the_common_keys_alone_gets_a_page(tmp_path):
    lattice = Lattice((4, 4))
    exact = 0.5 + lattice.shells[0]
    rows = per_shell(lattice, exact, 0.1 * exact, exact)
    about = {"source": "a/new", "kind": "New", "what": "kernel", "shape": [4, 4], "action": FREE}
    found = spectrum.write(about | rows | {"history": []}, tmp_path)
    assert is_page(tmp_path) == found and "a/new: kernel" in command.lines(found)[0]


def _singular():
    """Images one of whose pixels never varies."""
    model = machine(section={"kind": "none"})
    second = model.stages[0].theories[0].second.copy()
    second[0], second[:, 0] = 0, 0
    model.stages[0].theories = (Moments(np.zeros(16), second, 50.0),)
    return model


def _per_site():
    model = machine()
    model.network = GaussianRBM.of(model.network.w, np.full(16, 6.0))
    return model


def test_the_command_writes_and_prints_the_table(free, tmp_path, capsys):
    assert command.spectrum_command([str(free), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "inverse propagator 1/G(p), 6 x 4" in printed and "mass squared = " in printed
    is_page(tmp_path / "out")


# ---------------------------------------------------------------------------- errors


def test_what_makes_no_sense_is_refused(free, interacting, tmp_path):
    with pytest.raises(ValueError, match=r"noise must be positive variances .* got \(0.0,\)"):
        spectrum.spectrum(free, tmp_path, noise=(0.0,))
    with pytest.raises(ValueError, match="n_fields >= 2, got 1"):
        spectrum.spectrum(free, tmp_path, n_fields=1)
    with pytest.raises(ValueError, match=r"is an ensemble: only a model is probed"):
        spectrum.spectrum(free, tmp_path, fields=interacting)
    with pytest.raises(StorageError):
        spectrum.spectrum(Path(tmp_path) / "nothing", tmp_path)
    model = diffusion(Zero(), free_theory((4, 4)), FREE)
    with pytest.raises(ValueError, match=r"lives on \(4, 4\), the fields of .* on \(6, 4\)"):
        of_diffusion(model, Probing(spectrum.open_ensemble(free)))
