"""Is every axis of a foreign file what it should be: Julia's order, and the axis of samples?"""

import h5py
import numpy as np
import pytest

from lattice_ml import cli
from lattice_ml.jobs.exchange import import_array
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.run import StorageError

ACTION = {"action": {"kind": "Phi4", "convention": "kappa", "kappa": 0.27, "lam": 0.022}}
JLD2 = b"HDF5-based Julia Data Format, version 0.1.1\x00 (Julia 1.10.0 64-bit) on x86_64-linux-gnu"
JLD = b"Julia data file (HDF5), version 0.1.3\x00 (Julia 1.10.0 64-bit, x86_64-linux-gnu)"
LX, LY, N = 4, 3, 12
KNOWN = ACTION | {"lattice": {"shape": (LX, LY)}}  # unequal extents have to be said


def field(x, y, sample):
    return 100 * x + 10 * y + sample / 100


BY_SAMPLE = field(*np.meshgrid(range(LX), range(LY), range(N), indexing="ij")).transpose(2, 0, 1)


def julia(path, array, *, header=JLD2, dtype="float64", name="cfgs"):
    """Write an array of Julia's as Julia does: its axes reversed, behind a block that says so."""
    with h5py.File(path, "w", userblock_size=512, libver="latest") as file:
        file[name] = np.asarray(array, dtype).T
        file.create_group("_types")["00000001"] = np.dtype("f8")
    with path.open("r+b") as file:
        file.write(header)
    return path


@pytest.mark.parametrize("header", [JLD2, JLD])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [2, 0, 1, -1])
def test_fields_of_julia_are_indexed_as_in_julia(tmp_path, axis, dtype, header):
    in_julia = np.moveaxis(BY_SAMPLE, 0, axis)  # cfgs[x, y, sample] where axis = 2
    file = julia(tmp_path / "phi.jld2", in_julia, header=header, dtype=dtype)
    with h5py.File(file) as stored:
        assert stored["cfgs"].shape == in_julia.shape[::-1]
    options = {} if axis == 2 else {"sample_axis": axis}
    ensemble = import_array(file, tmp_path / "out", config=KNOWN, **options)
    assert ensemble.shape == (LX, LY) and ensemble.cfgs.dtype == dtype
    assert np.array_equal(ensemble.cfgs, BY_SAMPLE.astype(dtype))
    assert ensemble.cfgs[7, 3, 1] == np.dtype(dtype).type(field(3, 1, 7))
    made_by = ensemble.manifest["provenance"][0]["made_by"]
    assert (made_by["order"], made_by["sample_axis"]) == ("julia", axis % 3)


def test_the_order_is_that_of_the_file_unless_said(tmp_path):
    jld2 = julia(tmp_path / "phi.h5", BY_SAMPLE.transpose(1, 2, 0))  # by what it is, not its name
    plain = tmp_path / "plain.h5"  # of HDF5.jl, which leaves no trace
    with h5py.File(plain, "w") as file:
        file["cfgs"] = BY_SAMPLE.transpose(1, 2, 0).T

    def read(name, file, **options):
        return import_array(file, tmp_path / name, config=ACTION, **options).cfgs

    assert np.array_equal(read("a", jld2, sample_axis=-1), BY_SAMPLE)
    assert np.array_equal(read("b", plain, order="julia", sample_axis=-1), BY_SAMPLE)
    assert np.array_equal(read("c", plain, sample_axis=0), BY_SAMPLE.swapaxes(1, 2))
    assert np.array_equal(read("d", jld2, order="c", sample_axis=0), BY_SAMPLE.swapaxes(1, 2))


def test_files_of_julia_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("lattice_ml.jobs.exchange.BLOCK_BYTES", 5 * BY_SAMPLE[0].nbytes)
    for axis in range(3):
        file = julia(tmp_path / f"{axis}.jld2", np.moveaxis(BY_SAMPLE, 0, axis))
        ensemble = import_array(file, tmp_path / f"out{axis}", config=ACTION, sample_axis=axis)
        assert len(ensemble.manifest["shards"]) == 3
        assert np.array_equal(ensemble.cfgs, BY_SAMPLE)


SQUARE = np.random.default_rng(1).normal(size=(20, 2, 2))


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "jld2"])
@pytest.mark.parametrize("last", [False, True])
def test_the_public_layouts_are_read_without_a_word(tmp_path, kind, last):
    """(N, L, L) and (L, L, N), of NumPy and of Julia, under the name `cfgs`."""
    array = np.moveaxis(SQUARE, 0, -1) if last else SQUARE
    file = tmp_path / f"cfgs_k=0.2705_l=0.022_2^2.{kind}"
    if kind == "npy":
        np.save(file, array)
    elif kind == "npz":
        np.savez(file, cfgs=array, step=np.arange(3))
    elif kind == "jld2":
        julia(file, array)
    else:
        with h5py.File(file, "w") as opened:
            opened["cfgs"] = array
    words = ["import", str(file), "--out", str(tmp_path / "out"), "--action.kappa", "0.2705"]
    assert cli.main([*words, "--action.lam", "0.022"]) == 0
    assert np.array_equal(open_ensemble(tmp_path / "out").cfgs, SQUARE)


