r"""`extrapolate()`: observables at step size zero, from ensembles at several step sizes.

Langevin dynamics with a step size eps samples a distribution that differs from exp(-S/alpha) by
powers of eps, from the order n of its scheme on.  Every observable is measured with errors that
know tau_int (the Gamma method), and `analysis/dynamics/extrapolation_fit.py` fits O(eps) = O(0) +
c eps^n and says where a line is not to be trusted.  Here is what that module cannot see:

    exact    <phi dS/dphi> does not tend to its exact value, the temperature alpha
    two      two step sizes fix the line and test nothing
    seed     ensembles of one seed share their noise; the fit takes them as independent
    steps    `sampler.drift_limit` shortened steps, so that the bias is no power of the step size
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lattice_ml.analysis.dynamics import extrapolation_fit as fitting
from lattice_ml.analysis.dynamics.extrapolation_fit import Doubts, Extrapolated, fit, listed
from lattice_ml.analysis.measurement import measure
from lattice_ml.runtime.jax_modes import ordinary
from lattice_ml.runtime.json import Section, flattened
from lattice_ml.samplers import kinds
from lattice_ml.samplers.settings import whole_steps
from lattice_ml.storage.ensemble import EnsembleOnDisk

__all__ = ["as_table", "extrapolate"]

_SHORTENED = 1.01  # times as many steps as the step size asks for
_FREE = ("seed", "sampler.step_size", "output.save_configs")  # what may differ, with all of chain
_SHARED = ("two", "seed", "steps")


@ordinary()
def extrapolate(
    ensembles: Sequence[EnsembleOnDisk], *, order: Literal[1, 2] | None = None
) -> dict[str, Extrapolated | None]:
    """Extrapolate all of `observables.DERIVED` to step size zero.

    Args:
        ensembles: from `open_ensemble`, at two or more step sizes, several at one allowed; they
            agree in all but step size, seed and the lengths of chains. A `sampler.drift_limit` may
            also be proportional to the step size.
        order: power of the step size; by default that of the scheme's bias.

    Returns:
        Name to what was found, or to None where the observable is not defined, or has no error,
        in one of the ensembles.

    Raises:
        ValueError: too few ensembles or step sizes, ensembles that are not of one theory and
            sampler, one that was given twice, a sampler that is exact at every step size.
    """
    if order not in (None, 1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    if (n := len(ensembles)) < 2:
        raise ValueError(f"extrapolation needs ensembles at two or more step sizes, got {n}")
    orders = [_bias_order(ensemble) for ensemble in ensembles]
    _check_agreement(ensembles)
    ensembles = sorted(ensembles, key=_step_size)
    _check_step_sizes(ensembles)
    step_sizes = [_step_size(ensemble) for ensemble in ensembles]
    temperature = float(ensembles[0].config["sampler"].get("temperature", 1.0))
    shared = [*_two(step_sizes), *_equal_seeds(ensembles), *_shortened(ensembles)]
    measured = [measure(ensemble) for ensemble in ensembles]
    found: dict[str, Extrapolated | None] = {}
    for name in measured[0]:
        points = [estimates[name] for estimates in measured]
        usable = [point for point in points if point is not None and point.error > 0]
        found[name] = None
        if len(usable) == len(points):
            line = fit(step_sizes, usable, order or orders[0])
            inexact = _inexact(line, temperature) if name == "schwinger_dyson" else []
            found[name] = line.doubted([*inexact, *shared])
    return found


def as_table(
    ensembles: Sequence[EnsembleOnDisk], found: Mapping[str, Extrapolated | None]
) -> Section:
    """What was found by extrapolating the ensembles, as JSON values."""
    ensembles = sorted(ensembles, key=_step_size)
    config = ensembles[0].config
    fitted = [entry for entry in found.values() if entry is not None]
    said = {m: w for entry in fitted for m, w in zip(entry.marks, entry.warnings, strict=True)}
    return {
        "ensembles": [str(ensemble.directory) for ensemble in ensembles],
        "step_sizes": [_step_size(ensemble) for ensemble in ensembles],
        "seeds": [ensemble.config["seed"] for ensemble in ensembles],
        "shape": list(ensembles[0].shape),
        "action": dict(config["action"]),
        "sampler": {k: v for k, v in config["sampler"].items() if k != "step_size"},
        "order": fitted[0].order if fitted else _bias_order(ensembles[0]),
        "warnings": {mark: said[mark] for mark in _SHARED if mark in said},
        "observables": {name: entry and _entry(entry) for name, entry in found.items()},
    }


def _inexact(found: Extrapolated, exact: float) -> Doubts:
    z = (found.value - exact) / found.error
    sentence = (
        f"extrapolated to {found}, {z:+.1f} errors from its exact value {exact:g}: the step sizes "
        "are too large for errors this small, or chains are not in equilibrium"
    )
    return [("exact", sentence)] * (abs(z) > fitting.SIGNIFICANT)


def _two(step_sizes: Sequence[float]) -> Doubts:
    said = "two step sizes fix the line and cannot show whether it is one"
    return [("two", f"{said}: add a third to test the fit")] * (len(set(step_sizes)) <= 2)


def _equal_seeds(ensembles: Sequence[EnsembleOnDisk]) -> Doubts:
    steps: dict[int, list[float]] = {}
    for ensemble in ensembles:
        steps.setdefault(ensemble.config["seed"], []).append(_step_size(ensemble))
    return [
        (
            "seed",
            f"the ensembles at step size {listed(same)} share the seed {seed} and with it their "
            "noise, but the fit takes them as independent: its errors and chi^2 are not right",
        )
        for seed, same in steps.items()
        if len(same) > 1
    ][:1]


def _shortened(ensembles: Sequence[EnsembleOnDisk]) -> Doubts:
    """Steps below `step_size`, seen in their number; harmless where the limit goes with the step.

    A drift limit in proportion to the step size makes every step, shortened or not, proportional
    to it.
    """
    if ensembles[0].config["sampler"].get("drift_limit") is None or _in_proportion(ensembles):
        return []
    for ensemble in ensembles:
        length = ensemble.config["sampler"]["trajectory_length"]
        asked = int(whole_steps(length, _step_size(ensemble)))
        ratio = float(ensemble.series("n_steps").mean()) / asked
        if ratio > _SHORTENED:
            sentence = (
                f"sampler.drift_limit shortened steps: at step size {_step_size(ensemble):g} there "
                f"were {ratio:.3g} times as many, so that the bias is no power of the step size; "
                "let drift_limit fall in proportion to step_size, or take smaller steps"
            )
            return [("steps", sentence)]
    return []


def _bias_order(ensemble: EnsembleOnDisk) -> int:
    """Order of the sampler's bias in the step size."""
    section = dict(ensemble.config.get("sampler") or {})
    kind = section.pop("kind", None)
    needed = "extrapolation needs Langevin, or Kramers with sampler.accept = false"
    if kind not in kinds.KINDS:
        raise ValueError(f"{ensemble.directory} was not made by a sampler with steps; {needed}")
    theory, ndim = ensemble.config["action"], len(ensemble.shape)
    order = kinds.KINDS[kind].from_config(ensemble.action, section, theory, ndim).order
    if order is None:
        raise ValueError(
            f"{ensemble.directory} was made by {kind}, which is exact at every step size here, so "
            f"there is nothing to extrapolate; {needed}"
        )
    return int(order)


