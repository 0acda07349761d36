"""Counter-based random numbers: every chain, trajectory and site has its own, whatever runs them.

A chain's key is `fold_in(key, chain)`; a number is threefry-2x32 (Salmon et al., SC11) of that key
and the counter (site, trajectory).  So the numbers depend neither on how chains are grouped or
spread over devices, nor on the block length, nor on where a run was resumed, and nothing random
needs to be stored.  Normals come in pairs by Box-Muller from the two words of one block, in single
precision (23 bits, |z| < 5.8) and are cast up for float64 dynamics.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = [
    *("Keys", "chain_keys", "normal_pairs", "normals", "part_keys", "site_uniforms"),
    *("step_keys", "uniforms"),
]

Words = jax.Array | np.ndarray  # uint32
Keys = tuple[Words, Words]  # two words per chain, each (n_chains,)

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_SMALL_DRAWS = 0xFFFFFF00  # counters reserved for per-chain numbers
_PARTS = 0xFFFFFFFF  # no trajectory of a chain has this number
_STEPS = 1 << 31  # counters from here on are those of steps within a trajectory
_PAIRS_PER_ROW = 4096
_UNIFORMS_PER_ROW = 512  # in pairs; longer rows of uniforms are up to five times slower


def chain_keys(key: jax.Array, n_chains: int, first: int = 0) -> Keys:
    """`fold_in(key, chain)` of `n_chains` chains from `first` on: two words `(n_chains,)` each.

    Raises:
        ValueError: not one key of threefry, the default of JAX.
    """
    try:
        words: Words = jax.random.key_data(key)
    except TypeError:
        words = np.empty(0)
    if words.shape != (2,) or words.dtype != np.uint32:
        kind = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array) else repr(key)
        raise ValueError(
            f"the chains need one key, jax.random.key(seed) with impl threefry2x32, got {kind}"
        )
    if not isinstance(words, jax.core.Tracer):
        words = np.asarray(words)  # NumPy needs no compilation
    chains = np.arange(first, first + n_chains, dtype=np.uint32)
    return threefry((words[:1], words[1:]), np.zeros_like(chains), chains)


def step_keys(keys: Keys, trajectory: jax.Array, step: jax.Array | int) -> Keys:
    """Keys of one step of a trajectory, below 2^31 - 256, for fresh noise in every step."""
    counter = jnp.uint32(_STEPS) + jnp.asarray(step).astype(jnp.uint32)
    # Drawn once, not anew for every site that uses them.
    return lax.optimization_barrier(threefry(keys, counter, jnp.asarray(trajectory)))


def part_keys(keys: Keys, part: int) -> Keys:
    """Keys of one of several updates that share the numbers of their trajectories."""
    return step_keys(keys, jnp.uint32(_PARTS), jnp.uint32(part))


def uniforms(keys: Keys, trajectory: jax.Array, n: int) -> jax.Array:
    """Draw `n` uniforms per chain for a trajectory, independent of all `normals`.

    Args:
        keys: of the chains.
        trajectory: a number or `(n_trajectories,)`.
        n: at most 256.

    Returns:
        float32 in (0, 1), `(n, *trajectory.shape, n_chains)`.
    """
    counter = jnp.uint32(_SMALL_DRAWS) + jnp.arange(n, dtype=jnp.uint32)
    counter = counter.reshape(-1, *(1,) * (trajectory.ndim + 1))
    word, _ = threefry(keys, counter, trajectory.astype(jnp.uint32)[..., None])
    return _open_uniform(word)


def normals(keys: Keys, trajectory: jax.Array, volume: int, stream: int = 0) -> jax.Array:
    """Draw one standard normal per site and chain.

    Args:
        keys: words of shape `(n_chains,)`.
        trajectory: the counter, a scalar.
        volume: sites of the lattice, fewer than 2^29.
        stream: 0 to 7, for updates that need several fields of noise per trajectory.

    Returns:
        float32 `(volume, n_chains)`; sites s and s + ceil(volume/2) share one threefry block.
    """
    if not (0 <= stream < 8 and volume < 2**29):
        raise ValueError(f"need 0 <= stream < 8 and volume < 2^29, got {stream=}, {volume=}")
    n_pairs = (volume + 1) // 2
    return jnp.concatenate(normal_pairs(keys, trajectory, 0, n_pairs, stream))[:volume]


def normal_pairs(
    keys: Keys, trajectory: jax.Array, first: int | jax.Array, n_pairs: int, stream: int = 0
) -> tuple[jax.Array, jax.Array]:
    """The two normals of each of `n_pairs` threefry blocks from `first` on.

    Block k holds those of the sites k and k + ceil(volume/2) of `normals`.

    Returns:
        Two arrays, float32 `(n_pairs, n_chains)`.
    """
    n_chains = keys[0].size
    sites = _sites_per_row(n_pairs, n_chains, _PAIRS_PER_ROW)
    lane = np.repeat(np.arange(sites, dtype=np.uint32), n_chains) + np.uint32(stream << 28)
    row_keys = jnp.tile(keys[0], sites), jnp.tile(keys[1], sites)

    def row(carry: None, first: jax.Array) -> tuple[None, jax.Array]:
        # One complex output, because two outputs would each draw all the bits again.
        return carry, lax.complex(*_box_muller(*threefry(row_keys, first + lane, trajectory)))

    # The scan is over at least two rows where the volume allows: XLA inlines a loop of one trip
    # and then computes every block of random bits once per consumer.
    rows = jnp.arange(0, n_pairs, sites, dtype=jnp.uint32)
    _, pairs = lax.scan(row, None, rows + jnp.asarray(first).astype(jnp.uint32))
    return pairs.real.reshape(n_pairs, n_chains), pairs.imag.reshape(n_pairs, n_chains)


def site_uniforms(keys: Keys, trajectory: jax.Array, volume: int, n: int) -> jax.Array:
    """Draw `n` uniforms per site and chain; not independent of `normals` of the same keys.

    Args:
        keys: words of shape `(n_chains,)`.
        trajectory: the counter, a scalar.
        volume: sites of the lattice, fewer than 2^29.
        n: 1 to 8.

    Returns:
        float32 in (0, 1), `(n, volume, n_chains)`; two of them share one threefry block.
    """
    if not (1 <= n <= 8 and volume < 2**29):
        raise ValueError(f"need 1 <= n <= 8 and volume < 2^29, got {n=}, {volume=}")
    n_chains = keys[0].size
    sites = _sites_per_row(volume, n_chains, _UNIFORMS_PER_ROW)
    lane = np.repeat(np.arange(sites, dtype=np.uint32), n_chains)
    row_keys = jnp.tile(keys[0], sites), jnp.tile(keys[1], sites)

    def row(carry: None, first: jax.Array) -> tuple[None, jax.Array]:
        words = threefry(row_keys, first + lane, trajectory)
        return carry, lax.complex(*map(_open_uniform, words))

    found: list[jax.Array] = []
    for block in range((n + 1) // 2):
        first = jnp.arange(0, volume, sites, dtype=jnp.uint32) + np.uint32(block << 29)
        _, pairs = lax.scan(row, None, first)
        found += [part.reshape(volume, n_chains) for part in (pairs.real, pairs.imag)]
    return jnp.stack(found[:n])


def threefry(keys: Keys, counter0: Words, counter1: Words) -> Keys:
    """Threefry-2x32 with 20 rounds of the broadcast (keys, counters): two uint32 words."""
    schedule = (*keys, keys[0] ^ keys[1] ^ np.uint32(0x1BD11BDA))
    x0 = counter0 + keys[0]
    x1 = counter1.astype(jnp.uint32) + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _open_uniform(word: Words) -> jax.Array:
    """Top 23 bits to the middle of one of 2^23 bins of (0, 1): exact in float32, never 1."""
    bits = jnp.asarray(word) >> np.uint32(9)
    return (bits.astype(jnp.float32) + np.float32(0.5)) * np.float32(2**-23)


def _box_muller(word0: Words, word1: Words) -> tuple[jax.Array, jax.Array]:
    """Two independent standard normals; the angle is 2 theta with theta in [-pi/2, pi/2)."""
    radius = jnp.sqrt(np.float32(-2) * jnp.log(_open_uniform(word0)))
    turns = lax.bitcast_convert_type(word1, jnp.int32).astype(jnp.float32) * np.float32(2**-32)
    theta = turns * np.float32(np.pi)
    square = theta * theta
    series = jnp.float32(-1 / 39916800)
    for factorial in (362880, -5040, 120, -6, 1):
        series = series * square + np.float32(1 / factorial)
    sine = series * theta
    cosine = jnp.sqrt(jnp.maximum(np.float32(0), 1 - sine * sine))
    return radius * (2 * sine * cosine), radius * (1 - 2 * sine * sine)


def _sites_per_row(n_pairs: int, n_chains: int, most: int) -> int:
    """Largest divisor of `n_pairs` that makes rows of at most `most`, and at least two rows."""
    limit = max(1, min(most // n_chains, n_pairs // 2))
    return next(k for k in range(limit, 0, -1) if n_pairs % k == 0)
