"""What is handed to `run` and to actions: floats are made of numbers, all else is a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import each

from lattice_ml import (
    HMC,
    FreeField,
    Lattice,
    Phi4,
    action,
    check,
    convert,
    infer_couplings,
    measure,
    pytree,
    run,
    two_point,
)
from lattice_ml.actions import force, total
from lattice_ml.analysis.exact import exact
from lattice_ml.fields.lattice import hop
from lattice_ml.fields.layout import single
from lattice_ml.observables import measure_configurations

PHI4 = action("kappa", 2, kappa=0.2, lam=0.1)
SPINS = np.random.default_rng(0).choice([-1, 1], size=(4, 4))
ACTIONS = [PHI4, action("standard", 2, mass_squared=-1, g=0.3), FreeField(0.5, 2)]
SIZES = {"n_chains": 2, "n_configs": 4, "n_thermalise": 2}


@pytree
class Plain:
    """An action of a user's, with nothing but itself."""

    mass_squared: float

    def __call__(self, phi):
        return self.mass_squared * (phi**2).sum() / 2


def chains(sampler=None, key=None, lattice=(4, 4), **options):
    key = jax.random.key(1) if key is None else key
    return run(key, sampler or HMC(PHI4), Lattice(lattice), **SIZES | options)


# Whole numbers as fields.


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "bool", "float16", "bfloat16"])
@pytest.mark.parametrize("acting", ACTIONS, ids=lambda a: type(a).__name__)
def test_actions_of_whole_numbers_and_halves_are_those_of_floats(acting, dtype):
    field = jnp.asarray((SPINS > 0) if dtype in ("uint8", "bool") else SPINS, dtype)
    exactly = jnp.asarray(np.asarray(field, np.float64))
    for name in ("density", "force", "__call__"):
        found = getattr(acting, name)(field)
        assert found.dtype in (jnp.float32, jnp.float64)
        np.testing.assert_allclose(found, getattr(acting, name)(exactly), rtol=1e-5, atol=1e-6)
    assert abs(float(acting.force(field).sum())) > 0.1, "the couplings count"
    np.testing.assert_allclose(hop(field), hop(exactly))


@pytest.mark.parametrize("kind", ["lists", "numpy"])
def test_numpy_fields_are_as_good(kind):
    field = SPINS if kind == "numpy" else jnp.asarray(SPINS.tolist())
    assert float(PHI4(field)) == pytest.approx(float(PHI4(jnp.asarray(SPINS, float))))
    found = jax.jit(PHI4.density)(field)
    assert np.abs(found).sum() > 1


def test_the_total_and_the_force_of_a_group_are_those_of_floats():
    layout, group = single((4, 4)), jnp.asarray(SPINS)[..., None]
    for acting in (PHI4, Plain(0.5)):
        expected = total(acting, group.astype(float), layout)
        np.testing.assert_allclose(total(acting, group, layout), expected)
    np.testing.assert_allclose(force(PHI4, group, layout), force(PHI4, group.astype(float), layout))


@each("dtype", ["int8", "bool", ">f8", ">f4", "float16", "longdouble"])
def test_configurations_of_any_real_numbers_are_measured_in_floats(dtype):
    fields = np.repeat(SPINS[None], 3, axis=0).astype(dtype)
    expected = measure_configurations(PHI4, fields.astype(np.float64))
    for name, values in measure_configurations(PHI4, fields).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_fields_are_refused(dtype):
    field = jnp.asarray(SPINS, dtype)
    for refuse in (PHI4, PHI4.force, PHI4.density, hop):
        with pytest.raises(TypeError, match=f"a field is of real numbers, got {dtype}"):
            refuse(field)
    with pytest.raises(TypeError, match=f"cfgs must be real, got {dtype}"):
        measure_configurations(PHI4, np.asarray(field)[None])
    with pytest.raises(ValueError, match=rf"chain\.start: fields must be real, got {dtype}"):
        chains(start=np.asarray(field)[None])


def test_a_mask_of_the_start_is_not_dropped():
    start = np.ma.masked_less(SPINS[None], 0)
    with pytest.raises(ValueError, match=r"chain\.start: fields must have no mask"):
        chains(start=start)


@pytest.mark.parametrize("start", [SPINS[None], jnp.asarray(SPINS)[None], [SPINS.tolist()]])
def test_chains_start_from_any_real_numbers(start):
    found = chains(start=start, n_thermalise=0, sampler=HMC(PHI4, step_size=0.1, n_steps=2))
    expected = chains(
        start=SPINS[None].astype(np.float64),
        n_thermalise=0,
        sampler=HMC(PHI4, step_size=0.1, n_steps=2),
    )
    assert found.cfgs.dtype == np.float32
    assert np.array_equal(found.cfgs, expected.cfgs)


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(np.nan, "float32", "nan"), (np.inf, "float64", "inf"), (1e10, "float32", "10000000000.0")],
)
def test_a_start_that_overflows_is_refused(value, dtype, said):
    fields = np.zeros((2, 4, 4))
    fields[1, 2, 3] = value
    match = rf"fourth powers must be finite in {dtype}, got {said} at \[1, 2, 3\]"
    with pytest.raises(ValueError, match=match):
        chains(start=fields, dtype=dtype)


