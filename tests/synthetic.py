"""Synthetic series with known autocorrelation times, for the tests of statistics."""

import math

import numpy as np
from scipy import signal


def ar1(seed, shape, a):
    """x_{t+1} = a x_t + sqrt(1 - a^2) eta in equilibrium: unit variance, rho(t) = a^t."""
    x = np.random.default_rng(seed).standard_normal(shape)
    x[..., 1:] *= math.sqrt(1 - a * a)
    return signal.lfilter([1], [1, -a], x, axis=-1)


def exact_tau(a):
    return 0.5 * (1 + a) / (1 - a)


def binder(means):
    return 1 - means[1] / (3 * means[0] ** 2)


def moments(x):
    """<x^2>, <x^4>: primaries (2, n_chains, n_configs)."""
    return np.stack([x**2, x**4])
