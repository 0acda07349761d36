"""`lattice-ml generate`."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lattice_ml.commands.environment import configure_jax
from lattice_ml.distributed import keep_freed_memory, use_all_cores

__all__ = ["generate_command"]


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate` beside the config's keys.

    Args:
        out: directory of the ensemble; runs/<name of the config> by default.
        sweep: section.key V1 V2 ...: one ensemble OUT/<key>=<V> per value (16,16 for a shape).
        time_limit: stop after e.g. 90s, 30m, 3h or 1h30m; the same command goes on.
    """

    out: str | None = None
    sweep: tuple[str, ...] = ()
    time_limit: str | None = None


def generate_command(arguments: list[str]) -> int:
    """Run the chains of a config, or of every value of a sweep."""
    use_all_cores()
    keep_freed_memory()
    configure_jax()
    from lattice_ml import config, generation, progress, session
    from lattice_ml.arguments import seconds

    file, words = config.split_file(arguments, "generate", GenerateOptions)
    options = config.options(words, GenerateOptions, file)
    left = None if options.time_limit is None else seconds(options.time_limit)
    out = Path(options.out or Path("runs") / Path(file).stem)
    jobs = _sweep(words, options.sweep, file, out)
    try:
        for job, directory in jobs:
            begin = time.monotonic()
            with progress.Reporter(str(directory)) as reporter:
                ensemble = generation.generate(
                    job, directory, time_limit=left, on_progress=reporter
                )
            print(_summary(ensemble))
            if left is not None:  # a sweep shares its time
                left = max(1e-9, left - (time.monotonic() - begin))
    except session.Interrupted as stop:
        print(f"lattice-ml generate: {stop}", file=sys.stderr)
        return 128 + stop.signum if stop.signum else 0
    return 0


def _sweep(words: list[str], sweep: Sequence[str], file: str, out: Path) -> list[tuple[Any, Path]]:
    """The jobs of a sweep, or the one job; all are checked before the first runs."""
    from lattice_ml import config

    if not sweep:
        return [(config.parse(words, file=file, options=GenerateOptions), out)]
    key, *values = sweep
    if key.partition(".")[0] not in config.SECTIONS:
        raise ValueError(f"--sweep needs a key of the config, got {key}")
    if not values:
        raise ValueError(f"--sweep needs a key and its values, got {key} alone")
    return [
        (
            config.parse(
                [*words, f"--{key}", *value.split(",")], file=file, options=GenerateOptions
            ),
            out / f"{key}={value}".replace("/", "_"),
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
