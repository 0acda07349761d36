"""Ensembles from plain array files, and back."""

import time

import h5py
import numpy as np
import pytest
from storage_runs import N_CHAINS, SHAPE, block, config, contents

from lattice_ml import cli
from lattice_ml.jobs import exchange
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError, open_run

SUFFIXES = [".npy", ".npz", ".h5"]
ACTION = {"action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.27, "lam": 0.022}}
KNOWN = ACTION | {"lattice": {"shape": SHAPE}}  # unequal extents have to be said
SAMPLES = np.random.default_rng(0).normal(size=(12, *SHAPE))


def save(path, array, name="cfgs", **others):
    """Write an array under a name in the format that the path ends in."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, **{name: array}, **others)
    else:
        with h5py.File(path, "w") as file:
            for key, value in ({name: array} | others).items():
                file[key] = value
    return path


@pytest.fixture
def npy(tmp_path):
    return save(tmp_path / "fields.npy", SAMPLES)


# Import.


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8"])
def test_import_keeps_the_numbers_and_their_precision(tmp_path, suffix, dtype):
    array = SAMPLES.astype(dtype)
    file = save(tmp_path / f"fields{suffix}", array)
    ensemble = exchange.import_array(file, tmp_path / "out", config=KNOWN)
    assert ensemble.cfgs.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(ensemble.cfgs, array)
    assert (ensemble.shape, ensemble.n_chains, ensemble.n_configs) == (SHAPE, 1, 12)
    assert ensemble.config["action"] == ACTION["action"]
    assert ensemble.config["output"]["dtype"] == array.dtype.name
    assert ensemble.history == ()
    assert ensemble.seconds is None
    with h5py.File(tmp_path / "out" / "ensemble.h5") as index:
        assert np.array_equal(index["cfgs"], array)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_import_takes_the_samples_from_any_axis(tmp_path, suffix, axis):
    file = save(tmp_path / f"fields{suffix}", np.moveaxis(SAMPLES, 0, axis))
    ensemble = exchange.import_array(file, tmp_path / "out", config=KNOWN, sample_axis=axis)
    assert np.array_equal(ensemble.cfgs, SAMPLES)


def test_import_of_several_chains_is_configuration_major(npy, tmp_path):
    ensemble = exchange.import_array(npy, tmp_path / "out", config=KNOWN, n_chains=3)
    assert (ensemble.n_chains, ensemble.n_configs) == (3, 4)
    assert np.array_equal(ensemble.cfgs, SAMPLES)
    assert ensemble.column("chain").tolist() == [0, 1, 2] * 4
    assert ensemble.column("trajectory").tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_import_reads_and_writes_in_blocks(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(exchange, "BLOCK_BYTES", 5 * SAMPLES[0].nbytes)
    file = save(tmp_path / f"fields{suffix}", SAMPLES)
    ensemble = exchange.import_array(file, tmp_path / "out", config=KNOWN, n_chains=2)
    assert [s["n_configs"] for s in ensemble.manifest["shards"]] == [2, 2, 2]
    assert np.array_equal(ensemble.cfgs, SAMPLES)


def test_the_parent_is_the_hash_of_the_numbers_whatever_the_file(tmp_path):
    parents = {
        exchange.import_array(
            save(tmp_path / f"fields{suffix}", np.moveaxis(SAMPLES, 0, axis)),
            tmp_path / f"out{axis}{suffix}",
            config=KNOWN,
            sample_axis=axis,
        ).parent
        for axis, suffix in enumerate(SUFFIXES)
    }
    other = exchange.import_array(
        save(tmp_path / "other.npy", SAMPLES + 1), tmp_path / "other", config=KNOWN
    )
    assert len(parents) == 1 and other.parent not in parents


def test_import_goes_on_where_it_was_interrupted(npy, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "BLOCK_BYTES", 5 * SAMPLES[0].nbytes)
    exchange.import_array(npy, tmp_path / "whole", config=KNOWN)
    class_append, calls = exchange.open_run, []

    def interrupted(*args, **kwargs):
        run = class_append(*args, **kwargs)
        append = run.append

        def once(*given):
            if calls:
                raise KeyboardInterrupt
            calls.append(append(*given))

        run.append = once
        return run

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(exchange, "open_run", interrupted)
        exchange.import_array(npy, tmp_path / "out", config=KNOWN)
    assert open_ensemble(tmp_path / "out").n_configs == 5
    exchange.import_array(npy, tmp_path / "out", config=KNOWN)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_import_does_not_mix_two_files(npy, tmp_path):
    exchange.import_array(npy, tmp_path / "out", config=KNOWN)
    other = save(tmp_path / "other.npy", SAMPLES + 1)
    with pytest.raises(StorageError, match=r"parent: the run in .* was made with"):
        exchange.import_array(other, tmp_path / "out", config=KNOWN)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_import_chooses_an_array_by_name(tmp_path, suffix):
    file = save(tmp_path / f"two{suffix}", SAMPLES, other=SAMPLES + 1)
    assert np.array_equal(exchange.import_array(file, tmp_path / "a", config=KNOWN).cfgs, SAMPLES)
    named = exchange.import_array(file, tmp_path / "b", config=KNOWN, dataset="other")
    assert np.array_equal(named.cfgs, SAMPLES + 1)
    only = save(tmp_path / f"one{suffix}", SAMPLES, name="phi")
    assert np.array_equal(exchange.import_array(only, tmp_path / "c", config=KNOWN).cfgs, SAMPLES)
    unclear = save(tmp_path / f"unclear{suffix}", SAMPLES, name="phi", other=SAMPLES)
    with pytest.raises(StorageError, match=r"has no array 'cfgs'; name one of .*other"):
        exchange.import_array(unclear, tmp_path / "d", config=KNOWN)


def refused(file, match, **options):
    out = file.parent / "out"
    with pytest.raises(StorageError, match=match):
        exchange.import_array(file, out, config=options.pop("config", KNOWN), **options)
    assert not out.exists(), "nothing is written before the file is checked"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_objects_are_refused(tmp_path, suffix):
    objects = np.array([{"a": 1}, None], dtype=object)
    if suffix == ".h5":
        with h5py.File(tmp_path / "fields.h5", "w") as file:
            file["cfgs"] = ["text"]
        refused(tmp_path / "fields.h5", "holds object; a field is float32 or float64")
    else:
        refused(save(tmp_path / f"fields{suffix}", objects), "pickled Python objects are refused")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_not_what_it_is_called_is_refused(tmp_path, suffix):
    for content in (b"", b"nonsense", b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"):
        (tmp_path / f"fields{suffix}").write_bytes(content)
        refused(tmp_path / f"fields{suffix}", "cannot read .*fields")


def test_a_missing_file_and_an_unknown_format_are_refused(tmp_path):
    refused(tmp_path / "fields.npy", "no such file")
    (tmp_path / "fields.txt").write_text("1")
    refused(tmp_path / "fields.txt", r"the name must end in \.npy, \.npz, \.h5, .* or \.jld2")


@pytest.mark.parametrize(
    ("axis", "asked", "match"),
    [
        (1, SHAPE, r"\(12, 4, 3\): .* axis 1 .* is \(12, 3\), .* \(4, 3\); sample axis 0 would"),
        (0, (8, 8), r"a configuration is \(4, 3\), .* \(8, 8\); no other sample axis fits"),
        (3, None, r"has shape \(12, 4, 3\), so no sample axis 3"),
        (-4, None, "so no sample axis -4"),
    ],
)
def test_a_wrong_axis_is_refused_with_the_one_that_fits(npy, axis, asked, match):
    refused(npy, match, sample_axis=axis, config=ACTION | {"lattice": {"shape": asked}})


@pytest.mark.parametrize("dtype", ["f2", "i8", "c16", "u1", "?"])
def test_other_numbers_than_float32_and_float64_are_refused(tmp_path, dtype):
    file = save(tmp_path / "fields.npy", np.ones((12, 4, 3), dtype))
    refused(file, f"holds {np.dtype(dtype)}; a field is float32 or float64: cast it")


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((), "one axis of samples and 1 to 4 of space$"),
        ((12,), "1 to 4 of space, or one configuration of a 1d lattice 12"),
        ((2,) * 6, "2 chains x 2 samples of a 4d lattice"),
        ((2,) * 7, "one axis of samples and 1 to 4 of space$"),
        ((12, 1), "1 to 4 of space, or one configuration of a 1d lattice 12"),
        ((1, 1), "one axis of samples and 1 to 4 of space$"),
    ],
)
def test_too_few_and_too_many_axes_are_refused(tmp_path, shape, match):
    file = save(tmp_path / "fields.npy", np.ones(shape))
    refused(file, match, config=ACTION)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_number_that_is_not_finite_is_named(tmp_path, value, monkeypatch):
    monkeypatch.setattr(exchange, "BLOCK_BYTES", 5 * SAMPLES[0].nbytes)
    array = SAMPLES.copy()
    array[7, 2, 1] = array[9] = value
    file = save(tmp_path / "fields.npy", array)
    for n_chains in (1, 2):
        refused(file, rf"sample 7 is {value} at site \(2, 1\)", n_chains=n_chains)


@pytest.mark.parametrize("n_chains", [5, 0, -1])
def test_chains_of_unequal_length_are_refused(npy, n_chains):
    refused(npy, f"12 samples cannot be {n_chains} chains", n_chains=n_chains)


def test_no_samples_are_refused(tmp_path):
    refused(save(tmp_path / "fields.npy", SAMPLES[:0]), "and so holds no numbers")


# Export.


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """An ensemble with histories and weights in two shards."""
    path = tmp_path_factory.mktemp("exchange") / "run"
    log_prob = np.arange(4.0).reshape(2, N_CHAINS)
    with open_run(path, config(), provenance={}) as run:
        for first in (0, 2):
            run.append(*block(first), log_prob=log_prob, log_weight=-log_prob)
        run.finish()
    return open_ensemble(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_exported_imports_to_the_same_configurations(ensemble, tmp_path, suffix):
    exchange.export_array(ensemble, tmp_path / f"fields{suffix}")
    back = exchange.import_array(tmp_path / f"fields{suffix}", tmp_path / "out", config=KNOWN)
    assert back.cfgs.dtype == ensemble.cfgs.dtype
    assert np.array_equal(back.cfgs, ensemble.cfgs)
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"fields{suffix}", tmp_path / "out"]


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_an_exported_file_says_its_chains(ensemble, tmp_path, suffix):
    exchange.export_array(ensemble, tmp_path / f"fields{suffix}")
    back = exchange.import_array(tmp_path / f"fields{suffix}", tmp_path / "out", config=KNOWN)
    assert (back.n_chains, back.n_configs) == (N_CHAINS, ensemble.n_configs)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_weights_are_not_left_out_without_a_word(ensemble, tmp_path, capsys, suffix):
    file = str(tmp_path / f"fields{suffix}")
    assert cli.main(["export", str(ensemble.directory), "--out", file]) == 0
    assert capsys.readouterr().err == ""
    words = ["--action.kind", "none", "--shape", *map(str, SHAPE)]
    assert cli.main(["import", file, "--out", str(tmp_path / "out"), *words]) == 0
    assert "has weights, which are left out" in capsys.readouterr().err
    file = str(tmp_path / "fields.npy")
    assert cli.main(["export", str(ensemble.directory), "--out", file]) == 0
    assert "holds the samples without their weights" in capsys.readouterr().err


def test_an_import_says_the_temperature_of_an_export(tmp_path):
    asked = config() | {"sampler": {"temperature": 2.0}}
    with open_run(tmp_path / "hot", asked, provenance={}) as run:
        run.append(*block(0, 6))
    exchange.export_array(open_ensemble(tmp_path / "hot"), tmp_path / "hot.h5")
    back = exchange.import_array(tmp_path / "hot.h5", tmp_path / "out", config=KNOWN)
    assert back.manifest["provenance"][0]["made_by"]["file_says"]["temperature"] == 2.0


def test_an_exported_h5_is_the_index_with_its_data_inside(ensemble, tmp_path):
    exchange.export_array(ensemble, tmp_path / "fields.h5")
    with (
        h5py.File(tmp_path / "fields.h5") as exported,
        h5py.File(ensemble.directory / "ensemble.h5") as index,
    ):
        assert sorted(exported) == sorted(index)
        for name in ensemble.columns:
            assert not exported[name].is_virtual
            assert exported[name].dtype == index[name].dtype
            assert np.array_equal(exported[name], index[name])
        assert {k: np.array(v).tolist() for k, v in exported.attrs.items()} == {
            k: np.array(v).tolist() for k, v in index.attrs.items()
        }


def test_an_exported_npz_has_every_column(ensemble, tmp_path):
    exchange.export_array(ensemble, tmp_path / "fields.npz")
    with np.load(tmp_path / "fields.npz") as archive:
        assert sorted(archive.files) == sorted(ensemble.columns)
        for name in archive.files:
            assert np.array_equal(archive[name], ensemble.column(name))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_exports_are_equal_bytes_at_any_time(ensemble, tmp_path, suffix):
    exchange.export_array(ensemble, tmp_path / f"a{suffix}")
    time.sleep({".h5": 1.1, ".npz": 2.1, ".npy": 0}[suffix])  # what their clocks resolve
    exchange.export_array(ensemble, tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_export_never_overwrites(ensemble, tmp_path, suffix):
    file = tmp_path / f"fields{suffix}"
    file.write_text("mine")
    with pytest.raises(StorageError, match="exists and is not overwritten"):
        exchange.export_array(ensemble, file)
    assert file.read_text() == "mine"


def test_export_to_an_unknown_format_is_refused(ensemble, tmp_path):
    with pytest.raises(StorageError, match=r"the name must end in \.h5, \.npz, \.npy, or \.json"):
        exchange.export_array(ensemble, tmp_path / "fields.csv")


def test_an_export_that_fails_leaves_no_file(ensemble, tmp_path, monkeypatch):
    def broken(ensemble, name):
        yield ensemble.column(name)[:1]
        raise OSError("No space left on device")

    monkeypatch.setattr(exchange, "_parts", broken)
    for suffix in SUFFIXES:
        with pytest.raises(OSError, match="No space left"):
            exchange.export_array(ensemble, tmp_path / f"fields{suffix}")
    assert not list(tmp_path.iterdir())


def test_export_of_an_ensemble_without_configurations(tmp_path):
    trajectory, _, history, state = block(0)
    with open_run(tmp_path / "run", config(), provenance={}) as run:
        run.append(trajectory, None, history, state)
    ensemble = open_ensemble(tmp_path / "run")
    exchange.export_array(ensemble, tmp_path / "histories.h5")
    with h5py.File(tmp_path / "histories.h5") as file:
        assert sorted(file) == ["chain", "history", "trajectory"]
    with pytest.raises(StorageError, match="kept no configurations"):
        exchange.export_array(ensemble, tmp_path / "fields.npy")
