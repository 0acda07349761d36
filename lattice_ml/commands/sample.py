"""`lattice-ml sample`."""

import dataclasses
import sys
import time
from typing import Literal

from lattice_ml.runtime.devices import prepare
from lattice_ml.runtime.printable import say, shape_label

__all__ = ["sample_command"]


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of `sample` beside the keys of the config.

    Args:
        n_samples: to draw in all.
        out: directory of the ensemble.
        correct: to exactness; hmc and reweight carry weights, metropolis makes a chain, latent
            many chains that move between their proposals.
        time_limit: stop after e.g. 90s, 30m, 3h or 1h30m; the same command goes on.
    """

    n_samples: int
    out: str
    correct: Literal["none", "reweight", "metropolis", "hmc", "latent"] = "none"
    time_limit: str | None = None


def sample_command(arguments: list[str]) -> int:
    """Draw an ensemble from a model."""
    prepare(all_cores=True)
    from lattice_ml.jobs import config, sample
    from lattice_ml.jobs.open_model import open_model
    from lattice_ml.models.kinds import DEFAULT
    from lattice_ml.runtime import arguments as words
    from lattice_ml.runtime import progress
    from lattice_ml.storage.model import kind_of

    named = bool(arguments) and not arguments[0].startswith("-")
    kind = kind_of(arguments[0]) if named else DEFAULT
    names = config.sampling_names(kind)
    path, given = config.split_file(arguments, "sample", SampleOptions, names, is_config=False)
    model = open_model(path)
    given = [*words.as_arguments(model.defaults), *given]
    parsed = config.parse_sections(given, names, options=SampleOptions)
    options, job = config.options_of(parsed, SampleOptions), config.sampling_job_of(parsed)
    limit = None if options.time_limit is None else words.seconds(options.time_limit)
    begin = time.monotonic()
    with progress.Reporter(options.out) as reporter:
        ensemble = sample.sample(
            job,
            model,
            options.out,
            n_samples=options.n_samples,
            correct=options.correct,
            time_limit=limit,
            on_progress=reporter,
        )
    shape, seconds = shape_label(ensemble.shape), time.monotonic() - begin
    n_samples = ensemble.n_configs * ensemble.n_chains
    say(f"{ensemble.directory}: {n_samples} samples of {shape} in {seconds:.1f} s")
    for line in sample.summary(ensemble):
        say(f"  {line}", file=sys.stderr if line.startswith("warning") else sys.stdout)
    return 0
