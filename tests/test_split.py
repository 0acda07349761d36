"""Is a lattice that is spread over devices the same lattice, bit for bit?

This file is also a program: `python tests/test_split.py FILE` does on four devices what the tests
compare with one.
"""

import functools
import os
import re
import subprocess
import sys
from dataclasses import replace

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from rows import each

from lattice_ml import HMC, Lattice, action, cli, open_ensemble, run
from lattice_ml.chains import blocks, engine, program
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.fields import randomness, split
from lattice_ml.fields.lattice import hop
from lattice_ml.fields.layout import Layout
from lattice_ml.fields.split import AXES, CHAINS, SITES, split_layout
from lattice_ml.observables import PRIMARIES
from lattice_ml.samplers import kinds
from lattice_ml.samplers.cycle import Cycle
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA

PHI4 = action("kappa", 2, kappa=0.26, lam=0.022)
PHI4_4D = action("kappa", 4, kappa=0.13, lam=0.022)
FIXED = HMC(PHI4, n_steps=5, step_size=0.2, trajectory_length=1.0)
LONG = HMC(PHI4, n_steps=13, step_size=0.1, trajectory_length=1.3, integrator="omelyan2")
ADAPTIVE = Langevin(PHI4, step_size=0.1, drift_limit=0.1)  # as many steps as a chain needs
SPLIT = ("HMC", "Langevin", "MALA", "Kramers")  # kinds that can be
# Shape, chains, merged, parts: some columns do not divide, some blocks are cut by slabs, some slabs
# have rows enough for an exchange every eight steps.
CASES = [
    *([(16,), 3, True, 2], [(6, 5), 1, True, 2], [(22, 3), 3, True, 2], [(2, 3, 4), 2, False, 2]),
    *([(128, 6), 1, True, 2], [(256, 3), 2, False, 4]),
    *([(16,), 2, False, 4], [(44, 3), 1, True, 4], [(4, 2, 3, 5), 3, True, 4]),
]


def operations(layout, keys, phi):
    """What a layout does to a group's fields."""
    sign = np.cumsum(np.ones(layout.shape), axis=0) - np.arange(layout.shape[-1])
    weighted = phi.reshape(*layout.here, -1) * layout.restrict(sign)
    moved = layout.repeat(jnp.int32(21), lambda i, phi: layout.hop(phi) - phi, phi, reach=1)
    return (
        (layout.hop(phi), layout.normals(keys, jnp.uint32(7), 3), moved),
        (
            *(layout.site_sum(phi), layout.site_sum(weighted), layout.site_max(phi)),
            *(layout.slice_sums(phi, axis) for axis in range(len(layout.shape))),
        ),
    )


def of_a_layout(shape, group, merged, n_parts, operations=operations):
    """What `operations` finds on a lattice in parts, by chains."""
    layout = split_layout(Layout(shape, group, merged), n_parts)
    phi = np.random.default_rng(1).normal(size=(group, *shape)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:n_parts]).reshape(1, -1), AXES)
    none, slabs = PartitionSpec(), PartitionSpec(SITES)
    mapped = jax.shard_map(
        lambda keys, phi: operations(layout, keys, phi),
        mesh=mesh,
        in_specs=(none, slabs),
        out_specs=(slabs, none),
        check_vma=False,
    )
    keys = randomness.chain_keys(jax.random.key(1), group)
    found = jax.tree.map(np.asarray, jax.jit(mapped)(keys, layout.pack(phi)[0]))
    return [*(layout.unpack(x[None]) for x in jax.tree.leaves(found[0])), *found[1]]


def of_all_layouts(n_parts, used):
    """All arrays of the cases with `n_parts`, computed in `used` parts."""
    cases = [case[:3] for case in CASES if case[3] == n_parts]
    return [array for case in cases for array in of_a_layout(*case, used)]


