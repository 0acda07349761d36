"""Every test runs on two CPU devices with x64 on; no test needs a GPU or the network."""

import os
import shutil
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process a core: threads would collide

import compiled_programs
import jax
import pytest
import storage_runs

jax.config.update("jax_enable_x64", True)

# Of 20 seconds and more where nothing is compiled yet, longest first; the rest in any order.
_LONGEST = [
    *("test_docs", "test_langevin", "test_exact", "test_hmc", "test_replica", "test_league"),
    *("test_training", "test_power", "test_generate", "test_clusters", "test_split"),
    *("test_certificates", "test_comparison", "test_free_field", "test_langevin_modes"),
    *("test_sampling", "test_markov_fit", "test_reverse", "test_kramers", "test_replica_exact"),
    *("test_log_z", "test_spectra", "test_relaxation", "test_fourier_hmc", "test_failures"),
    *("test_classifiers", "test_chain", "test_couplings", "test_markov_field", "test_cycle"),
    "test_shared_training",
]


def pytest_configure(config):
    """Keep compiled programs: many tests compile the same ones, and most of the time goes there."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if not folder:
        found = compiled_programs.folder() or config.cache.mkdir("jax")
        compiled_programs.prune(found.parent)  # with those of other processors and versions
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"] = str(found)  # of workers, of commands
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # as commands set it
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Long files first, so that the processes of `make test` end together."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compile faster what runs once, in slower programs, for tests marked `unoptimised`."""
    marked = item.get_closest_marker("unoptimised") is not None
    jax.config.update("jax_disable_most_optimizations", marked)


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Drop a module's compiled programs: thousands of them exhaust a process's memory mappings.

    And JAX does not find programs by how far they were optimised: a file would have those of the
    file before it, and numbers that depend on the order.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A complete run, to be read or copied but not changed."""
    directory = tmp_path_factory.mktemp("storage") / "run"
    storage_runs.generate(directory)
    return directory


@pytest.fixture
def run_copy(finished_run, tmp_path):
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))
