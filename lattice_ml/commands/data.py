"""`lattice-ml import`, `export`, `convert` and `info`."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lattice_ml.commands.options import parse_options
from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.printable import say, shape_label
from lattice_ml.runtime.values import table

if TYPE_CHECKING:
    from lattice_ml.storage.ensemble import EnsembleOnDisk

__all__ = ["convert_command", "export_command", "import_command", "info_command"]


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of `import` beside the keys of [action].

    Args:
        out: directory of the ensemble.
        sample_axis: axis that counts samples, none of a single configuration; the first, in the
            order of Julia the last, if that is clear.
        chain_axis: axis that counts chains, where they have one of their own.
        n_chains: where they have not, samples are configuration-major, all chains of one
            configuration together; 1, or what a file of `export` says.
        dataset: which array of an .npz or HDF5 file; a pattern such as 'cfg_*/phi' joins several.
        order: of the axes in an HDF5 file: c, or julia (reversed), as of .jld2 files by default.
        shape: extents of the lattice, which tell its axes from the others.
    """

    out: str
    sample_axis: int | Literal["none"] | None = None
    chain_axis: int | None = None
    n_chains: int | None = None
    dataset: str | None = None
    order: Literal["c", "julia"] | None = None
    shape: tuple[int, ...] = ()


def import_command(arguments: list[str]) -> int:
    """Make an ensemble of an array in a file."""
    from lattice_ml.jobs import config, exchange

    names = ("action",)
    file, words = config.split_file(arguments, "import", ImportOptions, names, is_config=False)
    parsed = config.parse_sections(words, names, options=ImportOptions)
    options = config.options_of(parsed, ImportOptions)
    lattice = {"shape": list(options.shape) or None}
    ensemble = exchange.import_array(
        file,
        options.out,
        config={"action": table("action", parsed.action), "lattice": lattice},
        dataset=options.dataset,
        order=options.order,
        sample_axis=options.sample_axis,
        chain_axis=options.chain_axis,
        n_chains=options.n_chains,
    )
    say(
        f"{ensemble.directory}: {ensemble.n_chains} chains x {ensemble.n_configs} configurations "
        f"of {shape_label(ensemble.shape)}"
    )
    read_as = ensemble.provenance[0]["made_by"]
    if "dropped_axes" in read_as:
        print(f"  axes of length 1 were left out: {', '.join(map(str, read_as['dropped_axes']))}")
    if "weights_left_out" in read_as:
        said = "its samples count alike here, and are not those of the action without them"
        say(f"  warning: {file} has weights, which are left out: {said}", file=sys.stderr)
    if "file_says" in read_as:
        other = ", ".join(f"{key} = {value}" for key, value in read_as["file_says"].items())
        say(f"  warning: {file} was made with {other}", file=sys.stderr)
    return 0


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write an ensemble to one file.

    Args:
        ensemble: its directory.
        out: a new file, .h5, .npz, .npy (configurations) or .json.gz (observables, for pyerrors).
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensemble: tyro.conf.Positional[str]
    out: str
    verify: bool = True


def export_command(arguments: list[str]) -> int:
    """Write an ensemble to one file."""
    options = parse_options(ExportOptions, arguments, "export")
    from lattice_ml.jobs.exchange import export_array
    from lattice_ml.storage.ensemble import open_ensemble

    ensemble = open_ensemble(options.ensemble, verify=options.verify)
    known = " was there already, complete and equal" if Path(options.out).exists() else ""
    if options.out.endswith(".json.gz"):
        prepare()
        from lattice_ml.jobs.pyerrors_json import export_observables
        from lattice_ml.statistics import doubt_of

        names = export_observables(ensemble, options.out)
        say(f"{options.out}{known}: {', '.join(names)}")
        if reason := doubt_of(ensemble.log_weight):
            say(f"warning: {reason}", file=sys.stderr)
        return 0
    export_array(ensemble, options.out)
    say(f"{options.out}{known}")
    if options.out.endswith(".npy") and ensemble.log_weight is not None:
        said = "holds the samples without their weights; .h5 and .npz keep them"
        say(f"warning: {options.out} {said}", file=sys.stderr)
    return 0


@dataclasses.dataclass(frozen=True)
class Convention:
    """The convention to convert to.

    Args:
        convention: kappa, beta, standard, standard24 or nohalf.
    """

    convention: str


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """Write an ensemble anew in another convention.

    Args:
        ensemble: its directory.
        action: what the couplings and fields are to be in.
        out: directory of the new ensemble.
        verify: compare the sha256 of every shard first (--no-verify to save the time).
    """

    ensemble: tyro.conf.Positional[str]
    action: Convention
    out: str
    verify: bool = True


