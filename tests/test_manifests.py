"""What the manifest of an ensemble may say, before anything in it is believed."""

import copy
import dataclasses
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from storage_runs import block, config, generate, shard

from lattice_ml.jobs import sections
from lattice_ml.storage import files, manifests
from lattice_ml.storage.ensemble import open_ensemble
from lattice_ml.storage.files import StorageError
from lattice_ml.storage.run import open_run


def edit(directory, change, seal=True):
    """Edit a manifest, and seal it as somebody would who means it, or as an earlier version."""
    manifest = files.read_manifest(directory)
    change(manifest)
    if seal:
        files.write_manifest(directory, manifest)
    else:
        old = {key: value for key, value in manifest.items() if key != "seal"}
        (directory / "manifest.json").write_text(json.dumps(old | {"format_version": 1}))


def put(key, value):
    """An edit that sets a key such as `shards.0.file`, or removes it for `...`."""

    def change(manifest):
        *way, last = [int(word) if word.isdigit() else word for word in key.split(".")]
        place = manifest
        for word in way:
            place = place[word]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


NESTED = []
for _ in range(100):
    NESTED = [NESTED]

WRONG = {
    "absurdly many chains": ("config.chain.n_chains", 10**9, "n_chains"),
    "absurdly many configurations": (
        "shards.0.n_configs",
        10**12,
        r"shards\[0\] cannot hold 10{12}",
    ),
    "more than follow": ("shards.0.n_configs", 3, r"shards\[1\] holds 2 configurations from 2 on"),
    "fewer asked for than there": (
        "config.chain.n_configs",
        5,
        "n_configs is 5, but shards",
    ),
    "a word": ("config.chain.thin", "often", "config.chain.thin must be a whole number of at le"),
    "a negative number": ("config.chain.n_chains", -8, "n_chains must be a whole number .*got -8"),
    "a number and a half": ("config.chain.n_chains", 2.0, r"n_chains must be a whole .*got '?2\.0"),
    "no list": ("shards", "c00000000-n0000.h5", "shards must be a list"),
    "no table": ("config", [], "config must be a table, got a list of 0 values"),
    "a missing section": ("config.lattice", ..., "config.lattice is missing"),
    "a missing key": ("shards.1.sha256", ..., r"shards\[1\]\.sha256 is missing"),
    "an unknown key": ("config.chain.thim", 5, "config.chain.thim is an unknown key; is it thin"),
    "an unknown section": ("config.latice", {}, "config.latice is an unknown key; is it lattice"),
    "another dtype": ("config.output.dtype", "float16", "dtype must be one of float32, float64"),
    "a boolean": ("config.output.save_configs", 1, "save_configs must be true or false, got 1"),
    "an extent of nothing": ("config.lattice.shape", [4, 0], r"shape\[1\] must be a whole numb"),
    "nested": ("tuned", {"step_size": NESTED}, "tuned.* is nested more than 16 deep"),
    "no sha256": ("shards.0.sha256", "abc", r"sha256 must be 64 hexadecimal digits, got abc"),
    "more chains than there": ("config.chain.n_chains", 4, r"shards\[1\] holds .* in 4 chains"),
    "fewer chains than there": ("config.chain.n_chains", 1, r"shards\[0\] holds .*of 2 chains"),
    "a gap": ("shards.1.first_config", 4, r"shards\[1\] holds 2 configurations from 4 on"),
    "no shard before it": ("shards.0", ..., r"shards\[0\] holds 2 configurations from 2 on"),
    "another shard's name": ("shards.0.file", "c00000002-n0000.h5", "must be c00000000-n0000"),
    "provenance that is none": ("provenance.0.first_config", -1, r"provenance\[0\]\.first_config"),
}


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "old"])
@pytest.mark.parametrize(("key", "value", "message"), WRONG.values(), ids=WRONG)
def test_a_manifest_that_cannot_be_is_refused_with_the_key(run_copy, key, value, message, seal):
    edit(run_copy, put(key, copy.deepcopy(value)), seal)
    with pytest.raises(StorageError, match=rf"manifest\.json is altered: .*{message}") as caught:
        open_ensemble(run_copy)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "old"])
@pytest.mark.parametrize(
    "name",
    [
        "../../other/shards/c00000000-n0000.h5",
        "/etc/passwd",
        "../shards/c00000000-n0000.h5",
        "c00000000-n0000.h5\n",
        "C00000000-N0000.H5",
    ],
)
def test_a_shard_is_a_plain_name_inside_shards(run_copy, name, seal):
    shutil.copytree(run_copy, run_copy.parent / "other")
    edit(run_copy, put("shards.0.file", name), seal)
    with pytest.raises(StorageError, match=r"shards\[0\]\.file must be a plain name such as"):
        open_ensemble(run_copy)


def test_a_link_in_the_place_of_a_shard_is_refused(run_copy, finished_run):
    shard(run_copy, 2).unlink()
    shard(run_copy, 2).symlink_to(shard(finished_run, 2))
    for verb in (open_ensemble, lambda path: open_run(path, config(), provenance={})):
        with pytest.raises(StorageError, match=r"c00000002-n0000\.h5 is a link"):
            verb(run_copy)
    assert shard(run_copy, 2).is_symlink(), "and left alone"


