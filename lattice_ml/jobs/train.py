"""`train`: fit a model to ensembles in a directory that survives whatever interrupts it.

Ensembles are grouped by lattice shape, and each shape is a stage: the smallest is learned first,
and its weights are where the next begins.  Weights and metrics depend on the config, the seed and
the data alone, not on where the training was interrupted.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lattice_ml.jobs import rbm_training, training_report
from lattice_ml.jobs.job import TrainingJob
from lattice_ml.jobs.training_data import Data, check_agreement, identify, open_data
from lattice_ml.jobs.training_phases import Block, Phase, TrainingError, blocks, plan
from lattice_ml.models.diffusion import fitting
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.session import Progress, Watch, provenance, watching
from lattice_ml.storage.ensemble import Ensemble, open_ensemble
from lattice_ml.storage.model import Model, Stage, build_network, digest, open_model
from lattice_ml.storage.model_run import ModelRun, open_model_run

__all__ = ["TrainingError", "train"]

# keys of [model] that weights do not depend on
_NOT_OF_WEIGHTS = ("target", "pairs", "symmetric", "train_mu", "train_eta", "initial")


@ordinary()
def train(
    job: TrainingJob,
    out: str | os.PathLike[str],
    *,
    data: Sequence[str | os.PathLike[str]] = (),
    init_from: str | os.PathLike[str] | None = None,
    time_limit: float | None = None,
    verify: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Model:
    """Train the model that `job` describes in directory `out`, or continue its training.

    Args:
        job: a `TrainingJob`.
        out: a new or empty directory, or one that an equal job began.
        data: ensembles; those of one lattice shape are learned together, small shapes first.
        init_from: a model whose weights are where the training begins.  Without data it is
            fine-tuned on the theories of its own last stage.
        time_limit: seconds after which no new block is started.
        verify: compare the sha256 of the data's shards before anything is written.
        on_progress: called after every block of steps.

    Returns:
        The trained model; its `report` says what it is worth.

    Raises:
        ValueError: nothing to train on, or settings that do not fit it.
        StorageError: `out` or `data` hold something else, or the config differs.
        Interrupted: SIGINT, SIGTERM or the time limit; call again to go on.
        TrainingError: the loss is not a number; the steps before are kept.
        OSError: the file system refuses.
    """
    ensembles = [open_ensemble(path, verify=verify) for path in data]
    if len({ensemble.directory.resolve() for ensemble in ensembles}) < len(ensembles):
        raise ValueError(f"--data must be different ensembles, got {' '.join(map(str, data))}")
    for ensemble in ensembles:
        if verify:
            ensemble.verify()
    initial = None if init_from is None else open_model(init_from)
    if initial is not None:
        _check_network(job.model, initial)
    if job.model["kind"] == "GaussianRBM":
        rbm_training.train(
            job, out, ensembles, initial=initial, time_limit=time_limit, on_progress=on_progress
        )
        return open_model(out)
    _check(job, ensembles, initial)
    data_sets = open_data(ensembles, job.training.validation)
    _check_conditional(job.model, data_sets)
    known = [] if initial is None else initial.stages[-1:]

    def measure() -> Sequence[Stage]:
        settings = {key: job.model[key] for key in ("pairs", "symmetric")}
        return [d.measure(**settings) for d in data_sets] or known

    run = open_model_run(
        out,
        job.config,
        [{"shape": s.shape, "actions": s.actions} for s in data_sets or known],
        measure=measure,
        provenance=provenance("train") | {"data": [str(path) for path in data]},
        parent=digest([identify(ensembles), None if initial is None else initial.hash]),
    )
    with run, watching(time_limit) as watch:
        if not run.finished:
            network = None if initial is None else initial.network
            _train(job, run, data_sets, network, watch, on_progress)
    return open_model(out)


def _train(
    job: TrainingJob,
    run: ModelRun,
    data_sets: Sequence[Data],
    network: Any,
    watch: Watch,
    on_progress: Callable[[Progress], None],
) -> None:
    """Go through the phases from the last checkpoint on, and write the model."""
    stages = run.stages
    shapes = [stage.shape for stage in stages]
    network = network or build_network(job.model, len(shapes[0]), job.seed)
    phases = plan(job, network, shapes, denoising=bool(data_sets))
    log = _Log(run, job.training.checkpoint_every, phases)
    begin = run.step
    for number, phase in enumerate(phases):
        if phase.last < begin:  # its weights live on in the state of a later phase
            continue
        state = fitting.start(network, phase.settings)
        if phase.first < begin:
            state = run.restore(state)
        data = data_sets[phase.stage] if data_sets else None
        limits = {"seed": job.seed, "pool_bytes": job.training.pool_bytes}
        try:
            for block in blocks(network, phase, stages[phase.stage], data, state, **limits):
                state = block.state
                log.note(number, block, stop=watch.reason is not None)
                done = block.step - phase.first
                on_progress(Progress(phase.name, done, phase.settings.total, block.losses))
                watch.stop(
                    f": step {block.step} of {phases[-1].last} ({phase.name}) is safe in "
                    f"{run.directory}; the same command goes on from there"
                )
        except TrainingError as error:
            log.commit()
            raise TrainingError(f"{error}; the steps before are safe in {run.directory}") from error
        network = fitting.averaged(network, state)
    log.commit()
    data = data_sets[-1] if data_sets else None
    report = training_report.report(network, stages[-1], data, job)
    report |= training_report.cost(phases)
    run.finish(network, report, cost=training_report.seconds(phases, log.spent))


@dataclass
class _Log:
    """Metrics and time spent, committed together with the state that they lead to."""

    run: ModelRun
    every: float  # seconds between checkpoints
    phases: Sequence[Phase]
    lines: list[dict[str, Any]] = field(default_factory=list)
    last: Block | None = None
    committed: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        nothing = [[0.0, 0.0] for _ in self.phases]
        self.spent: list[list[float]] = self.run.notes().get("spent", nothing)

    def note(self, number: int, block: Block, *, stop: bool) -> None:
        """Take down a block of a phase; commit where that is due."""
        phase = self.phases[number]
        place = {"stage": phase.stage, "phase": phase.kind, "step": block.step}
        self.lines.append(place | block.losses)
        self.last = block
        self.spent[number][0] += block.seconds
        self.spent[number][1] += block.compile_seconds
        if stop or time.monotonic() - self.committed > self.every:
            self.commit()

    def commit(self) -> None:
        """Keep the last block's state and all metrics until then."""
        if self.last is not None:
            self.run.commit(self.last.step, self.last.state, self.lines, {"spent": self.spent})
        self.lines, self.last, self.committed = [], None, time.monotonic()