@pytest.mark.parametrize(
    ("shape", "order", "ways"),
    [
        ((4, 4, 12), "c", ["4 samples of 4 x 12, 0", "12 samples of 4 x 4, 2"]),
        ((12, 4, 4), "julia", ["12 samples of 4 x 4, 0", "4 samples of 12 x 4, 2"]),
        (
            (4, 4, 4),
            "c",
            ["4 samples of 4 x 4, 0", "4 samples of 4 x 4, 1", "4 samples of 4 x 4, 2"],
        ),
    ],
)
def test_an_axis_in_doubt_is_refused_with_all_readings(tmp_path, shape, order, ways, capsys):
    array = np.ones(shape)
    file = tmp_path / "phi.jld2"
    if order == "julia":
        julia(file, array)
    else:
        file = tmp_path / "phi.npy"
        np.save(file, array)
    words = ["import", str(file), "--out", str(tmp_path / "out"), "--action.kappa", "0.27"]
    words += ["--action.lam", "0.022"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "can be read in several ways: " in said and "or the lattice with --shape" in said
    for way in ways:
        samples, _, rest = way.partition(" of ")
        lattice, axis = rest.split(", ")
        assert f"{samples} of a 2d lattice {lattice} (--sample-axis {axis})" in said
    assert ("in the order of Julia" in said) == (order == "julia")
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--sample-axis", "0"]) == 0


def test_known_extents_decide(tmp_path):
    np.save(tmp_path / "phi.npy", np.ones((4, 12, 4)))
    asked = ACTION | {"lattice": {"shape": (4, 4)}}
    assert import_array(tmp_path / "phi.npy", tmp_path / "a", config=asked).n_configs == 12
    other = ACTION | {"lattice": {"shape": (4, 5)}}
    with pytest.raises(StorageError, match="no other sample axis fits"):
        import_array(tmp_path / "phi.npy", tmp_path / "b", config=other)
    np.save(tmp_path / "phi.npy", np.ones((4, 4, 12)))
    other = ACTION | {"lattice": {"shape": (4, 12)}}
    with pytest.raises(
        StorageError, match=r"\(--sample-axis 1\); .*\(--sample-axis 0\); say which$"
    ):
        import_array(tmp_path / "phi.npy", tmp_path / "b", config=other)


def test_an_order_that_says_nothing_is_refused(tmp_path):
    np.save(tmp_path / "phi.npy", SQUARE)
    with pytest.raises(StorageError, match=r"order julia is about \.h5.*names its axes as the"):
        import_array(tmp_path / "phi.npy", tmp_path / "out", config=ACTION, order="julia")
    with pytest.raises(StorageError, match=r"must be one of c, julia, got 'F'"):
        import_array(tmp_path / "phi.npy", tmp_path / "out", config=ACTION, order="F")


def test_a_name_that_the_file_does_not_have_is_refused(tmp_path):
    np.save(tmp_path / "phi.npy", BY_SAMPLE)
    with pytest.raises(StorageError, match=r"one array without a name, so no dataset 'phi'"):
        import_array(tmp_path / "phi.npy", tmp_path / "out", config=KNOWN, dataset="phi")


def test_what_follows_the_array_is_not_left_unread(tmp_path):
    with (tmp_path / "phi.npy").open("wb") as file:
        np.save(file, BY_SAMPLE)
        np.save(file, BY_SAMPLE)
    with pytest.raises(StorageError, match=r"phi\.npy: \d+ bytes follow its array"):
        import_array(tmp_path / "phi.npy", tmp_path / "out", config=KNOWN)


def test_other_things_of_julia_are_refused(tmp_path):
    file = julia(tmp_path / "phi.jld2", SQUARE, name="phi")
    with h5py.File(file, "r+") as opened:
        opened["cfgs"] = [b"text"]
    with pytest.raises(StorageError, match="a field is float32 or float64"):
        import_array(file, tmp_path / "out", config=ACTION)
    (tmp_path / "broken.jld2").write_bytes(JLD2 + bytes(2000))
    with pytest.raises(StorageError, match=r"cannot read .*broken\.jld2"):
        import_array(tmp_path / "broken.jld2", tmp_path / "out", config=ACTION)


def test_a_data_set_that_hdf5_cannot_open_is_named_and_others_are_read(tmp_path):
    fields = np.random.default_rng(0).normal(size=(12, 4, 4))
    file = tmp_path / "a.jld2"
    with h5py.File(file, "w", libver="latest") as opened:
        opened.create_dataset("cfgs", data=fields, chunks=fields.shape, compression="gzip")
        opened["broken"] = fields
        address = h5py.h5o.get_info(opened["broken"].id).addr
    content = bytearray(file.read_bytes())
    assert content[address : address + 4] == b"OHDR"
    content[address + 10] ^= 1  # as where the header of JLD2 is not what HDF5 expects
    file.write_bytes(content)
    action = {"kind": "FreeField", "mass_squared": 0.5}
    made = import_array(file, tmp_path / "out", config={"action": action})
    assert np.array_equal(made.cfgs, fields)
    for name in ("broken", "nothing"):
        with pytest.raises(StorageError, match=r"cannot read .*\(HDF5 cannot read the chunked"):
            import_array(file, tmp_path / "b", config={"action": action}, dataset=name)
