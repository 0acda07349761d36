"""`lattice-ml train`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lattice_ml.commands.company import company, reporter
from lattice_ml.runtime import processes
from lattice_ml.runtime.devices import find_devices, prepare
from lattice_ml.runtime.json import Section
from lattice_ml.runtime.printable import say, shape_label

if TYPE_CHECKING:
    from lattice_ml.models.model import Model

__all__ = ["train_command"]

_HUGE = 1e7


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `train` beside the config's keys.

    Args:
        out: directory of the model.
        data: ensembles; those of one lattice shape are learned together, small shapes first.
        init_from: a model whose weights are where the training begins.
        time_limit: stop after e.g. 90s, 30m, 3h or 1h30m; the same command goes on.
        no_verify: do not compare the sha256 of the data's shards first, to save the time.
        distributed: True insists on other processes with which to train one flow, False is this
            one alone; by default they are those that srun or mpirun started.
        heartbeat: a process that does not answer for so long is lost, and ends the others.
    """

    out: str
    data: tuple[str, ...] = ()
    init_from: str | None = None
    time_limit: str | None = None
    no_verify: bool = False
    distributed: bool | None = None
    heartbeat: str = "30s"


def train_command(arguments: list[str]) -> int:
    """Train a model; 1 where it is useless or misses a mode, 4 where it cannot be told."""
    prepare(all_cores=True, find=False)
    from lattice_ml.jobs import config, train
    from lattice_ml.models.worth import UNDECIDED
    from lattice_ml.runtime import arguments as words

    file, given = _split(arguments)
    names = config.training_names(given)
    parsed = config.parse_sections(given, names, file=file, options=TrainOptions)
    options = config.options_of(parsed, TrainOptions)
    limit = None if options.time_limit is None else words.seconds(options.time_limit)
    team = processes.join(options.distributed, words.seconds(options.heartbeat, "--heartbeat"))
    find_devices()
    with company("train", team, options.heartbeat) as begins:
        begins(Path(options.out))
        with reporter(team, options.out) as report:
            model = train.train(
                config.training_job_of(parsed),
                options.out,
                data=options.data,
                init_from=options.init_from,
                time_limit=limit,
                verify=not options.no_verify,
                on_progress=report,
            )
    if team.leads:
        say(*summary(model))
    verdict = model.report["verdict"]
    if verdict == "passed":
        return 0
    if team.leads:
        say(f"lattice-ml train: {verdict}", file=sys.stderr)
    return 4 if verdict.startswith(UNDECIDED) else 1


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The config file and all arguments; without a file, the config of the model to begin from."""
    from lattice_ml.jobs import config
    from lattice_ml.runtime import arguments as words
    from lattice_ml.storage.model import read_model

    no_file = bool(arguments) and arguments[0].startswith("--")
    initial = words.word(arguments, "init_from", "") if no_file else ""
    if not initial:
        return config.split_file(arguments, "train", TrainOptions, config.TRAINING)
    known = read_model(initial).config  # the devices are not there yet
    begun = {name: known[name] for name in config.TRAINING}
    return None, [*words.as_arguments(begun), *arguments]


def summary(model: "Model") -> list[str]:
    """Lines on what a model is worth."""
    report = model.report
    lines = [f"{model.directory}: {report['n_weights']} weights"]
    if model.seconds is not None:
        lines[0] += f", {model.seconds:.1f} s of training"
    if "evaluations" in report:
        lines[0] += f", {report['evaluations']:.3g} evaluations of the network"
    for entry in report["theories"]:
        couplings = [f"{key} = {value}" for key, value in entry["action"].items() if key != "kind"]
        name = ", ".join([shape_label(entry["shape"]), *couplings])
        lines.append(f"  {name}: {'; '.join(_worth(entry))}")
    return lines


def _worth(entry: Section) -> list[str]:
    """What one theory's samples are worth, in words."""
    from lattice_ml.statistics import log_z_doubt

    said = {
        "n_not_finite": "{n_not_finite} of {n_samples} samples are not finite",
        "log_likelihood": "mean log density of the data {log_likelihood:.6g}",
        "validation_log_likelihood": "held out {validation_log_likelihood:.6g}",
        "kl_gaussian": "KL from the Gaussian of the data's moments {kl_gaussian:.3g}",
    }
    words = [text.format_map(entry) for key, text in said.items() if entry.get(key) is not None]
    if identity := entry.get("schwinger_dyson"):
        value, error = _number(identity["value"], 4), _number(identity["error"], 4)
        words.append(f"Schwinger-Dyson {value} +- {error}")
    if "ess" in entry:
        words += [
            f"ESS/n {entry['ess']:.4f} of {entry['n_samples']} samples",
            f"Pareto k {entry['pareto_k']:.2f}",
            f"log Z {_number(entry['log_z'], 6)} +- {_number(entry['log_z_error'], 6)}",
        ]
        words += filter(None, [log_z_doubt(entry["pareto_k"])])
    if change := entry.get("log_weight_change"):
        rms, mean = _number(change["rms"], 3), _number(change["mean"], 4, "+")
        words.append(f"log w under step doubling {rms} rms, {mean} mean")
    if forward := entry.get("forward_ess"):
        words.append(f"forward ESS/n {forward['value']:.4f} +- {forward['error']:.4f}")
    return words


def _number(value: float, decimals: int, sign: str = "") -> str:
    """A number with so many decimals, or with an exponent where it is huge."""
    return f"{value:{sign}.{decimals}f}" if abs(value) < _HUGE else f"{value:{sign}.3e}"