def _check(job: TrainingJob, ensembles: Sequence[Ensemble], initial: Model | None) -> None:
    """Refuse a job that has nothing to learn from, or whose parts do not fit together."""
    if not ensembles and not (initial is not None and job.training.fine_tune):
        raise ValueError(
            "nothing to train on: give --data ENSEMBLE, or --init-from MODEL with "
            "--training.fine-tune to train a model on its own samples"
        )
    for ensemble in ensembles:
        if ensemble.action is None:
            raise ValueError(
                f"a diffusion model needs the action of its data, which is not known of "
                f"{ensemble.directory} (action.kind = none)"
            )
    check_agreement(job.config, ensembles)


def _check_conditional(model: Mapping[str, Any], data_sets: Sequence[Data]) -> None:
    """Refuse several couplings for a network that does not know them."""
    knows = model["denoiser"] == "zero" or model.get("conditional", False)
    if knows or all(len(data.sources) == 1 for data in data_sets):
        return
    remedy = f"the {model['denoiser']} network cannot: use shallow or convnet"
    if "conditional" in model:
        remedy = "set model.conditional = true, or train on one ensemble per lattice shape"
    raise ValueError(
        f"several ensembles have one lattice shape, and the network does not know the couplings: "
        f"{remedy}"
    )


def _check_network(model: Mapping[str, Any], initial: Model) -> None:
    """Refuse to begin with the weights of another network."""
    before = initial.config["model"]
    if model["kind"] != before["kind"]:
        raise ValueError(
            f"model.kind is {model['kind']}, but {initial.directory} is a {before['kind']}"
        )
    for key in sorted(model.keys() | before.keys()):
        if key not in _NOT_OF_WEIGHTS and model.get(key) != before.get(key):
            raise ValueError(
                f"model.{key} is {model.get(key)!r}, but {initial.directory} was trained with "
                f"{before.get(key)!r}: its weights fit no other network"
            )
