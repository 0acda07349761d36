"""`lattice-ml import`, `export` and `info`."""

import dataclasses

import tyro

__all__ = ["export_command", "import_command", "info_command"]


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of `import` beside the keys of [action].

    Args:
        out: directory of the ensemble.
        sample_axis: axis of the array that counts samples.
        n_chains: samples are configuration-major, all chains of one configuration together.
        dataset: which array of an .npz or .h5 file.
        shape: extents of the lattice, to be compared with the file's.
    """

    out: str
    sample_axis: int = 0
    n_chains: int = 1
    dataset: str | None = None
    shape: tuple[int, ...] = ()


def import_command(arguments: list[str]) -> int:
    """Make an ensemble of an array in a file."""
    from lattice_ml import config, exchange

    file, words = config.split_file(arguments, "import", ImportOptions, ("action",))
    options = config.options(words, ImportOptions, names=("action",))
    sections = config.parse_sections(words, ("action",), options=ImportOptions)
    ensemble = exchange.import_array(
        file,
        options.out,
        config={
            "action": dataclasses.asdict(sections.action),
            "lattice": {"shape": list(options.shape) or None},
        },
        dataset=options.dataset,
        sample_axis=options.sample_axis,
        n_chains=options.n_chains,
    )
    print(
        f"{ensemble.directory}: {ensemble.n_chains} chains x {ensemble.n_configs} configurations "
        f"of {' x '.join(map(str, ensemble.shape))}"
    )
    return 0


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write an ensemble to one file.

    Args:
        ensemble: its directory.
        out: a new file, .h5, .npz or .npy (configurations alone).
    """

    ensemble: tyro.conf.Positional[str]
    out: str


def export_command(arguments: list[str]) -> int:
    """Write an ensemble to one file."""
    options = tyro.cli(ExportOptions, args=arguments, prog="lattice-ml export")
    from lattice_ml.ensemble import open_ensemble
    from lattice_ml.exchange import export_array

    export_array(open_ensemble(options.ensemble), options.out)
    print(options.out)
    return 0


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """What an ensemble is and where it came from.

    Args:
        ensemble: its directory.
    """

    ensemble: tyro.conf.Positional[str]


def info_command(arguments: list[str]) -> int:
    """Print what an ensemble is and where it came from."""
    options = tyro.cli(InfoOptions, args=arguments, prog="lattice-ml info")
    from lattice_ml import conventions
    from lattice_ml.ensemble import open_ensemble

    ensemble = open_ensemble(options.ensemble)
    manifest = ensemble.manifest
    print(f"ensemble       {ensemble.directory}")
    print(f"configurations {ensemble.n_chains} chains x {ensemble.n_configs}, thin {ensemble.thin}")
    print(f"lattice        {' x '.join(map(str, ensemble.shape))}, {ensemble.config['output']}")
    for line in conventions.describe(ensemble.config["action"], len(ensemble.shape)):
        print(f"action         {line}")
    for name in ("sampler", "chain"):
        if name in ensemble.config:
            print(f"{name:<15}{ensemble.config[name]}")
    print(f"tuned          {manifest['tuned']}")
    print(f"histories      {', '.join(ensemble.history) or 'none'}")
    for entry in manifest["provenance"]:
        print(f"made by        from configuration {entry['first_config']}: {entry['made_by']}")
    if ensemble.parent:
        print(f"parent         {ensemble.parent}")
    return 0
