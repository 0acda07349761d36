"""A model on disk.

    DIR/model.json      format version, resolved config, shape and actions of every stage, parent
                        (hash of the data), provenance, sha256 of the .npz files, its own seal
    DIR/config.toml     the resolved config for people, and ready for `train`
    DIR/theories.npz    what was measured of the data: `models.theory.Theory` of every stage, or
                        `models.moments.Moments` for a Gaussian RBM
    DIR/metrics.jsonl   one line per block of steps: stage, phase, step, losses
    DIR/checkpoints/    the last two states of a training that is not finished, sealed
    DIR/weights.npz     the averaged weights, by their path in the network; those of an RBM by name
    DIR/history.npz     of an RBM: the spectrum of its kernel along the training
    DIR/report.json     what the trained model is worth, sealed
    DIR/cost.json       seconds that it took: all else is the same whenever it was resumed
    DIR/lock            there while a process writes

`storage/model_run.py` writes it; `open_model` reads it once the training is finished.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from lattice_ml.fields.modes import Modes
from lattice_ml.models.diffusion import networks
from lattice_ml.models.diffusion.theory import Theory
from lattice_ml.models.drawer import Drawer
from lattice_ml.models.kinds import KINDS
from lattice_ml.models.model import Model as KindOfModel
from lattice_ml.models.model import Probing
from lattice_ml.models.model import Stage as KindOfStage
from lattice_ml.models.rbm import GaussianRBM
from lattice_ml.models.rbm.moments import Moments
from lattice_ml.storage import files, intact, model_schema, seals
from lattice_ml.storage.files import StorageError

__all__ = [
    "MANIFEST",
    "REPORT",
    "THEORIES",
    "WEIGHTS",
    "Model",
    "Stage",
    "build_network",
    "check_file",
    "digest",
    "kind_of",
    "open_model",
    "read_manifest",
    "read_report",
    "read_stages",
    "write_network",
    "write_stages",
]

MANIFEST, THEORIES, WEIGHTS, REPORT = "model.json", "theories.npz", "weights.npz", "report.json"
HISTORY = "history.npz"


@dataclass(frozen=True)
class Stage:
    """The theories of one lattice shape: their `[action]` sections, and what was measured.

    For an RBM the latter are `Moments`, for a diffusion model `Theory`.
    """

    shape: tuple[int, ...]
    actions: tuple[Mapping[str, Any], ...]
    theories: tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        directory: where it lives.
        manifest: what `model.json` holds.
        network: a denoiser (`models.denoiser`), or a `models.rbm.GaussianRBM`.
        stages: in the order of the training; the last is what the model was made for.
    """

    directory: Path
    manifest: dict[str, Any] = field(repr=False)
    network: Any = field(repr=False)
    stages: tuple[Stage, ...] = field(repr=False)

    def drawer(self, *asked: Any) -> Drawer:
        """What draws samples, see `models.model.Model`."""
        return self._of_kind().drawer(*asked)

    def spectrum(self, probing: Probing) -> dict[str, Any]:
        """What it has learned, see `models.model.Model`."""
        return self._of_kind().spectrum(probing)

    def _of_kind(self) -> KindOfModel:
        stages = tuple(KindOfStage(s.shape, s.actions, s.theories) for s in self.stages)
        return KINDS[self.kind].model(self, stages, self.network)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the training."""
        return dict(self.manifest["config"])

    @property
    def kind(self) -> str:
        """Diffusion or GaussianRBM."""
        return _kind(self.manifest)

    @property
    def theories(self) -> tuple[Any, ...]:
        """Those of all stages."""
        return tuple(theory for stage in self.stages for theory in stage.theories)

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """Of an RBM: "step" `(n,)`, "eigenvalues" `(n, N_v)` and "log_likelihood" `(n,)`."""
        path = self.directory / HISTORY
        return _read_arrays(path) if path.exists() else {}

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the training found out about the model at its end.

        Raises:
            StorageError: as `read_report`, or it is about other weights.
        """
        report = read_report(self.directory)
        own = self.manifest["files"].get(WEIGHTS)
        if report.pop("weights", own) != own:  # not there in reports of earlier versions
            raise StorageError(
                f"{self.directory / REPORT} is of another model: the sha256 of its weights is not "
                f"{own}; copy it back from where the model came from"
            )
        return report

    @property
    def seconds(self) -> float | None:
        """Wall time of the training without compilation; None where unknown."""
        kept = files.read_seconds(self.directory)
        return self.report.get("training_seconds") if kept is None else kept  # as once it was kept

    @property
    def defaults(self) -> dict[str, Any]:
        """What `sample` takes where it is not told: the last stage, and its couplings if unique."""
        last = self.stages[-1]
        action = {
            key: value
            for key, value in last.actions[-1].items()
            if all(other.get(key) == value for other in last.actions)
        }
        sections = {"lattice": {"shape": list(last.shape)}, "action": action}
        return sections | {"sampling": self.config.get("sampling", {})}

    @property
    def hash(self) -> str:
        """Identifies all that samples depend on: the network, its weights and the theories."""
        made_of = {name: self.manifest["files"][name] for name in (WEIGHTS, THEORIES)}
        return digest([self.manifest["config"]["model"], made_of])


