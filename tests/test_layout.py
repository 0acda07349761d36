"""Both memory layouts do the same arithmetic, and sums over sites lose nothing in float32."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import each

from lattice_ml import actions
from lattice_ml.actions import Phi4
from lattice_ml.fields import lattice, randomness
from lattice_ml.fields.layout import Layout, choose_layout, single
from lattice_ml.samplers import integrators

CASES = [
    ((2,), 3),
    ((7,), 5),
    ((130,), 1),
    ((2, 2), 4),
    ((3, 5), 64),
    ((17, 4), 3),
    ((34, 19), 2),
    ((2, 3, 4), 3),
    ((5, 2, 3), 1),
    ((2, 3, 2, 3), 3),
]


def chains(shape, group, dtype=np.float32, seed=1):
    """Fields of one group of chains, `(group, *L)`."""
    return np.random.default_rng(seed).normal(size=(group, *shape)).astype(dtype)


hop_alone = jax.jit(lattice.hop, static_argnums=1)


@jax.jit(static_argnames="layout")
def hop_and_sum(fields, layout):
    return layout.hop(fields), layout.site_sum(fields)


@each("shape, group", CASES)
def test_both_layouts_agree_bit_for_bit_and_with_one_chain_at_a_time(shape, group):
    phi = chains(shape, group)
    hops, sums = [], []
    for layout in (Layout(shape, group), Layout(shape, group, merged=True)):
        hop, total = hop_and_sum(layout.pack(phi)[0], layout)
        assert total.shape == (group,) and total.dtype == jnp.float64
        hops.append(layout.unpack(np.asarray(hop)[None]))
        sums.append(np.asarray(total))
    np.testing.assert_array_equal(*hops)
    np.testing.assert_array_equal(*sums)
    alone = np.moveaxis(np.asarray(hop_alone(np.moveaxis(phi, 0, -1), len(shape))), -1, 0)
    np.testing.assert_allclose(hops[0], alone, rtol=0, atol=2e-6)
    exact = phi.reshape(group, -1).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(sums[0], exact, rtol=0, atol=1e-6 * np.sqrt(phi[0].size))


@jax.jit(static_argnames="layout")
def product_and_slices(fields, layout):
    axes = range(len(layout.shape))
    product = layout.site_sum(fields, fields, fields)
    return product, [layout.slice_sums(fields, axis) for axis in axes]


@each("shape, group", CASES)
def test_sums_of_products_and_over_slices(shape, group):
    phi = chains(shape, group)
    wide = phi.astype(np.float64)
    found = [
        product_and_slices(layout.pack(phi)[0], layout)
        for layout in (Layout(shape, group), Layout(shape, group, merged=True))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
    product, slices = found[0]
    exact = (wide**3).reshape(group, -1).sum(axis=1)
    np.testing.assert_allclose(product, exact, rtol=0, atol=5e-6 * np.sqrt(wide[0].size))
    for axis, sums in enumerate(slices):
        others = tuple(other + 1 for other in range(len(shape)) if other != axis)
        assert sums.shape == (shape[axis], group) and sums.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(sums).T, wide.sum(axis=others), rtol=0, atol=1e-5)


def test_a_sum_over_a_prime_number_of_sites_is_as_accurate():
    layout = single((10007,), 64)
    phi = chains(layout.shape, 64)
    _, total = hop_and_sum(layout.pack(phi)[0], layout)
    errors = np.asarray(total) - phi.sum(axis=1, dtype=np.float64)
    assert np.sqrt(np.mean(errors**2)) < 3e-5  # 2e-4 when added one after the other


@pytest.mark.parametrize("x64", [True, False])
def test_the_last_rows_are_added_without_loss(x64):
    large = np.float32(2**30)  # absorbs 1 in single precision
    with jax.enable_x64(x64):
        total = jax.jit(single((4,)).site_sum)(np.array([[large], [1], [2], [-large]], np.float32))
    assert total.tolist() == [3]


@each("shape, group", CASES)
def test_sites_are_rows_of_chains_in_memory(shape, group):
    phi = chains(shape, 3 * group)
    for layout in (Layout(shape, group), Layout(shape, group, merged=True)):
        packed = layout.pack(phi)
        assert packed.shape == (3, *layout.field_shape) and packed.flags.c_contiguous
        rows = packed.reshape(3, layout.volume, group)
        np.testing.assert_array_equal(rows[1, :, -1], phi[2 * group - 1].ravel())
        np.testing.assert_array_equal(layout.unpack(packed), phi)
        history = np.stack([packed, -packed], axis=1)  # (n_groups, n_configs, ...)
        np.testing.assert_array_equal(layout.unpack(history), [phi, -phi])


@pytest.mark.parametrize("merged", [False, True], ids=["lanes", "merged"])
def test_numbers_per_chain_are_spread_over_its_sites(merged):
    layout = Layout((2, 3), 4, merged)
    per_chain = np.arange(4.0)
    fields = np.zeros(layout.field_shape) + np.asarray(jax.jit(layout.spread)(per_chain))
    spread = layout.unpack(fields[None])
    np.testing.assert_array_equal(spread, np.broadcast_to(per_chain[:, None, None], (4, 2, 3)))


@pytest.mark.parametrize("merged", [False, True], ids=["lanes", "merged"])
def test_a_function_of_one_configuration_is_applied_to_every_chain(merged):
    layout, phi = Layout((2, 3), 4, merged), chains((2, 3), 4, np.float64)
    packed = jnp.asarray(layout.pack(phi)[0])
    cumulated = layout.map_chains(lambda x: jnp.cumsum(x, axis=1), packed)
    np.testing.assert_array_equal(layout.unpack(np.asarray(cumulated)[None]), phi.cumsum(axis=2))
    np.testing.assert_array_equal(layout.map_chains(lambda x: x[1, 2], packed), phi[:, 1, 2])


def test_noise_is_that_of_the_chains():
    keys = randomness.chain_keys(jax.random.key(1), 3)
    noise = np.asarray(randomness.normals(keys, jnp.uint32(5), 6, 1))
    for merged in (False, True):
        layout = Layout((2, 3), 3, merged)
        fields = layout.normals(keys, jnp.uint32(5), stream=1)
        assert fields.shape == layout.field_shape
        np.testing.assert_array_equal(fields.reshape(6, 3), noise)


# Energies: the change of H over a trajectory of a large lattice is of order one, H itself 10^5.


@pytest.fixture(scope="module")
def trajectory():
    """Float32 (phi, pi) before and after a trajectory of eight thermalised chains on 512^2."""
    layout, action = single((512, 512), 8), Phi4(0.53125, 0.9375, 0.03125)  # exact in float32
    keys = randomness.chain_keys(jax.random.key(1), 8)

    @jax.jit
    def evolve(phi, number):
        pi = layout.normals(keys, number)
        end = integrators.integrate(lambda x: actions.force(action, x, layout), phi, pi, 0.1, 10)
        return (phi, pi), end

    end = (jax.jit(layout.normals)(keys, np.uint32(0)),)
    for number in range(1, 9):
        start, end = evolve(end[0], np.uint32(number))
    return action, layout, *jax.tree.map(np.asarray, (start, end))


@jax.jit(static_argnames="layout")
def energy_change(action, layout, start, end):
    (phi, pi), (new_phi, new_pi) = start, end
    kinetic = 0.5 * (new_pi - pi) * (new_pi + pi)
    return layout.site_sum(actions.difference(action, new_phi, phi, layout) + kinetic)


@pytest.mark.parametrize("x64", [True, False])
def test_energy_changes_in_float32_agree_with_float64(trajectory, x64):
    action, layout, start, end = trajectory
    wide = jax.tree.map(lambda x: x.astype(np.float64), (start, end))
    exact = np.asarray(energy_change(action, layout, *wide))
    assert exact.dtype == np.float64 and 1 < np.abs(exact).max() < 100
    with jax.enable_x64(x64):
        change = energy_change(action, layout, start, end)
    assert change.dtype == (jnp.float64 if x64 else jnp.float32)
    assert np.sqrt(np.mean((np.asarray(change) - exact) ** 2)) < 2e-4


# Which layout for how many chains.


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (512, 512), (4, 4, 4, 4)])
def test_the_chosen_layout_holds_all_chains_with_little_padding(shape):
    for n_chains, n_devices in product((1, 2, 3, 40, 64, 65, 80, 96, 130, 1000), (1, 2, 3)):
        layout = choose_layout(shape, n_chains, n_devices, "cpu")
        share = -(-n_chains // n_devices)
        n_groups = -(-share // layout.group)
        padded = n_groups * layout.group
        assert padded <= 1.4 * share or padded < share + n_groups, f"{n_chains=} {n_devices=}"
        if layout.merged:
            assert layout.group == 1 or layout.group * layout.volume <= 1 << 15
        else:
            assert layout.group == 64 and layout.volume <= 4096


def test_an_accelerator_gets_all_chains_of_a_device_in_one_group():
    assert choose_layout((8, 8), 100, 2, "gpu") == Layout((8, 8), 50)
    assert choose_layout((8, 8), 3, 1, "tpu") == Layout((8, 8), 3)