# Couplings.


@each("value", ["0.2", True, np.True_, None, 1j, [0.2, 0.3], np.ones(1), np.nan, -np.inf, 10**400])
def test_a_coupling_is_a_finite_number(value):
    with pytest.raises(ValueError, match=r"action\.kappa must be a finite number, got"):
        action("kappa", 2, kappa=value, lam=0.1)
    with pytest.raises(ValueError, match=r"h must be a finite number, got"):
        chains(HMC(Phi4(value, 1.0, 1.0)))
    with pytest.raises(ValueError, match=r"mass_squared must be a finite number, got"):
        chains(HMC(FreeField(value, 2)))


@each("kind", [int, np.float32, np.int64, jnp.float64, jnp.asarray])
def test_numbers_of_any_kind_are_couplings(kind):
    found = action("standard", 2, mass_squared=kind(1), g=kind(2))
    assert found == action("standard", 2, mass_squared=1.0, g=2.0)
    assert all(type(value) is float for value in found.couplings())


@pytest.mark.parametrize("values", [{"kappa": 1e300, "lam": 1.0}, {"kappa": 0.1, "lam": 1e300}])
def test_couplings_that_overflow_are_refused(values):
    with pytest.raises(ValueError, match=r"couplings must be below 1e\+15, got h = "):
        action("kappa", 2, **values)


# Dimensions.


def test_an_action_lives_in_the_dimension_that_it_was_made_for():
    cubic = action("standard", 3, mass_squared=1.0, g=0.1)
    match = "a Phi4 with ndim = 3 cannot live in 2 dimensions"
    for refuse in (
        lambda: chains(HMC(cubic)),
        lambda: cubic(jnp.ones((4, 4))),
        lambda: measure_configurations(cubic, np.ones((3, 4, 4))),
        lambda: convert(cubic, "kappa", 2),
        lambda: exact(cubic, (2, 2)),
        lambda: cubic.check(2),
    ):
        with pytest.raises(ValueError, match=match):
            refuse()
    with pytest.raises(ValueError, match="a FreeField with ndim = 3 cannot live in 2"):
        FreeField(0.5, 3)(jnp.ones((4, 4)))
    converted, _ = convert(cubic, "kappa", 3)
    assert (converted.ndim, cubic.ndim, Phi4(1.0, 1.0, 1.0).ndim) == (3, 3, None)


def test_several_configurations_are_no_lattice_of_more_dimensions():
    with pytest.raises(ValueError, match="with ndim = 2 cannot live in 3 dimensions"):
        PHI4(jnp.ones((10, 4, 4)))


def test_couplings_alone_are_of_no_dimension():
    free = Phi4(*PHI4.couplings())
    assert free == PHI4 and hash(free) == hash(PHI4)
    assert float(free(jnp.ones((2, 2, 2)))) == pytest.approx(8 * (0.8 + 0.1 - 1.2))


@each("ndim", [0, 5, "2", 2.5, None])
def test_an_action_has_one_to_four_dimensions(ndim):
    with pytest.raises(ValueError, match="an action lives in 1 to 4 dimensions, got"):
        action("kappa", ndim, kappa=0.1, lam=0.1)


# Keys, types and modes.


@each(
    ("key", "said"),
    [
        (lambda: jax.random.key(1, impl="rbg"), "key<rbg> of shape"),
        (lambda: jax.random.key(1, impl="unsafe_rbg"), "key<urbg> of shape"),
        (lambda: jax.random.split(jax.random.key(1), 3), r"key<fry> of shape \(3,\)"),
        (lambda: jnp.zeros(2), "float64 of shape"),
        (lambda: 1, "got 1"),
    ],
)
def test_the_key_is_one_of_threefry(key, said):
    with pytest.raises(ValueError, match=rf"one key, jax\.random\.key\(seed\) with.*{said}"):
        chains(key=key())


def test_types_may_be_named_as_numpy_and_jax_name_them():
    expected = chains().cfgs
    for dtype in (np.float32, jnp.float32, np.dtype("f4"), "f4", ">f4"):
        found = chains(dtype=dtype).cfgs
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert chains(dtype=float).cfgs.dtype == np.float64
    for dtype in (jnp.bfloat16, np.int32, None, "half", "nonsense", complex):
        with pytest.raises(ValueError, match=r"output\.dtype must be float32 or float64, got"):
            chains(dtype=dtype)


def test_the_strict_modes_of_a_users_program_do_not_reach_the_package():
    plain = chains(n_configs=50)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        found = chains(n_configs=50)
        assert np.array_equal(found.cfgs, plain.cfgs)
        assert measure(found)["phi2"].value == measure(plain)["phi2"].value
        assert check(found) and infer_couplings(found) and two_point(found)
        with pytest.raises(ValueError, match="strict"):
            jnp.ones(2, "float32") + jnp.ones(2, "float64")  # the user's own stays strict
