"""JAX on the command line: what the environment asks of it, and devices that are not there."""

import jax
import pytest

from lattice_ml import cli
from lattice_ml.runtime.devices import prepare


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("no plugin")])
@pytest.mark.parametrize("verb", ["generate", "measure"])
def test_a_platform_without_its_plugin_is_a_sentence(verb, failure, tmp_path, monkeypatch, capsys):
    """An empty AssertionError is what JAX says of JAX_PLATFORMS=cuda without the plugin."""

    def devices():
        raise failure

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text("[lattice]\nshape = [4]\n[action]\nkappa = 0.1\nlam = 1\n")
    assert cli.main([verb, "job.toml"]) == 2
    said = capsys.readouterr().err
    assert "JAX finds no device for JAX_PLATFORMS=" in said and "unset it, or install" in said
    assert (str(failure) in said) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("jax_numpy_dtype_promotion", "strict", "standard"),
        ("jax_numpy_rank_promotion", "raise", "allow"),
        ("jax_default_prng_impl", "rbg", "threefry2x32"),
        ("jax_debug_nans", True, False),
    ],
)
def test_modes_of_the_environment_that_a_verb_cannot_run_in_are_set_aside(name, value, ours):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        prepare()
        assert getattr(jax.config, name) == ours
    finally:
        jax.config.update(name, before)
