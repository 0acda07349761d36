"""What measuring asks of an ensemble, whatever made it and wherever it lies.

`chains.run.Chains` in memory and `storage.ensemble.EnsembleOnDisk` are both of this contract, and
a class of the user's own may be.  The N = n_configs * n_chains samples lie sample first and
configuration-major: sample i is configuration i // n_chains of chain i % n_chains.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lattice_ml.runtime.json import Section

__all__ = ["Configurations", "Ensemble"]


class Configurations(Protocol):
    """An array (N, *shape): in memory, or on disk and read where it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice | np.ndarray, /) -> np.ndarray: ...


@runtime_checkable
class Ensemble(Protocol):
    """Configurations and histories of `n_chains` chains of `n_configs` configurations each."""

    @property
    def action(self) -> Any:
        """What the ensemble is of, of whatever class; None where that is not known."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the lattice."""

    @property
    def n_chains(self) -> int: ...

    @property
    def n_configs(self) -> int: ...

    @property
    def thin(self) -> int:
        """Trajectories from one kept configuration to the next."""

    @property
    def temperature(self) -> float:
        """alpha of exp(-S/alpha)."""

    @property
    def has_cfgs(self) -> bool:
        """Whether configurations were kept, or histories alone."""

    @property
    def cfgs(self) -> Configurations:
        """All configurations."""

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first sample, (n, *shape)) over all configurations."""

    @property
    def history(self) -> tuple[str, ...]:
        """Names that `series` knows."""

    def series(self, name: str) -> np.ndarray:
        """The history of this name, (n_chains, n_configs)."""

    @property
    def log_weight(self) -> np.ndarray | None:
        """Log weight of the samples, not normalised, (n_chains, n_configs)."""

    @property
    def log_prob(self) -> np.ndarray | None:
        """Log density of the model that made the samples, (n_chains, n_configs)."""

    @property
    def numbers(self) -> Mapping[str, np.ndarray]:
        """The trajectory and the chain that each sample was stored with, (n_chains, n_configs)."""

    @property
    def label(self) -> str:
        """What the ensemble is called: its directory, if it has one."""

    @property
    def kind(self) -> str:
        """Of the sampler, such as HMC+Wolff; "" where none is known."""

    @property
    def tuned(self) -> Section:
        """What the warm-up fixed."""

    @property
    def config(self) -> Section:
        """The resolved config that made it; nothing in memory."""

    @property
    def provenance(self) -> Sequence[Section]:
        """Who made it, each from `first_config` on; nothing in memory."""

    @property
    def parent(self) -> str | None:
        """Hash of the data or model that it comes from."""

    @property
    def seconds(self) -> float | None:
        """Wall time that making it took; None where unknown."""
