"""What a user hands to a run, checked before anything is computed: settings, a type, a start."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from lattice_ml.observables import real

__all__ = ["ChainSettings", "check_counts", "dtype_name", "starting_fields"]

_TRAJECTORIES = "chain.n_thermalise + chain.n_configs x chain.thin"
_COUNTED = 1 << 31  # chains, and trajectories of each, have numbers below it


@dataclass(frozen=True)
class ChainSettings:
    """Chains and what is kept of them: the section `[chain]` of a config.

    Args:
        n_chains: independent chains.
        n_thermalise: trajectories per chain before the first is kept.
        n_configs: configurations kept per chain.
        thin: trajectories between kept configurations.
        start: hot, cold, or the path of an ensemble.
    """

    n_chains: int = 64
    n_thermalise: int = 500
    n_configs: int = 1000
    thin: int = 1
    start: str = "hot"


def check_counts(settings: ChainSettings) -> None:
    """Refuse numbers of chains, trajectories and configurations that cannot be.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """
    counts = asdict(settings)
    del counts["start"]
    for name, value in counts.items():
        least = 0 if name == "n_thermalise" else 1
        if not _whole(value) or value < least:
            raise ValueError(f"chain.{name} must be a whole number >= {least}, got {value}")
    total = settings.n_thermalise + settings.n_configs * settings.thin
    for name, size in {"chain.n_chains": settings.n_chains, _TRAJECTORIES: total}.items():
        if size >= _COUNTED:
            raise ValueError(f"{name} must be below 2^31, which random numbers count, got {size}")


def dtype_name(dtype: npt.DTypeLike) -> str:
    """The name of a type: "float32" of np.float32 and of jnp.float32."""
    try:
        return str(dtype) if dtype is None else np.dtype(dtype).name
    except TypeError:
        return str(dtype)


def starting_fields(start: str | npt.ArrayLike, dtype: str) -> str | np.ndarray:
    """How chains begin: a word, or fields in floats whose fourth power a type holds.

    Raises:
        ValueError: no real numbers, masked ones, or a field that is too large or none.
    """
    if isinstance(start, str):
        return start
    try:
        fields = real("fields", start)
    except (TypeError, ValueError) as error:
        raise ValueError(f"chain.start: {error}") from error
    largest = float(np.finfo(np.float64 if dtype == "float64" else np.float32).max) ** 0.25
    good = np.abs(fields) < largest  # false of NaN too
    if not good.all():
        site = np.argwhere(~good)[0].tolist()
        raise ValueError(
            f"chain.start: the fields and their fourth powers must be finite in {dtype}, got "
            f"{fields[*site]} at {site}"
        )
    return fields


def _whole(value: object) -> bool:
    """Whether a value counts something: 3 or np.int64(3), not 3.0 and not True."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
