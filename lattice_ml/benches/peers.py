"""HMC of BlackJAX and NumPyro beside our own samplers, where they are installed.

They get the action as one writes it, with rolls and sums, unit masses, and the step size and number
of steps that our warm-up found; their chains are vmapped, and x64 is off, because with it their
float32 programs are half as fast.
"""

import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lattice_ml.actions import Quartic
from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import REPEATS, Samples
from lattice_ml.fields.layout import single
from lattice_ml.observables import primaries

__all__ = ["PEERS", "Kernel", "blackjax", "installed", "numpyro", "rolled", "run"]

State = Any  # of a chain of another package


class Kernel(NamedTuple):
    """A sampler of one chain."""

    start: Callable[[jax.Array, jax.Array], State]  # (key, phi) to its state
    step: Callable[[jax.Array, State], State]  # (key, state) to the state after a trajectory
    field: Callable[[State], jax.Array]  # of a state


def rolled(h: float, a: float, b: float) -> Callable[[jax.Array], jax.Array]:
    """S of one configuration in (h, a, b)."""

    def action(phi: jax.Array) -> jax.Array:
        links = sum(phi * jnp.roll(phi, 1, axis) for axis in range(phi.ndim))
        return jnp.sum(-h * links + a * phi**2 + b * phi**4)

    return action


def blackjax(
    action: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], step: float, n_steps: int
) -> Kernel:
    """BlackJAX's HMC."""
    masses = jnp.ones(math.prod(shape), jnp.result_type(float))
    hmc = importlib.import_module("blackjax").hmc
    sampler = hmc(lambda phi: -action(phi), step, masses, n_steps)
    return Kernel(
        lambda key, phi: sampler.init(phi),
        lambda key, state: sampler.step(key, state)[0],
        lambda state: state.position,
    )


def numpyro(
    action: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], step: float, n_steps: int
) -> Kernel:
    """NumPyro's HMC without adaptation."""
    hmc = importlib.import_module("numpyro.infer.hmc").hmc
    start, sample = hmc(action, algo="HMC")
    fixed = {"num_warmup": 0, "adapt_step_size": False, "adapt_mass_matrix": False}
    lengths = {"step_size": step, "num_steps": n_steps, "trajectory_length": None}
    return Kernel(
        lambda key, phi: start(phi, rng_key=key, **fixed, **lengths),
        lambda key, state: sample(state),
        lambda state: state.z,
    )


PEERS = {"blackjax": blackjax, "numpyro": numpyro}


def installed() -> list[str]:
    """Names of the `PEERS` that this environment has."""
    return [name for name in PEERS if importlib.util.find_spec(name)]


def run(
    name: str, key: jax.Array, action: Quartic, reference: Samples, *, n_configs: int
) -> Samples:
    """Histories and rate of one of `PEERS` from the last fields of a reference that our HMC made.

    The reference gives step size and number of steps too.  Configurations are one per trajectory,
    in equal parts of which the first is not timed.
    """
    tuned, fields = dict(reference.tuned or {}), np.asarray(reference.fields, np.float32)
    part = -(-n_configs // (REPEATS + 1))
    seconds, parts = [], []
    with jax.enable_x64(False):
        potential = rolled(*map(float, action.couplings()))
        lengths = float(tuned["step_size"]), int(tuned["n_steps"])
        kernel = PEERS[name](potential, reference.lattice.shape, *lengths)
        layout = single(reference.lattice.shape, len(fields))

        def update(state: State, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
            state = jax.vmap(kernel.step)(jax.random.split(key, len(fields)), state)
            phi = jnp.moveaxis(kernel.field(state), 0, -1)
            return state, primaries(action, phi, layout)

        advance = jax.jit(lambda state, key: lax.scan(update, state, jax.random.split(key, part)))
        state = jax.vmap(kernel.start)(jax.random.split(key, len(fields)), jnp.asarray(fields))
        for number in range(REPEATS + 1):
            begin = time.perf_counter()
            state, found = advance(state, jax.random.fold_in(key, number))
            parts.append(jax.tree.map(np.asarray, found))
            seconds.append(time.perf_counter() - begin)
    return Samples(
        reference.lattice,
        {name: np.concatenate([p[name] for p in parts]).T.astype(float) for name in parts[0]},
        Number.median([len(fields) * part / s for s in seconds[1:]]),
        tuned={name: tuned[name] for name in ("step_size", "n_steps")},
    )
