"""What a trained model is worth: by its own samples, and by the data held out.

The verdict is "passed" where nothing speaks against the model.  It is useless where all samples
together are worth next to nothing, or where its distribution misses a part of the data's; and it
is undecided where the numbers that would tell cannot be relied on: weights with a tail too heavy,
or that leave too few samples (`statistics.doubt`), of the model or of its data, and weights that
are those of the integrator's steps.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lattice_ml.actions import Action
from lattice_ml.models.data import Source
from lattice_ml.models.drawer import Drawer
from lattice_ml.observables import measure_configurations
from lattice_ml.runtime.json import JsonTable
from lattice_ml.statistics import doubt, estimate, forward_ess, log_weights, missed_mode, reweight

__all__ = ["JUDGED_SAMPLES", "JUDGED_SITES", "UNDECIDED", "judge", "verdict"]

JUDGED_SITES = 1 << 20  # of the samples that judge a theory, in all
JUDGED_SAMPLES = 2048  # of them at most
UNDECIDED = "undecided: "

_REFERENCE = 512  # held-out fields that the forward ESS is measured on
_FEWEST = 16  # of them and their negatives that show its error
_LEAST_SHARE = 0.005  # ESS/n: ten of 2048
_LARGEST_CHANGE = 0.5  # rms change of log w under step doubling
_FAR_BELOW = 2.0  # log density per site under noise: a variance too large by a factor of 150
_FARTHEST_IDENTITY = 1.0  # of Schwinger-Dyson from 1, of samples that have no weights


def verdict(theories: Sequence[JsonTable]) -> str:
    """Say in one sentence whether a model is worth something, from what was found of its theories.

    Returns:
        "passed"; a sentence that begins with "useless: ", or that of `missed_mode`; or
        one that begins with "undecided: " and says what cannot be relied on.
    """
    found = [reason for entry in theories for reason in (*_against(entry), *_open(entry))]
    return min(found, key=lambda reason: reason.startswith(UNDECIDED), default="passed")


def _against(entry: JsonTable) -> Iterator[str]:
    """What makes a model useless for one of its theories."""
    noise = entry.get("log_likelihood_of_noise")
    if noise is not None and not (
        entry["log_likelihood"] > noise - _FAR_BELOW * math.prod(entry["shape"])
    ):
        yield (
            f"useless: the mean log density of the data is {entry['log_likelihood']:.6g}, and "
            f"{noise:.6g} under noise of their variance; look at model.mu_squared, or train it "
            f"further"
        )
    n, identity = entry.get("n_samples"), entry.get("schwinger_dyson")
    if bad := entry.get("n_not_finite"):
        yield f"useless: {bad} of {n} samples have an action or a density that is not finite"
    if "ess" not in entry:
        if identity and not (
            abs(identity["value"] - 1) - 4.5 * identity["error"] <= _FARTHEST_IDENTITY
        ):
            yield (
                f"useless: Schwinger-Dyson of its samples is {identity['value']:.4g} +- "
                f"{identity['error']:.2g} where 1 is right, and they have no weights; train it "
                f"further"
            )
        return
    if entry.get("missed_mode"):
        yield entry["missed_mode"]
    if entry["ess"] < _LEAST_SHARE:
        yield (
            f"useless: {n} samples are worth {n * entry['ess']:.3g} (ESS/n {entry['ess']:.2g}, "
            f"Pareto k {entry['pareto_k']:.2f}, log Z {entry['log_z']:.4g}), and no weights bring "
            f"such samples back; train it further, and look at its settings and its data"
        )
    forward = not entry.get("data_doubt") and entry.get("forward_ess")  # of the data's weights
    if forward and forward["value"] + 4.5 * forward["error"] < _LEAST_SHARE:
        yield (
            f"useless: the forward ESS/n on configurations held out is {forward['value']:.2g} +- "
            f"{forward['error']:.2g}; train it further, on all of the distribution"
        )


def _open(entry: JsonTable) -> Iterator[str]:
    """What leaves open whether a model is worth something for one of its theories."""
    if entry.get("data_doubt"):
        yield f"{UNDECIDED}of its data {entry['data_doubt']}"
    if "ess" not in entry:
        return
    n = entry["n_samples"]
    if reason := doubt(n, n * entry["ess"], entry["pareto_k"]):
        yield f"{UNDECIDED}{reason}"
    change = entry.get("log_weight_change")
    if change and not change["rms"] <= _LARGEST_CHANGE:
        yield (
            f"{UNDECIDED}log w changes by {change['rms']:.3g} rms when the steps are doubled, "
            f"allowed is {_LARGEST_CHANGE}: ESS, k and log Z are those of the steps and not of the "
            f"model; train it further, or sample with more steps"
        )


def judge(drawer: Drawer, action: Action, source: Source | None, n_samples: int) -> JsonTable:
    """Judge samples by their own action, and by the data held out.

    Args:
        drawer: of the samples.
        action: of the theory.
        source: of what was held out, or None.
        n_samples: to draw, at least.

    Returns:
        JSON values: the Schwinger-Dyson identity, and where there is a density the worth of the
        weights, the forward ESS and `missed_mode`; or the number of samples that have none of them.
    """
    drawn = drawer.draw(0, -(-n_samples // drawer.batch_size))
    series = measure_configurations(action, drawn.fields)
    found: JsonTable = {"n_samples": len(drawn.fields)}
    if source is not None and (reason := source.doubt):
        found["data_doubt"] = reason
    with np.errstate(invalid="ignore"):  # infinity minus infinity is counted below
        weights = drawn.log_weights(series["action"]) if drawer.density else None
        judged = series["schwinger_dyson"] + (0 if weights is None else weights)
    if bad := int(np.count_nonzero(~np.isfinite(judged))):
        return found | {"n_not_finite": bad}
    raw = estimate(series["schwinger_dyson"][None])
    found["schwinger_dyson"] = {"value": raw.value, "error": raw.error}
    if weights is None:
        return found
    found |= vars(reweight(weights))
    fields = None if source is None else source.held_out(_REFERENCE)
    if fields is not None:
        # and their negatives, in the same chains
        both = np.concatenate([fields, -fields], axis=1).astype(np.float32)
        flat = both.reshape(-1, *drawer.shape)
        if len(flat) < _FEWEST:  # few data tell nothing
            return found
        logs = log_weights(measure_configurations(action, flat)["action"], drawer.log_prob(flat))
        reference = logs.reshape(both.shape[:2])
        forward = forward_ess(reference)
        found["forward_ess"] = {"value": forward.value, "error": forward.error}
        found["missed_mode"] = missed_mode(weights, reference)
    return found
