r"""How well a network keeps the symmetries of the theory.

A symmetry g of the action makes F and the denoiser equivariant, F(g x) = g F(x).  Measured is

    max_{t, g} [ sum |F(g x) - g F(x)|^2 / sum |F(x)|^2 ]^(1/2)

over fields x drawn from the Gaussian theory and its zero mode, noised to several t up to the
largest C.  (Beyond, F is so small a part of x/t that its rounding would be measured.)
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lattice_ml.models.diffusion.denoiser import Denoiser, Weights
from lattice_ml.models.theory import Theory

__all__ = ["violations"]


def violations(
    network: Denoiser,
    theory: Theory,
    key: jax.Array,
    *,
    n_fields: int = 16,
    n_variances: int = 4,
    of: Literal["force", "denoise"] = "force",
) -> dict[str, float]:
    """Measure the largest relative violation of each symmetry.

    Args:
        network: what is measured.
        theory: where the fields are drawn from; its dtype is that of the fields.
        key: of the draws.
        n_fields: noised fields at each variance.
        n_variances: from C_min / 10 to the largest C, in equal ratios.
        of: "force" for networks in Schwinger-Dyson form; "denoise" for those that give D, whose
            F = x/t - D/P_t magnifies every deviation at small t.

    Returns:
        "z2", "translation" (by one site along any axis) and "hypercubic" (reflections, and
        exchanges of axes of equal extent): 0 is exact, 1 is no equivariance at all.
    """
    graph, state = nnx.split(network)
    low, high = jnp.log(0.1 * theory.c_min), jnp.log(jnp.max(theory.propagator))
    variances = jnp.exp(jnp.linspace(low, high, n_variances, dtype=theory.dtype))
    keys = jax.random.split(key, n_variances)
    settings = {"graph": graph, "n_fields": n_fields, "of": of}
    found = [_measure(state, theory, *p, **settings) for p in zip(keys, variances, strict=True)]
    worst = np.max(np.asarray(found), axis=0)
    names = [name for name, _ in symmetries(theory)]
    of_name = {name: [other == name for other in names] for name in names}
    return {name: float(np.max(worst[mine])) for name, mine in of_name.items()}


@partial(jax.jit, static_argnames=("graph", "n_fields", "of"))
def _measure(
    state: Weights,
    theory: Theory,
    key: jax.Array,
    t: jax.Array,
    *,
    graph: nnx.GraphDef[Denoiser],
    n_fields: int,
    of: str,
) -> list[jax.Array]:
    """Relative violation of every symmetry at one variance."""
    network = nnx.merge(graph, state)
    group = [symmetry for _, symmetry in symmetries(theory)]
    x = theory.draw(key, jnp.full(n_fields, t))
    moved = jnp.concatenate([x, *(symmetry(x) for symmetry in group)])
    value, *values = jnp.split(
        (network.denoise if of == "denoise" else network.force)(theory, moved, t[None]),
        len(group) + 1,
    )
    size = jnp.sum(value**2)
    pairs = zip(group, values, strict=True)
    return [jnp.sqrt(jnp.sum((y - symmetry(value)) ** 2) / size) for symmetry, y in pairs]


def symmetries(theory: Theory) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
    """Name and action on modes of the generators of the theory's symmetries."""
    shape, modes = theory.modes.shape, theory.modes
    axes = modes.axes

    def on_sites(symmetry: Callable[..., jax.Array], **how: int) -> Callable[..., jax.Array]:
        return lambda x: modes.forward(symmetry(modes.inverse(x), **how))

    yield "z2", jnp.negative
    for axis in axes:
        yield "translation", on_sites(jnp.roll, shift=1, axis=axis)
        yield "hypercubic", on_sites(jnp.flip, axis=axis)
    for i, j in combinations(range(len(shape)), 2):
        if shape[i] == shape[j]:
            yield "hypercubic", on_sites(jnp.swapaxes, axis1=axes[i], axis2=axes[j])
