"""Lattice field theory sampling with machine learning, on JAX.

From couplings to a verdict: generate ensembles of scalar field theories, measure them with honest
errors, check them, and compare whatever else claims to sample the same distribution.  Names are
imported when first used; importing the package imports neither JAX nor sets any of its flags.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_HOMES` says, for type checkers
    from lattice_ml._pytree import pytree as pytree
    from lattice_ml._pytree import static as static
    from lattice_ml.actions import Action as Action
    from lattice_ml.actions import FreeField as FreeField
    from lattice_ml.actions import Phi4 as Phi4
    from lattice_ml.actions.conventions import action as action
    from lattice_ml.actions.conventions import convert as convert
    from lattice_ml.analysis.certificates import Certificate as Certificate
    from lattice_ml.analysis.certificates import check as check
    from lattice_ml.analysis.certificates import verdict as verdict
    from lattice_ml.analysis.couplings import infer_couplings as infer_couplings
    from lattice_ml.analysis.measurement import measure as measure
    from lattice_ml.analysis.two_point import TwoPoint as TwoPoint
    from lattice_ml.analysis.two_point import two_point as two_point
    from lattice_ml.chains.run import Chains as Chains
    from lattice_ml.chains.run import run as run
    from lattice_ml.chains.run import tune as tune
    from lattice_ml.chains.settings import ChainSettings as ChainSettings
    from lattice_ml.comparison import Comparison as Comparison
    from lattice_ml.comparison import compare as compare
    from lattice_ml.fields.lattice import Lattice as Lattice
    from lattice_ml.jobs.config import read_job as read_job
    from lattice_ml.jobs.exchange import convert_ensemble as convert_ensemble
    from lattice_ml.jobs.exchange import export_array as export_array
    from lattice_ml.jobs.exchange import import_array as import_array
    from lattice_ml.jobs.extrapolate import extrapolate as extrapolate
    from lattice_ml.jobs.generate import generate as generate
    from lattice_ml.jobs.job import Job as Job
    from lattice_ml.jobs.job import SamplingJob as SamplingJob
    from lattice_ml.jobs.job import TrainingJob as TrainingJob
    from lattice_ml.jobs.open_model import open_model as open_model
    from lattice_ml.jobs.sample import sample as sample
    from lattice_ml.jobs.sections import OutputSettings as OutputSettings
    from lattice_ml.jobs.spectrum import spectrum as spectrum
    from lattice_ml.jobs.train import train as train
    from lattice_ml.models.diffusion.sections import SamplingSection as SamplingSection
    from lattice_ml.models.diffusion.sections import TrainingSection as TrainingSection
    from lattice_ml.models.flow.sections import FlowSamplingSection as FlowSamplingSection
    from lattice_ml.models.flow.sections import FlowTrainingSection as FlowTrainingSection
    from lattice_ml.models.model import Model as Model
    from lattice_ml.models.rbm.sections import RBMSamplingSection as RBMSamplingSection
    from lattice_ml.models.rbm.sections import RBMTrainingSection as RBMTrainingSection
    from lattice_ml.observables.ensemble import Ensemble as Ensemble
    from lattice_ml.samplers.cluster import SwendsenWang as SwendsenWang
    from lattice_ml.samplers.cluster import Wolff as Wolff
    from lattice_ml.samplers.cycle import Cycle as Cycle
    from lattice_ml.samplers.fourier_hmc import FourierHMC as FourierHMC
    from lattice_ml.samplers.hmc import HMC as HMC
    from lattice_ml.samplers.kramers import Kramers as Kramers
    from lattice_ml.samplers.langevin import Langevin as Langevin
    from lattice_ml.samplers.mala import MALA as MALA
    from lattice_ml.samplers.replica import ReplicaExchange as ReplicaExchange
    from lattice_ml.samplers.sampler import Sampler as Sampler
    from lattice_ml.statistics import Estimate as Estimate
    from lattice_ml.statistics import estimate as estimate
    from lattice_ml.storage.ensemble import EnsembleOnDisk as EnsembleOnDisk
    from lattice_ml.storage.ensemble import open_ensemble as open_ensemble
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return vars(importlib.import_module(f"{__name__}.{_HOMES[name]}"))[name]


_NAMES = {  # of each module
    # fields and actions
    "fields.lattice": "Lattice",
    "actions": "Action Phi4 FreeField",
    "actions.conventions": "action convert",
    # samplers
    "samplers.hmc": "HMC",
    "samplers.fourier_hmc": "FourierHMC",
    "samplers.langevin": "Langevin",
    "samplers.mala": "MALA",
    "samplers.kramers": "Kramers",
    "samplers.cluster": "Wolff SwendsenWang",
    "samplers.replica": "ReplicaExchange",
    "samplers.cycle": "Cycle",
    "samplers.sampler": "Sampler",
    # chains in memory
    "chains.run": "run tune Chains",
    "chains.settings": "ChainSettings",
    # jobs that write directories
    "jobs.job": "Job TrainingJob SamplingJob",
    "jobs.config": "read_job",
    "jobs.sections": "OutputSettings",
    "models.diffusion.sections": "TrainingSection SamplingSection",
    "models.flow.sections": "FlowTrainingSection FlowSamplingSection",
    "models.rbm.sections": "RBMTrainingSection RBMSamplingSection",
    "jobs.generate": "generate",
    "jobs.train": "train",
    "jobs.sample": "sample",
    "jobs.spectrum": "spectrum",
    # what is on disk
    "storage.ensemble": "open_ensemble EnsembleOnDisk",
    "observables.ensemble": "Ensemble",
    "jobs.open_model": "open_model",
    "models.model": "Model",
    "jobs.exchange": "convert_ensemble import_array export_array",
    # analysis
    "statistics": "estimate Estimate",
    "analysis.measurement": "measure",
    "analysis.two_point": "two_point TwoPoint",
    "analysis.certificates": "check verdict Certificate",
    "comparison": "compare Comparison",
    "jobs.extrapolate": "extrapolate",
    "analysis.couplings": "infer_couplings",
    # your own classes
    "_pytree": "pytree static",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOMES)


def __dir__() -> list[str]:
    return __all__