def _check_agreement(ensembles: Sequence[EnsembleOnDisk]) -> None:
    """Refuse ensembles of different theories or samplers."""
    first, *others = ensembles
    settings = _settings(first.config)
    for other in others:
        theirs = _settings(other.config)
        for key in sorted(settings.keys() | theirs.keys()):
            one, another = settings.get(key), theirs.get(key)
            allowed = key == "sampler.drift_limit" and _in_proportion(ensembles)
            if one != another and not allowed:
                raise ValueError(
                    f"{key}: {first.directory} has {one!r}, {other.directory} has {another!r}; "
                    f"ensembles may differ in sampler.step_size, seed and chain"
                )


def _check_step_sizes(ensembles: Sequence[EnsembleOnDisk]) -> None:
    """Refuse a single step size, and the same run twice."""
    seen: dict[tuple[float, int], EnsembleOnDisk] = {}
    for ensemble in ensembles:
        step_size, seed = run = (_step_size(ensemble), ensemble.config["seed"])
        if run in seen:
            raise ValueError(
                f"{seen[run].directory} and {ensemble.directory} have the same step size "
                f"{step_size:g} and seed {seed}: they are one run, which counts once"
            )
        seen[run] = ensemble
    if len({step for step, _ in seen}) < 2:
        raise ValueError(
            f"all ensembles have sampler.step_size = {_step_size(ensembles[0]):g}; a fit needs at "
            "least two step sizes"
        )


def _in_proportion(ensembles: Sequence[EnsembleOnDisk]) -> bool:
    """Whether the drift limit is a fixed multiple of the step size."""
    limits = [ensemble.config["sampler"].get("drift_limit") for ensemble in ensembles]
    if None in limits:
        return False
    ratios = np.divide(limits, [_step_size(ensemble) for ensemble in ensembles])
    return bool(np.allclose(ratios, ratios[0], rtol=1e-6, atol=0))


def _settings(config: Section) -> Section:
    """What must agree, as dotted keys; a key that is None is one that is absent."""
    return {
        key: value
        for key, value in flattened(config)
        if value is not None and key not in _FREE and not key.startswith("chain.")
    }


def _step_size(ensemble: EnsembleOnDisk) -> float:
    return float(ensemble.config["sampler"]["step_size"])


def _entry(found: Extrapolated) -> Section:
    """One observable as JSON values, with the warnings of its own."""
    said = zip(found.marks, found.warnings, strict=True)
    numbers = ("value", "error", "slope", "slope_error", "covariance", "chi2", "dof", "p_value")
    of_a_point = ("value", "error", "tau_int", "tau_int_error")
    return {
        **{name: vars(found)[name] for name in numbers},
        "curved": found.curved and found.curved._asdict(),
        "points": [
            {"step_size": step, **{name: vars(point)[name] for name in of_a_point}}
            for step, point in zip(found.step_sizes, found.points, strict=True)
        ],
        "warnings": {mark: sentence for mark, sentence in said if mark not in _SHARED},
    }
