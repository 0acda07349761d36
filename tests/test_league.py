"""The benchmarks themselves, at toy size."""

import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from lattice_ml import cli
from lattice_ml.benches import (
    classical,
    kernel,
    learned,
    plans,
    sampler_league,
    timing,
    unet,
)
from lattice_ml.benches import critical_slowing_down as slowing
from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import Samples
from lattice_ml.chains.blocks import Block
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import units

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def league(tmp_path_factory):
    """The record of the league and of critical slowing down, which share compiled programs."""
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("league")
    names = ("sampler_league", "critical_slowing_down", "classical", "kernel")
    words = ["bench", *names, "--size", "toy"]
    assert cli.main([*words, "--json", str(out / "new.json"), "--out", str(out)]) == 0
    return out, json.loads((out / "new.json").read_text())


def test_a_rate_is_the_median_of_equal_parts_after_the_first(monkeypatch):
    """The first part holds warm-up and compilation, the last is too short."""
    clock = iter([100.0, 101.0, 103.0, 106.0, 106.001])

    def blocks(*arguments, block_configs, **others):
        for n in (2, 2, 2, 2, 1):
            series = np.ones((n, 4))
            yield Block(
                0, np.arange(n), None, {"phi2": series}, {"phi": np.zeros((4, 2))}, {}, range(4)
            )

    monkeypatch.setattr(timing.chains, "blocks", blocks)
    monkeypatch.setattr(timing, "clock", lambda: next(clock))
    counts = {"n_chains": 4, "n_thermalise": 0, "thin": 3}
    found = timing.timed_chains(None, None, Lattice((2,)), n_configs=9, **counts)
    assert found.per_second.value == 4 * 3 * 2 / 2.0
    assert found.series["phi2"].shape == (4, 9)
    one = [Block(0, np.arange(2), None, {"phi2": np.ones((2, 4))}, {"phi": None}, {}, range(4))]
    monkeypatch.setattr(timing.chains, "blocks", lambda *a, **k: iter(one))
    clock = iter([0.0])
    with pytest.raises(ValueError, match="a rate needs at least 2 blocks"):
        timing.timed_chains(None, None, Lattice((2,)), n_configs=2, **counts)


def test_steps_of_walkers_are_timed_from_where_the_warm_up_ended(monkeypatch):
    """A walker's history goes on, and what compiles is in no part that is timed."""

    @dataclass(frozen=True)
    class Walkers:
        drawer: object
        tuned: dict
        chains: int = 3

        def make(self, first, n, state):
            start = state["at"] if state else 100
            assert first == 0 or (self.tuned == {"step": 1} and start == 100 + first)
            at = start + np.arange(n + 1)
            history = {"phi2": at[1:, None] + np.zeros(3)}
            fields, states = np.zeros((n, 3, 2)), [{"at": t} for t in at]
            return units.Samples(fields, history, None, None, states, {"step": 1})

    clock = iter(np.arange(0.0, 8.0, 0.25))
    monkeypatch.setattr(timing, "clock", lambda: next(clock))
    found = timing.timed_steps(Walkers(SimpleNamespace(shape=(2,)), {}), 15)
    assert found.per_second.value == 2 * 3 / 0.25
    assert np.array_equal(found.series["phi2"], np.tile(103.0 + np.arange(16), (3, 1)))
    assert found.tuned == {"step": 1} and found.fields.shape == (3, 2)


def test_the_winner_of_every_lattice_is_named():
    rates = {("a", 8): 3.0, ("b", 8): 2.0, ("a", 16): 1.0, ("b", 16): 4.0}
    rows = [
        {"sampler": name, "extent": extent, "observable": "m2", "rate": Number(rate)}
        for (name, extent), rate in rates.items()
    ]
    assert slowing.winners(rows) == (
        "most independent m2 per second: a at L = 8 (1.50 times b), b at L = 16 (4.00 times a)"
    )


def test_training_is_paid_back_where_a_model_is_faster_and_never_else():
    best = Number(100.0)
    n = sampler_league.pay_back(5.0, Number(200.0), best)
    assert 5.0 + n / 200 == pytest.approx(n / 100)  # the two ways cost the same there
    assert sampler_league.pay_back(5.0, Number(100.0), best) == "never"
    assert sampler_league.pay_back(5.0, Number(200.0), None) is None


