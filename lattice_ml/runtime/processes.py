"""The processes that make one run: how they find each other, what they say, how they end.

Each runs the same program on the chains of its own devices.  They tell each other small things,
such as which files are written, through the service that JAX keeps in process 0: it is there
before, between and after programs on the devices, and ends everybody once one has been silent for
the heartbeat.
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

__all__ = ["ALONE", "PeerError", "Team", "explain_aborts", "join", "part", "team"]

_FOREVER = 2**31 - 1  # milliseconds; a process that is gone ends the others long before
_ENVIRONMENTS = (  # who says how many processes there are, and which of them this is
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # of srun; not of a job array, nor of sbatch alone
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)

Told = TypeVar("Told")  # JSON values
_calls = itertools.count()
_handlers: list[object] = []  # what C calls must not be collected


class PeerError(RuntimeError):
    """Another process of the run failed, and so this one stops as well."""


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

    def gather(self, value: Told) -> list[Told]:
        """What every process gave, a JSON value each, in their order; all must call it."""
        if self.size == 1:
            return [value]
        from jax._src.distributed import global_state  # as other libraries do: there is no other

        if (client := global_state.client) is None:
            raise RuntimeError("the processes of this run have not met: see `join`")
        call = next(_calls)
        client.key_value_set(f"lattice_ml/{call}/{self.rank}", json.dumps(value))
        if call > 1:  # whoever is here has read what was said in the call before the last
            client.key_value_delete(f"lattice_ml/{call - 2}/{self.rank}")
        keys = (f"lattice_ml/{call}/{rank}" for rank in range(self.size))
        return [json.loads(client.blocking_key_value_get(key, _FOREVER)) for key in keys]

    def together(self, function: Callable[[], Told]) -> list[Told]:
        """Call a function in every process and gather what it returns; if one fails, all do.

        Raises:
            PeerError: it failed in another process, which raises the error itself.
        """
        failed: Exception | None = None
        try:
            said: dict[str, Any] = {"value": function()}
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

    def first(self, function: Callable[[], Told]) -> Told:
        """What a function returns in process 0, told to all; see `together`."""
        said: Any = self.together(lambda: function() if self.leads else None)[0]
        return said


ALONE = Team()


def team() -> Team:
    """The processes that JAX knows of."""
    import jax

    return Team(jax.process_index(), jax.process_count())


class _Place(NamedTuple):
    coordinator: str | None  # None: JAX finds it
    n_processes: int | None
    process: int | None
    detect: bool  # whether JAX is to look at the cluster's variables for the rest


def join(asked: bool | None, heartbeat: float) -> Team:
    """Find the other processes of the run, where there are any; before any other call of JAX.

    Their number and the own place among them come from JAX_NUM_PROCESSES and JAX_PROCESS_ID, from
    Slurm or from Open MPI; the address of process 0 from JAX_COORDINATOR_ADDRESS or JAX's search.

    Args:
        asked: True insists on several processes, False on this one alone; None does what the
            environment says.
        heartbeat: seconds of silence after which a process is given up.

    Raises:
        ValueError: what the environment says is not enough, or it says nothing and was asked to.
        RuntimeError: the others did not come.
    """
    place = None if asked is False else _place(os.environ, asked)
    if place is None and asked:
        raise ValueError(
            "--distributed: found neither Slurm's nor Open MPI's variables; start the processes "
            "with srun or mpirun, or give each of them JAX_COORDINATOR_ADDRESS=host:port, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        )
    if place is None or place.n_processes == 1:
        return ALONE
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    seconds = max(1, round(heartbeat))
    jax.distributed.initialize(
        *place[:3],
        cluster_detection_method=None if place.detect else "deactivate",
        heartbeat_timeout_seconds=seconds,
        shutdown_timeout_seconds=seconds,
    )
    if place.detect and _alone_on_its_node(os.environ):  # then JAX took one GPU
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, "all")
    return team()


def part(team: Team) -> None:
    """Leave together, so that who ends first is not taken for lost."""
    if team.size > 1:
        import jax

        with contextlib.suppress(RuntimeError):  # the others are gone already
            jax.distributed.shutdown()


def explain_aborts(message: str) -> None:
    """Say a last word, and end with status 3, if JAX ends this process because another is lost.

    JAX does so by abort(), in a thread of its own, so the process could not say it by itself.
    """

    def tell(signum: int) -> None:
        os.write(2, f"\n{message}\n".encode())
        os._exit(3)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(tell)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _place(environment: Mapping[str, str], asked: bool | None) -> _Place | None:
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    for of_all, own in _ENVIRONMENTS:
        if of_all not in environment:
            continue
        n, process = environment[of_all], environment.get(own, "")
        if not (n.isdigit() and process.isdigit() and int(process) < int(n)):
            raise ValueError(f"{of_all}={n} needs {own} from 0 to {n} - 1, got {process or 'none'}")
        detect = not of_all.startswith("JAX")
        known = detect and (of_all.startswith("SLURM") or "OMPI_MCA_orte_hnp_uri" in environment)
        if int(n) > 1 and coordinator is None and not known:
            raise ValueError(
                f"{of_all}={n} needs JAX_COORDINATOR_ADDRESS=host:port, an address of process 0"
            )
        return _Place(coordinator, int(n), int(process), detect)
    if asked and "KUBERNETES_SERVICE_HOST" in environment:  # else a job of independent runs
        return _Place(coordinator, None, None, detect=True)
    return None


def _alone_on_its_node(environment: Mapping[str, str]) -> bool:
    """Whether all GPUs of a node are for one process; several take one each, as JAX has it."""
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return False
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:
        return environment["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4)
    return re.fullmatch(r"1(\(x\d+\))?", tasks) is not None
