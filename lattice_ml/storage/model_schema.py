"""What the JSON files of a model may say: `model.json` and `report.json`."""

from typing import cast

from lattice_ml.runtime.json import Section
from lattice_ml.storage.manifests import ACTION, SHA256, VALUES
from lattice_ml.storage.schema import (
    Rule,
    SchemaError,
    anything,
    either,
    flag,
    listed,
    nullable,
    number,
    table,
    text,
    whole,
    words,
)

__all__ = ["MODEL", "OLD_REPORT", "REPORT"]

_LARGEST = 2**20  # of the sizes of a network


def _setting(value: object, key: str) -> None:
    """A key of [model]; sizes are bounded, because weights are made of them."""
    kinds = either(number(), text(), flag, listed(number()))
    (whole(-_LARGEST, _LARGEST) if type(value) is int else nullable(kinds))(value, key)


_SHAPE = listed(whole(1, 2**31), 1)

MODEL = table(
    {
        "format_version": whole(1),
        "kind": words("model"),
        "config": table(
            {"model": table({"kind": text()}, others=_setting)},
            {"seed": whole(), "lattice": table({"shape": _SHAPE}), "action": ACTION},
            others=VALUES,
        ),
        "stages": listed(table({"shape": _SHAPE, "actions": listed(ACTION, 1)}), 1),
        "parent": text(),
        "provenance": listed(table({"first_step": whole(), "made_by": VALUES})),
        "files": table({}, dict.fromkeys(("weights.npz", "theories.npz", "history.npz"), SHA256)),
    }
)

_NUMBER = number(finite=False)  # a likelihood may be infinite, an error unknown
_MEAN = table({"value": _NUMBER, "error": _NUMBER})
_WEIGHTS = {"ess": _NUMBER, "pareto_k": _NUMBER, "log_z": _NUMBER, "log_z_error": _NUMBER}
_ENTRY = {
    "n_samples": whole(),
    "n": whole(),
    "n_steps": whole(),
    "log_likelihood": _NUMBER,
    "log_likelihood_of_noise": _NUMBER,
    "validation_log_likelihood": _NUMBER,
    "kl_gaussian": nullable(_NUMBER),
    "schwinger_dyson": _MEAN,
    "forward_ess": _MEAN,
    "missed_mode": nullable(text()),
    "log_weight_change": table({"rms": _NUMBER, "mean": _NUMBER, "error": _NUMBER}),
} | _WEIGHTS
_NEEDED = {"verdict": text(), "n_weights": whole()}
_KNOWN = {
    "training_seconds": number(0),  # these two in reports of earlier versions
    "compile_seconds": number(0),
    "n_steps": whole(),
    "evaluations": number(0),
    "equivariance": table({}, others=_NUMBER),
    "weights": SHA256,  # that it is about
    "mu_squared": either(_NUMBER, listed(_NUMBER)),
    "eigenvalue_errors": listed(_NUMBER),
    "phases": listed(VALUES),
}


def _theory(others: Rule | None) -> Rule:
    """One theory of a report; who has one number on the weights has all of them."""
    plain = table({"shape": _SHAPE, "action": ACTION}, _ENTRY, others)

    def rule(value: object, key: str) -> None:
        plain(value, key)
        keys = cast(Section, value).keys()
        if "ess" in keys and (lost := {"n_samples", *_WEIGHTS} - keys):
            raise SchemaError(f"{key}.{min(lost)} is missing")

    return rule


# What later versions add is under the seal; files without one are older, and hold no more.
REPORT = table({**_NEEDED, "theories": listed(_theory(anything))}, _KNOWN, anything)
OLD_REPORT = table({**_NEEDED, "theories": listed(_theory(None))}, _KNOWN)
