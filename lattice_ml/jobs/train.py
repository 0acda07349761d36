"""`train`: fit a model to ensembles in a directory that survives whatever interrupts it.

Ensembles are grouped by lattice shape, and each shape is a stage: the smallest is learned first,
and its weights are where the next begins.  Weights and metrics depend on the config, the seed and
the data alone, not on where the training was interrupted.  What the phases of a training are, the
kind of model says (`models/training.py`).  Where several processes train a model all take all
steps; process 0 measures, writes and judges.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lattice_ml.jobs.job import TrainingJob
from lattice_ml.jobs.open_model import open_model, stages_of
from lattice_ml.jobs.training_data import check_agreement, identify, open_data
from lattice_ml.models.kinds import KINDS
from lattice_ml.models.model import Model
from lattice_ml.models.training import Block, Learned, Phase, Task, TrainingError
from lattice_ml.models.worth import verdict
from lattice_ml.observables.ensemble import Ensemble
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.runtime.processes import Team, team
from lattice_ml.runtime.session import Progress, Watch, compile_times, provenance, watching
from lattice_ml.storage.ensemble import EnsembleOnDisk, open_ensemble
from lattice_ml.storage.model import Arrays, digest
from lattice_ml.storage.model_run import ModelRun, open_model_run

__all__ = ["TrainingError", "train"]


@ordinary()
def train(
    job: TrainingJob,
    out: str | os.PathLike[str] | None = None,
    *,
    data: Sequence[str | os.PathLike[str] | Ensemble] = (),
    init_from: str | os.PathLike[str] | Model | None = None,
    time_limit: float | None = None,
    verify: bool = True,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Model:
    """Train the model that `job` describes in directory `out`, or continue its training.

    Where JAX has several processes all of them call this, for a kind of model that they can train
    together; data and `out` must be on a file system that they share.

    Args:
        job: a `TrainingJob`.
        out: a new or empty directory, or one that an equal job began; None to keep the model in
            memory alone.
        data: directories, or ensembles such as `run` gives them; those of one lattice shape are
            learned together, small shapes first.
        init_from: a model whose weights are where the training begins.  Without data a diffusion
            model is fine-tuned on the theories of its own last stage.
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
        PeerError: another process failed.
        OSError: the file system refuses.
    """
    kind, processes = KINDS[job.model["kind"]].model, team()
    _check_processes(kind, processes, out)
    ensembles = [
        open_ensemble(given, verify=verify) if isinstance(given, str | os.PathLike) else given
        for given in data
    ]
    on_disk = [e for e in ensembles if isinstance(e, EnsembleOnDisk)]
    if len({ensemble.directory.resolve() for ensemble in on_disk}) < len(on_disk):
        raise ValueError(f"--data must be different ensembles, got {' '.join(map(str, data))}")
    processes.first(lambda: _verify(on_disk if verify else []))
    initial = open_model(init_from) if isinstance(init_from, str | os.PathLike) else init_from
    if initial is not None:
        _check_network(job.model, initial)
    check_agreement(job.config, ensembles)
    data_sets = open_data(ensembles, job.training.validation)
    task = Task(job.model, job.training, job.seed, data_sets, initial)
    kind.check(task)
    known = () if initial is None else initial.stages[-1:]
    entries: list[JsonTable] = [
        {"shape": d.shape, "actions": d.actions[:1] if kind.pooled else d.actions}
        for d in data_sets or known
    ]

    def measure() -> list[list[Arrays]]:
        found = [kind.measure(task, d) for d in data_sets] or [stage.theories for stage in known]
        return [[kind.arrays(theory) for theory in theories] for theories in found]

    with contextlib.ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory()) if out is None else out
        run = open_model_run(
            folder,
            job.config,
            entries,
            measure=measure,
            provenance=provenance("train") | {"data": [e.label for e in ensembles]},
            parent=digest([identify(ensembles), None if initial is None else initial.hash]),
            team=processes,
        )
        with run, watching(time_limit) as watch:
            if not run.finished:
                stages = stages_of(kind, run.directory, entries, run.theories)
                task = replace(task, stages=stages)
                _train(kind, task, run, watch, on_progress, lasting=out is not None)
        made = open_model(folder)
    return made if out is not None else replace(made, directory=None)


def _train(
    kind: type[Model],
    task: Task,
    run: ModelRun,
    watch: Watch,
    on_progress: Callable[[Progress], None],
    *,
    lasting: bool,
) -> None:
    """Go through the phases from the last checkpoint on, and write the model."""
    network, phases = kind.plan(task)
    learned, begin = Learned(network), run.step
    safe = f"safe in {run.directory}" if lasting else "lost with what is in memory"
    log = _Log(run, task.training.checkpoint_every, phases)
    end = max((phase.first + phase.total for phase in phases), default=0)
    for number, phase in enumerate(phases):
        if phase.first + phase.total < begin:  # its weights live on in the state of a later phase
            continue
        state = phase.start(learned.network)
        if phase.first < begin:
            state = run.restore(state)
        try:
            for block, *spent in _timed(phase.blocks(state)):
                state = block.state
                log.note(number, block, spent, stop=watch.agree(run.team) is not None)
                done = block.step - phase.first
                on_progress(Progress(phase.name, done, phase.total, block.found))
                watch.stop(
                    f": step {block.step} of {end} ({phase.name}) is {safe}"
                    + "; the same command goes on from there" * lasting
                )
        except TrainingError as error:
            log.commit()
            raise TrainingError(f"{error}; the steps before are {safe}") from error
        learned = phase.end(state)
    log.commit()
    report = run.team.first(lambda: kind.worth(task, learned.network, phases))
    report = {"verdict": verdict(report["theories"])} | report
    cost = _cost(phases, log.spent)
    run.finish(kind.weights(learned.network), report, learned.history, cost)


def _cost(phases: Sequence[Phase[Any]], spent: Sequence[Sequence[float]]) -> JsonTable:
    """Seconds of the training and of every phase, compilation apart: what `cost.json` has."""
    entries: list[JsonTable] = [
        {
            "phase": phase.name,
            "seconds": round(taken - compiling, 3),
            "compile_seconds": round(compiling, 3),
        }
        for phase, (taken, compiling) in zip(phases, spent, strict=True)
    ]
    totals = {
        name: round(sum(entry[name] for entry in entries), 3)
        for name in ("seconds", "compile_seconds")
    }
    return totals | {"phases": entries}


@dataclass
class _Log:
    """Metrics and time spent, committed together with the state that they lead to."""

    run: ModelRun
    every: float  # seconds between checkpoints
    phases: Sequence[Phase[Any]]
    lines: list[JsonTable] = field(default_factory=list)
    last: Block[Any] | None = None
    committed: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        nothing = [[0.0, 0.0] for _ in self.phases]
        spent = self.run.notes().get("spent", nothing)
        alone = spent and isinstance(spent[0], float)  # the phase of an RBM, in earlier versions
        self.spent: list[list[float]] = [spent] if alone else spent

    def note(self, number: int, block: Block[Any], spent: Sequence[float], *, stop: bool) -> None:
        """Take down a block of a phase, and the seconds of it; commit where that is due."""
        self.lines.append(self.phases[number].place | {"step": block.step} | block.found)
        self.last = block
        self.spent[number] = [a + b for a, b in zip(self.spent[number], spent, strict=True)]
        due = time.monotonic() - self.committed > self.every
        if stop or self.run.team.first(lambda: due):
            self.commit()

    def commit(self) -> None:
        """Keep the last block's state and all metrics until then."""
        if self.last is not None:
            self.run.commit(self.last.step, self.last.state, self.lines, {"spent": self.spent})
        self.lines, self.last, self.committed = [], None, time.monotonic()