def test_a_rate_is_that_of_independent_samples():
    """AR(1) with tau_int = (1 + a) / (2 (1 - a)) updates of M^2."""
    rng, a, n = np.random.default_rng(3), 0.8, 4000
    noise = rng.normal(size=(n, 16))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for t in range(1, n):
        x[t] = a * x[t - 1] + math.sqrt(1 - a * a) * noise[t]
    series = {"magnetisation": np.sqrt(x.T + 10)}
    samples = Samples(Lattice((2, 2)), series, Number(900.0, 9.0), thin=2)
    tau, rate = classical.independent(samples)
    assert abs(tau.value - 2 * 4.5) < 4.5 * tau.error and tau.error < 1.0
    assert rate.value == pytest.approx(900.0 / (2 * tau.value))
    assert rate.error / rate.value == pytest.approx(math.hypot(0.01, tau.error / tau.value))


def test_the_effective_share_is_kishs_with_the_error_of_independent_draws():
    """Log-normal weights: exp(-s^2)."""
    rng, s, n = np.random.default_rng(4), 0.5, 20000
    samples = Samples(Lattice((2,)), {}, Number(1.0), log_weights=s * rng.normal(size=(1, n)) + 700)
    share = learned.effective_share(samples)
    assert abs(share.value - math.exp(-(s**2))) < 4.5 * share.error
    repeats = [
        np.exp(w).sum() ** 2 / (n * np.exp(2 * w).sum()) for w in s * rng.normal(size=(200, n))
    ]
    assert share.error == pytest.approx(np.std(repeats), rel=0.25)


def test_the_exponent_of_a_power_is_found_with_its_error():
    extents = [8, 12, 16, 24, 32]
    exact = [Number(0.3 * n**1.9, 0.01 * n) for n in extents]
    z, chi2, dof = slowing.fit_exponent(extents, exact)
    assert z.value == pytest.approx(1.9) and chi2 == pytest.approx(0, abs=1e-18) and dof == 3
    rng = np.random.default_rng(5)
    found = [
        slowing.fit_exponent(
            extents,
            [
                Number(t.value * (1 + 0.02 * e), 0.02 * t.value)
                for t, e in zip(exact, es, strict=True)
            ],
        )
        for es in rng.normal(size=(400, 5))
    ]
    values = [z.value for z, _, _ in found]
    assert abs(np.mean(values) - 1.9) < 4.5 * np.std(values) / 20
    assert np.std(values) == pytest.approx(found[0][0].error, rel=0.15)
    assert np.mean([chi2 for _, chi2, _ in found]) == pytest.approx(3, abs=4.5 * math.sqrt(6) / 20)


@pytest.mark.slow
def test_the_league_finds_no_bias_in_what_is_exact_and_the_one_of_a_gaussian(league):
    out, found = league
    rows = {row["sampler"]: row for row in found["sampler_league"]["rows"]}
    learned_rows = [f"rbm, {how}" for how in ("raw", "reweighted")]
    learned_rows += [f"flow, {how}" for how in ("raw", "reweighted", "latent")]
    assert list(rows) == ["reference", "hmc_1", "hmc_auto", *learned_rows]
    for name in ("hmc_1", "hmc_auto", "rbm, reweighted", "flow, reweighted", "flow, latent"):
        assert all(abs(rows[name][f"z_{o}"]) < 4.5 for o in sampler_league.OBSERVABLES), name
    assert abs(rows["rbm, raw"]["z_action_density"]) > 4.5
    ess, raw = rows["rbm, reweighted"]["ess"]["value"], rows["rbm, raw"]["rate"]["value"]
    assert rows["rbm, reweighted"]["rate"]["value"] == pytest.approx(ess * raw)
    assert rows["hmc_1"]["tau_int"]["value"] > 2 * rows["hmc_auto"]["tau_int"]["value"]
    chain = rows["flow, latent"]
    assert chain["tau_int"]["value"] < rows["hmc_auto"]["tau_int"]["value"]
    assert chain["rate"]["value"] > 0
    assert rows["rbm, raw"]["training_seconds"] > 0 and chain["training_seconds"] > 0
    assert (out / "sampler_league_4.png").exists() and (out / "sampler_league_4.svg").exists()
    assert "paid back after" in (out / "sampler_league.html").read_text()


