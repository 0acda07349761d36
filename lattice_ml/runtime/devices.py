"""The process as a verb needs it: `prepare`, before JAX is imported.

Cores become devices, the C library keeps the memory of blocks, and JAX gets float64, our modes and
a folder for compiled programs.
"""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    *("CPU_FLAGS", "allowed_cpus", "c_function", "control_groups", "find_devices", "prepare"),
    *("read_text", "return_freed_memory", "usable_cores", "use_all_cores"),
]

# For programs that keep to one core: XLA's threads only hurt small arrays, and by default it uses
# half the width of AVX-512, which costs a tenth to a quarter of the rate of HMC.
CPU_FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=512"
_OURS = {  # what the package is written for
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_debug_nans": False,  # a correlation length may have no value
    "jax_debug_infs": False,
    "jax_enable_x64": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}


def prepare(*, all_cores: bool = False, find: bool = True) -> None:
    """Make this process ready for the work of a verb.

    Args:
        all_cores: for chains and training: every core is a device, and freed memory is kept.
        find: look for devices too, which several processes must not before they have met.

    Raises:
        ValueError: there are no devices of the kind that JAX_PLATFORMS asks for.
    """
    if all_cores:
        use_all_cores()
        _keep_freed_memory()
    import jax

    for name, value in _OURS.items():  # whatever the environment says
        jax.config.update(name, value)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _cache()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if find:
        find_devices()


def find_devices() -> None:
    """Let JAX find its devices.

    Raises:
        ValueError: there are none of the kind that JAX_PLATFORMS asks for.
    """
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # a plugin that is missing says nothing
        asked = os.environ.get("JAX_PLATFORMS")
        why = f" ({error})" if str(error) else ""
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={asked}{why}; unset it, or install what the "
            f"device needs, such as pip install 'lattice-ml[cuda12]'"
        ) from error


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
    """
    topology = Path(root) / "sys/devices/system/cpu"
    cores = {
        read_text(topology / f"cpu{cpu}/topology/thread_siblings_list") or f"{cpu}"
        for cpu in allowed_cpus()
    }
    return max(1, int(min(len(cores), *_quotas(Path(root)))))


def allowed_cpus() -> set[int]:
    """The CPUs that this process may use; all where the system does not say."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return set(range(os.cpu_count() or 1))


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


def _keep_freed_memory() -> None:
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


def c_function(name: str) -> Callable[..., object] | None:
    """A function of the C library, or None where it has none of that name."""
    try:
        return ctypes.CDLL(None)[name] if os.name == "posix" else None
    except AttributeError:
        return None


def _cache() -> Path | None:
    """The folder for compiled programs; None where there is none to write to.

    As the XDG standard has it, an empty or relative XDG_CACHE_HOME counts as not set.
    """
    above = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(above) if os.path.isabs(above) else Path.home() / ".cache"
        cache = home / "lattice_ml"
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache if cache.is_absolute() else None
    except (OSError, RuntimeError):  # the latter where a user has no home
        return None
