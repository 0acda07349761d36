"""Random numbers: published test vectors, independence of grouping, and their distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from rows import each
from scipy import stats

from lattice_ml.fields import randomness

N_TRAJECTORIES, VOLUME, N_CHAINS = 5, 1 << 14, 64  # 5 million normals for each of two seeds
LIMIT = 4.5  # standard deviations


chain_keys = jax.jit(randomness.chain_keys, static_argnums=(1, 2))
uniforms = jax.jit(randomness.uniforms, static_argnums=2)
normals = jax.jit(randomness.normals, static_argnums=(2, 3))


def draw(keys, trajectory, volume, stream=0):
    return np.asarray(normals(keys, jnp.uint32(trajectory), volume, stream))


@pytest.fixture(scope="module", params=[1, 2], ids=["seed 1", "seed 2"])
def keys(request):
    return chain_keys(jax.random.key(request.param), N_CHAINS)


@pytest.fixture(scope="module")
def sample(keys):
    """Normals, `(N_TRAJECTORIES, VOLUME, N_CHAINS)`."""
    return np.stack([draw(keys, trajectory, VOLUME) for trajectory in range(N_TRAJECTORIES)])


def assert_uncorrelated(pairs):
    """Neither standard normals nor their squares are correlated, for pairs by name."""
    deviations = {}
    for name, (x, y) in pairs.items():
        deviations[name] = np.mean(x * y, dtype=np.float64) * math.sqrt(x.size)
        product = (x * x - 1) * (y * y - 1)
        deviations[f"squares, {name}"] = np.mean(product, dtype=np.float64) / 2 * math.sqrt(x.size)
    assert max(map(abs, deviations.values())) < LIMIT, deviations


# The generator.


@pytest.mark.parametrize(
    "key, counter, block",  # of Random123: threefry2x32, 20 rounds
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_blocks(key, counter, block):
    words = randomness.threefry(tuple(map(jnp.uint32, key)), *map(jnp.uint32, counter))
    assert tuple(map(int, words)) == block


def test_threefry_agrees_with_that_of_jax():
    key = np.array([0xDEADBEEF, 12345], np.uint32)
    counters = np.random.default_rng(1).integers(2**32, size=(2, 1000), dtype=np.uint32)
    ours = randomness.threefry(tuple(key), *map(jnp.asarray, counters))
    np.testing.assert_array_equal(np.concatenate(ours), threefry_2x32(key, counters.ravel()))


def test_a_chain_folds_its_number_into_the_key():
    key = jax.random.key(5)
    for chain, words in enumerate(np.transpose(chain_keys(key, 4, 3)), start=3):
        np.testing.assert_array_equal(words, jax.random.key_data(jax.random.fold_in(key, chain)))


# What the numbers depend on: key, chain, trajectory, site and stream, and nothing else.


@pytest.mark.parametrize("volume", [1, 7, 48])
def test_numbers_do_not_depend_on_the_grouping_of_chains(volume):
    key = jax.random.key(3)
    together = draw(chain_keys(key, 9), 17, volume)
    assert together.shape == (volume, 9) and len(np.unique(together)) == together.size
    for first, n_chains in ((2, 5), (8, 1)):
        group = draw(chain_keys(key, n_chains, first), 17, volume)
        np.testing.assert_array_equal(group, together[:, first : first + n_chains])


def test_trajectories_drawn_at_once_are_those_drawn_one_by_one():
    keys = chain_keys(jax.random.key(3), 4)
    at_once = uniforms(keys, jnp.arange(10, 13), 3)
    assert at_once.shape == (3, 3, 4) and at_once.dtype == jnp.float32
    one_by_one = [uniforms(keys, jnp.asarray(trajectory), 3) for trajectory in (10, 11, 12)]
    np.testing.assert_array_equal(at_once, np.stack(one_by_one, axis=1))


def test_numbers_do_not_depend_on_the_precision_of_jax():
    def numbers():
        keys = chain_keys(jax.random.key(3), 3)
        return normals(keys, jnp.uint32(4), 14), uniforms(keys, jnp.arange(4), 2)

    with jax.enable_x64(True):
        wide = numbers()
    with jax.enable_x64(False):
        narrow = numbers()
    for one, other in zip(wide, narrow, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_an_odd_volume_leaves_out_the_last_number():
    keys = chain_keys(jax.random.key(3), 2)
    np.testing.assert_array_equal(draw(keys, 4, 15), draw(keys, 4, 16)[:15])


@pytest.mark.parametrize("stream, volume", [(8, 4), (-1, 4), (0, 2**29)])
def test_counters_that_would_repeat_are_refused(stream, volume):
    with pytest.raises(ValueError, match=rf"got stream={stream}, volume={volume}"):
        normals(chain_keys(jax.random.key(3), 1), jnp.uint32(0), volume, stream)


# How they are distributed.


def test_normals_have_the_moments_of_the_normal_distribution(sample):
    def exact(power):
        return math.prod(range(1, power, 2)) if power % 2 == 0 else 0

    values, power, deviations = sample.astype(np.float64), 1.0, []
    for k in range(1, 9):
        power = power * values
        error = math.sqrt((exact(2 * k) - exact(k) ** 2) / values.size)
        deviations.append((power.mean() - exact(k)) / error)
    assert np.abs(deviations).max() < LIMIT, deviations


def test_normals_have_the_normal_distribution(sample):
    assert stats.kstest(sample.ravel(), "norm").pvalue > 1e-5


def test_normals_of_different_sites_chains_trajectories_and_streams_are_independent(keys, sample):
    half = VOLUME // 2
    assert_uncorrelated(
        {
            "neighbouring sites": (sample[:, 1:], sample[:, :-1]),
            "sites of a row": (sample[:, 128:], sample[:, :-128]),
            "both numbers of a block": (sample[:, half:], sample[:, :half]),
            "neighbouring chains": (sample[..., 1:], sample[..., :-1]),
            "consecutive trajectories": (sample[1:], sample[:-1]),
            "streams": (sample[0], draw(keys, 0, VOLUME, stream=1)),
            "first and last stream": (sample[0], draw(keys, 0, VOLUME, stream=7)),
        }
    )


def test_uniforms_are_uniform_and_independent_of_all_else(keys, sample):
    n, trajectories = 256, jnp.arange(N_TRAJECTORIES)
    u = np.asarray(uniforms(keys, trajectories, n))
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-5
    gauss = stats.norm.ppf(u)
    first, second = sample[:, :n].swapaxes(0, 1), sample[:, VOLUME // 2 :][:, :n].swapaxes(0, 1)
    assert_uncorrelated(
        {
            "first normals": (gauss, first),
            "their partners": (gauss, second),
            "draws": (gauss[1:], gauss[:-1]),
            "trajectories": (gauss[:, 1:], gauss[:, :-1]),
            "chains": (gauss[..., 1:], gauss[..., :-1]),
        }
    )


@pytest.mark.parametrize("bits", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
def test_no_bits_make_a_uniform_of_0_or_1_or_an_infinite_normal(bits, monkeypatch):
    def threefry(keys, counter0, counter1):
        shape = np.broadcast_shapes(keys[0].shape, counter0.shape, counter1.shape)
        return jnp.full(shape, bits, jnp.uint32), jnp.full(shape, bits, jnp.uint32)

    monkeypatch.setattr(randomness, "threefry", threefry)
    keys = chain_keys(jax.random.key(3), 2)
    u = np.asarray(randomness.uniforms(keys, jnp.arange(2), 2))
    assert u.min() > 0 and u.max() < 1
    assert np.abs(randomness.normals(keys, jnp.uint32(0), 4)).max() < 6


# Uniforms of sites.


site_uniforms = jax.jit(randomness.site_uniforms, static_argnums=(2, 3))


def test_uniforms_of_sites_are_uniform_and_independent(keys):
    own = randomness.part_keys(keys, 1)
    u = np.asarray(site_uniforms(own, jnp.uint32(3), VOLUME, 5))
    assert u.shape == (5, VOLUME, N_CHAINS) and u.min() > 0 and u.max() < 1
    assert stats.kstest(u[:, ::16].ravel(), "uniform").pvalue > 1e-5
    x = np.asarray((u - 0.5) * np.sqrt(12), np.float64)
    noise = draw(keys, 3, VOLUME)
    pairs = {f"{i} and {j}": (x[i], x[j]) for i in range(5) for j in range(i)}
    pairs |= {"sites": (x[:, 1:], x[:, :-1]), "chains": (x[..., 1:], x[..., :-1])}
    pairs |= {f"normals and {i}": (noise, x[i]) for i in range(5)}
    off = {name: abs(np.mean(a * b)) * math.sqrt(a.size) for name, (a, b) in pairs.items()}
    assert max(off.values()) < LIMIT, off


@each("volume", [1, 15, 96])
def test_uniforms_of_sites_do_not_depend_on_the_grouping_of_chains(keys, volume):
    whole = site_uniforms(keys, jnp.uint32(2), volume, 3)
    one = site_uniforms(tuple(word[7:8] for word in keys), jnp.uint32(2), volume, 3)
    np.testing.assert_array_equal(whole[..., 7:8], one)
    np.testing.assert_array_equal(whole[:2], site_uniforms(keys, jnp.uint32(2), volume, 2))


@each(("volume", "n"), [(8, 0), (8, 9), (1 << 29, 2)])
def test_uniforms_of_sites_that_would_repeat_are_refused(keys, volume, n):
    with pytest.raises(ValueError, match="need 1 <= n <= 8 and volume < 2"):
        randomness.site_uniforms(keys, jnp.uint32(0), volume, n)


def test_parts_of_an_update_have_keys_of_their_own(keys):
    words = [np.asarray(randomness.part_keys(keys, i)) for i in range(3)]
    assert len({tuple(pair) for word in (*words, np.asarray(keys)) for pair in word.T}) == 4 * 64
