r"""The kernel of a diffusion model: the curvature of its learned score, and the couplings in it.

The score s of the field x = phi + sqrt(t) eps, at a small variance t, is minus the gradient of the
action that the model has learned, and J = -ds/dx its second derivative.  Three things are known
exactly:

    <J> over fields         <S''> = 2a - 2dh + h p_hat^2 + 12 b <phi^2>
    J at phi = 0            the bare form 2a - 2dh + h p_hat^2
    regression of -s on x   1/(C(p) + t), C the propagator: an input of the model, not a finding

The slope of <J> in p_hat^2 is h, its dependence on each field's own mean of phi^2 gives b, and what
is left a.  J(0) gives h and a by itself, but a field without fluctuations is none that a model has
seen, least of all where the wells have separated.  Noise is undone by 1/(1/J - t).  The couplings
are read off best from the score itself, by `analysis.probes.projection`, at noise of the size that
the model knows best: its identity needs neither derivatives nor small noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lattice_ml.analysis import spectrum as spectral
from lattice_ml.analysis.probes import (
    ProbedKernel,
    kernel_by_probes,
    projection,
    regression,
    without_noise,
)
from lattice_ml.fields.lattice import Lattice, group_means
from lattice_ml.models.diffusion.denoiser import Denoiser
from lattice_ml.models.diffusion.drawer import DiffusionDrawer
from lattice_ml.models.diffusion.drawing import Drawing
from lattice_ml.models.model import Model, Probing
from lattice_ml.models.probing import chosen_fields, named_couplings
from lattice_ml.models.theory import Theory
from lattice_ml.runtime.json import JsonTable, Section
from lattice_ml.statistics import doubt_of

__all__ = ["NOISE", "of_diffusion", "score_of"]

NOISE = (0.03, 0.1, 0.3, 1.0)  # variances in units of the smallest propagator C_min
_N_FIELDS = {True: 256, False: 64}  # by whether samples of the network are cheap
_ZERO_FIELDS = 16  # copies of the zero field, each with probes of its own
_PROJECTED = 0.3  # noise at which couplings are projected out, in units of C_min
_RARE = 0.1  # density of the zero mode at 0 over its largest, below which wells are separate

Score = Callable[[jax.Array, jax.Array], jax.Array]


def of_diffusion(model: Model, probing: Probing) -> JsonTable:
    """The curvature of a diffusion model's score, for the last theory of its last stage.

    Raises:
        ValueError: the fields live on another lattice.
    """
    source, noise, seed = probing.fields, probing.noise or NOISE, probing.seed
    stage = model.stages[-1]
    theory, network = stage.theories[-1].astype(jnp.result_type(float)), model.network
    lattice, t = Lattice(stage.shape), np.multiply(noise, float(theory.c_min))
    n = probing.n_fields or _N_FIELDS[network.exact_trace]
    phi = (
        _samples(network, theory, n, seed) if source is None else chosen_fields(source, lattice, n)
    )
    score, n, random = score_of(network, theory), len(phi), np.random.default_rng(seed)
    noised = [_noised(phi, at, random) for at in t]
    still = np.zeros((_ZERO_FIELDS, *lattice.shape))
    probed = kernel_by_probes(  # all at once: one compiled program
        score,
        np.concatenate([*noised, still]),
        np.r_[np.repeat(t, n), np.full(len(still), t[0])],
        seed=seed,
    )
    parts = [probed[i * n : (i + 1) * n] for i in range(len(t))]
    bare = spectral.bare_form(theory.h, theory.a, lattice)
    squares = np.mean(phi.reshape(n, -1) ** 2, axis=1)
    shift = 12 * float(theory.b) * squares
    exact = bare + shift.mean()
    levels = [_level(*pair, exact) for pair in zip(parts, t, strict=True)]
    learned, error = levels[0]["eigenvalues"], levels[0]["errors"]
    by_field = _by_field(parts[0], t[0])
    # what the fields share with their target cancels in the ratio
    ratio_error = np.std(by_field - shift[:, None], axis=0, ddof=1) / np.sqrt(n) / exact
    end = _PROJECTED * float(theory.c_min)
    last = _noised(phi, end, random)
    scores = _evaluated(score, np.concatenate([noised[0], last]), np.repeat([t[0], end], n))
    inverse = without_noise(*regression(scores[:n], noised[0]), t[0])
    section, ndim = stage.actions[-1], lattice.ndim
    return {
        "kind": "Diffusion",
        "what": "mean curvature <J> of the learned score",
        "shape": list(lattice.shape),
        "action": dict(section),
        **spectral.per_shell(lattice, learned, error, exact, ratio_error=ratio_error),
        "history": [],
        "median_deviation": levels[0]["median_deviation"],
        "asymmetry": levels[0]["asymmetry"],
        "off_diagonal": levels[0]["off_diagonal"],
        "couplings": named_couplings(projection(scores[n:], last, phi), section, ndim),
        "curvature_couplings": named_couplings(
            spectral.couplings(lattice, learned, by_field, squares), section, ndim
        ),
        "zero_field": _at_zero(probed[len(t) * n :], t[0], bare, section)
        | {"out_of_distribution": _separate(theory, t[0])},
        "regression": {
            "eigenvalues": inverse[0],
            "errors": inverse[1],
            "exact": 1 / _propagator(theory),
        },
        "noise": [{"over_c_min": o} | level for o, level in zip(noise, levels, strict=True)],
        "n_fields": n,
        "fields": "the model's own samples" if source is None else source.label,
        "doubt": None if source is None else doubt_of(source.log_weight),
    }


def score_of(network: Denoiser, theory: Theory) -> Score:
    """The score of noised fields on sites, `(n, *L)`, and variances `(n,)`.

    Where the network gives F, s = -(x + C F)/(C + t) does not cancel at small t as (D - x)/t does.
    """
    modes, c = theory.modes, theory.propagator

    def score(x: jax.Array, t: jax.Array) -> jax.Array:
        fields = modes.forward(x)
        if network.own == "denoise":
            return modes.inverse(network.score(theory, fields, t))
        force = network.force(theory, fields, t)
        return modes.inverse(-(fields + c * force) / (c + theory.spread(t)))

    return score


def _level(probed: ProbedKernel, t: float, exact: np.ndarray) -> JsonTable:
    """What one level of noise shows, with the noise undone."""
    learned, error = without_noise(*probed.mean(), t)
    return {
        "t": float(t),
        "eigenvalues": learned,
        "errors": error,
        "median_deviation": float(np.median(np.abs(learned / exact - 1))),
        "asymmetry": probed.asymmetry,
        "off_diagonal": probed.off_diagonal,
    }


def _by_field(probed: ProbedKernel, t: float) -> np.ndarray:
    """The kernel at single fields with the noise undone, linearised about the mean."""
    mean, _ = probed.mean()
    at_mean, slope = without_noise(mean, np.ones_like(mean), t)
    return np.asarray(at_mean + (probed.values - mean) * slope)


def _at_zero(probed: ProbedKernel, t: float, bare: np.ndarray, section: Section) -> JsonTable:
    """The kernel where the field is zero, and the couplings in it."""
    lattice = probed.lattice
    values, spread = without_noise(*probed.mean(), t)
    line = spectral.fit_line(lattice.shells[0], values, lattice.shell_sizes)
    return {
        "eigenvalues": values,
        "errors": np.hypot(spread, line.residual),
        "exact": bare,
        "couplings": named_couplings(spectral.couplings(lattice, values), section, lattice.ndim),
    }


def _noised(phi: np.ndarray, t: float, random: np.random.Generator) -> np.ndarray:
    return np.asarray(phi + np.sqrt(t) * random.normal(size=phi.shape))


def _samples(network: Denoiser, theory: Theory, n: int, seed: int) -> np.ndarray:
    """Samples of a model, `(n, *L)`; without a density where that would be costly."""
    drawing = Drawing.choose(network, theory.modes.shape)
    if not network.exact_trace:
        drawing = Drawing("ode", 50, batch_size=drawing.batch_size, density=False)
    drawer = DiffusionDrawer(network, theory.astype(jnp.float32), drawing, jax.random.key(seed))
    drawn = drawer.draw(0, -(-n // drawing.batch_size))
    return np.asarray(drawn.fields[:n], np.float64)


def _evaluated(score: Score, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Scores of all fields, `(n, *L)`, some at a time."""

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return score(pair[0][None], pair[1][None])[0]

    every = jax.jit(lambda pairs: jax.lax.map(one, pairs, batch_size=64))
    return np.asarray(every((jnp.asarray(x), jnp.asarray(t))))


def _separate(theory: Theory, t: float) -> bool:
    """Whether fields without magnetisation are rare: the zero field is then out of distribution."""
    grid = jnp.linspace(0, jnp.max(jnp.abs(theory.quantiles)), 200)
    logs = theory.zero_log_prob(grid, jnp.full(grid.shape, t))
    return bool(jnp.exp(logs[0] - jnp.max(logs)) < _RARE)


def _propagator(theory: Theory) -> np.ndarray:
    """C of every shell, `(n_shells,)`."""
    rounded = np.round(theory.modes.p_hat_squared, 10)  # as Lattice.shells
    _, index = np.unique(rounded.ravel(), return_inverse=True)
    return group_means(np.asarray(theory.propagator).ravel(), index)