@pytest.mark.slow
def test_critical_slowing_down_and_the_kernel_are_recorded_with_plots(league):
    out, found = league
    *points, fit = found["critical_slowing_down"]["rows"]
    assert [(row["sampler"], row["extent"]) for row in points] == [("hmc_1", 4), ("hmc_1", 8)]
    times = [row["tau_int"]["value"] for row in points]
    assert fit["tau_int"]["value"] == pytest.approx(math.log2(times[1] / times[0]))
    rows = found["classical"]["rows"]
    fits = [row for row in rows if row["extent"] == "fit of z"]
    observables = ["m2", "abs_magnetisation", "magnetisation", "phi2"]
    assert [row["observable"] for row in fits] == 2 * observables and len(rows) == 3 * len(fits)
    assert found["classical"]["notes"][1].startswith("most independent m2 per second: hmc_auto at")
    (row,) = found["kernel"]["rows"]
    assert row["rate"]["value"] == pytest.approx(np.median(row["rates"])) and len(row["rates"]) == 3
    for name in ("critical_slowing_down", "classical", "kernel"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.svg").exists() and (out / f"{name}.html").exists()


@pytest.mark.slow
def test_a_run_is_compared_with_an_earlier_one(league, capsys):
    def against(file, *words):
        capsys.readouterr()
        words = ["bench", "kernel", "--size", "toy", "--against", str(file), *words]
        return cli.main(words), capsys.readouterr().out

    out, _ = league
    status, said = against(out / "new.json", "--seed", "2")
    assert status == 0 and "Ratios to the earlier record" in said and "seed is 2, was 1" in said
    old = out / "old.json"
    old.write_text('{"other": {"benchmark": "kernel", "rows": [], "machine": ""}}')
    assert "has no kernel" in against(old)[1]


@pytest.mark.slow
def test_the_kernel_advances_the_chains_that_it_says(monkeypatch):
    clock = iter(np.arange(0.0, 1e3, 0.5))
    monkeypatch.setattr(kernel.time, "perf_counter", lambda: next(clock))
    calls = []
    assert kernel.rate(calls.append, 7) == 14.0
    assert kernel.calibrate(calls.append, 3.0) == 30 and calls == [7, 2, 5]


@pytest.mark.parametrize(
    ("row", "extents", "steps"),
    [
        ("rbm", [32], 60),
        ("diffusion_zero", [32], None),
        ("diffusion_shallow", [8, 16, 32], (1500, 300, 300)),
        ("diffusion_unet", [32], (400,)),
        ("flow", [16, 32], (16,)),
    ],
)
def test_models_are_trained_on_the_lattices_that_they_need(row, extents, steps):
    settings = plans.load("sampler_league", "small").settings
    recipe = learned.MODELS[row](settings, 32)
    job = learned.config.parse_training(learned.as_arguments({"seed": 1, **recipe.table}))
    assert recipe.extents == extents
    assert steps is None or job.training.n_steps == steps
    if row == "diffusion_shallow":
        assert job.training.fine_tune and job.training.fine_tune_steps == (120,)


# The papers


@pytest.mark.slow
def test_the_spectra_of_the_rbm_paper_have_their_closed_form():
    plan = plans.load("paper_2309_15002", "toy")
    result = plan.module.run(plan.settings, 1)
    assert max(row["deviation"] for row in result.rows) < 1e-6
    assert all(row["kl"] == pytest.approx(row["kl_exact"], abs=1e-6) for row in result.rows)
    kappa = np.sort(4 + 4 * np.sin(np.pi * np.arange(10) / 10) ** 2)
    mass, trained, fixed = result.rows
    assert mass["eigenvalues"] == pytest.approx(np.minimum(kappa, 5.8), rel=1e-6)
    assert trained["mu_squared"] == pytest.approx(5 / np.sum(1 / kappa[5:]), rel=1e-6)
    assert fixed["eigenvalues"] == pytest.approx([*kappa[:5], *[9.0] * 5], rel=1e-6)
    pytest.importorskip("matplotlib")
    (name, _, _), *others = plan.module.draw(result)
    assert name == "paper_2309_15002_chain" and not others


@pytest.mark.slow
def test_samples_of_the_diffusion_paper_stand_beside_equilibrium(monkeypatch):
    """Samples that are the data agree with it, and data between -1 and 1 were what was learned."""
    plan = plans.load("paper_2309_17082", "toy")
    learned_from = []

    def train(key, network, theory, schedule, fields, effort):
        learned_from.append(np.asarray(fields))
        return network, np.zeros(effort.train_steps)

    monkeypatch.setattr(unet, "train", train)
    monkeypatch.setattr(unet, "sample", lambda *arguments: learned_from[0])
    result = plan.module.run(plan.settings, 1)
    assert np.abs(learned_from[0]).max() == pytest.approx(1.0)
    rows = {(r["source"], r["observable"]): r for r in result.rows}
    for name in plan.module.OBSERVABLES:
        assert abs(rows["U-Net", name]["z"]) < 1e-3
        assert abs(rows["hot start", name]["z"]) < 4.5  # 4^2 is too small for domain walls
    assert "largest sigma 9.8" in result.notes[0] and "base 25" in result.notes[0]
    pytest.importorskip("matplotlib")
    assert [name for name, _, _ in plan.module.draw(result)] == ["paper_2309_17082"]
