"""Arrays per configuration or per replica, and what is said of files that cannot be read."""

import pickle
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from rows import each

from lattice_ml import cli
from lattice_ml.jobs.exchange import export_array, import_array
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError

CONFIG = {"action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.27, "lam": 0.022}}
FIELDS = np.random.default_rng(0).normal(size=(24, 4, 4))


def refusal(file, out="out", **options):
    """The message; nothing is written."""
    with pytest.raises(StorageError) as error:
        import_array(file, file.parent / out, config=CONFIG, **options)
    assert not (file.parent / out).exists()
    return str(error.value)


@pytest.fixture(params=["h5", "npz"])
def parts(request, tmp_path):
    """One array per configuration; as they lie in the file, cfg_10 comes before cfg_2."""
    names = [f"run/cfg_{i}/phi" for i in range(24)]
    if request.param == "npz":
        file = tmp_path / "parts.npz"
        np.savez(file, **dict(sorted(zip(names, FIELDS, strict=True))))
        return file
    file = tmp_path / "parts.h5"
    with h5py.File(file, "w") as opened:
        for name, phi in zip(names, FIELDS, strict=True):
            opened[name] = phi
    return file


def test_arrays_of_single_configurations_are_offered_to_be_joined(parts):
    said = refusal(parts)
    assert said.endswith(
        "16 more; or join 24 of them, run/cfg_0/phi to run/cfg_23/phi, with --dataset "
        "'run/cfg_*/phi'"
    )
    assert len(said) < 500


def test_joined_arrays_come_in_the_order_of_their_numbers(parts, monkeypatch):
    monkeypatch.setattr("lattice_ml.jobs.exchange.BLOCK_BYTES", 7 * FIELDS[0].nbytes)
    out = parts.parent / "out"
    made = import_array(parts, out, config=CONFIG, dataset="run/cfg_*/phi")
    assert np.array_equal(made.cfgs, FIELDS)
    assert len(made.manifest["shards"]) == 4
    some = import_array(parts, parts.parent / "b", config=CONFIG, dataset="run/cfg_[0-9]/phi")
    assert np.array_equal(some.cfgs, FIELDS[:10])


def test_replica_are_joined_as_chains_of_equal_length_alone(tmp_path):
    file = tmp_path / "replica.h5"
    with h5py.File(file, "w") as opened:
        for r in range(3):
            opened[f"rep_{r}/cfgs"] = FIELDS[8 * r : 8 * r + 8]
    assert "3 chains x 8 samples of a 2d lattice 4 x 4" in refusal(file, dataset="rep_*/cfgs")
    made = import_array(
        file, tmp_path / "out", config=CONFIG, dataset="rep_*/cfgs", chain_axis=0, sample_axis=1
    )
    assert (made.n_chains, made.n_configs) == (3, 8)
    assert np.array_equal(made.cfgs[::3], FIELDS[:8])
    with h5py.File(file, "r+") as opened:
        opened["rep_3/cfgs"] = FIELDS[:5]
        opened["single/cfgs"] = FIELDS[:8].astype(np.float32)
    said = refusal(file, "other", dataset="rep_*/cfgs")
    assert "rep_0/cfgs is float64 of shape (8, 4, 4) and rep_3/cfgs float64 of shape (5" in said
    assert "chains of one ensemble are equally long: cut them, or import each by its name" in said
    assert "float32 of shape (8, 4, 4)" in refusal(file, "other", dataset="[rs]*[!3]/cfgs")


def test_a_name_that_looks_like_a_pattern_is_a_name_first(tmp_path):
    np.savez(tmp_path / "a.npz", **{"phi[0]": FIELDS, "phi0": -FIELDS})
    made = import_array(tmp_path / "a.npz", tmp_path / "out", config=CONFIG, dataset="phi[0]")
    assert np.array_equal(made.cfgs, FIELDS)


@each("ending", ["NPY", "Npz", "H5", "HDF5", "JLD2"])
def test_endings_may_be_upper_case(tmp_path, ending):
    file = tmp_path / f"A.{ending}"
    if ending == "NPY":
        with file.open("wb") as opened:
            np.save(opened, FIELDS)
    elif ending == "Npz":
        with file.open("wb") as opened:
            np.savez(opened, cfgs=FIELDS)
    else:
        with h5py.File(file, "w") as opened:
            opened["cfgs"] = FIELDS
    made = import_array(file, tmp_path / "out", config=CONFIG)
    assert np.array_equal(made.cfgs, FIELDS)


# What cannot be read.


def test_pickles_are_spoken_of_where_there_are_some(tmp_path):
    about = "pickled Python objects are refused, because reading them can run any code"
    for name in ("a.npy", "a.npz", "a.h5"):
        (tmp_path / name).write_bytes(b"nonsense that is no array")
        assert about not in refusal(tmp_path / name)
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    assert about in refusal(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", np.array([{}], dtype=object))
    assert about in refusal(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(pickle.dumps(FIELDS))
    assert about in refusal(tmp_path / "a.npy")


def test_a_file_cut_short_says_so_and_no_more(tmp_path):
    np.save(tmp_path / "a.npy", FIELDS)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    said = refusal(tmp_path / "a.npy")
    assert "cannot read" in said and "pickle" not in said


@pytest.mark.parametrize("rows", [7, 24])
def test_a_damaged_chunk_is_named_with_its_file(tmp_path, monkeypatch, rows):
    file = tmp_path / "damaged.h5"
    with h5py.File(file, "w") as opened:
        chunks = (rows, 4, 4)  # one chunk of all is read at once
        opened.create_dataset("cfgs", data=FIELDS, chunks=chunks, fletcher32=True)
        offset = opened["cfgs"].id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[offset + 5] ^= 1
    file.write_bytes(content)
    said = refusal(file)
    assert str(file) in said and "pickle" not in said
    assert ("is damaged: samples 0 to 23 cannot be read" in said) == (rows == 7)


def test_a_dataset_of_nothing_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["cfgs"] = h5py.Empty("f8")
        opened["b1"], opened["b2"] = h5py.Empty("f8"), h5py.Empty("f8")
    assert "holds nothing where its array should be" in refusal(tmp_path / "a.h5")
    assert "b1 is float64 of shape None" in refusal(tmp_path / "a.h5", dataset="b*")


@each("dtype", ["f2", "g", "i4", "u2", "?", "c8", "c16", "U3", "S3", "M8[s]", [("x", "f4")]])
def test_other_types_than_a_field_has_are_refused_by_name(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((24, 4, 4), dtype))
    said = refusal(tmp_path / "a.npy")
    assert f"holds {np.dtype(dtype)}; a field is float32 or float64: cast it" in said


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_field_whose_fourth_power_overflows_is_named(tmp_path, dtype):
    fields = FIELDS.astype(dtype)
    fields[5, 1, 2] = 1e10 if dtype == "f4" else -1e80
    np.save(tmp_path / "a.npy", fields)
    said = refusal(tmp_path / "a.npy")
    assert f"sample 5 is {fields[5, 1, 2]} at site (1, 2), whose fourth power overflows" in said
    fields[5, 1, 2] = 1e6
    np.save(tmp_path / "a.npy", fields)
    assert import_array(tmp_path / "a.npy", tmp_path / "out", config=CONFIG).n_configs == 24


def test_what_is_no_array_in_a_file_is_no_choice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    assert refusal(tmp_path / "a.npz").endswith("has no array 'cfgs'; it has none")
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["cfgs"] = h5py.ExternalLink("absent.h5", "/cfgs")
    said = refusal(tmp_path / "a.h5")
    assert said.startswith("cannot read ") and "JLD2" not in said


# Files of this program.


def test_the_index_of_an_ensemble_needs_its_shards(finished_run, tmp_path):
    shutil.copy(finished_run / "ensemble.h5", tmp_path / "ensemble.h5")
    said = refusal(tmp_path / "ensemble.h5")
    assert "is an index that shows other files as one, and 3 of its 3 are missing" in said
    assert "shards/c00000000-n0000.h5: copy the whole directory" in said
    made = import_array(finished_run / "ensemble.h5", tmp_path / "out", config=CONFIG)
    assert np.array_equal(made.cfgs, open_ensemble(finished_run).cfgs)


def test_a_file_of_export_says_its_shape_and_its_chains(finished_run, tmp_path, capsys):
    ensemble = open_ensemble(finished_run)
    export_array(ensemble, tmp_path / "a.h5")
    words = ["import", str(tmp_path / "a.h5"), "--action.lam", "0.022", "--action.kappa"]
    assert cli.main([*words, "0.27", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    made = open_ensemble(tmp_path / "out")
    assert (made.n_chains, made.shape) == (ensemble.n_chains, ensemble.shape) == (2, (4, 3))
    assert np.array_equal(made.cfgs, ensemble.cfgs)
    assert cli.main([*words, "0.25", "--out", str(tmp_path / "b"), "--n-chains", "3"]) == 0
    assert "a.h5 was made with kappa = 0.27" in capsys.readouterr().err
    assert open_ensemble(tmp_path / "b").n_chains == 3
