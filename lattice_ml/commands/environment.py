"""JAX as the command line wants it."""

import os
import tempfile
from pathlib import Path

__all__ = ["configure_jax", "find_devices"]

_OURS = {  # what the package is written for
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_debug_nans": False,  # a correlation length may have no value
    "jax_debug_infs": False,
}


def configure_jax(*, devices: bool = True) -> None:
    """Energies in float64, and compiled programs kept between runs.

    Args:
        devices: look for them too, which several processes must not before they have met.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    for name, value in _OURS.items():  # whatever the environment says
        jax.config.update(name, value)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _cache()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if devices:
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
        asked = getattr(jax.config, "jax_platforms", None)
        why = f" ({error})" if str(error) else ""
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={asked}{why}; unset it, or install what the "
            f"device needs, such as pip install 'lattice-ml[cuda12]'"
        ) from error


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
