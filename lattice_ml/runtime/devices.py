"""Cores as devices, and memory as blocks need it; called before JAX is imported."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    *("CPU_FLAGS", "c_function", "control_groups", "keep_freed_memory", "read_text"),
    *("return_freed_memory", "usable_cores", "use_all_cores"),
]

# For programs that keep to one core: XLA's threads only hurt small arrays, and by default it uses
# half the width of AVX-512, which costs a tenth to a quarter of the rate of HMC.
CPU_FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=512"


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


def usable_cores(root: str | os.PathLike[str] = "/") -> int:
    """How many cores this process may keep busy, at least one.

    Those that its affinity allows (`taskset`, `srun`, `mpirun --bind-to`), two hyper-threads of a
    core counted once, as both would share its vector units and cache; and no more whole ones than
    the CPU quota of its control group, as of a container with a limit of 2.5, pays for.

    Args:
        root: where /proc and /sys are.
    """
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return os.cpu_count() or 1
    topology = Path(root) / "sys/devices/system/cpu"
    cores = {
        read_text(topology / f"cpu{cpu}/topology/thread_siblings_list") or f"{cpu}"
        for cpu in os.sched_getaffinity(0)
    }
    return max(1, int(min(len(cores), *_quotas(Path(root)))))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each control group above this process may use, in versions 2 and 1 of cgroups."""
    yield float("inf")
    for folder, version in control_groups(root, "cpu"):
        if version == 2:
            limit = read_text(folder / "cpu.max").split()
        else:
            limit = [read_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if all(word.isdigit() for word in limit) and len(limit) == 2:  # else "max" or -1
            yield int(limit[0]) / int(limit[1])


def control_groups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of the control groups above this process with the version, 2 or 1, of cgroups."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controllers and controller not in controllers.split(","):
            continue
        groups = [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]
        for group in groups:  # a container may see its own group as the root of all
            yield mount / controllers / group, 1 if controllers else 2


def read_text(path: Path) -> str:
    """What a file of the system says; nothing where it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Let the C library keep the memory of finished blocks for the next ones.

    By default glibc returns every large array to the system and has it cleared page by page for
    the next block, which cost a fifth of a run whose every configuration is stored.  Has no effect
    elsewhere.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if (mallopt := c_function("mallopt")) is not None:
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Give the system what the C library keeps; has no effect elsewhere than with glibc."""
    if (malloc_trim := c_function("malloc_trim")) is not None:
        malloc_trim(0)


def c_function(name: str) -> Any:
    """A function of the C library, or None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
