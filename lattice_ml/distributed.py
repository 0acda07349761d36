"""Processes and devices; called before JAX is imported."""

import ctypes
import os
import sys

__all__ = ["CPU_FLAGS", "keep_freed_memory", "use_all_cores"]

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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {flag}={cores} {flags}".strip()  # the user's win


def keep_freed_memory() -> None:
    """Let the C library keep the memory of finished blocks for the next ones.

    By default glibc returns every large array to the system and has it cleared page by page for
    the next block, which cost a fifth of a run whose every configuration is stored.  Has no effect
    elsewhere.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