@functools.cache
def run_of(split, sampler=FIXED, *, shape=(16, 8), n_chains=3, dtype="float32"):
    """Fields and what the dynamics reported of them, and averages over them that may round."""
    settings = {"n_configs": 4, "n_thermalise": 4, "dtype": dtype, "split": split}
    chains = run(jax.random.key(1), sampler, Lattice(shape), n_chains=n_chains, **settings)
    means = [name for name in chains.history if name in PRIMARIES]
    exact = [chains.series(name) for name in chains.history if name not in means]
    return [chains.cfgs, *exact], np.array([chains.series(name) for name in means])


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_the_same_run(found, expected):
    """The same bits in the dynamics; see test_chain.py on rounding."""
    assert_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


def long_run(n_parts):
    """A trajectory of 27 forces: rows are exchanged for 8, 8, 8 and 3 of them."""
    return run_of(n_parts, LONG, shape=(256, 8))


def on_four_devices():
    """Layouts and runs in four parts, and two by two chains that take different times."""
    return [*of_all_layouts(4, 4), *run_of(4)[0], *long_run(4)[0], *run_of(2, ADAPTIVE)[0]]


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    file = tmp_path_factory.mktemp("split") / "four.npz"
    subprocess.run([sys.executable, __file__, file], check=True, timeout=300)
    with np.load(file) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def test_two_slabs_do_what_a_layout_does():
    assert_equal(of_all_layouts(2, 2), of_all_layouts(2, 1))


def test_four_devices_do_what_one_does(of_four):
    of_one = [*of_all_layouts(4, 1), *run_of(1)[0], *long_run(1)[0]]
    adaptive = run_of(1, ADAPTIVE)[0]
    assert_equal(of_four[: len(of_one)], of_one)
    for found, expected in zip(of_four[len(of_one) :], adaptive, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # step sizes may round


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        (FIXED, {}),
        (replace(FIXED, action=PHI4_4D), {"shape": (4, 2, 3, 2), "n_chains": 1}),
        (Langevin(PHI4, step_size=0.1), {"n_chains": 64}),
        (
            Cycle((MALA(PHI4, step_size=0.1), Kramers(PHI4, step_size=0.2))),
            {"shape": (6, 5), "dtype": "float64"},
        ),
    ],
    ids=["HMC", "4d", "Langevin", "cycle"],
)
def test_a_run_does_not_know_that_its_lattice_is_split(sampler, settings):
    assert_the_same_run(run_of(2, sampler, **settings), run_of(1, sampler, **settings))


@jax.tree_util.register_static
class NextNearest:
    """An action without a force of its own, which would look two sites away."""

    def __call__(self, phi):
        return jnp.sum(self.density(phi))

    def density(self, phi, hop=hop):
        return phi**2 + 0.02 * hop(phi) ** 2


def test_steps_that_look_further_and_blocks_of_rows(monkeypatch):
    def operations(layout, keys, phi):
        def step(i, phi):
            return layout.hop(layout.hop(phi)) - i.astype(phi.dtype) * phi

        return layout.repeat(jnp.int32(21), step, phi, reach=2), ()

    monkeypatch.setattr(split, "_CACHE", 64 * 6)
    layout = split_layout(Layout((256, 6), 1, merged=True), 2)
    assert layout._steps_at_once(2) == 8 and layout._block(16) == 64
    both, one = (of_a_layout((256, 6), 1, True, n, operations) for n in (2, 1))
    assert_equal(both, one)


