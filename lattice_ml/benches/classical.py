"""The classical samplers of the benchmarks; another one is a line in `CLASSICAL`.

All start from configurations in equilibrium, so that slow samplers are not judged by their warm-up,
and are tuned by the package's own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import Action, Quartic
from lattice_ml.benches.record import Number
from lattice_ml.benches.timing import Samples, timed_chains
from lattice_ml.fields.lattice import Lattice
from lattice_ml.runtime.arguments import unknown
from lattice_ml.samplers.cluster import SwendsenWang, Wolff
from lattice_ml.samplers.cycle import Cycle
from lattice_ml.samplers.fourier_hmc import FourierHMC
from lattice_ml.samplers.hmc import HMC
from lattice_ml.samplers.kinds import CLUSTER_PERIODS
from lattice_ml.samplers.kramers import Kramers
from lattice_ml.samplers.langevin import Langevin
from lattice_ml.samplers.mala import MALA
from lattice_ml.samplers.sampler import Sampler

__all__ = ["CLASSICAL", "Classical", "check_names", "equilibrium", "independent", "run"]

LANGEVIN_STEP = 0.02


class Classical(NamedTuple):
    """A sampler of the benchmarks."""

    # makes it of an action and the frequency of its slowest mode
    build: Callable[[Quartic, float], Sampler]
    thin: int = 1  # updates between stored configurations; more where an update is short
    exact: bool = True  # whether it has no bias


CLASSICAL: dict[str, Classical] = {
    "hmc_1": Classical(lambda action, slowest: HMC(action, trajectory_length=1.0)),
    "hmc_auto": Classical(lambda action, slowest: HMC(action)),
    "hmc_wolff": Classical(
        lambda action, slowest: Cycle((HMC(action, periods=CLUSTER_PERIODS), Wolff(action)))
    ),
    "hmc_swendsen_wang": Classical(
        lambda action, slowest: Cycle((HMC(action, periods=CLUSTER_PERIODS), SwendsenWang(action)))
    ),
    "fourier_hmc": Classical(lambda action, slowest: FourierHMC(action)),
    "langevin": Classical(
        lambda action, slowest: Langevin(
            action, step_size=LANGEVIN_STEP, scheme="leimkuhler_matthews"
        ),
        exact=False,
    ),
    "mala": Classical(lambda action, slowest: MALA(action), thin=10),
    "kramers": Classical(lambda action, slowest: Kramers(action, friction=slowest)),
}


def equilibrium(key: jax.Array, action: Action, lattice: Lattice, **counts: int) -> Samples:
    """Chains of HMC with trajectories as long as the slowest mode asks for, by `timed_chains`."""
    return timed_chains(key, HMC(action), lattice, start="cold", **counts)


def run(
    name: str,
    key: jax.Array,
    action: Quartic,
    reference: Samples,
    *,
    n_chains: int,
    n_configs: int,
    n_thermalise: int,
) -> Samples:
    """Chains of one of `CLASSICAL` from the last fields of a reference that HMC made.

    The reference is of `equilibrium`, whose trajectories are a quarter period of the slowest mode;
    the warm-up is in units of `thin` updates.
    """
    known = CLASSICAL[name]
    slowest = np.pi / 2 / (reference.tuned or {})["trajectory_length"]
    return timed_chains(
        key,
        known.build(action, float(slowest)),
        reference.lattice,
        n_chains=n_chains,
        n_configs=n_configs,
        n_thermalise=known.thin * n_thermalise,
        thin=known.thin,
        start=np.asarray(reference.fields),
    )


def independent(samples: Samples, name: str = "m2") -> tuple[Number, Number]:
    """tau_int of an observable in updates, and independent values of it per second of chains."""
    found = samples.estimate(name)
    tau = Number(found.tau_int, found.tau_int_error)
    return tau, samples.per_second.over(tau.scaled(2))


def check_names(key: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Refuse a name that does not exist, naming the nearest.

    Raises:
        ValueError: there is none, one is not known, or one comes twice.
    """
    for name in names:
        if name not in known:
            raise ValueError(unknown(key, name, known))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{key} must be different names, at least one, got {list(names)}")
