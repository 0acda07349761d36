"""HMC of phi^4 by other means, for `limit.py`: the obvious JAX, NumPy, BlackJAX and NumPyro.

Each does the same work with the same action, step size and number of steps: momentum refresh,
leapfrog, energy difference and accept step of every trajectory, and the magnetisation at the end.
Each function returns `advance(n)`, which takes all chains on by n trajectories and returns their
magnetisations.  In JAX the chains are vmapped and the loop over trajectories is compiled.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.benches import peers
from lattice_ml.benches.kernel import LENGTH, N_STEPS
from lattice_ml.benches.peers import Kernel

Advance = Callable[[int], np.ndarray]

KAPPA, LAM = 0.21, 0.022
STEP = LENGTH / N_STEPS


action = peers.rolled(2 * KAPPA, 1 - 2 * LAM, LAM)


def plain(shape: tuple[int, ...], n_chains: int, dtype: str) -> Advance:
    """What one writes first: vmap, roll, grad of the action, jax.random.normal and jnp.sum."""

    def trajectory(key: jax.Array, phi: jax.Array) -> jax.Array:
        refresh, accept = jax.random.split(key)
        pi = jax.random.normal(refresh, phi.shape, phi.dtype)
        start = action(phi) + 0.5 * jnp.sum(pi**2)

        def leapfrog(carry: Any, _: None) -> tuple[Any, None]:
            x, p = carry
            p = p - STEP * jax.grad(action)(x)
            return (x + STEP * p, p), None

        p = pi - 0.5 * STEP * jax.grad(action)(phi)
        (x, p), _ = lax.scan(leapfrog, (phi + STEP * p, p), None, length=N_STEPS - 1)
        p = p - 0.5 * STEP * jax.grad(action)(x)
        dh = action(x) + 0.5 * jnp.sum(p**2) - start
        return jnp.where(jnp.log(jax.random.uniform(accept)) < -dh, x, phi)

    kernel = Kernel(lambda key, phi: phi, trajectory, lambda phi: phi)
    return _compiled(lambda: kernel, shape, n_chains, dtype)


def numpy(shape: tuple[int, ...], n_chains: int, dtype: str) -> Advance:
    """The same in NumPy, all chains in one array."""
    random = np.random.default_rng(1)
    axes = tuple(range(1, len(shape) + 1))
    phi = random.standard_normal((n_chains, *shape), dtype)

    def force(x: np.ndarray) -> np.ndarray:
        hop = sum(np.roll(x, shift, axis) for axis in axes for shift in (1, -1))
        return 2 * KAPPA * hop - x * (2 * (1 - 2 * LAM) + 4 * LAM * (x * x))  # ** is slow

    def energy(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        links = sum(x * np.roll(x, 1, axis) for axis in axes)
        square = x * x
        density = square * (1 - 2 * LAM + LAM * square) - 2 * KAPPA * links + 0.5 * (p * p)
        return np.sum(density, axis=axes)

    def trajectory(phi: np.ndarray) -> np.ndarray:
        x, p = phi, random.standard_normal(phi.shape, dtype)
        start = energy(x, p)
        p += 0.5 * STEP * force(x)
        for _ in range(N_STEPS - 1):
            x = x + STEP * p
            p += STEP * force(x)
        x = x + STEP * p
        p += 0.5 * STEP * force(x)
        accept = energy(x, p) - start < random.standard_exponential(n_chains)
        return np.where(accept.reshape(-1, *(1,) * len(shape)), x, phi)

    def advance(n: int) -> np.ndarray:
        nonlocal phi
        for _ in range(n):
            phi = trajectory(phi)
        return phi.mean(axis=axes)

    return advance


def _of_others(name: str, shape: tuple[int, ...], n_chains: int, dtype: str) -> Advance:
    def make() -> Kernel:
        return peers.PEERS[name](action, shape, STEP, N_STEPS)

    return _compiled(make, shape, n_chains, dtype)


PEERS = {"plain": plain, "numpy": numpy} | {name: partial(_of_others, name) for name in peers.PEERS}


def installed() -> list[str]:
    """The peers that this environment has."""
    return ["plain", "numpy", *peers.installed()]


def able(name: str, shape: tuple[int, ...], n_chains: int) -> bool:
    """NumPyro's program for a single chain of 256^2 or more ends in a segmentation fault."""
    return name != "numpyro" or n_chains > 1 or math.prod(shape) < 1 << 16


def _compiled(
    make: Callable[[], Kernel], shape: tuple[int, ...], n_chains: int, dtype: str
) -> Advance:
    """Advance all chains of a kernel, which `make` gives in the mode of its dtype."""

    def run(state: Any, key: jax.Array, n: jax.Array) -> tuple[Any, jax.Array]:
        def body(i: jax.Array, state: Any) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, i), n_chains)
            return jax.vmap(kernel.step)(keys, state)

        state = lax.fori_loop(0, n, body, state)
        return state, kernel.field(state).reshape(n_chains, -1).mean(axis=1)

    double = dtype == "float64"  # with x64 on the float32 of others is half as fast
    with jax.enable_x64(double):
        kernel = make()
        keys = jax.random.split(jax.random.key(1), n_chains)
        phi = 0.7 * jax.random.normal(jax.random.key(0), (n_chains, *shape), dtype)
        state, done, compiled = jax.vmap(kernel.start)(keys, phi), 0, jax.jit(run)

    def advance(n: int) -> np.ndarray:
        nonlocal state, done
        with jax.enable_x64(double):
            state, magnetisation = compiled(state, jax.random.fold_in(jax.random.key(2), done), n)
            done += n
            return np.asarray(magnetisation)

    return advance
