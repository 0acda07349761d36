"""Units of samples: drawn from a model, corrected, and measured.

The numbers of a unit depend on the seed and its number alone, and for a Markov chain on where the
unit before it ended: that is the state.

    none         samples, with log_prob where the method has one
    reweight     also log_weight = -S - log_prob, or the weight of a path
    metropolis   a Markov chain with the samples as proposals; no weights
    hmc          samples moved by HMC, with the weights that they came with
    latent       many Markov chains with samples as proposals, moved in between (`latent.py`)

How many units a shard holds follows from the job, never from the clock: equal jobs, equal files.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np

from lattice_ml.actions import Action, as_action
from lattice_ml.fields.lattice import Lattice
from lattice_ml.jobs import correction
from lattice_ml.models.drawer import Drawer, Drawn
from lattice_ml.observables import measure_configurations
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.samplers.hmc import HMC
from lattice_ml.statistics import log_weights

__all__ = ["CORRECTIONS", "Samples", "Units", "known_weights"]

CORRECTIONS = ("none", "reweight", "metropolis", "hmc", "latent")

_REFINED = 256  # samples that HMC moves together
_HMC_STREAM = 2**32 - 1  # beyond the numbers of batches
_SHARD_WORK = {"cpu": 1 << 26}  # of `Drawer.work`: some seconds of a core
_MUCH_WORK = 1 << 34  # the same on a GPU or TPU

State = dict[str, np.ndarray]


class Samples(NamedTuple):
    """Consecutive samples, of one chain or of several, and the state after each unit of them."""

    cfgs: np.ndarray  # (n, *L), or (n, chains, *L)
    history: dict[str, np.ndarray]  # (n,) each, or (n, chains)
    log_prob: np.ndarray | None  # (n,)
    log_weight: np.ndarray | None  # (n,)
    states: list[State]  # before the first unit, after it, after the second, ...
    tuned: JsonTable  # what the sampler that corrects has fixed

    def cut(self, part: slice, state: State) -> "Samples":
        """Some of them, with the state that the unit after or around their end begins with."""
        return self._indexed(part)._replace(states=[state])

    def as_chain(self) -> "Samples":
        """All of them as configurations of one chain, `(n, 1, ...)`."""
        return self._indexed((slice(None), None))

    def _indexed(self, index: slice | tuple[slice, None]) -> "Samples":
        return self._replace(
            cfgs=self.cfgs[index],
            history={name: values[index] for name, values in self.history.items()},
            log_prob=None if self.log_prob is None else self.log_prob[index],
            log_weight=None if self.log_weight is None else self.log_weight[index],
        )


@dataclass(frozen=True)
class Units:
    """What makes units of samples.

    Attributes:
        drawer: of samples of the model.
        action: that the samples are corrected to; None where it is not known.
        correct: one of `CORRECTIONS`.
        n_updates: of HMC.
        seed: of everything.
        tuned: HMC's settings, once they are known.
    """

    drawer: Drawer
    action: Action | None
    correct: str
    n_updates: int
    seed: int
    tuned: Section

    @property
    def batches(self) -> int:
        """Batches per unit."""
        size = self.drawer.batch_size
        return max(1, _REFINED // size) if self.correct == "hmc" else 1

    @property
    def size(self) -> int:
        """Samples per unit."""
        return self.batches * self.drawer.batch_size

    @property
    def chains(self) -> int:
        """How many chains the samples are of."""
        return 1

    @property
    def rows(self) -> int:
        """Configurations of a chain per unit."""
        return self.size

    @property
    def most(self) -> int:
        """Units that are made together, at most."""
        return max(1, self.drawer.most // self.batches)

    @property
    def work(self) -> float:
        """Of a unit, in the measure of `Drawer.work`."""
        moving = self.n_updates * self.size * math.prod(self.drawer.shape)
        return self.batches * self.drawer.work + (moving if self.correct == "hmc" else 0)

    @property
    def per_shard(self) -> int:
        """Units of a shard: a power of two, which devices share evenly."""
        fits = _SHARD_WORK.get(jax.default_backend(), _MUCH_WORK) // self.work
        return 1 << max(0, min(self.most, int(fits)).bit_length() - 1)

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.seed)

    def make(self, first: int, n: int, state: State) -> Samples:
        """Make `n` units from number `first` on."""
        drawn = self.drawer.draw(first * self.batches, n * self.batches)
        if self.correct == "metropolis":
            return self._walk(first, drawn, state)
        if self.correct == "hmc":
            return self._move(first, drawn)
        history = measure_configurations(self.action, drawn.fields)
        weighted = self.correct == "reweight"
        log_weight = drawn.log_weights(history["action"]) if weighted else None
        log_prob = None if drawn.log_prob is None else np.asarray(drawn.log_prob, np.float64)
        return Samples(drawn.fields, history, log_prob, log_weight, [{}] * (n + 1), {})

    def _walk(self, first: int, drawn: Drawn[np.ndarray], state: State) -> Samples:
        """Independence Metropolis, unit by unit, each from where the one before it ended."""
        weights = drawn.log_weights(measure_configurations(self.action, drawn.fields)["action"])
        states, kept, moves = [state], [], []
        for i in range(len(weights) // self.size):
            part = slice(i * self.size, (i + 1) * self.size)
            fields, logs, old = drawn.fields[part], weights[part], len(states[-1]) > 0
            if old:
                fields = np.concatenate([states[-1]["phi"], fields])
                logs = np.concatenate([states[-1]["log_weight"], logs])
            chain = correction.metropolis([self.seed, first + i], logs).indices[0]
            kept.append(fields[chain[old:]])
            moves.append((chain == np.arange(len(chain)))[old:])
            states.append({"phi": fields[chain[-1:]], "log_weight": logs[chain[-1:]]})
        cfgs = np.concatenate(kept)
        history = measure_configurations(self.action, cfgs)
        history["acceptance"] = np.concatenate(moves).astype(np.float64)
        return Samples(cfgs, history, None, None, states, {})

    def _move(self, first: int, drawn: Drawn[np.ndarray]) -> Samples:
        """Move every sample by HMC; its weight stays."""
        weights = drawn.log_weights(measure_configurations(self.action, drawn.fields)["action"])
        assert self.action is not None, "HMC needs one"
        lattice = Lattice(self.drawer.shape)
        key = jax.random.fold_in(self.key, _HMC_STREAM)
        cfgs, acceptance, tuned = [], [], self.tuned
        for i in range(len(weights) // self.size):
            fields = drawn.fields[i * self.size : (i + 1) * self.size]
            sampler = replace(HMC(as_action(self.action)), **tuned)
            here, dtype = jax.random.fold_in(key, first + i), fields.dtype.name
            chains = correction.refine(here, sampler, lattice, fields, self.n_updates, dtype=dtype)
            tuned = chains.tuned
            cfgs.append(chains.cfgs)
            acceptance.append(chains.series("acceptance")[:, 0])
        moved = np.concatenate(cfgs)
        history = measure_configurations(self.action, moved)
        history["acceptance"] = np.concatenate(acceptance)
        return Samples(moved, history, None, weights, [{}] * (len(cfgs) + 1), dict(tuned))


def known_weights(
    log_weight: np.ndarray | None, log_prob: np.ndarray | None, action: np.ndarray | None
) -> np.ndarray | None:
    """Log weights of samples, their own or those that their density gives; None without both."""
    if log_weight is not None or log_prob is None or action is None:
        return log_weight
    return log_weights(action, log_prob)
