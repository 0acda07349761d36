"""`train` on chains in memory: the model is that of the same fields in files, to the bit."""

import jax
import numpy as np
import pytest
import trained_models
import trained_rbms
from trained_models import make_ensemble

from lattice_ml import open_ensemble, train
from lattice_ml.chains.run import Chains
from lattice_ml.runtime.session import Interrupted
from lattice_ml.storage.files import StorageError

pytestmark = pytest.mark.unoptimised
DIFFUSION = trained_models.job(training_n_steps=4, training_fine_tune=False)
RBM = trained_rbms.job(training_n_steps=6, training_method="pcd", training_batch_size=16)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("data") / "e", couplings=trained_rbms.FREE)


def in_memory(path):
    """The chains of an ensemble on disk."""
    ensemble = open_ensemble(path)
    histories = {name: ensemble.series(name) for name in ensemble.history}
    return Chains(
        ensemble.action, ensemble.shape, ensemble.thin, ensemble.cfgs[:], histories, tuned={}
    )


@pytest.mark.parametrize("job", [DIFFUSION, RBM], ids=["diffusion", "rbm"])
def test_a_model_of_chains_in_memory_is_that_of_files(job, path, tmp_path):
    of_files = train(job, tmp_path / "m", data=[path])
    model = train(job, data=[in_memory(path)])
    assert model.directory is None
    assert type(model) is type(of_files)
    assert model.hash == of_files.hash, "of weights and theories"
    for one, other in zip(*map(jax.tree.leaves, (model.network, of_files.network)), strict=True):
        assert np.array_equal(one, other)
    assert model.report == of_files.report
    assert model.defaults == of_files.defaults
    assert {name: x.tobytes() for name, x in model.history.items()} == {
        name: x.tobytes() for name, x in of_files.history.items()
    }


def test_other_chains_go_on_in_no_directory_of_a_model(path, tmp_path):
    chains = in_memory(path)
    first = train(RBM, tmp_path / "m", data=[chains])
    assert train(RBM, tmp_path / "m", data=[chains], on_progress=pytest.fail).hash == first.hash
    chains.cfgs[0] += 1
    with pytest.raises(StorageError, match="is trained on other data"):
        train(RBM, tmp_path / "m", data=[chains])


def test_an_interrupted_training_in_memory_says_that_it_is_lost(path):
    with pytest.raises(Interrupted, match=r"of 6 \(training\) is lost with what is in memory$"):
        train(RBM, data=[in_memory(path)], time_limit=1e-9)


def test_a_model_in_memory_is_where_another_training_begins(path):
    model = train(RBM, data=[in_memory(path)])
    still = trained_rbms.job(training_n_steps=0)
    again = train(still, data=[in_memory(path)], init_from=model)
    assert np.array_equal(again.network.w, model.network.w)
