"""The verbs of the command line: each parses its arguments, calls the library and prints."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from lattice_ml.distributed import use_all_cores
from lattice_ml.storage import StorageError

__all__ = ["run"]


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb and turn what goes wrong into one sentence and an exit status."""
    try:
        return {
            "generate": _generate,
            "measure": _measure,
            "import": _import,
            "export": _export,
            "info": _info,
        }[verb](list(arguments))
    except SystemExit as stop:  # from the parser, which has printed its message
        return int(stop.code or 0)
    except (StorageError, ValueError) as error:
        return _fail(verb, error, 2)
    except OSError as error:
        return _fail(verb, error, 3)
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 130)


def _fail(verb: str, error: object, status: int) -> int:
    print(f"lattice-ml {verb}: {error}", file=sys.stderr)
    return status


# ------------------------------------------------------------------------------- generate


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate` beside the config's keys.

    Args:
        out: directory of the ensemble; runs/<name of the config> by default.
        sweep: section.key V1 V2 ...: one ensemble OUT/<key>=<V> per value.
        time_limit: stop after e.g. 90s, 30m, 3h or 1h30m; the same command goes on.
    """

    out: str | None = None
    sweep: tuple[str, ...] = ()
    time_limit: str | None = None


def _generate(arguments: list[str]) -> int:
    use_all_cores()
    _configure_jax()
    from lattice_ml import chain, config, generate, progress

    file, words = config.split_file(arguments, "generate", GenerateOptions)
    options = config.options(words, GenerateOptions, file)
    limit = _seconds(options.time_limit) if options.time_limit else None
    out = Path(options.out or Path("runs") / Path(file).stem)
    jobs = _sweep(words, options.sweep, file, out)
    try:
        for job, directory in jobs:
            with progress.Reporter(str(directory)) as reporter:
                ensemble = generate.generate(job, directory, time_limit=limit, on_progress=reporter)
            print(_summary(ensemble))
    except chain.RunError as error:
        return _fail("generate", error, 3)
    except generate.Interrupted as stop:
        print(f"lattice-ml generate: {stop}", file=sys.stderr)
        return 128 + stop.signum if stop.signum else 0
    return 0


def _sweep(words: list[str], sweep: Sequence[str], file: str, out: Path) -> list[tuple[Any, Path]]:
    """The jobs of a sweep, or the one job; all are checked before the first runs."""
    from lattice_ml import config

    if not sweep:
        return [(config.parse(words, file=file, options=GenerateOptions), out)]
    key, *values = sweep
    if not values:
        raise ValueError(f"--sweep needs a key and its values, got {key} alone")
    return [
        (
            config.parse([*words, f"--{key}", value], file=file, options=GenerateOptions),
            out / f"{key}={value}",
        )
        for value in values
    ]


def _summary(ensemble: Any) -> str:
    tuned = ensemble.manifest["tuned"]
    settings = ", ".join(f"{name} {value:.4g}" for name, value in tuned.items())
    shape = " x ".join(map(str, ensemble.shape))
    return (
        f"{ensemble.directory}: {ensemble.n_chains} chains x {ensemble.n_configs} configurations "
        f"of {shape}; acceptance {ensemble.series('acceptance').mean():.3f}, "
        f"<exp(-dH)> {ensemble.series('exp_minus_dh').mean():.4f}; {settings}"
    )


# -------------------------------------------------------------------------------- measure


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """Observables with errors of one or more ensembles.

    Args:
        ensembles: directories.
        json: write the numbers to this file.
        out: write plots and a page to this directory.
        weights: use the ensemble's weights where it has some (--no-weights to ignore them).
    """

    ensembles: tyro.conf.Positional[tuple[str, ...]]
    json: str | None = None
    out: str | None = None
    weights: bool = True


def _measure(arguments: list[str]) -> int:
    options = tyro.cli(MeasureOptions, args=arguments, prog="lattice-ml measure")
    if not options.ensembles:
        raise ValueError("measure needs at least one ensemble directory, got none")
    _configure_jax()
    from lattice_ml.analysis import measurement, page
    from lattice_ml.ensemble import open_ensemble

    found = {}
    for path in options.ensembles:
        ensemble = open_ensemble(path)
        found[path] = measurement.measure(ensemble, weights=options.weights)
        _print_estimates(path, found[path])
        if options.out:
            folder = Path(options.out)
            folder = folder / Path(path).name if len(options.ensembles) > 1 else folder
            print(f"page: {page.write(ensemble, found[path], folder)}")
    if options.json:
        keys = ("value", "error", "tau_int", "tau_int_error")
        table = {
            path: {name: e and {key: getattr(e, key) for key in keys} for name, e in values.items()}
            for path, values in found.items()
        }
        Path(options.json).write_text(json.dumps(table, indent=1) + "\n")
    return 0


def _print_estimates(path: str, estimates: Mapping[str, Any]) -> None:
    print(path)
    print(f"  {'observable':<26}{'value':>18}{'tau_int':>14}")
    for name, estimate in estimates.items():
        if estimate is None:
            print(f"  {name:<26}{'-':>18}")
            continue
        tau = f"{estimate.tau_int:.2f} +- {estimate.tau_int_error:.2f}"
        print(f"  {name:<26}{estimate!s:>18}{tau:>18}{'  short' if estimate.short else ''}")
    short = [name for name, e in estimates.items() if e is not None and e.short]
    if short:
        print(
            f"  short: a chain has fewer than 50 tau_int configurations of {', '.join(short)}; "
            "their errors are themselves uncertain"
        )


# ------------------------------------------------------------------ import, export, info


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of `import` beside the keys of [action].

    Args:
        out: directory of the ensemble.
        sample_axis: axis of the array that counts samples.
        n_chains: samples are configuration-major, all chains of one configuration together.
        dataset: which array of an .npz or .h5 file.
    """

    out: str
    sample_axis: int = 0
    n_chains: int = 1
    dataset: str | None = None


def _import(arguments: list[str]) -> int:
    from lattice_ml import config, exchange

    file, words = config.split_file(arguments, "import", ImportOptions, ("action",))
    options = config.options(words, ImportOptions, file, ("action",))
    sections = config.parse_sections(words, ("action",), options=ImportOptions)
    ensemble = exchange.import_array(
        file,
        options.out,
        config={"action": dataclasses.asdict(sections.action)},
        dataset=options.dataset,
        sample_axis=options.sample_axis,
        n_chains=options.n_chains,
    )
    _ = ensemble.action  # refuses couplings that do not define a theory in this dimension
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


def _export(arguments: list[str]) -> int:
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


def _info(arguments: list[str]) -> int:
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


# -------------------------------------------------------------------------------- helpers


def _configure_jax() -> None:
    """Energies in float64, and compiled programs kept between runs."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lattice_ml"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _seconds(text: str) -> float:
    """`90s`, `30m`, `3h`, `1h30m` or a plain number of seconds."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not text or not match:
        raise ValueError(f"--time-limit must look like 90s, 30m, 3h or 1h30m, got {text!r}")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(3600 * hours + 60 * minutes + seconds)
