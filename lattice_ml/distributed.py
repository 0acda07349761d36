"""Processes and devices: cores as devices, and several processes that make one run.

What sets up JAX is called before JAX is imported (`use_all_cores`) or before its first use
(`join`).  The processes of a run tell each other small things, such as which files are written,
through the service that JAX keeps for them: it is there before, between and after programs on
the devices.
"""

import ctypes
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    *("ALONE", "CPU_FLAGS", "PeerError", "Team", "join", "keep_freed_memory", "launched", "leave"),
    *("return_freed_memory", "team", "usable_cores", "use_all_cores"),
]

# For programs that keep to one core: XLA's threads only hurt small arrays, and by default it uses
# half the width of AVX-512, which costs a tenth to a quarter of the rate of HMC.
CPU_FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=512"

_FOREVER = 2**31 - 1  # milliseconds; a process that is gone ends the others long before
_calls = itertools.count()
_handlers: list[Any] = []  # what C calls must not be collected


class PeerError(RuntimeError):
    """Another process of the run failed, and so this one stops as well."""


def use_all_cores() -> None:
    """Make every usable CPU core a JAX device of its own, so that chains are spread over cores.

    XLA's own threads collide on the small arrays of a lattice: one device per core with sharded
    chains is four times faster on two cores than one device that sees both.  Has no effect on
    GPUs and TPUs, or where the user's XLA_FLAGS already set a device count.

    Raises:
        RuntimeError: JAX is imported already, and would not see the setting.
    """
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if flag in flags:
        return
    if "jax" in sys.modules:
        raise RuntimeError("use_all_cores() must be called before JAX is imported")
    cores = usable_cores()
    os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {flag}={cores} {flags}".strip()  # the user's win


def usable_cores(system: Path = Path("/sys")) -> int:
    """Cores that this process may keep busy.

    Those of its affinity, two hyper-threads of a core counted once (they share its vector units),
    and no more than the CPU time that a container is granted.

    Args:
        system: where the kernel says so.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    topology = system / "devices/system/cpu"
    siblings = (topology / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed)
    try:
        cores = len({path.read_text() for path in siblings})
    except OSError:
        cores = len(allowed)
    try:
        quota, period = (system / "fs/cgroup/cpu.max").read_text().split()
        granted = int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return cores
    return max(1, min(cores, round(granted)))


def keep_freed_memory() -> None:
    """Let the C library keep the memory of finished blocks for the next ones.

    By default glibc returns every large array to the system and has it cleared page by page for
    the next block, which cost a fifth of a run whose every configuration is stored.  Has no effect
    elsewhere.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if (mallopt := _c_function("mallopt")) is not None:
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give the system what the C library keeps; has no effect elsewhere than with glibc."""
    if (malloc_trim := _c_function("malloc_trim")) is not None:
        malloc_trim(0)


def _c_function(name: str) -> Any:
    """A function of the C library, or None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


@dataclass(frozen=True)
class Team:
    """The processes of a run, by default this one alone.

    Attributes:
        rank: number of this process; number 0 speaks and writes for all.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, a JSON value each, in their order; all must call it."""
        if self.size == 1:
            return [value]
        from jax._src.distributed import global_state  # as other libraries do: there is no other

        client: Any = global_state.client
        call = next(_calls)
        client.key_value_set(f"lattice_ml/{call}/{self.rank}", json.dumps(value))
        if call:  # whoever is here has read what was said in the call before the last
            client.key_value_delete(f"lattice_ml/{call - 2}/{self.rank}")
        keys = (f"lattice_ml/{call}/{rank}" for rank in range(self.size))
        return [json.loads(client.blocking_key_value_get(key, _FOREVER)) for key in keys]

    def together(self, function: Callable[[], Any]) -> list[Any]:
        """Call a function in every process and gather what it returns; if one fails, all do.

        Raises:
            PeerError: it failed in another process, which raises the error itself.
        """
        failed: Exception | None = None
        try:
            said = {"value": function()}
        except Exception as error:
            if self.size == 1:
                raise
            failed, said = error, {"error": str(error)}
        found = self.gather(said)
        if failed:
            raise failed
        for rank, other in enumerate(found):
            if "error" in other:
                raise PeerError(f"process {rank} of {self.size}: {other['error']}")
        return [other["value"] for other in found]

    def first(self, function: Callable[[], Any]) -> Any:
        """What a function returns in process 0, told to all; see `together`."""
        return self.together(lambda: function() if self.leads else None)[0]


ALONE = Team()


def team() -> Team:
    """The processes that JAX knows of."""
    import jax

    return Team(jax.process_index(), jax.process_count())


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several: srun or Open MPI's mpirun."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(int(environment.get(name, "1")) > 1 for name in sizes)


def join(heartbeat: float) -> Team:
    """Connect to the other processes of the run; before anything is computed.

    JAX finds Slurm, Open MPI and Kubernetes.  Elsewhere the environment says where process 0 is
    and who is who: JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Args:
        heartbeat: seconds after which a process that does not answer counts as lost.

    Raises:
        ValueError: nothing says who the others are, or the heartbeat is too short.
    """
    import jax

    if heartbeat < 5:
        raise ValueError(f"--heartbeat must be at least 5 s, got {heartbeat:g}")
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    size, rank = (int(os.environ[name]) if name in os.environ else None for name in names)
    try:
        jax.distributed.initialize(
            num_processes=size, process_id=rank, heartbeat_timeout_seconds=round(heartbeat)
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: {error} Start with srun or mpirun, or set JAX_COORDINATOR_ADDRESS "
            "(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for every process"
        ) from error
    return team()


def leave(message: str) -> None:
    """Say a last word, and end with status 3, if JAX ends this process because another is lost.

    JAX does so by abort(), in a thread of its own, so the process could not say it by itself.
    """

    def tell(signum: int) -> None:
        os.write(2, f"\n{message}\n".encode())
        os._exit(3)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(tell)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
