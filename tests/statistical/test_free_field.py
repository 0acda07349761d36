"""Every Fourier mode of the free field has the variance 1/(m^2 + p_hat^2)."""

import jax
import pytest
from free_modes import N_CHAINS, agree, pulls, with_shapes

from lattice_ml import HMC, Cycle, FourierHMC, FreeField, Lattice, SwendsenWang, Wolff, run

SHAPES = [(16,), (8, 6), (4, 6, 4), (4, 2, 4, 4)]
N_THERMALISE, N_CONFIGS = 50, 100


def mode_pulls(lattice, sampler, dtype="float32", seed=1):
    """Pulls of the variances that a run measures."""
    chains = run(
        jax.random.key(seed),
        sampler,
        lattice,
        n_chains=N_CHAINS,
        n_thermalise=0,
        n_configs=N_THERMALISE + N_CONFIGS,
        start="cold",
        dtype=dtype,
    )
    cfgs = chains.cfgs.reshape(-1, N_CHAINS, *lattice.shape)[N_THERMALISE:]
    return pulls(cfgs, lattice, sampler.action.propagator(lattice))


@pytest.mark.parametrize(
    ("integrator", "shape"), with_shapes(("leapfrog", "omelyan2", "omelyan4")), ids=str
)
def test_every_mode_has_its_exact_variance(integrator, shape):
    free = FreeField(mass_squared=0.5, ndim=len(shape))
    sampler = HMC(free, trajectory_length=2.0, n_steps=10, integrator=integrator)
    assert agree(mode_pulls(Lattice(shape), sampler))


@pytest.mark.parametrize("mass_squared", [0.5, 1.5])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 7)], ids=str)
def test_every_mode_has_its_exact_variance_with_fourier_acceleration(shape, mass_squared):
    free = FreeField(mass_squared=0.5, ndim=len(shape))
    settings = {"trajectory_length": 0.6, "n_steps": 3, "mass_squared": mass_squared}
    assert agree(mode_pulls(Lattice(shape), FourierHMC(free, **settings)))


@pytest.mark.parametrize(
    ("kind", "shape"), [(Wolff, (8, 6)), (Wolff, (4, 6, 4)), (SwendsenWang, (4, 2, 4, 4))], ids=str
)
def test_every_mode_has_its_exact_variance_with_clusters(kind, shape):
    """A free field has the symmetry too; along an axis of two sites a pair is linked twice."""
    free = FreeField(mass_squared=0.5, ndim=len(shape))
    sampler = Cycle((HMC(free, trajectory_length=1.0, n_steps=5), kind(free, n_updates=2)))
    assert agree(mode_pulls(Lattice(shape), sampler))


def test_every_mode_has_its_exact_variance_in_float64():
    sampler = HMC(FreeField(mass_squared=0.5, ndim=2), trajectory_length=2.0, n_steps=10)
    assert agree(mode_pulls(Lattice((8, 6)), sampler, dtype="float64"))


@pytest.mark.parametrize(("settings", "right"), [({}, True), ({"jitter": 0.0}, False)])
def test_a_resonant_trajectory_is_ergodic_with_jitter_only(settings, right):
    """p = (3 pi/4, 0) has half its period, pi/1.978, next to 1.6 and forgets its start slowly."""
    free = FreeField(mass_squared=0.5, ndim=2)
    sampler = HMC(free, trajectory_length=1.6, n_steps=16, **settings)
    assert agree(mode_pulls(Lattice((8, 8)), sampler)) is right