def convert_command(arguments: list[str]) -> int:
    """Write an ensemble in another convention."""
    options = parse_options(ConvertOptions, arguments, "convert")
    prepare()
    from lattice_ml.actions import conventions
    from lattice_ml.jobs.exchange import convert_ensemble
    from lattice_ml.storage.ensemble import open_ensemble

    ensemble = open_ensemble(options.ensemble, verify=options.verify)
    made = convert_ensemble(ensemble, options.out, options.action.convention)
    say(made.directory, *conventions.describe(made.config["action"], len(made.shape)))
    return 0


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """What an ensemble or a model is and where it came from.

    Args:
        directory: of the ensemble or the model.
        verify: compare the sha256 of every shard first (--no-verify to save the time).
        accept_edit: you have edited a JSON file of it and mean it: it is checked, and gets a new
            seal. Files of earlier versions get their first one.
    """

    directory: tyro.conf.Positional[str]
    verify: bool = True
    accept_edit: bool = False


def info_command(arguments: list[str]) -> int:
    """Print what an ensemble or a model is and where it came from."""
    options = parse_options(InfoOptions, arguments, "info")
    is_model = (Path(options.directory) / "model.json").exists()
    lines = []
    if options.accept_edit:
        from lattice_ml.storage.editing import accept_edit

        new = accept_edit(options.directory)
        lines = [("sealed anew", ", ".join(new) or "nothing: all seals fit")]
    lines += _model(options.directory) if is_model else _ensemble(options)
    for name, text in lines:
        say(f"{name:<15} {text}")
    return 0


def _ensemble(options: InfoOptions) -> list[tuple[str, str]]:
    """What to say of an ensemble: names and texts."""
    from lattice_ml.actions import conventions
    from lattice_ml.commands.generate import swaps
    from lattice_ml.storage.ensemble import open_ensemble

    ensemble = open_ensemble(options.directory, verify=options.verify)
    manifest, config = ensemble.manifest, ensemble.config
    _ = ensemble.action  # one that there is, or an error which names the file
    shape = shape_label(ensemble.shape)
    action = conventions.describe(config["action"], len(ensemble.shape))
    made = ("sampler", "sampling", "chain", "output")
    return [
        ("ensemble", str(ensemble.directory)),
        ("configurations", f"{ensemble.n_chains} chains x {ensemble.n_configs} of {shape}"),
        *(("action", line) for line in action),
        *((name, _listed(config[name])) for name in made if name in config),
        ("tuned", _listed(manifest["tuned"]) or "nothing"),
        ("histories", ", ".join(ensemble.history) or "none"),
        *(("weights", text) for text in _weights(ensemble)),
        *([("exchange", text)] if (text := swaps(ensemble)) else []),
        *((f"made from {e['first_config']}", _listed(e["made_by"])) for e in ensemble.provenance),
        *([("parent", ensemble.parent)] if ensemble.parent else []),
        *_unsealed(manifest, "manifest.json"),
    ]


def _weights(ensemble: "EnsembleOnDisk") -> list[str]:
    """What the weights of an ensemble are worth, and why that is too little where it is."""
    from lattice_ml.analysis.measurement import describe_weights, estimate_weights
    from lattice_ml.statistics import MIN_CONFIGS, doubt_of

    said = [doubt_of(ensemble.log_weight)]
    if ensemble.log_weight is not None and ensemble.n_configs >= MIN_CONFIGS:
        said.insert(0, describe_weights(estimate_weights(ensemble)))
    return [text for text in said if text]


def _model(directory: str) -> list[tuple[str, str]]:
    """What to say of a model: names and texts."""
    from lattice_ml.commands.train import summary
    from lattice_ml.jobs.open_model import open_model

    model = open_model(directory)
    worth, manifest = summary(model), model.manifest
    return [
        ("model", worth[0]),
        *(("stage", shape_label(stage.shape)) for stage in model.stages),
        *(("report", line.strip()) for line in worth[1:]),
        ("verdict", model.report["verdict"]),
        *((name, _listed(model.config[name])) for name in ("model", "training")),
        *((f"made from {e['first_step']}", _listed(e["made_by"])) for e in manifest["provenance"]),
        ("hash", model.hash),
        ("parent", manifest["parent"]),
        *_unsealed(manifest, "model.json"),
    ]


def _unsealed(manifest: Section, file: str) -> list[tuple[str, str]]:
    """What to say where a file cannot vouch for itself."""
    if "seal" in manifest:
        return []
    said = f"none: {file} is of an earlier version, and an altered bit in it would not be noticed"
    return [("seal", f"{said}; --accept-edit seals it as it is")]


def _listed(table: Section) -> str:
    """`key = value, ...`, tables within it in brackets; without what is not set."""
    return ", ".join(
        f"{key} = {f'({_listed(value)})' if isinstance(value, Mapping) else value}"
        for key, value in table.items()
        if value is not None
    )
