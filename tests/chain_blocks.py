"""Blocks of a run, its settings and its options side by side as keywords."""

from dataclasses import fields

import jax

from lattice_ml.chains import blocks as chains
from lattice_ml.chains.settings import ChainSettings

COUNTS = {field.name for field in fields(ChainSettings)} - {"start"}


def blocks(sampler, lattice, *, seed=1, **settings):
    """What `chains.blocks` yields, from a hot start if nothing else is said."""
    counts = ChainSettings(**{name: settings.pop(name) for name in COUNTS & set(settings)})
    return chains.blocks(jax.random.key(seed), sampler, lattice, counts, **settings)
