"""Every mode of a free field has the variance that its scheme has at this step, and no other.

S = w q^2/2 for each mode and x = eps w.  The step is a third of the stability limit: the biases
are up to a factor of two, and no extrapolation is needed to see that they are right.  The faults
that have been published, or could be, are planted here and must not agree.
"""

from dataclasses import replace

import numpy as np
import pytest
from free_modes import agree, fields, pulls, with_shapes

from lattice_ml import MALA, FreeField, Kramers, Langevin, Lattice
from lattice_ml._pytree import pytree
from lattice_ml.analysis.dynamics.finite_step import SCHEMES, gaussian_variance
from lattice_ml.samplers import hmc
from lattice_ml.samplers import kramers as kramers_module

SHAPES = [(16,), (8, 6), (4, 6, 4), (4, 2, 4, 4)]
SQUARE = Lattice((8, 6))
N_THERMALISE, N_CONFIGS = 20, 60
MASS_SQUARED = 0.5


def eigenvalues(lattice):
    return MASS_SQUARED + lattice.p_hat_squared


def langevin(lattice, scheme, kind=Langevin, **settings):
    """A Langevin sampler at x = 1 for the stiffest mode."""
    free = FreeField(MASS_SQUARED, lattice.ndim)
    step_size = 1 / eigenvalues(lattice).max()
    return kind(free, step_size=step_size, trajectory_length=2.0, scheme=scheme, **settings)


def kramers(lattice, kind=Kramers, **settings):
    """Kramers dynamics at delta^2 w = 2 for the stiffest mode, half of its stability limit."""
    free = FreeField(MASS_SQUARED, lattice.ndim)
    step_size = (2 / eigenvalues(lattice).max()) ** 0.5
    return kind(free, step_size=step_size, trajectory_length=4.0, **settings)


def mala(lattice, kind=MALA):
    """MALA with an acceptance of about 0.8."""
    step_size = 1.35 / eigenvalues(lattice).max() * lattice.volume ** (-1 / 3)
    return kind(FreeField(MASS_SQUARED, lattice.ndim), step_size=step_size)


def agrees(sampler, lattice, variance, **settings):
    cfgs = fields(sampler, lattice, N_THERMALISE + N_CONFIGS, **settings)
    return agree(pulls(cfgs[N_THERMALISE:], lattice, variance))


def expected(sampler, lattice):
    """The exact variance of every mode at the sampler's own step."""
    w = eigenvalues(lattice)
    if isinstance(sampler, Langevin):
        accelerated = sampler.fourier_mass_squared is not None
        speed = np.full_like(w, w.max()) if accelerated else w
        at_one = gaussian_variance(sampler.scheme, sampler.step_size, speed, sampler.temperature)
        return at_one * speed / w
    if not sampler.accept:
        return gaussian_variance("kramers", sampler.step_size, w)
    return 1 / w


@pytest.mark.parametrize(("scheme", "shape"), with_shapes(SCHEMES), ids=str)
def test_langevin_has_the_exact_variance_of_its_scheme(scheme, shape):
    lattice = Lattice(shape)
    sampler = langevin(lattice, scheme)
    assert agrees(sampler, lattice, expected(sampler, lattice))
    hot = replace(sampler, temperature=2.0)
    assert agrees(hot, lattice, expected(hot, lattice))
    if scheme != "leimkuhler_matthews":
        assert not agrees(sampler, lattice, 1 / eigenvalues(lattice)), "the bias is seen"


@pytest.mark.parametrize(("scheme", "shape"), with_shapes(SCHEMES), ids=str)
def test_with_fourier_acceleration_all_modes_have_the_bias_of_the_stiffest(scheme, shape):
    lattice = Lattice(shape)
    sampler = langevin(lattice, scheme, fourier_mass_squared=MASS_SQUARED)
    assert agrees(sampler, lattice, expected(sampler, lattice), seed=2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mala_is_exact(shape):
    lattice = Lattice(shape)
    cfgs = fields(mala(lattice), lattice, 1000)[300:]
    assert agree(pulls(cfgs, lattice, 1 / eigenvalues(lattice)))


@pytest.mark.parametrize("accept", [True, False], ids=["accept", "no accept"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kramers_is_exact_or_has_the_variance_of_leapfrog(shape, accept):
    lattice = Lattice(shape)
    sampler = kramers(lattice, accept=accept)
    if accept:
        sampler = replace(sampler, step_size=0.6 * lattice.volume**-0.25)
    assert agrees(sampler, lattice, expected(sampler, lattice))
    assert accept or not agrees(sampler, lattice, 1 / eigenvalues(lattice)), "the bias is seen"


@pytest.mark.parametrize("friction", [0.2, 5.0])
def test_the_bias_of_kramers_does_not_depend_on_the_friction(friction):
    sampler = kramers(SQUARE, accept=False, friction=friction)
    assert agrees(sampler, SQUARE, expected(sampler, SQUARE))


# Faults, planted


@pytree
class HalfNoise(Langevin):
    """Noise sqrt(eps) instead of sqrt(2 eps), as in public code: exp(-2 S)."""

    def _noise(self, *args):
        return super()._noise(*args) * np.sqrt(0.5).astype("float32")


@pytree
class HalfDrift(Langevin):
    """Drift K/2, as where the noise is sqrt(eps) and the drift forgotten: exp(-S/2)."""

    def _drift(self, layout, phi):
        return super()._drift(layout, phi) / 2


@pytree
class WhiteNoise(Langevin):
    """Fourier acceleration of the drift alone."""

    def _noise(self, *args):
        return Langevin._noise(replace(self, fourier_mass_squared=None), *args)


@pytest.mark.parametrize("fault", [HalfNoise, HalfDrift])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_wrong_noise_and_wrong_drift_do_not_agree(scheme, fault):
    sampler = langevin(SQUARE, scheme, fault)
    assert not agrees(sampler, SQUARE, expected(sampler, SQUARE))


def test_acceleration_without_its_noise_does_not_agree():
    sampler = langevin(SQUARE, "euler", WhiteNoise, fourier_mass_squared=MASS_SQUARED)
    assert not agrees(sampler, SQUARE, expected(sampler, SQUARE))


@pytree
class OneWayMALA(MALA):
    """Not what an earlier test has compiled."""


@pytree
class OneWayKramers(Kramers):
    """Not what an earlier test has compiled."""


@pytest.mark.parametrize("module", [hmc, kramers_module], ids=["MALA", "Kramers"])
def test_an_accept_step_that_forgets_the_way_back_does_not_agree(monkeypatch, module):
    """min(1, exp(-dS)) leaves out q(phi|phi')/q(phi'|phi), the change of the kinetic term."""

    def action_only(action, new, old, layout, *rest):
        return unplanted(action, (new[0], old[1]), old, layout, *rest)

    unplanted = hmc.energy_change
    monkeypatch.setattr(module, "energy_change", action_only)
    if module is hmc:
        cfgs = fields(mala(SQUARE, OneWayMALA), SQUARE, 300)[100:]
    else:
        sampler = kramers(SQUARE, OneWayKramers)
        cfgs = fields(replace(sampler, step_size=0.3), SQUARE, 80)[20:]
    assert not agree(pulls(cfgs, SQUARE, 1 / eigenvalues(SQUARE)))
