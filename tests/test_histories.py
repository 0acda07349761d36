"""What was stored is compared with what the configurations give: everything, to rounding."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_fields import certificate, draw, ensemble
from rows import each

from lattice_ml import FreeField
from lattice_ml._pytree import pytree
from lattice_ml.analysis.certificates import histories
from lattice_ml.analysis.certificates.evidence import gather
from lattice_ml.observables import PRIMARIES, measure_configurations

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def honest():
    return ensemble(draw(1))


def altered(made, **series):
    return replace(made, histories=made.histories | series)


def judged(made):
    return certificate(made, "histories_agree")


def test_what_was_measured_while_running_passes(honest):
    assert judged(honest).verdict == "pass"
    assert judged(honest).value == "0 of 640 configurations differ"


@each("name", PRIMARIES)
def test_every_primary_is_measured_again(honest, name):
    series = honest.series(name)
    wrong = [1.1 * series, 1.001 * series, series + 0.01 * series.std()]
    for history in wrong:
        found = judged(altered(honest, **{name: history}))
        assert found.verdict == "fail"
        assert name in found.value


def test_a_single_number_is_found(honest):
    action = honest.series("action").copy()
    action[3, 7] += 0.1
    found = judged(altered(honest, action=action))
    assert found.value == "1 of 640 configurations differ in action"
    action[3, 7] = np.nan
    assert judged(altered(honest, action=action)).verdict == "fail"


def test_rounding_to_float32_is_no_difference(honest):
    single = {name: np.float32(x).astype(float) for name, x in honest.histories.items()}
    assert judged(replace(honest, histories=single)).verdict == "pass"


def test_constant_series_have_no_more_room_than_others():
    frozen = ensemble(np.repeat(draw(2, n_configs=1, n_chains=1), 50, axis=0))
    assert judged(frozen).verdict == "pass"
    assert judged(altered(frozen, phi2=1.001 * frozen.series("phi2"))).verdict == "fail"


def test_numbers_of_float64_fields_are_compared_to_more_digits():
    fields = draw(3).astype(np.float64)
    double = ensemble(fields)
    assert judged(double).verdict == "pass"
    assert judged(altered(double, phi4=(1 + 1e-9) * double.series("phi4"))).verdict == "fail"


@pytree
class Cosine:
    """An action of which nothing is known but its total."""

    beta: float

    def __call__(self, phi):
        return jnp.sum(phi**2 - jnp.cos(self.beta * phi))


def test_the_action_of_a_user_is_measured_again():
    action, fields = Cosine(1.5), draw(4, (4, 4))
    measured = measure_configurations(action, fields.reshape(-1, 4, 4))
    series = {name: x.reshape(-1, 16).T for name, x in measured.items()}
    own = replace(ensemble(fields, series), action=action)
    assert judged(own).verdict == "pass"
    for name in ("action", "schwinger_dyson"):
        for wrong in (1.001 * series[name], series[name] + 0.1 * series[name].std()):
            assert judged(altered(own, **{name: wrong})).verdict == "fail"


# --------------------------------------------------------------- where nothing can be measured


def without_configurations(made):
    """The evidence of a run that kept histories alone."""
    return replace(gather(made), measured={}, two_point={}, digests=None)


def test_histories_alone_must_fit_each_other(honest):
    kept = without_configurations(honest)
    with pytest.raises(histories.Missing, match="no configurations were kept"):
        histories.judge(kept)
    for name in ("action", "phi2", "link_sum", "schwinger_dyson"):
        wrong = replace(kept, stored=kept.stored | {name: 1.001 * kept.stored[name]})
        assert histories.judge(wrong)[1] == 0
    for name in ("phi4", "magnetisation", "link_sum", "two_point_min"):
        factor = 0.1 if name == "phi4" else 100
        stored = {k: v for k, v in kept.stored.items() if k not in ("action", "schwinger_dyson")}
        wrong = replace(kept, stored=stored | {name: factor * kept.stored[name]})
        assert histories.judge(wrong)[1] == 0


# ------------------------------------------------------------------- what the sampler reported


def reported(n_proposals, seed=5):
    """Means over the proposals of an update."""
    dh = np.random.default_rng(seed).normal(0.3, 0.8, (16, 40, n_proposals))
    weight = np.exp(-dh)
    series = {
        "acceptance": np.minimum(1, weight),
        "exp_minus_dh": weight,
        "dh": dh,
        "dh_negative": (dh < 0) * 1.0,
        "divergent": 0 * dh,
    }
    return {name: x.mean(axis=2) for name, x in series.items()}


@pytest.mark.parametrize("n_proposals", [1, 3])
def test_reports_of_a_sampler_fit_each_other(honest, n_proposals):
    series = reported(n_proposals)
    assert judged(altered(honest, **series)).verdict == "pass"
    renamed = {f"{name}_MALA": x for name, x in series.items()}
    assert judged(altered(honest, **renamed)).verdict == "pass"


@each(
    ("name", "factor"),
    [
        *((name, f) for name in ("acceptance", "exp_minus_dh", "dh") for f in (1.1, 0.99)),
        ("dh_negative", 1.1),
    ],
)
def test_a_report_that_was_altered_contradicts_the_others(honest, name, factor):
    series = reported(1)
    wrong = altered(honest, **series | {name: factor * series[name]})
    assert judged(wrong).verdict == "fail"


@each(
    ("name", "value"),
    [
        ("acceptance", 1.01),
        ("swap_acceptance", -0.1),
        ("cluster_size", 2.0),
        ("exp_minus_dh", -1.0),
        ("divergent", np.nan),
    ],
)
def test_numbers_outside_of_their_range_are_found(honest, name, value):
    series = np.full((16, 40), 0.5)
    assert judged(altered(honest, **{name: series})).verdict == "pass"
    series[2, 3] = value
    assert name in judged(altered(honest, **{name: series})).value


def test_energies_that_overflow_are_no_contradiction(honest):
    dh = np.array([800.0, -800.0, 100.0, np.inf] * 160).reshape(16, 40)
    with np.errstate(over="ignore"):
        weight = np.float32(np.exp(-dh)).astype(float)
    series = {
        "dh": dh,
        "exp_minus_dh": weight,
        "acceptance": np.minimum(1, weight),
        "dh_negative": (dh < 0) * 1.0,
    }
    assert judged(altered(honest, **series)).verdict == "pass"


def test_histories_of_nothing_that_is_measured_say_so(honest):
    only = replace(honest, histories={"n_steps": np.ones((16, 40))})
    assert judged(only).meaning == "there is no history of what is measured"
    assert isinstance(only.action, FreeField)