def test_chains_that_contradict_the_rows_are_refused(run_copy):
    """Half as many configurations of twice as many chains would fit the rows, not their chains."""

    def change(manifest):
        manifest["config"]["chain"]["n_chains"] = 4
        for i, entry in enumerate(manifest["shards"]):
            name = manifests.shard_name(i, 0)
            (run_copy / "shards" / entry["file"]).rename(run_copy / "shards" / name)
            entry |= {"n_chains": 4, "n_configs": 1, "first_config": i, "file": name}

    edit(run_copy, change)
    (run_copy / "ensemble.h5").unlink()
    ensemble = open_ensemble(run_copy)
    for read in (lambda: ensemble.series("action"), lambda: ensemble.cfgs[0]):
        with pytest.raises(StorageError, match="its rows are not of 4 chains from 0 on in turn"):
            read()


def test_a_lattice_or_a_dtype_that_the_shards_do_not_have_is_refused(run_copy):
    (run_copy / "ensemble.h5").unlink()
    edit(run_copy, put("config.lattice.shape", [3, 4]))
    with pytest.raises(StorageError, match=r"cfgs is float32 \(4, 3\) per row, .*\(3, 4\)"):
        open_ensemble(run_copy)
    edit(run_copy, put("config.lattice.shape", [4, 3]))
    edit(run_copy, put("config.output.dtype", "float64"))
    with pytest.raises(StorageError, match=r"cfgs is float32 \(4, 3\) per row, .*float64"):
        open_ensemble(run_copy)


def test_a_shard_of_other_rows_is_refused(run_copy):
    """With the right size and sha256: somebody wrote another file and its entry."""
    path = shard(run_copy, 2)
    with h5py.File(path, "r+") as file:
        kept = file["history/action"][:2]
        del file["history/action"]
        file["history/action"] = kept
    new = {"bytes": path.stat().st_size, "sha256": files.entry(path, 2, np.arange(2))["sha256"]}
    edit(run_copy, lambda manifest: manifest["shards"][1].update(new))
    with pytest.raises(StorageError, match=r"history/action is float64 \(2,\), .*float64 \(4,\)"):
        open_ensemble(run_copy).series("action")


def test_the_index_must_agree_with_the_manifest(run_copy):
    edit(run_copy, put("config.action.kappa", 0.28))
    with pytest.raises(StorageError, match=r"disagree: kappa is 0\.27 in the one and 0\.28 in the"):
        open_ensemble(run_copy)
    edit(run_copy, put("config.action.kappa", 0.27))
    open_ensemble(run_copy)
    with h5py.File(run_copy / "ensemble.h5", "r+") as file:
        file.attrs["n_configs"] = 7
    with pytest.raises(StorageError, match="disagree: n_configs is 7 in the one and 6 in the"):
        open_ensemble(run_copy)
    os.truncate(run_copy / "ensemble.h5", 100)
    with pytest.raises(StorageError, match=r"ensemble\.h5 is altered: HDF5 cannot read it"):
        open_ensemble(run_copy)


def test_an_index_that_is_behind_or_of_an_earlier_version_is_none_the_worse(run_copy):
    with open_run(run_copy, config(chain={"n_configs": 8}), provenance={"version": "1"}) as run:
        run.append(*block(6))
        assert open_ensemble(run_copy).n_configs == 8
    with h5py.File(run_copy / "ensemble.h5", "r+") as file:
        file.attrs["format_version"] = 1
    assert open_ensemble(run_copy).n_configs == 8


def test_a_run_of_an_earlier_version_opens_goes_on_and_is_sealed(run_copy, tmp_path):
    edit(run_copy, lambda manifest: None, seal=False)
    (run_copy / "cost.json").write_text('{"seconds": 2.5}\n')
    before = (run_copy / "manifest.json").read_bytes()
    assert open_ensemble(run_copy).n_configs == 6 and "seal" not in files.read_manifest(run_copy)
    open_run(run_copy, config(), provenance={"version": "1"}).__exit__(None, None, None)
    assert (run_copy / "manifest.json").read_bytes() == before
    asked = config(chain={"n_configs": 10})
    generate(run_copy, asked)
    generate(tmp_path / "whole", asked)
    for name in ("manifest.json", "ensemble.h5"):
        assert (run_copy / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert files.read_seconds(run_copy) > 2.5


def test_a_manifest_that_lost_its_seal_is_refused(run_copy):
    edit(run_copy, put("seal", ...), seal=False)
    text = (run_copy / "manifest.json").read_text()
    (run_copy / "manifest.json").write_text(text.replace('_version": 1', '_version": 2'))
    with pytest.raises(StorageError, match=r"manifest\.json is altered: its seal is missing; copy"):
        open_ensemble(run_copy)


def test_what_an_ensemble_cost_is_sealed_too(run_copy):
    path = run_copy / "cost.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    for read in (files.read_seconds, lambda path: open_run(path, config(), provenance={})):
        with pytest.raises(StorageError, match=r"cost\.json is altered: its seal .*; remove it"):
            read(run_copy)
    path.unlink()
    generate(run_copy)


def test_every_flipped_bit_of_a_manifest_is_noticed_unless_it_changes_nothing(run_copy):
    path, rng = run_copy / "manifest.json", np.random.default_rng(1)
    whole, manifest = path.read_bytes(), files.read_manifest(run_copy)
    for position in rng.integers(len(whole), size=500):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert files.read_manifest(run_copy) == manifest
        except StorageError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("name", ["lattice", "chain", "output"])
def test_the_rules_know_every_key_of_a_config(name):
    known = dataclasses.fields(sections.section_type(name, []))
    section = {f.name: [4] if f.name == "shape" else f.default for f in known}
    config = {"lattice": {"shape": [4]}, "chain": {"n_chains": 1}, "output": {"dtype": "float32"}}
    whole = {"format_version": 2, "parent": None, "provenance": [], "tuned": {}, "shards": []}
    manifests.check_manifest(whole | {"config": config | {name: section}}, "")