@pytest.mark.parametrize(("action", "reach"), [(PHI4, 1), (NextNearest(), 0)])
def test_rows_are_exchanged_at_every_step_where_it_is_not_known_how_far_a_force_looks(
    action, reach, monkeypatch
):
    said = []
    monkeypatch.setattr(split.Split, "_steps_at_once", lambda self, reach: said.append(reach) or 1)
    sampler, settings = replace(FIXED, action=action), {"shape": (128, 7), "n_chains": 1}
    both, one = (run_of(n, sampler, **settings) for n in (2, 1))
    assert set(said) == {reach}
    for found, expected in zip(both[0], one[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # derivatives may round


def test_a_split_run_needs_no_more_than_a_gpu_has():
    made = engine.Engine(jax.random.key(1), Lattice((8, 6)), 2, "float32", 2)
    assert made.mesh.shape == {CHAINS: 1, SITES: 2}
    shapes = program.Shapes(2, 2, True, made.layout, made.mesh)
    start = made.start(FIXED, "hot")
    traced = program._advance.trace(FIXED, start, made.keys, 0, 2, 1, shapes=shapes)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "collective_permute" in text and "all_to_all" in text


def test_a_run_goes_on_with_another_split(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text("[lattice]\nshape = [8, 6]\n[action]\nkappa = 0.26\nlam = 0.022\n")
    words = ["generate", str(file), "--chain.n-chains", "2", "--chain.n-thermalise", "4"]

    def generated(out, n_configs, *more):
        counts = ["--out", str(tmp_path / out), "--chain.n-configs", str(n_configs)]
        assert cli.main([*words, *counts, *more]) == 0
        return open_ensemble(tmp_path / out)

    assert generated("both", 3).n_configs == 3
    both, one = generated("both", 4, "--split", "2"), generated("one", 4)
    assert_equal([both.cfgs[:]], [one.cfgs[:]])
    assert (tmp_path / "both" / "config.toml").read_text() == (
        tmp_path / "one" / "config.toml"
    ).read_text()


# What cannot be split.


@each(
    ("shape", "split", "said"),
    [
        ((8, 8), 3, "first extent of the lattice (8, 8) that leaves 4 sites: 1, 2, 4, 8; got 3"),
        ((9, 9), 2, "(9, 9) that leaves 4 sites: 1; got 2"),
        ((12,), 4, "(12,) that leaves 4 sites: 1, 2; got 4"),
        ((8, 8), 0, "got 0"),
        ((8, 8), 4, "split must be at most the number of devices, 2 (cpu); got 4"),
    ],
)
def test_parts_that_cannot_be_are_refused(shape, split, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        engine.Engine(jax.random.key(1), Lattice(shape), 1, "float32", split)


def test_a_refused_split_leaves_nothing_behind(tmp_path, capsys):
    file = tmp_path / "job.toml"
    file.write_text("[lattice]\nshape = [8, 6]\n[action]\nkappa = 0.26\nlam = 0.022\n")
    assert cli.main(["generate", str(file), "--out", str(tmp_path / "out"), "--split", "3"]) == 2
    assert "1, 2, 4, 8; got 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_needs_whole_lattices_is_refused():
    settings = {"ReplicaExchange": {"coupling": "h", "ladder": (0.4,)}}
    samplers = {name: kind(PHI4, **settings.get(name, {})) for name, kind in kinds.KINDS.items()}
    refused = {name: s for name, s in samplers.items() if not (s.splits or s.incomplete)}
    assert set(refused) == {"FourierHMC", "ReplicaExchange"}
    assert {name for name, s in samplers.items() if s.splits} == set(SPLIT)
    refused["Langevin"] = Langevin(PHI4, fourier_mass_squared=1.0)
    refused["HMC+Wolff"] = Cycle((FIXED, samplers["Wolff"]))
    for name, sampler in refused.items():
        with pytest.raises(ValueError, match=r"split.* whole lattices") as error:
            blocks.check(sampler, Lattice((8, 8)), ChainSettings(2), split=2)
        assert str(error.value).startswith(f"{name} ")
        assert all(kind in str(error.value) for kind in SPLIT)
    with pytest.raises(ValueError, match=r"^HMC\+Wolff cannot be used with split"):
        run_of(2, refused["HMC+Wolff"])


@jax.tree_util.register_static
class Plain:
    """An action without a density."""

    def __call__(self, phi):
        return jnp.sum(phi**2)


def test_an_action_without_density_is_refused():
    with pytest.raises(ValueError, match=r"split over devices: give the action a density"):
        run_of(2, HMC(Plain(), n_steps=1, step_size=0.1, trajectory_length=0.1))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    np.savez(sys.argv[1], *on_four_devices())