def _timed(blocks: Iterator[Block[Any]]) -> Iterator[tuple[Block[Any], float, float]]:
    """Blocks, the seconds that each takes, and those of compiling among them."""
    while True:
        begin = time.monotonic()
        with compile_times() as compiling:
            block = next(blocks, None)
            if block is None:
                return
            compiled = compiling()
        yield block, time.monotonic() - begin, compiled


def _check_processes(
    kind: type[Model], processes: Team, out: str | os.PathLike[str] | None
) -> None:
    """Refuse several processes where they cannot train one model.

    Raises:
        ValueError: saying which kind, or that they need a directory.
    """
    if processes.size > 1 and not kind.shared:
        raise ValueError(
            f"model.kind = {kind.kind} is trained by one process, and this is one of "
            f"{processes.size}: start one alone, or give each --distributed False and an --out "
            "of its own"
        )
    if processes.size > 1 and out is None:
        raise ValueError(
            f"{processes.size} processes train in a directory that all of them see, got out=None"
        )


def _verify(ensembles: Sequence[EnsembleOnDisk]) -> None:
    for ensemble in ensembles:
        ensemble.verify()


def _check_network(model: Section, initial: Model) -> None:
    """Refuse to begin with the weights of another network."""
    before = initial.config["model"]
    if model["kind"] != initial.kind:
        raise ValueError(
            f"model.kind is {model['kind']}, but {initial.directory} is a {initial.kind}"
        )
    for key in sorted(model.keys() | before.keys()):
        if key not in initial.free_keys and model.get(key) != before.get(key):
            raise ValueError(
                f"model.{key} is {model.get(key)!r}, but {initial.directory} was trained with "
                f"{before.get(key)!r}: its weights fit no other network"
            )
