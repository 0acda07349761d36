"""The named conventions, each against its action written out, and the maps between them."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.actions import FreeField, Phi4, conventions
from lattice_ml.actions.conventions import CONVENTIONS

SHAPES = [(2,), (3, 4), (2, 3, 2), (2, 2, 3, 2)]
# Two parameters each: a single and a double well.
VALUES = {
    "kappa": [(0.27, 0.022), (0.19, 0.9)],
    "beta": [(0.537, 0.5), (0.3751, 1.1)],
    "standard": [(0.25, 0.1), (-1.3, 0.5)],
    "standard24": [(0.25, 2.4), (-1.3, 0.4)],
    "nohalf": [(1.0, 0.5), (-4.0, 6.975)],
}
CASES = [(name, values) for name, pairs in VALUES.items() for values in pairs]


def gradient_squared(phi):
    return sum(np.sum((np.roll(phi, -1, mu) - phi) ** 2) for mu in range(phi.ndim))


def link_sum(phi):
    return sum(np.sum(np.roll(phi, -1, mu) * phi) for mu in range(phi.ndim))


WRITTEN_OUT = {
    "kappa": lambda phi, kappa, lam: (
        -2 * kappa * link_sum(phi) + np.sum((1 - 2 * lam) * phi**2 + lam * phi**4)
    ),
    "beta": lambda phi, beta, lam: -beta * link_sum(phi) + np.sum(phi**2 + lam * (phi**2 - 1) ** 2),
    "standard": lambda phi, m2, g: gradient_squared(phi) / 2 + np.sum(m2 / 2 * phi**2 + g * phi**4),
    "standard24": lambda phi, m2, lam: (
        gradient_squared(phi) / 2 + np.sum(m2 / 2 * phi**2 + lam / math.factorial(4) * phi**4)
    ),
    "nohalf": lambda phi, m2, lam: gradient_squared(phi) + np.sum(m2 * phi**2 + lam * phi**4),
}
CONSTANTS = {"beta": lambda beta, lam: lam}  # per site; none elsewhere


def build(name, values, ndim):
    return conventions.action(name, ndim, **dict(zip(CONVENTIONS[name].keys, values, strict=True)))


def test_there_are_five_conventions():
    assert set(CONVENTIONS) == set(VALUES) == set(WRITTEN_OUT)


def of_actions(field, actions):
    """S of every action at its field scaled as it is, `field / scale`; one program for all."""
    h, a, b, scale = np.transpose([(*action.couplings(), scale) for action, scale in actions])
    return np.asarray(_total(jnp.asarray(field), h, a, b, scale))


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def _total(field, h, a, b, scale):
    return Phi4(h, a, b)(field / scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convention_is_its_written_out_action_up_to_the_documented_constant(shape):
    phi = np.random.default_rng(1).normal(size=shape)
    ours = of_actions(phi, [(build(*case, len(shape)), 1.0) for case in CASES])
    wrong = []
    for (name, values), found in zip(CASES, ours, strict=True):
        constant = CONSTANTS.get(name, lambda p, q: 0)(*values)
        written_out = WRITTEN_OUT[name](phi, *values)
        if found + constant * phi.size != pytest.approx(written_out, rel=1e-13):
            wrong.append((name, values, found))
        if CONVENTIONS[name].constant(*values) != constant:
            wrong.append((name, values, "constant"))
    assert not wrong


def test_parameters_are_read_back():
    wrong = []
    for (name, values), ndim in itertools.product(CASES, (1, 2, 3, 4)):
        read = conventions.parameters(build(name, values, ndim), name, ndim)
        assert tuple(read) == CONVENTIONS[name].keys
        if tuple(read.values()) != pytest.approx(values, rel=1e-13):
            wrong.append((name, values, ndim, read))
    assert not wrong


def test_converting_the_field_keeps_the_weight():
    phi = np.random.default_rng(2).normal(size=(3, 2))
    pairs = list(itertools.product(itertools.permutations(VALUES, 2), (0, 1)))
    before, after, wrong = [], [], []
    for (old, new), which in pairs:
        action = build(old, VALUES[old][which], 2)
        converted, scale = conventions.convert(action, new, 2)
        conventions.parameters(converted, new, 2)  # refuses another normalisation
        before.append((action, 1.0))
        after.append((converted, scale))

        back, inverse = conventions.convert(converted, old, 2)
        same = back.couplings() == pytest.approx(action.couplings(), rel=1e-12)
        if not same or scale * inverse != pytest.approx(1, rel=1e-12):
            wrong.append((old, new, which, back, inverse))
    assert not wrong
    changed = of_actions(phi, after) != pytest.approx(of_actions(phi, before), rel=1e-12)
    both = zip(pairs, of_actions(phi, before), of_actions(phi, after), strict=True)
    assert not changed, list(both)


@pytest.mark.parametrize("a, b", [(2.3, 0.0), (2.3, 1e-18), (-4.0, 1e-3), (0.0, 0.5), (1e6, 1e-6)])
def test_every_quartic_action_has_a_kappa_form(a, b):
    phi = np.random.default_rng(3).normal(size=(3, 2))
    action = Phi4(0.8, a, b)
    converted, scale = conventions.convert(action, "kappa", 2)
    lam = conventions.parameters(converted, "kappa", 2)["lam"]
    assert lam == pytest.approx(b * scale**4, rel=1e-12)
    before, after = (float(s(jnp.asarray(x))) for s, x in ((action, phi), (converted, phi / scale)))
    assert after == pytest.approx(before, rel=1e-10)


def log_z_of_two_sites(action):
    """By the rectangle rule, which converges exponentially, on a lattice of extent 2."""
    phi = np.linspace(-7, 7, 701)
    h, a, b = action.couplings()
    site = a * phi**2 + b * phi**4
    weight = np.exp(2 * h * np.outer(phi, phi) - site - site[:, None])  # two links
    return math.log(weight.sum() * (phi[1] - phi[0]) ** 2)


@pytest.mark.parametrize("name", VALUES)
def test_the_partition_function_shifts_by_the_scale_of_the_field(name):
    action = build("kappa", (0.2, 0.022), 1)
    exact = 1.2394761913  # twosite_kappa_k=0.2_l=0.022_N=2 of the reference file
    assert log_z_of_two_sites(action) == pytest.approx(exact, abs=1e-9)
    converted, scale = conventions.convert(action, name, 1)
    assert log_z_of_two_sites(converted) == pytest.approx(exact - 2 * math.log(scale), abs=1e-9)


# From a config, and what is said of it.


def test_an_action_section_becomes_an_action():
    section = {"kind": "Phi4", "convention": "standard", "mass_squared": -1.0, "g": 0.5}
    assert conventions.from_config(section, 3) == Phi4(1.0, 2.5, 0.5)
    section = {"kind": "FreeField", "mass_squared": 0.1}
    assert conventions.from_config(section, 3) == FreeField(0.1, 3)


def test_an_action_is_described_in_every_form():
    section = {"kind": "Phi4", "convention": "beta", "beta": 0.5, "lam": 0.125}
    assert conventions.describe(section, 2) == [
        "kind = Phi4, convention = beta, beta = 0.5, lam = 0.125",
        "h = 0.5, a = 0.75, b = 0.125 (this part is what is measured)",
        "constant per site left out: 0.125",
        "kappa form: kappa = 0.25, lam = 0.125, phi = 1 phi_kappa",
    ]
    assert conventions.describe({"kind": "FreeField", "mass_squared": 4.0}, 2) == [
        "kind = FreeField, mass_squared = 4.0",
        "h = 1, a = 4, b = 0 (this part is what is measured)",
        "kappa form: kappa = 0.125, lam = 0, phi = 0.5 phi_kappa",
    ]


@pytest.mark.parametrize(
    "convention, values, message",
    [
        ("hopping", {"kappa": 0.2}, "must be one of kappa, .*, nohalf, got 'hopping'"),
        ("kappa", {"kappa": 0.2}, r"'kappa' takes kappa and lam, got \['kappa'\]"),
        ("beta", {"beta": 1, "lam": 1, "g": 1}, r"takes beta and lam, got \['beta', 'g', 'lam'\]"),
        ("kappa", {"kappa": 0.2, "lam": -0.1}, "not bounded below"),
        ("kappa", {"kappa": math.nan, "lam": 0.1}, "action.kappa must be a finite number, got nan"),
        ("kappa", {"kappa": 0.3, "lam": 0}, "cannot be normalised in 2 dimensions"),
        ("standard", {"mass_squared": 0, "g": 0}, "cannot be normalised in 2 dimensions"),
    ],
)
def test_couplings_that_define_no_theory_are_refused(convention, values, message):
    with pytest.raises(ValueError, match=message):
        conventions.action(convention, 2, **values)


def test_other_actions_and_normalisations_are_refused():
    with pytest.raises(ValueError, match=r"action.kind must be .*Phi4.*FreeField.*, got 'Ising'"):
        conventions.from_config({"kind": "Ising"}, 2)
    with pytest.raises(ValueError, match="needs a > 2"):
        conventions.from_config({"kind": "FreeField", "mass_squared": -0.1}, 2)
    with pytest.raises(ValueError, match=r"not normalised as convention 'standard'; convert\(\)"):
        conventions.parameters(Phi4(2.0, 3.0, 0.1), "standard", 2)
    for name in ("standard", "standard24", "nohalf"):
        with pytest.raises(ValueError, match=r"needs a positive hopping term, got h = -0.5"):
            conventions.convert(Phi4(-0.5, 1.0, 0.1), name, 2)
    assert conventions.convert(Phi4(-0.5, 0.8, 0.1), "kappa", 2)[0].h == pytest.approx(-0.5)
