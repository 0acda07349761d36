"""Where compiled programs are kept, and that commands work where they cannot be."""

import os
from pathlib import Path

import jax
import pytest

from lattice_ml.runtime.devices import prepare


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What `prepare` makes of the environment: the folder that it gives to JAX, or None."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def found():
        jax.config.update("jax_compilation_cache_dir", None)
        prepare()
        return jax.config.jax_compilation_cache_dir

    yield found
    jax.config.update("jax_compilation_cache_dir", before)


def homeless(monkeypatch):
    """As for a user id that the system does not know, in a container."""

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", none)


def test_by_default_it_is_below_the_home(cache, tmp_path):
    assert cache() == str(tmp_path / "home" / ".cache" / "lattice_ml")


def test_it_is_where_the_standard_says_with_a_home_or_without(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache() == str(tmp_path / "caches" / "lattice_ml")
    homeless(monkeypatch)
    assert cache() == str(tmp_path / "caches" / "lattice_ml")


@pytest.mark.parametrize("value", ["", "caches", "./caches"])
def test_an_empty_or_relative_folder_counts_as_none(cache, tmp_path, monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache() == str(tmp_path / "home" / ".cache" / "lattice_ml")
    homeless(monkeypatch)
    assert cache() is None
    assert {path.name for path in tmp_path.iterdir()} == {"home"}, "nothing in the working folder"


def test_without_any_folder_there_is_no_cache(cache, tmp_path, monkeypatch):
    homeless(monkeypatch)
    assert cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert cache() is None
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache() is None


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_none(cache, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache() is None


def test_what_the_user_says_to_jax_stays(cache, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    assert cache() is None, "JAX has read it before"
