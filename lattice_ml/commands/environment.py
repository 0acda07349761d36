"""JAX as the command line wants it."""

import os
import tempfile
from pathlib import Path

__all__ = ["configure_jax"]


def configure_jax() -> None:
    """Energies in float64, and compiled programs kept between runs."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _cache()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


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
