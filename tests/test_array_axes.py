"""Which axis is which: nothing is guessed where two readings make sense, and all are listed."""

import h5py
import numpy as np
import pytest
from rows import each

from lattice_ml import cli
from lattice_ml.jobs.exchange import import_array
from lattice_ml.storage.array_axes import Axes, read_axes
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError

CONFIG = {"action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.2, "lam": 0.1}}
WORDS = ["--action.kappa", "0.2", "--action.lam", "0.1"]

# By chain and draw: what every order must come to.
FIELDS = np.random.default_rng(0).normal(size=(3, 20, 4, 4))  # (chains, draws, L, L)
BY_CONFIG = FIELDS.swapaxes(0, 1).reshape(-1, 4, 4)


def read(extents, **known):
    """(samples, chains, shape, axes left out)."""
    found = read_axes("x has shape", extents, Axes(**known))
    return found.n_configs, found.n_chains, found.shape, found.dropped


def refusal(extents, **known):
    with pytest.raises(StorageError) as error:
        read_axes(f"x has shape {extents}", extents, Axes(**known))
    return str(error.value)


@each(
    ("extents", "n", "shape", "dropped"),
    [
        ((200, 8, 8), 200, (8, 8), ()),
        ((3, 8, 8), 3, (8, 8), ()),
        ((200, 8, 8, 8), 200, (8, 8, 8), ()),
        ((5, 4, 4, 4, 4), 5, (4, 4, 4, 4), ()),
        ((200, 16), 200, (16,), ()),
        ((8, 8, 200), 200, (8, 8), ()),
        ((200, 1, 8, 8), 200, (8, 8), (1,)),
        ((200, 8, 8, 1), 200, (8, 8), (3,)),
        ((200, 1, 8, 8, 1), 200, (8, 8), (1, 4)),
        ((1, 200, 8, 8), 200, (8, 8), (0,)),
        ((1, 8, 8), 1, (8, 8), ()),
        ((1, 1, 8, 8), 1, (8, 8), (1,)),
        ((1, 16), 1, (16,), ()),
        ((1, 8, 8, 8), 1, (8, 8, 8), ()),
    ],
)
def test_what_is_clear_needs_no_words(extents, n, shape, dropped):
    assert read(extents) == (n, 1, shape, dropped)
    julia = tuple(sorted(len(extents) - 1 - axis for axis in dropped))
    assert read(extents[::-1], last=True) == (n, 1, shape[::-1], julia)


@each(
    "extents",
    [
        (8, 200, 4, 4),  # of ArviZ
        (200, 8, 4, 4),  # of TensorFlow Probability
        (8, 200, 4, 4, 1),
        (8, 200, 1, 4, 4),
        (4, 200, 16),  # chains of a line
        (1000, 4, 16),
        (8, 200, 8),
        (8, 200, 4, 6),
        (5, 10, 4, 4, 4),
        (5, 10, 2, 2, 2, 2),
        (4, 4),
        (7, 30),
        (16, 200),
        (4, 4, 4),
        (8, 1, 8, 8),
        (1, 12, 8, 8),
        (1, 200, 16, 8),
        (1, 20, 16),
        (8, 4, 4, 200),
    ],
)
def test_what_is_not_clear_is_refused_with_its_readings(extents):
    said = refusal(extents)
    assert "which can be read in several ways: " in said
    assert said.endswith("; say which, or the lattice with --shape")
    assert "; " in said.partition("ways: ")[2].rpartition("; say")[0], "more than one reading"
    assert len(said) < 700


def test_the_readings_are_those_of_the_programs_that_there_are():
    said = refusal((8, 200, 4, 4))
    for reading in (
        "8 samples of a 3d lattice 200 x 4 x 4 (--sample-axis 0)",
        "8 chains x 200 samples of a 2d lattice 4 x 4 (--chain-axis 0 --sample-axis 1)",
        "200 chains x 8 samples of a 2d lattice 4 x 4 (--chain-axis 1 --sample-axis 0)",
        "one configuration of a 4d lattice 8 x 200 x 4 x 4 (--sample-axis none)",
    ):
        assert reading in said
    assert "(--chain-axis 2 --sample-axis 3)" in refusal((4, 4, 8, 200), last=True)


@each(
    ("extents", "known", "found"),
    [
        ((8, 200, 4, 4), {"chain": 0}, (200, 8, (4, 4), ())),
        ((200, 8, 4, 4), {"chain": 1}, (200, 8, (4, 4), ())),
        ((200, 8, 4, 4), {"chain": -3}, (200, 8, (4, 4), ())),
        ((8, 200, 4, 6), {"chain": 0}, (200, 8, (4, 6), ())),
        ((8, 200, 4, 4, 1), {"chain": 0}, (200, 8, (4, 4), (4,))),
        ((8, 200, 16), {"chain": 0}, (200, 8, (16,), ())),
        ((1, 200, 4, 4), {"chain": 0}, (200, 1, (4, 4), ())),
        ((8, 1, 4, 4), {"chain": 0}, (1, 8, (4, 4), ())),
        ((8, 4, 4), {"chain": 0, "sample": "none"}, (1, 8, (4, 4), ())),
        ((8, 200, 4, 4), {"chain": 0, "sample": 1}, (200, 8, (4, 4), ())),
        ((8, 200, 4, 4), {"sample": 0}, (8, 1, (200, 4, 4), ())),
        ((8, 200, 4, 4), {"sample": "none"}, (1, 1, (8, 200, 4, 4), ())),
        ((8, 200, 4, 4), {"shape": (200, 4, 4)}, (8, 1, (200, 4, 4), ())),
        ((8, 200, 4, 4), {"shape": (4, 4), "chain": 0}, (200, 8, (4, 4), ())),
        ((8, 200, 4, 4), {"shape": (4, 4), "sample": 1}, (200, 8, (4, 4), ())),
        ((8, 200, 1, 4, 4), {"shape": (4, 4), "sample": 1}, (200, 8, (4, 4), (2,))),
        ((8, 200, 4, 4), {"shape": (8, 200, 4, 4)}, (1, 1, (8, 200, 4, 4), ())),
        ((8, 8), {"shape": (8, 8)}, (1, 1, (8, 8), ())),
        ((8, 8), {"sample": "none"}, (1, 1, (8, 8), ())),
        ((8, 8), {"shape": (8,), "sample": 0}, (8, 1, (8,), ())),
        ((1, 8, 8), {"shape": (8, 8)}, (1, 1, (8, 8), (0,))),
        ((16,), {"shape": (16,)}, (1, 1, (16,), ())),
        ((50, 16, 8), {"shape": (16, 8)}, (50, 1, (16, 8), ())),
    ],
)
def test_what_is_named_decides(extents, known, found):
    assert read(extents, **known) == found


@each(
    ("extents", "known", "match"),
    [
        ((8, 200, 4, 4), {"shape": (4, 4)}, "8 chains x 200 samples .*; 200 chains x 8 samples"),
        ((8, 200, 4, 4), {"shape": (4, 5)}, "asks for \\(4, 5\\); no other sample axis fits"),
        ((8, 200, 4, 4), {"shape": (4, 4), "sample": "none"}, "no other sample axis fits"),
        ((8, 16, 16), {"chain": 0}, "several ways: 8 chains x 16 samples"),
        ((8, 4, 4), {"chain": 0, "sample": 0}, "axis 0 cannot count samples and chains"),
        ((8, 4, 4), {"chain": 3}, "so no chain axis 3"),
        ((8, 4, 4), {"sample": -4}, "so no sample axis -4"),
        ((8, 16), {"chain": 0, "sample": 1}, "asked for one axis of samples and 1 to 4 of space"),
        ((8, 0, 4), {}, "holds no numbers"),
        ((0, 4, 4), {"shape": (4, 4)}, "holds no numbers"),
        ((9, 2, 2, 2, 2, 2), {"sample": 0}, "1 to 4 of space"),
    ],
)
def test_what_is_named_and_does_not_fit_is_refused(extents, known, match):
    with pytest.raises(StorageError, match=match):
        read(extents, **known)


@pytest.mark.parametrize("kind", ["npy", "h5"])
@pytest.mark.parametrize(
    ("order", "axes"), [((0, 1, 2, 3), 0), ((1, 0, 2, 3), 1), ((2, 3, 0, 1), 2), ((0, 2, 3, 1), -4)]
)
def test_chains_of_their_own_axis_are_stored_configuration_major(
    tmp_path, monkeypatch, order, axes, kind
):

    array = FIELDS.transpose(order)
    file = tmp_path / f"fields.{kind}"
    if kind == "npy":
        np.save(file, np.asfortranarray(array))
    else:
        with h5py.File(file, "w") as opened:
            opened["cfgs"] = array
    monkeypatch.setattr("lattice_ml.jobs.exchange.BLOCK_BYTES", 7 * 3 * FIELDS[0, 0].nbytes)
    sample = order.index(1)
    made = import_array(file, tmp_path / "out", config=CONFIG, chain_axis=axes, sample_axis=sample)
    assert (made.n_chains, made.n_configs, made.shape) == (3, 20, (4, 4))
    assert np.array_equal(made.cfgs, BY_CONFIG)
    assert len(made.manifest["shards"]) == 3
    assert made.manifest["provenance"][0]["made_by"]["chain_axis"] == axes % 4


def test_the_command_line_refuses_and_then_takes_what_it_was_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", FIELDS)
    words = ["import", "a.npy", "--out", "out", *WORDS]
    assert cli.main(words) == 2
    assert "--chain-axis 0 --sample-axis 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--chain-axis", "0", "--n-chains", "4"]) == 2
    assert "the chain axis 0 counts 3 chains, asked 4" in capsys.readouterr().err
    assert cli.main([*words, "--chain-axis", "0"]) == 0
    assert capsys.readouterr().out == "out: 3 chains x 20 configurations of 4 x 4\n"
    np.save("one.npy", FIELDS[0, 0])
    words = ["import", "one.npy", "--out", "one", *WORDS]
    assert cli.main(words) == 2
    assert cli.main([*words, "--sample-axis", "none"]) == 0
    assert np.array_equal(open_ensemble("one").cfgs, FIELDS[:1, 0])
    again = ["import", "one.npy", "--out", "again", *WORDS, "--shape", "4", "4"]
    assert cli.main(again) == 0
    assert open_ensemble("again").n_configs == 1


@pytest.mark.parametrize("place", [1, -1])
def test_axes_of_length_one_are_left_out_and_said(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.expand_dims(FIELDS[0], place))
    assert cli.main(["import", "a.npy", "--out", "out", *WORDS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "out: 1 chains x 20 configurations of 4 x 4",
        f"  axes of length 1 were left out: {place % 4}",
    ]
    assert np.array_equal(open_ensemble("out").cfgs, FIELDS[0])


@each("shape", [(20, 1), (20, 4, 1), (4, 0), (2, 2, 2, 2, 2), (-4,)])
def test_a_lattice_that_cannot_be_is_refused_before_anything_is_written(tmp_path, shape):
    np.save(tmp_path / "a.npy", FIELDS)
    known = CONFIG | {"lattice": {"shape": shape}}
    with pytest.raises(StorageError, match=r"a\.npy: lattice\.shape must be 1 to 4 whole extents"):
        import_array(tmp_path / "a.npy", tmp_path / "out", config=known)
    assert not (tmp_path / "out").exists()
