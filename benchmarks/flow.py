"""Independent M^2 per CPU second of a trained flow and of the best classical sampler, in turn.

    python benchmarks/flow.py MODEL [--extents 16 32 64] [--rounds 7] [--seconds 4]

MODEL is a flow that was trained on the largest of the lattices, or on each of them.  Draws of the
flow, weighted, and HMC with and without Wolff take turns in one process, so that what else the
machine does meets all alike.  Pin it to one core.  A sample's cost includes noise, density and
action; the rate is that of draws times ESS/n, or of chains over 2 tau_int of M^2.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from lattice_ml import Lattice, open_model
from lattice_ml.benches.classical import CLASSICAL
from lattice_ml.chains import blocks as chains
from lattice_ml.chains.settings import ChainSettings
from lattice_ml.jobs.job import SamplingJob
from lattice_ml.models.kinds import KINDS
from lattice_ml.observables import measure_configurations
from lattice_ml.statistics import estimate, reweight

CHAINS = 64


def timed(work: Callable[[], object]) -> float:
    """CPU seconds that `work` takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


class Draws:
    """Weighted draws of a flow."""

    def __init__(self, model, shape, action, seconds):
        sampling = KINDS[model.kind].sampling()
        self.drawer = model.drawer(shape, action, sampling, jax.random.key(1))
        self.action, self.number, self.log_w, self.times = action, 0, [], []
        self.count = 1
        self.step()
        self.count = max(1, int(seconds / timed(self.step)))
        self.log_w, self.times = [], []

    def step(self):
        """Draw batches and weigh them."""
        drawn = self.drawer.draw(self.number, self.count)
        self.number += self.count
        self.log_w.append(
            drawn.log_weights(measure_configurations(self.action, drawn.fields)["action"])
        )

    def round(self):
        """A timed step."""
        self.times.append(timed(self.step) / (self.count * self.drawer.batch_size))

    def result(self):
        """Worth of the draws, their nanoseconds per site, and rates of the rounds."""
        worth = reweight(np.concatenate(self.log_w))
        sites = np.prod(self.drawer.shape)
        return worth, np.median(self.times) / sites * 1e9, worth.ess / np.array(self.times)


class Chains:
    """A classical sampler from configurations in equilibrium."""

    def __init__(self, name, shape, action, seconds, start):
        sampler = CLASSICAL[name].build(action, 1.0)
        settings = ChainSettings(CHAINS, n_thermalise=500, n_configs=10**6)
        self.parts: Iterator = chains.blocks(
            jax.random.key(2),
            sampler,
            Lattice(shape),
            settings,
            start=start,
            save_configs=False,
            block_configs=20,
        )
        next(self.parts)
        self.count = max(1, int(seconds / timed(lambda: next(self.parts))))
        self.history, self.times = [], []

    def round(self):
        """Timed blocks."""

        def work():
            for _ in range(self.count):
                self.history.append(next(self.parts).history["magnetisation"])

        self.times.append(timed(work) / (self.count * 20 * CHAINS))

    def result(self):
        """tau_int of M^2 and rates of the rounds."""
        found = estimate(np.concatenate(self.history).T ** 2)
        return found, 1 / (2 * found.tau_int * np.array(self.times))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--extents", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    model = open_model(options.model)
    action = SamplingJob.of(model).action
    for extent in options.extents:
        shape = (extent,) * len(model.stages[-1].shape)
        draws = Draws(model, shape, action, options.seconds)
        start = draws.drawer.draw(0, 1).fields[:CHAINS]
        rivals = {
            name: Chains(name, shape, action, options.seconds, start)
            for name in ("hmc_auto", "hmc_wolff")
        }
        for _ in range(options.rounds):
            for each in (draws, *rivals.values()):
                each.round()
        worth, cost, rate = draws.result()
        print(
            f"L = {extent}: flow {worth}, {cost:.1f} ns per site, {np.median(rate):.0f} per CPU s"
        )
        for name, chain in rivals.items():
            found, other = chain.result()
            ratio = np.median(rate / other)
            low, high = np.quantile(rate / other, [0.25, 0.75])
            print(
                f"  {name}: tau_int {found.tau_int:.2f} +- {found.tau_int_error:.2f}, "
                f"{np.median(other):.0f} per CPU s; flow / {name} = {ratio:.2f} "
                f"({low:.2f} to {high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
