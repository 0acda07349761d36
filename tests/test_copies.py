"""A configuration that is there twice is found in any disguise that leaves its action alone."""

import numpy as np
import pytest
from drawn_fields import certificate, draw, ensemble
from rows import each

from lattice_ml.actions import Phi4, site_term
from lattice_ml.analysis.certificates import check
from lattice_ml.chains.run import Chains

pytestmark = pytest.mark.unoptimised


def bare(cfgs):
    """Configurations `(n_configs, n_chains, *L)` without histories."""
    return ensemble(cfgs, {"any": np.zeros(cfgs.shape[1::-1])})


def judged(cfgs):
    """The certificate of configurations `(n_configs, n_chains, *L)`."""
    return certificate(bare(cfgs), "copies")


@pytest.fixture(scope="module")
def honest():
    return draw(1)


DISGUISES = {
    "backwards in time": lambda phi: phi[::-1],
    "negative": lambda phi: -phi,
    "translated": lambda phi: np.roll(phi, (3, 5), (2, 3)),
    "reflected": lambda phi: phi[:, :, ::-1],
    "turned": lambda phi: np.rot90(phi, 1, (2, 3)),
    "on other axes": lambda phi: np.swapaxes(phi, 2, 3),
    "all of these": lambda phi: -np.rot90(np.roll(phi[::-1], (1, 2), (2, 3)), 3, (2, 3))[..., ::-1],
}


@each("disguise", DISGUISES)
def test_each_configuration_once_more_is_found(honest, disguise):
    half = honest[:20]
    copied = DISGUISES[disguise](half)
    arranged = [np.concatenate([half, copied], axis=axis) for axis in (0, 1)]
    if disguise != "negative":  # in turn, these are rejections with a change of sign
        arranged.append(np.stack([half, copied], axis=1).reshape(honest.shape))
    for again in arranged:
        failed = {c.name for c in check(bare(again)) if c.verdict == "fail"}
        assert failed & {"copies", "repeats"}
        assert "copies" in failed or disguise in ("backwards in time", "negative")


def test_one_copy_of_one_configuration_is_found(honest):
    cfgs = honest.copy()
    cfgs[30, 11] = -np.roll(honest[4, 2].T, 3, 0)
    assert judged(cfgs).value.startswith("2 of 640")


def test_eight_chains_are_not_sixty_four(honest):
    few = honest[:, :4]
    turned = [np.rot90(few, i, (2, 3)) for i in range(4)]
    assert judged(np.concatenate(turned, axis=1)).verdict == "fail"


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-3])
def test_a_little_noise_does_not_hide_a_copy(honest, noise):
    half = honest[:20]
    hidden = noise * half.std() * np.random.default_rng(1).standard_normal(half.shape)
    copies = (np.roll(half, 3, 2) + hidden).astype(np.float32)
    assert judged(np.concatenate([half, copies])).verdict == "fail"


@each(
    ("shape", "n_chains", "n_configs"),
    [((8, 8), 16, 40), ((4, 4), 64, 100), ((2, 2), 64, 100), ((16,), 16, 100), ((4, 2, 4), 400, 1)],
)
def test_honest_draws_are_no_copies(shape, n_chains, n_configs):
    cfgs = draw(2, shape, n_chains=n_chains, n_configs=n_configs)
    assert judged(cfgs).verdict == "pass"


def test_equal_signs_in_the_ising_limit_are_no_copies():
    """Of 2^16 patterns of signs, up to symmetries, many are there twice; |phi| is 1 +- 3e-4."""
    lam, normals = 1e6, np.random.default_rng(3).standard_normal((3000, 1, 16))
    cfgs = site_term.from_normals(normals, 1 - 2 * lam, lam).astype(np.float32)

    def found(cfgs):
        histories = {"any": np.zeros(cfgs.shape[1::-1])}
        chains = Chains(Phi4(0.0, 1 - 2 * lam, lam), (16,), 1, cfgs[:, 0], histories, {})
        return certificate(chains, "copies")

    assert found(cfgs).p_value == 1
    cfgs[7] = -np.roll(cfgs[2000, :, ::-1], 5, 1)
    assert found(cfgs).verdict == "fail"


def test_copies_on_a_small_lattice_are_found():
    cfgs = draw(3, (4, 4), n_chains=4)
    assert judged(np.concatenate([cfgs, np.roll(cfgs, 1, 2)], axis=1)).verdict == "fail"


def test_a_lattice_too_small_to_tell_says_so():
    assert judged(draw(4, (2,), n_configs=400)).meaning == (
        "the lattice has too few momenta to tell configurations apart"
    )
    frozen = np.repeat(draw(4, n_chains=1, n_configs=1), 5, axis=0)
    assert judged(frozen).meaning == "there is a single configuration"


@pytest.mark.parametrize("memory", [0.9, 0.9999, 1 - 1e-7])
def test_chains_that_move_slowly_are_no_copies(memory):
    assert judged(draw(5, memory=memory)).verdict == "pass"


def test_rejections_are_no_copies(honest):
    """Nor are those after which signs of clusters changed, where phi was nearly zero."""
    cfgs = honest.copy()
    cfgs[11:14] = cfgs[10]
    cfgs[12] *= -1
    cfgs[20, :, 3, 4] = 1e-6
    cfgs[21] = cfgs[20]
    cfgs[21, :, 3, 4] *= -1
    assert judged(cfgs).verdict == "pass"


def test_a_chain_that_is_frozen_but_for_noise_is_found(honest):
    cfgs = honest.copy()
    rng = np.random.default_rng(6)
    signs = rng.choice([-1, 1], (len(cfgs), 1, 1))
    cfgs[:, 3] = signs * (cfgs[0, 3] + 1e-4 * rng.standard_normal(cfgs[:, 3].shape))
    assert judged(cfgs).value.startswith("40 of 640")
