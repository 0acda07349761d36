"""JSON values of what programs hold."""

import json
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from lattice_ml.runtime.json import copied, plain, plain_table


class Number(NamedTuple):
    value: float
    error: float | None = None


def test_arrays_named_tuples_and_what_is_not_finite_have_their_place():
    values = {
        "array": np.array([[1.0, np.nan], [np.inf, 2.0]]),
        "of_jax": jnp.arange(2),
        "scalar": np.float32(0.5),
        "rows": [Number(1.5), (Number(np.float64(2.0), float("inf")), None, True, "word")],
    }
    found = plain_table(values)
    assert found == {
        "array": [[1.0, None], [None, 2.0]],
        "of_jax": [0, 1],
        "scalar": 0.5,
        "rows": [
            {"value": 1.5, "error": None},
            [{"value": 2.0, "error": None}, None, True, "word"],
        ],
    }
    assert plain(values) == found == json.loads(json.dumps(found, allow_nan=False))


def test_what_json_has_no_place_for_is_named():
    with pytest.raises(TypeError, match=r"JSON has no place for \{1\}"):
        plain({"a": [{1}]})
    with pytest.raises(TypeError, match=r"config: got .*; allowed are finite numbers, strings"):
        copied("config", {"a": float("nan")})
    assert copied("config", {"a": (1, 2), "b": np.float32(0.5)}) == {"a": [1, 2], "b": 0.5}
