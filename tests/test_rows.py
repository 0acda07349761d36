"""A table in one test: every row runs, and all that fail are named."""

import pytest
from rows import each

RUN = []


@each(("number", "square"), [(2, 4), (3, 9), (4, 15)])
def squares(number, square):
    RUN.append(number)
    assert number**2 == square


@each("number", [0, 1, 2])
def refusals(tmp_path, number):
    (tmp_path / "file").touch(exist_ok=False)
    with pytest.raises(ZeroDivisionError):
        1 / number


def test_every_row_runs_and_all_that_fail_are_named(tmp_path):
    with pytest.raises(AssertionError, match=r"^1 of 3 rows fail\n\(4, 15\): AssertionError"):
        squares()
    assert RUN == [2, 3, 4]
    with pytest.raises(AssertionError, match=r"^2 of 3 rows fail\n1: Failed: DID NOT.*\n2: Fail"):
        refusals(tmp_path=tmp_path)