def open_model(path: str | os.PathLike[str]) -> Model:
    """Open the trained model in a directory.

    Raises:
        StorageError: there is none, its training is not finished, or a file is missing or altered.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    if WEIGHTS not in manifest["files"]:
        raise StorageError(
            f"the model in {directory} is not finished: run the same `train` command again"
        )
    for name, sha256 in manifest["files"].items():
        check_file(directory, name, sha256)
    stages = read_stages(directory, manifest)
    section = manifest["config"]["model"]
    if _kind(manifest) == "GaussianRBM":
        network: Any = GaussianRBM(**_read_arrays(directory / WEIGHTS))
    else:
        try:
            network = build_network(section, len(stages[0].shape), 0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            path = directory / MANIFEST
            raise StorageError(f"{path} describes no network that there is: {error}") from error
        _load_weights(network, directory / WEIGHTS)
    return Model(directory, manifest, network, stages)


def kind_of(path: str | os.PathLike[str]) -> str:
    """The kind of the model in a directory; raises as `read_manifest`."""
    return _kind(read_manifest(Path(path)))


def build_network(section: Mapping[str, Any], ndim: int, seed: int) -> Any:
    """The network of a `[model]` section, with initial weights drawn from `seed`."""
    kind = networks.KINDS[section["denoiser"]]
    taken = inspect.signature(kind.__init__).parameters
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in {**section, "ndim": ndim}.items()
        if key in taken
    }
    return kind(**settings, rngs=nnx.Rngs(seed))


def digest(values: Any) -> str:
    """The sha256 of JSON values, as the hashes and parents of models have had it from the start."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return what `model.json` holds; raises as `files.read_manifest`."""
    return files.read_manifest(directory, MANIFEST, "model", model_schema.MODEL)


def read_report(directory: Path, *, edited: bool = False) -> dict[str, Any]:
    """Return what `report.json` holds.

    Raises:
        StorageError: it is missing, or altered unless it may be.
    """
    path = directory / REPORT
    if not path.is_file():
        raise StorageError(f"{path} is missing; copy it back from where the model came from")
    report = seals.parse(path, finite=False)
    rule = model_schema.REPORT if seals.SEAL in report else model_schema.OLD_REPORT
    seals.check(path, report, rule, remedy=files.remedy(directory), edited=edited)
    return {key: value for key, value in report.items() if key != seals.SEAL}


def check_file(directory: Path, name: str, sha256: str) -> None:
    """Check that a file of a model is there and is what it was.

    Raises:
        StorageError: it is missing, a link, or altered.
    """
    intact.size(directory / name, "the model")
    intact.verify(directory / name, sha256)


def write_network(
    directory: Path,
    network: Any,
    report: Mapping[str, Any],
    history: Mapping[str, np.ndarray] | None = None,
) -> dict[str, str]:
    """Write report, history and weights; return the sha256 of what a model is made of, by file."""
    if history is not None:
        _write_arrays(directory / HISTORY, history)
    rbm = isinstance(network, GaussianRBM)
    weights = jax.tree.map(np.asarray, vars(network)) if rbm else _weights(network)
    _write_arrays(directory / WEIGHTS, weights)
    about = dict(report) | {"weights": intact.sha256(directory / WEIGHTS)}
    with files.replacing(directory / REPORT) as temporary:
        temporary.write_bytes(seals.image(json.loads(json.dumps(about))))
    names = (WEIGHTS, THEORIES) if history is None else (WEIGHTS, THEORIES, HISTORY)
    return {name: intact.sha256(directory / name) for name in names}


def write_stages(directory: Path, stages: Sequence[Stage]) -> None:
    """Write the theories of all stages, in float64."""
    arrays = {
        f"{i}.{j}.{name}": np.asarray(value, np.float64)
        for i, stage in enumerate(stages)
        for j, theory in enumerate(stage.theories)
        for name, value in vars(theory).items()
        if name != "modes"
    }
    _write_arrays(directory / THEORIES, arrays)


def read_stages(directory: Path, manifest: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Read what `write_stages` wrote, of the stages that a manifest lists."""
    stored = _read_arrays(directory / THEORIES)
    moments = _kind(manifest) == "GaussianRBM"

    def theory(prefix: str, shape: tuple[int, ...]) -> Theory | Moments:
        names = (name for name in stored if name.startswith(prefix))
        arrays = {n.removeprefix(prefix): stored[n] for n in names}
        modes = Modes(shape)
        lattice = (modes.volume,) if moments else tuple(shape[axis] for axis in modes.order)
        of_sites = arrays.get("mean" if moments else "propagator", np.zeros(()))
        try:
            if of_sites.shape != lattice:
                raise TypeError(f"of {lattice}, but of {of_sites.shape}")
            return Moments(**arrays) if moments else Theory(**arrays, modes=modes)
        except TypeError as error:
            raise StorageError(
                f"{directory / THEORIES} holds no theory as {MANIFEST} lists it: {error}"
            ) from error

    return tuple(
        Stage(
            tuple(entry["shape"]),
            tuple(entry["actions"]),
            tuple(theory(f"{i}.{j}.", tuple(entry["shape"])) for j in range(len(entry["actions"]))),
        )
        for i, entry in enumerate(manifest["stages"])
    )


def _kind(manifest: Mapping[str, Any]) -> str:
    kind: str = manifest["config"]["model"]["kind"]
    return kind


def _weights(network: Any) -> dict[str, np.ndarray]:
    """All variables of a network, by their path."""
    return {path: np.asarray(variable[...]) for path, variable in _variables(network)}


def _variables(network: Any) -> list[tuple[str, Any]]:
    flat = nnx.to_flat_state(nnx.state(network))
    return [(".".join(map(str, path)), variable) for path, variable in flat]


def _load_weights(network: Any, path: Path) -> None:
    stored = _read_arrays(path)
    found, wanted = ({n: a.shape for n, a in w.items()} for w in (stored, _weights(network)))
    if found != wanted:
        raise StorageError(f"{path} holds weights {found}, the network of its config has {wanted}")
    for name, variable in _variables(network):
        variable[...] = stored[name]


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict(sorted(arrays.items())))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError:
        raise
    except Exception as error:  # zipfile and NumPy raise whatever they trip over
        raise StorageError(f"{path} is altered: NumPy cannot read it ({error})") from error
