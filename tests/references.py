"""Exact values by case: `tests/data/*_reference.json`, of programs that share no code with us."""

import json
from pathlib import Path


def cases(name):
    """Name to case: its couplings and `values`, a number and its error each."""
    file = Path(__file__).parent / "data" / f"{name}_reference.json"
    return json.loads(file.read_text())["cases"]


CASES, RBM_CASES = cases("phi4"), cases("rbm")
