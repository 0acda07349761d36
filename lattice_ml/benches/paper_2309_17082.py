"""Does the diffusion model of arXiv:2309.17082 reproduce phi^4 in both phases?

A U-Net is trained on HMC configurations, scaled to lie between -1 and 1, with the noise
dx = base^s dW, and samples are drawn by Euler and Maruyama.  <|M|>, the susceptibility, the Binder
cumulant and the action density stand beside those of equilibrium.

The data here are in equilibrium: chains start in both wells.  Chains that start hot and are used
after 129 trajectories of unit length are not, deep in the broken phase: most have domain walls that
stay.  Rows `hot start` measure such configurations in the same way.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lattice_ml.actions import Action, conventions
from lattice_ml.analysis.measurement import estimate_derived, stored_series
from lattice_ml.benches import unet
from lattice_ml.benches.record import Column, Number, Result, Row
from lattice_ml.benches.style import BLUE, ORANGE, Drawn, empty, in_errors
from lattice_ml.benches.timing import compiled_apart
from lattice_ml.chains import run as chain
from lattice_ml.fields.lattice import Lattice
from lattice_ml.models.diffusion.networks.unet import UNet
from lattice_ml.models.diffusion.noise import VarianceExploding
from lattice_ml.models.measured import measure_theory
from lattice_ml.observables import DERIVED, measure_configurations
from lattice_ml.report.page import style
from lattice_ml.samplers.hmc import HMC

__all__ = ["OBSERVABLES", "Settings", "draw", "equilibrium", "run"]

OBSERVABLES = ("abs_magnetisation", "susceptibility", "binder", "action_density")
_CHAINS = 64
_HOT_TRAJECTORIES = 129
_UNET, _HOT = "U-Net", "hot start"


@dataclass(frozen=True)
class Settings:
    """Theories, data, network and effort."""

    kappas: tuple[float, ...]  # a table each
    lam: float
    extent: int  # L of the square lattice
    n_data: int  # configurations to learn from, a multiple of 64, five trajectories apart
    channels: tuple[int, ...]  # of the levels of the U-Net
    train_steps: int  # see `unet.Effort`
    n_samples: int  # see `unet.Effort`
    sde_steps: int  # see `unet.Effort`
    batch_size: int = 64  # see `unet.Effort`
    preconditioning: Literal["edm", "score"] = "edm"  # "score" in the paper
    # of the noise, for fields between -1 and 1; "auto" until no two fields can be told apart
    base: float | Literal["auto"] = 25.0

    def __post_init__(self) -> None:
        if self.n_data < 4 * _CHAINS or self.n_data % _CHAINS:
            raise ValueError(
                f"n_data must be a multiple of {_CHAINS}, at least {4 * _CHAINS}, got {self.n_data}"
            )
        if self.batch_size < 8 or self.batch_size % 8:
            raise ValueError(f"batch_size must be a multiple of 8, got {self.batch_size}")
        if not isinstance(self.base, str) and self.base <= 1:
            raise ValueError(f"base must exceed 1, got {self.base:g}")

    @property
    def effort(self) -> unet.Effort:
        return unet.Effort(self.train_steps, self.batch_size, self.n_samples, self.sde_steps)


COLUMNS = (
    Column("kappa", "kappa", "key"),
    Column("source", "source", "key"),
    Column("observable", "observable", "key"),
    Column("equilibrium", "equilibrium"),
    Column("found", "found", "ratio"),
    Column("ratio", "ratio"),
    Column("z", "z"),
)


def run(settings: Settings, seed: int) -> Result:
    """Data, training, samples and their observables at every coupling."""
    rows: list[Row] = []
    notes = []
    for kappa in settings.kappas:
        theory = (kappa, settings.lam, settings.extent, settings.n_data)
        chains, data_seconds = compiled_apart(partial(equilibrium, *theory, seed))
        made, seconds = compiled_apart(partial(_model, chains, settings, seed))
        samples, base, sigma = made
        hot = _hot(chains.action, chains.shape, min(1024, settings.n_data), seed)
        known = {name: _estimate(stored_series(chains), chains.shape, name) for name in OBSERVABLES}
        for source, fields in ((_UNET, samples), (_HOT, hot)):
            series = measure_configurations(chains.action, fields)
            by_chain = {name: values[None] for name, values in series.items()}
            for name in OBSERVABLES:
                exact, found = known[name], _estimate(by_chain, chains.shape, name)
                error = math.hypot(exact.error or 0.0, found.error or 0.0)
                z = (found.value - exact.value) / error if error else None
                entry = {"kappa": kappa, "source": source, "observable": name, "z": z}
                entry |= {"equilibrium": exact, "found": found, "ratio": found.over(exact)}
                rows.append(entry)
        up = float(np.mean(samples.mean(axis=(1, 2)) > 0))
        notes.append(
            f"kappa = {kappa:g}: base {base:.3g}, largest sigma {sigma:.3g} of fields between -1 "
            f"and 1; M > 0 in {100 * up:.1f} % of {len(samples)} samples; data "
            f"{data_seconds:.1f} s, training and sampling {seconds:.0f} s"
        )
    return Result(COLUMNS, rows, notes)


def equilibrium(kappa: float, lam: float, extent: int, n_data: int, seed: int) -> chain.Chains:
    """Chains of HMC that start in both wells, five trajectories between configurations."""
    return chain.run(
        jax.random.key(seed),
        HMC(conventions.action("kappa", 2, kappa=kappa, lam=lam)),
        Lattice((extent, extent)),
        n_chains=_CHAINS,
        n_configs=n_data // _CHAINS,
        thin=5,
        start="cold",
    )


def _model(chains: chain.Chains, settings: Settings, seed: int) -> tuple[np.ndarray, float, float]:
    """Samples `(n, L, L)` of a U-Net trained on chains, the base and the largest sigma."""
    scale = float(np.abs(chains.cfgs).max())
    fields = chains.cfgs / scale
    theory = measure_theory(chains.action, [(fields, None)]).astype(jnp.float32)
    base, chosen = settings.base, unet.noise_schedule(theory)
    schedule = chosen if isinstance(base, str) else VarianceExploding(base)
    network = UNet(
        channels=settings.channels,
        preconditioning=settings.preconditioning,
        rngs=nnx.Rngs(seed),
    )
    training, sampling = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    given = (theory, schedule)
    network, _ = unet.train(training, network, *given, jnp.asarray(fields), settings.effort)
    samples = scale * unet.sample(sampling, network, *given, settings.effort)
    return samples, float(schedule.base), float(schedule.sigma(jnp.ones(())))


def _hot(action: Action, shape: tuple[int, ...], n: int, seed: int) -> np.ndarray:
    """Configurations of chains that have just begun, hot."""
    chains = chain.run(
        jax.random.key(seed + 1),
        HMC(action, trajectory_length=1.0),
        Lattice(shape),
        n_chains=n,
        n_configs=1,
        n_thermalise=_HOT_TRAJECTORIES - 1,
    )
    return chains.cfgs


def _estimate(series: Mapping[str, np.ndarray], shape: tuple[int, ...], name: str) -> Number:
    found = estimate_derived(DERIVED[name], series, Lattice(shape), None, 1)
    return Number(math.nan) if found is None else Number(found.value, found.error)


@style()
def draw(result: Result) -> Drawn:
    """Differences to equilibrium in standard errors, coupling by coupling."""
    kappas = list(dict.fromkeys(row["kappa"] for row in result.rows))
    figure = empty(2.8)
    axes = figure.subplots(1, len(kappas), sharey=True, squeeze=False)[0]
    places = np.arange(len(OBSERVABLES))[::-1]
    for axis, kappa in zip(axes, kappas, strict=True):
        for source, colour, shift in ((_UNET, ORANGE, 0.12), (_HOT, BLUE, -0.12)):
            mine = [r for r in result.rows if (r["kappa"], r["source"]) == (kappa, source)]
            z = [math.nan if row["z"] is None else row["z"] for row in mine]
            axis.plot(z, places + shift, "o", color=colour, label=source)
        in_errors(axis)
        axis.set(xlabel="difference in standard errors", title=f"$\\kappa = {kappa:g}$")
        axis.set_yticks(places, [name.replace("_", " ") for name in OBSERVABLES])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    caption = (
        "Samples of the U-Net, and configurations 129 unit trajectories after a hot start, against "
        "HMC in equilibrium; the grey band is three standard errors."
    )
    return [("paper_2309_17082", figure, caption)]
